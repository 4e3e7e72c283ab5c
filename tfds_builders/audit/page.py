"""An audit as a page that people read: `audit.html`, one file that opens without a network."""

import hashlib
import re
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from dataflow.findings import Audit, Code, Finding
from tfds_builders.audit.explanations import MEANINGS, REMEDIES
from tfds_builders.audit.markup import fill_page, html_path, html_text, plural
from tfds_builders.audit.pictures import Thumbnail, draw_picture, read_thumbnail

LISTED_PER_CODE: Final = 100
LISTED: Final = 1_000
PICTURES_PER_CODE: Final = 8
PICTURES: Final = 96
_TEMPLATE = "page.html"
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
    `LISTED` and `PICTURES` in all, texts of 300 characters; it says how much more there is in `audit.json` beside it.
    Images that cannot be shown get a tile that says why; those found to lie outside the source are not opened at all.

    Args:
        path: the file to write.
        audit: what was found.
        name: the dataset's name.
        images: the file of an image by its id, as far as there is one; files must lie inside the source.
    """
    groups = _groups(audit.findings)
    pictures = _pictures(groups, images, _outside(audit.findings))
    template = files("tfds_builders.audit").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    sections = (
        _header(audit, name),
        "<main>",
        _summary(groups),
        _keys(groups),
        *(_section(group, pictures) for group in groups),
        _quarantined(audit),
        "</main>",
        _footer(),
    )
    script = re.search("<script>(.*)</script>", template, re.DOTALL)
    assert script is not None
    page = fill_page(
        template,
        title=f"Audit of {html_text(name)}",
        # No other script runs, should one ever get into the page.
        script_hash=b64encode(hashlib.sha256(script[1].encode()).digest()).decode(),
        body="\n".join(section for section in sections if section),
    )
    path.write_text(page, encoding="utf-8")


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


def _pictures(groups: Sequence[_Group], images: Mapping[str, Path], outside: set[str | None]) -> dict[int, str]:
    """HTML of the pictures by `id` of their findings. In each group they are of different images."""
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


def _chips(counts: Counter[State]) -> str:
    return "".join(
        f'<span class="chip {state}">{counts[state]:,} {_NAMES[state][counts[state] != 1]}</span>'
        for state in _STATES
        if counts[state]
    )


def _total(groups: Sequence[_Group]) -> Counter[State]:
    return sum((group.counts for group in groups), Counter())


def _header(audit: Audit, name: str) -> str:
    share = 100 * audit.images_prepared / audit.images_in if audit.images_in else 0
    kind = {0: " none", audit.images_in: " whole"}.get(audit.images_prepared, "")
    return (
        f'<header><p class="eyebrow">Shardbox audit</p><h1>{html_text(name)}</h1><div class="box"><div class="sum">'
        f"<div><b>{audit.images_in:,}</b><span>images in</span></div><i>=</i>"
        f"<div><b>{audit.images_prepared:,}</b><span>prepared</span></div><i>+</i>"
        f"<div><b>{audit.images_quarantined:,}</b><span>quarantined</span></div></div>"
        f'<div class="share{kind}" style="--v:{share:.2f}%"></div></div></header>'
    )


def _summary(groups: Sequence[_Group]) -> str:
    if not groups:
        return '<section class="box"><h2>Nothing was found</h2><p>Every check passed.</p></section>'
    rows = "".join(
        f'<tr><td><a href="#{group.code}">{group.code}</a></td><td>{_chips(group.counts)}</td>'
        f"<td>{escape(MEANINGS[group.code])}</td></tr>"
        for group in groups
    )
    return (
        f'<section class="box"><div class="head"><h2>What was found</h2><span>{_chips(_total(groups))}</span></div>'
        '<p class="soft">An error keeps its image out, unless it was repaired; warnings and notes keep nothing out.</p>'
        '<table class="codes"><thead><tr><th>code</th><th>how many</th><th>what it means</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )


def _keys(groups: Sequence[_Group]) -> str:
    """What is to be seen: by state, and by a word in it."""
    if not groups:
        return ""
    total = _total(groups)
    boxes = "".join(
        f'<label><input type="checkbox" value="{state[0]}" checked><span class="chip {state}">{_NAMES[state][1]}</span>'
        "</label>"
        for state in _STATES
        if total[state]
    )
    search = '<input type="search" id="words" placeholder="file, value or code" aria-label="filter by text">'
    return f'<div class="keys">{boxes}{search}<output></output></div>'


def _section(group: _Group, pictures: Mapping[int, str]) -> str:
    """One code: what it is, the findings with a picture, and the others."""
    remedy = group.remedy
    shown = [finding for finding in group.listed if id(finding) in pictures]
    others = [finding for finding in group.listed if id(finding) not in pictures]
    cards = "".join(_item(finding, remedy, pictures[id(finding)]) for finding in shown)
    cards = f'<ul class="pics">{cards}</ul>' if cards else ""
    rows = "".join(_item(finding, remedy) for finding in others)
    rows = f'<ul class="rows">{rows}</ul>' if rows else ""
    if rows and len(others) > (0 if shown else _OPEN_ROWS):
        rows = f"<details><summary>{plural(len(others), 'finding')} without a picture</summary>{rows}</details>"
    left_out = group.counts.total() - len(group.listed)
    more = f'<p class="soft">{left_out:,} more are in <a href="audit.json">audit.json</a>.</p>' if left_out else ""
    same = f" Here: {html_text(remedy)}." if remedy else ""
    return (
        f'<section class="box group" id="{group.code}"><div class="head"><h2>{group.code}</h2>'
        f"<span>{_chips(group.counts)}</span></div><p>{escape(MEANINGS[group.code])} "
        f'<span class="soft">{escape(REMEDIES[group.code])}{same}</span></p>'
        f"{cards}{rows}{more}</section>"
    )


def _item(finding: Finding, same_remedy: str | None, picture: str = "") -> str:
    """One finding; its remedy is left out where the section says it for all."""
    place = finding.file if finding.line is None else f"{finding.file}:{finding.line}"
    remedy = "" if same_remedy is not None else f"<em>{html_text(finding.remedy)}</em>"
    image = finding.image_id
    # Most files are named after their image, or are the image.
    owner = "" if image is None or image in finding.file else f"<em>image {html_text(image)}</em>"
    said = f'<span class="place">{html_path(place)}</span>{html_text(finding.value)}{owner}{remedy}'
    return f'<li class="{_state(finding)[0]}">{f"{picture}<div>{said}</div>" if picture else said}</li>'


def _quarantined(audit: Audit) -> str:
    """The images that were kept out, and why."""
    if not audit.quarantined:
        return ""
    first = audit.quarantined[:LISTED_PER_CODE]
    reasons: dict[str, set[str]] = {image_id: set() for image_id in first}
    for finding in audit.errors:
        if finding.image_id in reasons:
            reasons[finding.image_id].add(finding.code)
    rows = "".join(
        f"<tr><td><code>{html_text(image_id)}</code></td><td>{', '.join(sorted(codes))}</td></tr>"
        for image_id, codes in reasons.items()
    )
    left_out = audit.images_quarantined - len(first)
    more = f'<p class="soft">{left_out:,} more are in <a href="audit.json">audit.json</a>.</p>' if left_out else ""
    return (
        f'<section class="box"><div class="head"><h2>Kept out</h2></div><details><summary>'
        f'{plural(audit.images_quarantined, "image")} in quarantine</summary><table class="out"><thead><tr>'
        f"<th>image</th><th>why</th></tr></thead><tbody>{rows}</tbody></table>{more}</details></section>"
    )


def _footer() -> str:
    return (
        f"<footer><p>At most {LISTED_PER_CODE} findings and {PICTURES_PER_CODE} pictures of a code are shown, and "
        f"{LISTED:,} findings and {PICTURES} pictures in all; "
        '<a href="audit.json">audit.json</a> beside this page has every finding. '
        "A frame in a picture is the box in question; the checked ground around a picture lies outside the image."
        "</p></footer>"
    )
