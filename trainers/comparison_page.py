"""A comparison as a directory: `compare.json` and `compare.html`, one file that needs no network."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from dataflow.prepared import PreparedDataset
from trainers.comparison import Change, Comparison, ImageChange, RunChanges
from trainers.comparison_json import comparison_json
from trainers.evaluation import Evaluation
from trainers.frames import Role
from trainers.outputs import whole_directory
from trainers.page import Cell, count, figure, footer, frame_choice, keys, number, page, plural, signed, table
from trainers.pictures import Panel, draw_panel, read_panels
from trainers.predictions import PredictionSet

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
        sections = [_header(comparison), "<main>", _runs(comparison)]
        for place, changes in enumerate(comparison.changes):
            sections += [
                _figures(comparison, changes),
                _types(comparison, changes),
                _objects(comparison, changes),
                _shots(comparison, place, shown[place], panels, list(runs.values())),
                _images(comparison, changes),
            ]
        sections += ["</main>", _footer(comparison)]
        title = f"{comparison.evaluations[0].dataset} · {' against '.join(reversed(comparison.labels))}"
        (work / HTML).write_text(page(title, "\n".join(sections)), encoding="utf-8")
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


def _header(comparison: Comparison) -> str:
    first = comparison.evaluations[0]
    images = plural(len(first.truths), "image")
    if comparison.left_out:
        images += f", {plural(comparison.left_out, 'image')} that not all predicted left out"
    lines = "".join(f"<p class='lead'>{_sentence(comparison, changes)}</p>" for changes in comparison.changes)
    return (
        '<header><p class="eyebrow">Shardbox comparison</p>'
        f"<h1>{escape(' and '.join(comparison.labels[1:]))} beside {escape(comparison.labels[0])}</h1>{lines}"
        f'<p class="note">{escape(first.dataset)}, {escape(first.split)}: {images}. '
        f"Intervals hold 95 % of {comparison.resamples:,} resamples of the images, the same for all runs. A run is "
        "called better or worse where 97.5 % of them agree.</p></header>"
    )


def _sentence(comparison: Comparison, changes: RunChanges) -> str:
    change = changes.figures["AP50"]
    kind, _ = verdict(change)
    name, first = escape(changes.label), escape(comparison.labels[0])
    found = changes.found_in_all
    objects = (
        f"It alone finds <b>{plural(found.other_only, 'object')}</b>, {first} alone <b>{found.first_only:,}</b>, "
        f"both {found.both:,}."
    )
    if change.difference is None:
        return f"The split has no objects that {name} and {first} could find."
    words = {"up": "is better than", "down": "is worse than", "level": "cannot be told from"}[kind]
    return (
        f"<b>{name}</b> {words} <b>{first}</b>: AP50 {number(change.first)} → {number(change.other)} "
        f"({signed(change.difference)}; {_interval(change)}). {objects}"
    )


def _interval(change: Change) -> str:
    return "–" if change.low is None else f"{signed(change.low)} to {signed(change.high)}"


def _runs(comparison: Comparison) -> str:
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    rows = [
        [
            Cell(label, words=True),
            *(figure(e.figures[name], bar=name in ("AP", "AP50")) for name in names),
            figure(e.best.f1),
            figure(e.best.score, digits=2),
        ]
        for label, e in zip(comparison.labels, comparison.evaluations, strict=True)
    ]
    return (
        '<section class="box"><h2>The runs</h2><p class="note">COCO\'s figures, and the best F1 with the score from '
        "which it is reached.</p>" + table(["run", *names, "best F1", "at score"], rows) + "</section>"
    )


def _figures(comparison: Comparison, changes: RunChanges) -> str:
    rows = list(changes.figures.items())
    if len(changes.classes) > 1:
        rows += [(f"AP50 of {name}", change) for name, change in changes.classes.items()]
    ends = [abs(v) for _, change in rows for v in (change.low, change.high, change.difference) if v is not None]
    span = max(ends, default=0.0) or 1.0
    drawn = [
        [
            Cell(name, words=True),
            figure(change.first),
            figure(change.other),
            Cell(signed(change.difference), change.difference, drawn=_mini(change, span)),
            Cell(_interval(change), change.low),
            Cell("–" if change.better is None else f"{100 * change.better:.1f} %", change.better),
            Cell("", drawn=_verdict_chip(change)),
        ]
        for name, change in rows
    ]
    first, other = escape(comparison.labels[0]), escape(changes.label)
    heads = ["figure", first, other, "difference", "95 % interval", "better in", ""]
    return (
        f'<section class="box"><h2>{other} beside {first}</h2><p class="note">Every resample takes the same images for '
        "both runs. “Better in” is the share of resamples in which the second is ahead.</p>"
        + table(heads, drawn, tall=len(drawn) > 20)
        + "</section>"
    )


def _mini(change: Change, span: float) -> str:
    """The interval and the difference on a line with zero in its middle."""
    if change.low is None or change.high is None or change.difference is None:
        return ""
    low, high, at = (75 + 72 * value / span for value in (change.low, change.high, change.difference))
    return (
        f'<svg class="mini {verdict(change)[0]}" viewBox="0 0 150 18" aria-hidden="true">'
        '<path class="zero" d="M75 0V18"/>'
        f'<path class="span" d="M{low:.1f} 9H{high:.1f}"/><circle class="dot" cx="{at:.1f}" cy="9" r="4"/></svg>'
    )


def _verdict_chip(change: Change) -> str:
    kind, words = verdict(change)
    return f'<span class="verdict {kind}">{words}</span>'


def _types(comparison: Comparison, changes: RunChanges) -> str:
    rows = [
        [
            Cell(name, words=True),
            count(t.first),
            count(t.other),
            Cell(f"{t.other - t.first:+,}".replace("-", "−") if t.other != t.first else "0", t.other - t.first),
            figure(t.cost_first),
            figure(t.cost_other),
            Cell(signed(t.cost_other - t.cost_first), t.cost_other - t.cost_first),
        ]
        for name, t in changes.error_types.items()
    ]
    first, other = escape(comparison.labels[0]), escape(changes.label)
    heads = ["error", first, other, "change", f"cost, {first}", f"cost, {other}", "change"]
    return (
        '<section class="box"><h2>By kind of error</h2><p class="note">Errors at IoU 0.50 and each run\'s best score, '
        "and the AP50 that would be gained if those of one kind were mended (TIDE, Bolya et al. 2020).</p>"
        + table(heads, rows)
        + "</section>"
    )


def _objects(comparison: Comparison, changes: RunChanges) -> str:
    listed = {**changes.found}
    if len(listed) != 1:
        listed["all classes"] = changes.found_in_all
    rows = [
        [Cell(name, words=True), *(count(n) for n in (f.both, f.first_only, f.other_only, f.neither))]
        for name, f in listed.items()
    ]
    heads = ["class", "both", f"{escape(comparison.labels[0])} alone", f"{escape(changes.label)} alone", "neither"]
    return (
        '<section class="box"><h2>Which objects are found</h2><p class="note">At IoU 0.50 and each run\'s best score. '
        "<code>compare.json</code> names the objects that one run alone finds.</p>"
        + table(heads, rows, tall=len(rows) > 20)
        + "</section>"
    )


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
) -> str:
    if not shown:
        return ""
    other = comparison.changes[place].label
    roles: list[Role] = [panel.role for panel in panels[shown[0].image_id]]
    sides = list(zip(comparison.labels, comparison.evaluations, runs, strict=True))
    drawn = "".join(
        _shot(change, panels[change.image_id], [sides[0], sides[place + 1]], f"p{place}-{index}")
        for index, change in enumerate(shown)
    )
    switches = f'<div class="keys">{keys()}{frame_choice(roles, "after")}</div>' if place == 0 else ""
    return (
        f'<section><h2>Images that changed most</h2><p class="note">Those that {escape(other)} gained most from first, '
        "then those that it lost most by. Point at a box for its class, score and overlap; press a picture to enlarge "
        f'it.</p>{switches}<div class="shots two">{drawn}</div></section>'
    )


def _shot(
    change: ImageChange, panels: Sequence[Panel], sides: Sequence[tuple[str, Evaluation, PredictionSet]], name: str
) -> str:
    """One image under two runs, beside each other; `name` tells its pictures from those of others in the page."""
    figures = ""
    for panel in panels:
        for side, (label, evaluation, predictions) in enumerate(sides):
            counted = (change.first, change.other)[side]
            matches = evaluation.matches[change.image_id].at_score(evaluation.errors.score)
            svg = draw_panel(
                panel,
                evaluation.truths[change.image_id],
                predictions.by_image[change.image_id],
                matches,
                evaluation.category_names,
                errors=evaluation.error_types.by_image[change.image_id],
                picture=f"{name}-{panel.role}",
                again=side == 1,
            )
            words = f"{counted.tp} right, {counted.fp} wrong, {counted.fn} missed"
            what = f" · {panel.title}" if len(panels) > 1 else ""
            role = f' data-role="{panel.role}"' if len(panels) > 1 else ""
            figures += (
                f'<figure{role} tabindex="0">{svg}'
                f"<figcaption><b>{escape(label)}</b>{escape(what)}: {words}</figcaption></figure>"
            )
    kind = "up" if change.gain > 0 else "down"
    return (
        f'<div class="box shot"><h3>{escape(change.image_id)} <span class="verdict {kind}">'
        f'AP50 {signed(change.gain, 4)}</span></h3><div class="frames">{figures}</div></div>'
    )


def _images(comparison: Comparison, changes: RunChanges) -> str:
    half = _ROWS // 2
    listed: Iterable[ImageChange] = changes.images
    if len(changes.images) > _ROWS:
        listed = [*changes.images[:half], *changes.images[-half:]]
    rows = [
        [
            Cell(c.image_id, words=True),
            Cell(signed(c.gain, 4), c.gain),
            *(count(n) for n in (c.first.tp, c.other.tp, c.first.fp, c.other.fp, c.first.fn, c.other.fn)),
        ]
        for c in listed
    ]
    gained, lost = (sum(sign * c.gain > 0 for c in changes.images) for sign in (1, -1))
    heads = ["image", "AP50"]
    heads += [f"{what}, {run}" for what in ("right", "wrong", "missed") for run in ("first", "second")]
    left_out = (
        f"; {len(changes.images) - len(rows):,} in the middle are left out" if len(rows) < len(changes.images) else ""
    )
    return (
        f'<section class="box"><h2>Image by image</h2><p class="note">{plural(gained, "image")} better, {lost:,} worse '
        f"of {len(comparison.evaluations[0].truths):,}, by the AP50 that would be gained if all in the image were "
        f"right: what it costs {escape(comparison.labels[0])} less what it costs {escape(changes.label)}{left_out}.</p>"
        + table(heads, rows, tall=True)
        + "</section>"
    )


def _footer(comparison: Comparison) -> str:
    first = comparison.evaluations[0]
    entries = [("dataset", first.dataset), ("fingerprint", first.fingerprint), ("split", first.split)]
    for label, evaluation, fingerprint in zip(
        comparison.labels, comparison.evaluations, comparison.fingerprints, strict=True
    ):
        of = "" if fingerprint == first.fingerprint else f", predicted on the dataset {fingerprint}"
        entries.append(("run", f"{label} ({evaluation.run_id}), {evaluation.detections:,} detections{of}"))
    return footer(entries)
