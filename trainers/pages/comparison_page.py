"""A comparison as a directory: `compare.json` and `compare.html`, one file that needs no network."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dataflow.prepared import PreparedDataset
from tfds_builders.pages.markup import Content, Markup, el, markup, plural
from tfds_builders.pages.page import Section, note, page, provenance
from tfds_builders.pages.tables import Cell, count, figure, number, signed, table, words
from trainers.evaluation.comparison import Change, Comparison, ImageChange, RunChanges
from trainers.evaluation.evaluation import Evaluation
from trainers.outputs import whole_directory
from trainers.pages.comparison_json import comparison_json
from trainers.pages.pictures import Panel, draw_panel, read_panels, switches
from trainers.prediction.predictions import PredictionSet

JSON = "compare.json"
HTML = "compare.html"
_PICTURES = 12
_ROWS = 300
_SURE = 0.975


def write_comparison(
    comparison: Comparison,
    dataset: PreparedDataset,
    runs: Mapping[str, PredictionSet],
    out: Path,
    *,
    pictures: int = _PICTURES,
    overwrite: bool = False,
) -> Path:
    """Write the directory `out`, whole or not at all, and return the path of its `compare.html`.

    Args:
        comparison: what `compare` found of these `runs` by this `dataset`.
        dataset: gives the pictures.
        runs: give the boxes.
        out: directory to make.
        pictures: how many of the images that changed most are shown, at most.
        overwrite: replace an earlier comparison.

    Raises:
        UsageError: `out` exists (with `overwrite`: and holds no comparison).
    """
    with whole_directory(out, JSON, overwrite) as work:
        content = json.dumps(comparison_json(comparison), indent=1, ensure_ascii=False, allow_nan=False)
        (work / JSON).write_text(content + "\n", encoding="utf-8")
        shown = [_most_changed(changes, pictures // len(comparison.changes)) for changes in comparison.changes]
        wanted = sorted({change.image_id for images in shown for change in images})
        panels = dict(read_panels(dataset, comparison.evaluations[0].split, wanted))
        sections: list[Section | None] = [_runs(comparison)]
        for place in range(len(comparison.changes)):
            sections += [
                _figures(comparison, place),
                _types(comparison, place),
                _objects(comparison, place),
                _shots(comparison, place, shown[place], panels, list(runs.values())),
                _images(comparison, place),
            ]
        title = f"{' and '.join(comparison.labels[1:])} beside {comparison.labels[0]}"
        text = page("comparison", title, _headline(comparison), sections, _foot(comparison))
        (work / HTML).write_text(text, encoding="utf-8")
    return out / HTML


def verdict(change: Change) -> tuple[str, str]:
    """(kind, words) of a change: `up`, `down` or `level`, where the interval decides."""
    if change.better is None or change.low is None or change.high is None:
        return "level", "not defined"
    if change.low == change.high == 0:
        return "level", "the same"
    if change.better >= _SURE:
        return "up", "better"
    if change.better <= 1 - _SURE:
        return "down", "worse"
    return "level", "not sure"


def _headline(comparison: Comparison) -> Markup:
    first = comparison.evaluations[0]
    images = plural(len(first.truths), "image")
    if comparison.left_out:
        images += f", {plural(comparison.left_out, 'image')} that not all predicted left out"
    said = note(
        f"{first.dataset}, {first.split}: {images}. Intervals hold 95 % of {comparison.resamples:,} resamples of the "
        "images, the same for all runs. A run is called better or worse where 97.5 % of them agree."
    )
    return markup([_sentence(comparison, changes) for changes in comparison.changes], said)


def _sentence(comparison: Comparison, changes: RunChanges) -> Markup:
    change = changes.figures["AP50"]
    name, first = changes.label, comparison.labels[0]
    if change.difference is None:
        return el("p", f"The split has no objects that {name} and {first} could find.", class_="lead")
    found = changes.found_in_all
    said = {"up": "is better than", "down": "is worse than", "level": "cannot be told from"}[verdict(change)[0]]
    return el(
        "p",
        el("b", name),
        f" {said} ",
        el("b", first),
        f": AP50 {number(change.first)} → {number(change.other)} ({signed(change.difference)}; {_interval(change)}). "
        f"It alone finds {plural(found.other_only, 'object')}, {first} alone {found.first_only:,}, "
        f"both {found.both:,}.",
        class_="lead",
    )


def _interval(change: Change) -> str:
    return "–" if change.low is None else f"{signed(change.low)} to {signed(change.high)}"


def _runs(comparison: Comparison) -> Section:
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    rows = [
        [
            words(label),
            *(figure(e.figures[name], bar=name in ("AP", "AP50")) for name in names),
            figure(e.best.f1),
            figure(e.best.score, digits=2),
        ]
        for label, e in zip(comparison.labels, comparison.evaluations, strict=True)
    ]
    said = note("COCO's figures, and the best F1 with the score from which it is reached.")
    listed = table("the runs", ["run", *names, "best F1", "at score"], rows)
    return Section("runs", "The runs", markup(said, listed), "Runs")


def _section(
    comparison: Comparison, place: int, key: str, title: str, content: Content, *, kind: str = "box"
) -> Section:
    """A section of the run at `place`; of several runs its title names the run."""
    several = len(comparison.changes) > 1
    own = f"{title}: {comparison.changes[place].label}" if several else title
    return Section(f"{key}-{place}" if several else key, own, content, "" if several else title, kind)


def _figures(comparison: Comparison, place: int) -> Section:
    changes = comparison.changes[place]
    rows = list(changes.figures.items())
    if len(changes.classes) > 1:
        rows += [(f"AP50 of {name}", change) for name, change in changes.classes.items()]
    ends = [abs(v) for _, change in rows for v in (change.low, change.high, change.difference) if v is not None]
    span = max(ends, default=0.0) or 1.0
    drawn = [
        [
            words(name),
            figure(change.first),
            figure(change.other),
            Cell(signed(change.difference), change.difference, drawn=_mini(change, span)),
            Cell(_interval(change), change.low),
            Cell("–" if change.better is None else f"{100 * change.better:.1f} %", change.better),
            Cell("", drawn=_verdict_chip(change)),
        ]
        for name, change in rows
    ]
    said = note(
        "Every resample takes the same images for both runs. “Better in” is the share of resamples in which "
        f"{changes.label} is ahead."
    )
    heads = ["figure", comparison.labels[0], changes.label, "difference", "95 % interval", "better in", "verdict"]
    listed = table("figures beside each other", heads, drawn, tall=len(drawn) > 20)
    return _section(comparison, place, "figures", "Figures", markup(said, listed))


def _mini(change: Change, span: float) -> Markup | None:
    """The interval and the difference on a line with zero in its middle."""
    if change.low is None or change.high is None or change.difference is None:
        return None
    low, high, at = (75 + 72 * value / span for value in (change.low, change.high, change.difference))
    return el(
        "svg",
        el("path", class_="zero", d="M75 0V18"),
        el("path", class_="span", d=f"M{low:.1f} 9H{high:.1f}"),
        el("circle", class_="dot", cx=at, cy=9, r=4),
        class_=f"mini {verdict(change)[0]}",
        viewBox="0 0 150 18",
        aria_hidden="true",
    )


def _verdict_chip(change: Change) -> Markup:
    kind, said = verdict(change)
    return el("span", said, class_=f"verdict {kind}")


def _types(comparison: Comparison, place: int) -> Section:
    changes = comparison.changes[place]
    rows = [
        [
            words(name),
            count(t.first),
            count(t.other),
            Cell(signed(t.other - t.first, 0), t.other - t.first),
            figure(t.cost_first),
            figure(t.cost_other),
            Cell(signed(t.cost_other - t.cost_first), t.cost_other - t.cost_first),
        ]
        for name, t in changes.error_types.items()
    ]
    first, other = comparison.labels[0], changes.label
    heads = ["error", first, other, "change", f"cost, {first}", f"cost, {other}", "change of cost"]
    said = note(
        "Errors at IoU 0.50 and each run's best score, and the AP50 that would be gained if those of one kind were "
        "mended (TIDE, Bolya et al. 2020)."
    )
    return _section(comparison, place, "errors", "Kinds of error", markup(said, table("kinds of error", heads, rows)))


def _objects(comparison: Comparison, place: int) -> Section:
    changes = comparison.changes[place]
    listed = {**changes.found}
    if len(listed) != 1:
        listed["all classes"] = changes.found_in_all
    rows = [
        [words(name), *(count(n) for n in (f.both, f.first_only, f.other_only, f.neither))]
        for name, f in listed.items()
    ]
    heads = ["class", "both", f"{comparison.labels[0]} alone", f"{changes.label} alone", "neither"]
    said = note(
        "Found by whom, at IoU 0.50 and each run's best score. ",
        el("code", "compare.json"),
        " names the objects that one run alone finds.",
    )
    content = markup(said, table("objects found", heads, rows, tall=len(rows) > 20))
    return _section(comparison, place, "objects", "Objects found", content)


def _most_changed(changes: RunChanges, most: int) -> list[ImageChange]:
    """Of the images that gained and of those that lost, as many of each as there is room for."""
    gained = [change for change in changes.images if change.gain > 0]
    lost = [change for change in reversed(changes.images) if change.gain < 0]
    half = max(most // 2, most - len(lost))
    return [*gained[:half], *lost[: most - min(half, len(gained))]]


def _shots(
    comparison: Comparison,
    place: int,
    shown: Sequence[ImageChange],
    panels: Mapping[str, Sequence[Panel]],
    runs: Sequence[PredictionSet],
) -> Section | None:
    if not shown:
        return None
    roles = [panel.role for panel in panels[shown[0].image_id]]
    sides = list(zip(comparison.labels, comparison.evaluations, runs, strict=True))
    drawn = [
        _shot(change, panels[change.image_id], [sides[0], sides[place + 1]], f"p{place}-{index}")
        for index, change in enumerate(shown)
    ]
    said = note(
        f"Those that {comparison.changes[place].label} gained most from first, then those that it lost most by. "
        "Point at a box for its class, score and overlap; press a picture to enlarge it."
    )
    # The switches are for all pictures of the page.
    content = markup(said, switches(roles, "after") if place == 0 else None, el("div", drawn, class_="shots"))
    return _section(comparison, place, "images", "Images that changed most", content, kind="")


def _shot(
    change: ImageChange, panels: Sequence[Panel], sides: Sequence[tuple[str, Evaluation, PredictionSet]], name: str
) -> Markup:
    """One image under two runs, beside each other; `name` tells its pictures from those of others in the page."""
    several = len(panels) > 1
    figures = []
    for panel in panels:
        for side, (label, evaluation, predictions) in enumerate(sides):
            counted = (change.first, change.other)[side]
            svg = draw_panel(
                panel,
                evaluation.truths[change.image_id],
                predictions.by_image[change.image_id],
                evaluation.matches[change.image_id].at_score(evaluation.errors.score),
                evaluation.category_names,
                errors=evaluation.error_types.by_image[change.image_id],
                picture=f"{name}-{panel.role}",
                again=side == 1,
            )
            what = f" · {panel.title}" if several else ""
            said = f"{what}: {counted.tp} right, {counted.fp} wrong, {counted.fn} missed"
            caption = el("figcaption", el("b", label), said)
            figures.append(el("figure", svg, caption, data_role=panel.role if several else None, tabindex=0))
    gain = el("span", f"AP50 {signed(change.gain, 4)}", class_=f"verdict {'up' if change.gain > 0 else 'down'}")
    return el("div", el("h3", change.image_id, " ", gain), el("div", figures, class_="frames"), class_="box shot")


def _images(comparison: Comparison, place: int) -> Section:
    changes = comparison.changes[place]
    first, other = comparison.labels[0], changes.label
    half = _ROWS // 2
    listed: Iterable[ImageChange] = changes.images
    if len(changes.images) > _ROWS:
        listed = [*changes.images[:half], *changes.images[-half:]]
    rows = [
        [
            words(c.image_id),
            Cell(signed(c.gain, 4), c.gain),
            *(count(n) for n in (c.first.tp, c.other.tp, c.first.fp, c.other.fp, c.first.fn, c.other.fn)),
        ]
        for c in listed
    ]
    gained, lost = (sum(sign * c.gain > 0 for c in changes.images) for sign in (1, -1))
    heads = ["image", "AP50", *(f"{what}, {run}" for what in ("right", "wrong", "missed") for run in (first, other))]
    left_out = len(changes.images) - len(rows)
    said = note(
        f"{plural(gained, 'image')} better, {lost:,} worse of {len(comparison.evaluations[0].truths):,}, by the AP50 "
        f"that would be gained if all in the image were right: what it costs {first} less what it costs {other}",
        f"; {left_out:,} in the middle are left out." if left_out else ".",
    )
    content = markup(said, table("image by image", heads, rows, tall=True))
    return _section(comparison, place, "all-images", "Image by image", content)


def _foot(comparison: Comparison) -> Markup:
    first = comparison.evaluations[0]
    entries = [("dataset", first.dataset), ("fingerprint", first.fingerprint), ("split", first.split)]
    for label, evaluation, fingerprint in zip(
        comparison.labels, comparison.evaluations, comparison.fingerprints, strict=True
    ):
        of = "" if fingerprint == first.fingerprint else f", predicted on the dataset {fingerprint}"
        entries.append(("run", f"{label} ({evaluation.run_id}), {evaluation.detections:,} detections{of}"))
    return provenance(entries)
