"""The tables of a report: each a section of the page, "" where there is nothing to say."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

from trainers.breakdown import Part
from trainers.error_counts import Counts
from trainers.error_types import Cause, ErrorType
from trainers.evaluation import ClassFigures, Evaluation
from trainers.overlaps import Floats, Ints
from trainers.page import Cell, count, figure, number, plural, section, table

_MOST_CLASSES = 24
_MOST_ROWS = 300
_MEANINGS = {
    "AP": "average precision, mean of IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50: found at all",
    "AP75": "at IoU 0.75: found and well placed",
    "APs": "small objects, below 32² px",
    "APm": "medium objects, 32² to 96² px",
    "APl": "large objects, above 96² px",
    "AR1": "average recall, best detection of each image and class",
    "AR10": "average recall, ten detections",
    "AR100": "average recall, a hundred detections",
    "ARs": "average recall of small objects",
    "ARm": "average recall of medium objects",
    "ARl": "average recall of large objects",
}
_ERRORS: Mapping[ErrorType, str] = {
    "classification": "the place is right (IoU from 0.50), the class is not",
    "localisation": "the class is right, the place only nearly (IoU 0.10 to 0.50)",
    "both": "another class, and only nearly the place",
    "duplicate": "an object that a better detection has found already",
    "background": "nothing is there (IoU up to 0.10)",
    "missed": "an object that no detection comes near",
}
_CAUSES: Mapping[Cause, str] = {
    "camera-motion": "looks like a movement of the camera",
    "illumination": "looks like a shadow or another light",
    "unmoved": "an object that did not move",
}


def errors_section(evaluation: Evaluation) -> str:
    """What kind the errors are and what they cost."""
    analysis = evaluation.error_types
    costs = list(analysis.cost.values())
    scale = max([*costs, 1e-9])
    rows = [
        [
            Cell(name, words=True),
            Cell(_ERRORS[name], words=True),
            count(analysis.counts[name]),
            Cell(number(cost), cost, cost / scale),
        ]
        for name, cost in analysis.cost.items()
    ]
    suspected = [(cause, n) for cause, n in analysis.causes.items() if n]
    causes = ""
    if suspected:
        causes = "<h3>Suspected causes of wrong detections</h3>" + table(
            ["cause", "", "detections"],
            [[Cell(cause, words=True), Cell(_CAUSES[cause], words=True), count(n)] for cause, n in suspected],
        )
    note = (
        f"Counts are those at score {number(evaluation.errors.score, 2)}. The cost is the AP50 that would be gained if "
        "all errors of the kind were mended (TIDE, Bolya et al. 2020); costs do not add up, since mending one error "
        f"uncovers another. All wrong detections together cost {number(analysis.false_positives)}, all missed objects "
        f"{number(analysis.false_negatives)}."
    )
    listed = table(["error", "what it is", "errors", "AP50 that it costs"], rows)
    return section("errors", "What kind the errors are", note, listed + causes)


def confusion_section(evaluation: Evaluation) -> str:
    """Which class is taken for which; of many classes only what is confused most."""
    confusion = evaluation.confusion
    size = len(confusion.names)
    if not confusion.counts.any():
        return ""
    title, cut = "What is taken for what", f"at IoU 0.50 and score {number(confusion.score, 2)}"
    if size <= _MOST_CLASSES:
        note = (
            f"Rows are what is there, columns what is detected, {cut}. The last column is what is missed, the last row "
            "what is detected where nothing is."
        )
        return section("confusion", title, note, _matrix(confusion.names, confusion.counts))
    off = confusion.counts[:-1, :-1] * ~np.eye(size - 1, dtype=np.bool_)
    order = np.argsort(-off, axis=None, kind="stable")[:_MOST_CLASSES]
    pairs = [divmod(int(cell), size - 1) for cell in order if off.flat[cell]]
    rows = [
        [Cell(confusion.names[i], words=True), Cell(confusion.names[j], words=True), count(int(off[i, j]))]
        for i, j in pairs
    ]
    note = f"The commonest confusions of {size - 1} classes, {cut}; <code>report.json</code> has all."
    listed = (
        table(["what is there", "is detected as", "times"], rows) if rows else "<p>No class is taken for another.</p>"
    )
    return section("confusion", title, note, listed)


def _matrix(names: Sequence[str], counts: Ints) -> str:
    """A table shaded by the share of a row."""
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = ""
    for i, name in enumerate(names):
        whole = max(int(counts[i].sum()), 1)
        cells = "".join(
            f'<td class="{"right" if i == j else "wrong"}" style="--v:{100 * int(n) / whole:.0f}%">{int(n) or "·"}</td>'
            for j, n in enumerate(counts[i].tolist())
        )
        rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    return (
        '<div class="scroll" tabindex="0"><table class="heat matrix"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def breakdown_section(evaluation: Evaluation) -> str:
    """How good the run is in parts of the split."""
    parts = evaluation.breakdown
    listed = {
        "By size": (parts.by_size, "COCO's sizes: small below 32² px, large above 96² px"),
        "By what happened": (parts.by_change, "objects that moved, appeared or vanished"),
        "By alignment": (parts.by_alignment, "pairs by how well their frames could be aligned"),
        "By scene": (parts.by_scene if len(parts.by_scene) > 1 else (), "images of one scene"),
    }
    drawn = "".join(
        f'<div class="box"><h3>{title}</h3><p class="note">{note}</p>{_parts(shown)}</div>'
        for title, (shown, note) in listed.items()
        if any(part.tp or part.fp or part.fn for part in shown)
    )
    if not drawn:
        return ""
    note = f"At IoU 0.50 and score {number(evaluation.errors.score, 2)}."
    return section("parts", "Where it is good", note, f'<div class="pair">{drawn}</div>', box=False)


def _parts(parts: Sequence[Part]) -> str:
    columns: list[tuple[str, Callable[[Part], Cell]]] = [
        ("images", lambda part: Cell("–") if part.images is None else count(part.images)),
        ("objects", lambda part: count(part.tp + part.fn)),
        ("recall", lambda part: figure(part.recall, bar=True)),
        ("precision", lambda part: figure(part.precision, bar=True)),
        ("AP50", lambda part: figure(part.ap50, bar=True)),
    ]
    shown = [part for part in parts if part.tp or part.fp or part.fn]
    cells = [[(head, make(part)) for head, make in columns] for part in shown]
    # A column that says nothing anywhere is left out.
    known = [head for i, (head, _) in enumerate(columns) if any(row[i][1].text != "–" for row in cells)]
    rows = [
        [Cell(part.name, words=True), *(cell for head, cell in row if head in known)]
        for part, row in zip(shown, cells, strict=True)
    ]
    return table(["", *known], rows, sorts=len(rows) > 1, tall=len(rows) > 12)


def sweep_section(evaluation: Evaluation) -> str:
    """F1, precision and recall by overlap and score."""
    sweep = evaluation.sweep
    tables = {"F1": sweep.f1, "Precision": sweep.precision, "Recall": sweep.recall}
    tabs = "".join(
        f'<label><input type="radio" name="sweep" value="{name}"{" checked" if name == "F1" else ""}>{name}</label>'
        for name in tables
    )
    drawn = "".join(_heat_table(name, values, evaluation) for name, values in tables.items())
    note = (
        "In percent, all classes together: down, the overlap (IoU) a detection needs to be right; across, the lowest "
        "score that counts. The best cell is framed."
    )
    body = f'<div class="tabs">{tabs}</div><div class="scroll" tabindex="0">{drawn}</div>'
    return section("sweep", "How strict, how sure", note, body)


def _heat_table(name: str, values: Floats, evaluation: Evaluation) -> str:
    head = "".join(f"<th>{score:.2f}</th>" for score in evaluation.sweep.scores)
    best = -1.0 if np.isnan(values).all() else float(np.nanmax(values))
    rows = ""
    for iou, row in zip(evaluation.sweep.ious, values, strict=True):
        cells = "".join(_heat_cell(value, value == best and value > 0) for value in row.tolist())
        rows += f"<tr><th>{iou:.2f}</th>{cells}</tr>"
    return (
        f'<table class="heat" data-figure="{name}"{"" if name == "F1" else " hidden"}>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _heat_cell(value: float, is_best: bool) -> str:
    if np.isnan(value):
        return '<td style="--v:0%">–</td>'
    frame = ' class="top"' if is_best else ""
    return f'<td{frame} style="--v:{100 * value:.0f}%">{100 * value:.0f}</td>'


def classes_section(evaluation: Evaluation) -> str:
    """Figures and counts of each class."""
    columns: list[tuple[str, Callable[[ClassFigures, Counts], Cell]]] = [
        ("AP", lambda f, c: figure(f.ap, bar=True)),
        ("AP50", lambda f, c: figure(f.ap50, bar=True)),
        ("best F1", lambda f, c: figure(f.best.f1, bar=True)),
        ("at score", lambda f, c: figure(f.best.score)),
        ("calibration error", lambda f, c: figure(f.calibration.error)),
        ("objects", lambda f, c: count(f.truths)),
        ("detections", lambda f, c: count(f.detections)),
        ("right", lambda f, c: count(c.tp)),
        ("wrong", lambda f, c: count(c.fp)),
        ("missed", lambda f, c: count(c.fn)),
    ]
    shown = [f for f in evaluation.per_class if f.truths or f.detections or f.crowd]
    rows = [
        [Cell(f.name, words=True), *(make(f, evaluation.errors.by_class[f.name]) for _, make in columns)] for f in shown
    ]
    absent = len(evaluation.per_class) - len(shown)
    note = (
        f"Right, wrong and missed at IoU 0.50 and score {number(evaluation.errors.score, 2)}; press a heading to sort."
    )
    if absent:
        note += f" {plural(absent, 'class')} neither present nor detected left out."
    return section("classes", "By class", note, table(["class", *(name for name, _ in columns)], rows, tall=True))


def images_section(evaluation: Evaluation) -> str:
    """All images with errors, those that cost most first."""
    costs = dict(evaluation.error_types.ranked)
    wrong = [(image, c) for image, c in evaluation.errors.ranked_images if c.fp + c.fn or image in costs]
    ranked = sorted(wrong, key=lambda item: -costs.get(item[0], 0.0))
    rows = [
        [
            Cell(image, words=True),
            Cell(number(costs.get(image), 4), costs.get(image)),
            *(count(n) for n in (c.tp, c.fp, c.fn)),
        ]
        for image, c in ranked[:_MOST_ROWS]
    ]
    if not rows:
        return ""
    note = "What an image costs is the AP50 that would be gained if all in it were right."
    if len(ranked) > len(rows):
        note += f" {len(ranked) - len(rows):,} more are left out."
    listed = table(["image", "AP50 that it costs", "right", "wrong", "missed"], rows, tall=True)
    return section("all-images", "Images with errors", note, listed)


def figures_section(evaluation: Evaluation) -> str:
    """COCO's twelve."""
    rows = [
        [
            Cell(name, words=True),
            Cell(_MEANINGS[name], words=True),
            figure(value),
            Cell(interval_words(evaluation, name)),
        ]
        for name, value in evaluation.figures.items()
    ]
    note = "A dash means that the split has no such objects. Intervals hold 95 % of the resamples of the images."
    listed = table(["figure", "what it is", "value", "95 % interval"], rows, sorts=False)
    return section("figures", "COCO's twelve figures", note, listed)


def interval_words(evaluation: Evaluation, name: str) -> str:
    """`0.81 to 0.93`, "" where the figure has no interval."""
    if name not in evaluation.intervals:
        return ""
    low, high = evaluation.intervals[name]
    return f"{number(low)} to {number(high)}"
