"""An audit as a page that people read: `audit.html`, one file that opens without a network."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from dataflow.findings import Audit, Code, Finding
from tfds_builders.audit.explanations import MEANINGS, REMEDIES
from tfds_builders.audit.pictures import Thumbnail, draw_picture, read_thumbnail
from tfds_builders.pages.markup import Content, Markup, el, markup, path_text, plural
from tfds_builders.pages.page import Section, note, page
from tfds_builders.pages.tables import Cell, table, words

LISTED_PER_CODE: Final = 100
LISTED: Final = 1_000
PICTURES_PER_CODE: Final = 8
PICTURES: Final = 96
# So many rows are open to the eye; more are behind a line that opens them.
_OPEN_ROWS = 12

# Worst first. What was repaired is an error that keeps nothing out any more.
State = Literal["error", "warning", "repaired", "info"]
_NAMES: Final[Mapping[State, tuple[str, str]]] = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "repaired": ("repaired", "repaired"),
    "info": ("note", "notes"),
}
_STATES: Final = tuple(_NAMES)


@dataclass(frozen=True)
class _Group:
    """The findings of one code."""

    code: Code
    counts: Counter[State]
    listed: tuple[Finding, ...]
    """The worst of them, as many as the page has room for."""

    @property
    def rank(self) -> tuple[int, int, str]:
        """Orders groups: the worst first, then the most frequent."""
        worst = min(_STATES.index(state) for state in self.counts)
        return worst, -self.counts[_STATES[worst]], self.code

    @property
    def remedy(self) -> str | None:
        """The remedy of all that are listed, if it is one."""
        remedies = {finding.remedy for finding in self.listed}
        return remedies.pop() if len(remedies) == 1 else None


def write_page(path: Path, audit: Audit, name: str, images: Mapping[str, Path]) -> None:
    """Write the page of an audit: what came in and what became of it, and the findings by code, the worst first.

    The page is bounded, whatever was found: `LISTED_PER_CODE` findings and `PICTURES_PER_CODE` pictures of a code,
    `LISTED` and `PICTURES` in all, texts of 600 characters; it says how much more there is in `audit.json` beside it.
    Images that cannot be shown get a tile that says why; those found to lie outside the source are not opened at all.

    Args:
        path: the file to write.
        audit: what was found.
        name: the dataset's name.
        images: the file of an image by its id, as far as there is one; files must lie inside the source.
    """
    groups = _groups(audit.findings)
    pictures = _pictures(groups, images, _outside(audit.findings))
    sections = (
        _summary(groups),
        *(_section(group, pictures, _keys(groups) if group is groups[0] else None) for group in groups),
        _quarantined(audit),
    )
    path.write_text(page("audit", name, _headline(audit), sections, _foot()), encoding="utf-8")


def _state(finding: Finding) -> State:
    return "repaired" if finding.repaired and finding.severity == "error" else finding.severity


def _groups(findings: Iterable[Finding]) -> list[_Group]:
    by_code: dict[Code, dict[State, list[Finding]]] = defaultdict(dict)
    counts: dict[Code, Counter[State]] = defaultdict(Counter)
    for finding in findings:
        state = _state(finding)
        counts[finding.code][state] += 1
        kept = by_code[finding.code].setdefault(state, [])
        if len(kept) < LISTED_PER_CODE:
            kept.append(finding)
    groups = []
    room = min(LISTED_PER_CODE, LISTED // max(1, len(by_code)))
    for code, by_state in by_code.items():
        ordered = (finding for state in _STATES for finding in by_state.get(state, ()))
        groups.append(_Group(code, counts[code], tuple(islice(ordered, room))))
    return sorted(groups, key=lambda group: group.rank)


def _outside(findings: Iterable[Finding]) -> set[str | None]:
    return {finding.image_id for finding in findings if finding.code is Code.IMAGE_OUTSIDE_ROOT}


def _pictures(groups: Sequence[_Group], images: Mapping[str, Path], outside: set[str | None]) -> dict[int, Markup]:
    """The pictures by `id` of their findings. In each group they are of different images."""
    wanted: list[list[tuple[Finding, Path]]] = []
    for group in groups:
        first: dict[str, tuple[Finding, Path]] = {}
        for finding in group.listed:
            image_id = finding.image_id
            if image_id is not None and image_id in images and image_id not in outside:
                first.setdefault(image_id, (finding, images[image_id]))
        wanted.append(list(islice(first.values(), PICTURES_PER_CODE)))
    thumbnails: dict[Path, Thumbnail | str] = {}
    drawn = {}
    for finding, path in _in_turn(wanted, PICTURES):
        if path not in thumbnails:
            thumbnails[path] = read_thumbnail(path)
        drawn[id(finding)] = draw_picture(finding, thumbnails[path])
    return drawn


def _in_turn(wanted: Sequence[Sequence[tuple[Finding, Path]]], limit: int) -> list[tuple[Finding, Path]]:
    """One of each list, then a second of each and so on, so that all get their share of what there may be."""
    longest = max(map(len, wanted), default=0)
    return [row[turn] for turn in range(longest) for row in wanted if turn < len(row)][:limit]


def _chips(counts: Counter[State]) -> list[Markup]:
    return [
        el("span", f"{counts[state]:,} {_NAMES[state][counts[state] != 1]}", class_=f"state {state}")
        for state in _STATES
        if counts[state]
    ]


def _total(groups: Sequence[_Group]) -> Counter[State]:
    return sum((group.counts for group in groups), Counter())


def _headline(audit: Audit) -> Markup:
    share = 100 * audit.images_prepared / audit.images_in if audit.images_in else 0
    kind = {0: "share none", audit.images_in: "share whole"}.get(audit.images_prepared, "share")
    parts = (
        _counted(audit.images_in, "images in"),
        el("i", "="),
        _counted(audit.images_prepared, "prepared"),
        el("i", "+"),
        _counted(audit.images_quarantined, "quarantined"),
    )
    return el("div", el("div", parts, class_="sum"), el("div", class_=kind, style=f"--v:{share:.2f}%"), class_="box")


def _counted(count: int, what: str) -> Markup:
    return el("div", el("b", f"{count:,}"), el("span", what))


def _summary(groups: Sequence[_Group]) -> Section:
    if not groups:
        return Section("found", "Nothing was found", el("p", "Every check passed."))
    rows = [
        [
            Cell("", drawn=el("a", group.code, href=f"#{group.code}")),
            Cell("", drawn=_chips(group.counts)),
            words(MEANINGS[group.code]),
        ]
        for group in groups
    ]
    said = note("An error keeps its image out, unless it was repaired; warnings and notes keep nothing out.")
    listed = table("what was found", ("code", "how many", "what it means"), rows, sorts=False)
    return Section(
        "found", "What was found", markup(said, el("div", listed, class_="codes")), beside=_chips(_total(groups))
    )


def _keys(groups: Sequence[_Group]) -> Markup:
    """What is to be seen: by state, and by a word in it."""
    total = _total(groups)
    boxes = [
        el(
            "label",
            el("input", type="checkbox", value=state[0], checked=True),
            el("span", _NAMES[state][1], class_=f"state {state}"),
        )
        for state in _STATES
        if total[state]
    ]
    search = el("input", type="search", id="words", placeholder="file, value or code", aria_label="filter by text")
    return el("div", boxes, search, el("output"), class_="keys states")


def _section(group: _Group, pictures: Mapping[int, Markup], before: Content) -> Section:
    """One code: what it is, the findings with a picture, and the others."""
    remedy = group.remedy
    shown = [finding for finding in group.listed if id(finding) in pictures]
    others = [finding for finding in group.listed if id(finding) not in pictures]
    cards = [_item(finding, remedy, pictures[id(finding)]) for finding in shown]
    rows = el("ul", [_item(finding, remedy) for finding in others], class_="found rows") if others else None
    if rows and len(others) > (0 if shown else _OPEN_ROWS):
        rows = el("details", el("summary", f"{plural(len(others), 'finding')} without a picture"), rows)
    content = markup(
        el("p", MEANINGS[group.code], " ", el("span", REMEDIES[group.code], class_="note")),
        note(f"Here: {remedy}.") if remedy else None,
        el("ul", cards, class_="found pics") if cards else None,
        rows,
        _more(group.counts.total() - len(group.listed)),
    )
    return Section(group.code, group.code, content, kind="box group", beside=_chips(group.counts), before=before)


def _more(left_out: int) -> Markup | None:
    return note(f"{left_out:,} more are in ", el("a", "audit.json", href="audit.json"), ".") if left_out else None


def _item(finding: Finding, same_remedy: str | None, picture: Content = None) -> Markup:
    """One finding; its remedy is left out where the section says it for all."""
    place = finding.file if finding.line is None else f"{finding.file}:{finding.line}"
    image = finding.image_id
    said = markup(
        el("span", path_text(place), class_="place"),
        finding.value,
        # Most files are named after their image, or are the image.
        el("em", f"image {image}") if image is not None and image not in finding.file else None,
        el("em", finding.remedy) if same_remedy is None else None,
    )
    return el("li", *((picture, el("div", said)) if picture else (said,)), class_=_state(finding)[0])


def _quarantined(audit: Audit) -> Section | None:
    """The images that were kept out, and why."""
    if not audit.quarantined:
        return None
    first = audit.quarantined[:LISTED_PER_CODE]
    reasons: dict[str, set[str]] = {image_id: set() for image_id in first}
    for finding in audit.errors:
        if finding.image_id in reasons:
            reasons[finding.image_id].add(finding.code)
    rows = [[words(image_id), words(", ".join(sorted(codes)))] for image_id, codes in reasons.items()]
    listed = el(
        "details",
        el("summary", f"{plural(audit.images_quarantined, 'image')} in quarantine"),
        table("images that were kept out", ("image", "why"), rows),
        _more(audit.images_quarantined - len(first)),
    )
    return Section("quarantined", "Kept out", listed)


def _foot() -> Markup:
    return el(
        "p",
        f"At most {LISTED_PER_CODE} findings and {PICTURES_PER_CODE} pictures of a code are shown, and {LISTED:,} "
        f"findings and {PICTURES} pictures in all; ",
        el("a", "audit.json", href="audit.json"),
        " beside this page has every finding. A frame in a picture is the box in question; the checked ground around a "
        "picture lies outside the image.",
    )
