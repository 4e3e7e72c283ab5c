"""The tables of a report: each a section of the page, None where there is nothing to say."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfds_builders.pages.markup import Content, Markup, el, markup, plural
from tfds_builders.pages.page import Section, note
from tfds_builders.pages.tables import Cell, Shade, count, figure, number, scrolling, shaded, table, words
from trainers.evaluation.breakdown import Part
from trainers.evaluation.error_counts import Counts
from trainers.evaluation.error_types import Cause, ErrorType
from trainers.evaluation.evaluation import ClassFigures, Evaluation
from trainers.evaluation.overlaps import Floats, Ints

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
    "camera-motion": "between the frames the camera moved a pixel or more, which explains what differs there",
    "illumination": "a shadow or another light",
    "unmoved": "both frames show the same there: ground, or an object that did not move",
}


def errors_section(evaluation: Evaluation) -> Section:
    """What kind the errors are and what they cost."""
    analysis = evaluation.error_types
    costs = list(analysis.cost.values())
    scale = max([*costs, 1e-9])
    rows = [
        [words(name), words(_ERRORS[name]), count(analysis.counts[name]), Cell(number(cost), cost, cost / scale)]
        for name, cost in analysis.cost.items()
    ]
    suspected = [(cause, n) for cause, n in analysis.causes.items() if n]
    causes: Content = None
    if suspected:
        title = "Suspected causes of wrong detections"
        listed = [[words(cause), words(_CAUSES[cause]), count(n)] for cause, n in suspected]
        causes = (el("h3", title), table(title, ["cause", "what the frames show", "detections"], listed))
    said = note(
        f"Counts are those at score {number(evaluation.errors.score, 2)}. The cost is the AP50 that would be gained if "
        "all errors of the kind were mended (TIDE, Bolya et al. 2020); costs do not add up, since mending one error "
        f"uncovers another. All wrong detections together cost {number(analysis.false_positives)}, all missed objects "
        f"{number(analysis.false_negatives)}."
    )
    kinds = table("kinds of error", ["error", "what it is", "errors", "AP50 that it costs"], rows)
    return Section("errors", "What kind the errors are", markup(said, kinds, causes), "Errors")


def confusion_section(evaluation: Evaluation) -> Section | None:
    """Which class is taken for which; of many classes only what is confused most."""
    confusion = evaluation.confusion
    size = len(confusion.names)
    if not confusion.counts.any():
        return None
    title, cut = "What is taken for what", f"at IoU 0.50 and score {number(confusion.score, 2)}"
    if size <= _MOST_CLASSES:
        said = note(
            f"Rows are what is there, columns what is detected, {cut}. The last column is what is missed, the last row "
            "what is detected where nothing is."
        )
        matrix = scrolling(title, _matrix(confusion.names, confusion.counts))
        return Section("confusion", title, markup(said, matrix), "Confusion")
    off = confusion.counts[:-1, :-1] * ~np.eye(size - 1, dtype=np.bool_)
    order = np.argsort(-off, axis=None, kind="stable")[:_MOST_CLASSES]
    pairs = [divmod(int(cell), size - 1) for cell in order if off.flat[cell]]
    rows = [[words(confusion.names[i]), words(confusion.names[j]), count(int(off[i, j]))] for i, j in pairs]
    said = note(f"The commonest confusions of {size - 1} classes, {cut}; ", el("code", "report.json"), " has all.")
    heads = ["what is there", "is detected as", "times"]
    listed = table(title, heads, rows) if rows else el("p", "No class is taken for another.")
    return Section("confusion", title, markup(said, listed), "Confusion")


def _matrix(names: Sequence[str], counts: Ints) -> Markup:
    """A table shaded by the share of a row."""
    whole = np.maximum(counts.sum(axis=1), 1)
    rows = [
        (name, [Shade(f"{n:,}" if n else "·", n / int(whole[i])) for n in counts[i].tolist()])
        for i, name in enumerate(names)
    ]
    return shaded(names, rows)


def breakdown_section(evaluation: Evaluation) -> Section | None:
    """How good the run is in parts of the split."""
    parts = evaluation.breakdown
    listed = {
        "By size": (parts.by_size, "COCO's sizes: small below 32² px, large above 96² px"),
        "By what happened": (parts.by_change, "objects that moved, appeared or vanished"),
        "By alignment": (parts.by_alignment, "pairs by how well their frames could be aligned"),
        "By scene": (parts.by_scene if len(parts.by_scene) > 1 else (), "images of one scene"),
    }
    drawn = [
        el("div", el("h3", title), note(said), _parts(title, shown), class_="box")
        for title, (shown, said) in listed.items()
        if any(part.tp or part.fp or part.fn for part in shown)
    ]
    if not drawn:
        return None
    said = note(f"At IoU 0.50 and score {number(evaluation.errors.score, 2)}.")
    return Section("parts", "Where it is good", markup(said, el("div", drawn, class_="pair")), "Parts", kind="")


def _parts(title: str, parts: Sequence[Part]) -> Markup:
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
        [words(part.name), *(cell for head, cell in row if head in known)]
        for part, row in zip(shown, cells, strict=True)
    ]
    return table(title, ["part", *known], rows, tall=len(rows) > 12)


def sweep_section(evaluation: Evaluation) -> Section:
    """F1, precision and recall by overlap and score."""
    sweep = evaluation.sweep
    tables = {"F1": sweep.f1, "Precision": sweep.precision, "Recall": sweep.recall}
    tabs = [
        el("label", el("input", type="radio", name="sweep", value=name, checked=name == "F1"), name) for name in tables
    ]
    said = note(
        "In percent, all classes together: down, the overlap (IoU) a detection needs to be right; across, the lowest "
        "score that counts. The best cell is framed."
    )
    drawn = [_heat_table(name, values, evaluation) for name, values in tables.items()]
    body = markup(said, el("div", tabs, class_="tabs"), scrolling("figures by overlap and score", drawn))
    return Section("sweep", "How strict, how sure", body, "Overlap and score")


def _heat_table(name: str, values: Floats, evaluation: Evaluation) -> Markup:
    best = -1.0 if np.isnan(values).all() else float(np.nanmax(values))
    rows = [
        (f"{iou:.2f}", [_shade(value, value == best and value > 0) for value in row])
        for iou, row in zip(evaluation.sweep.ious, values.tolist(), strict=True)
    ]
    heads = [f"{score:.2f}" for score in evaluation.sweep.scores]
    return shaded(heads, rows, figure=name, hidden=name != "F1")


def _shade(value: float, is_best: bool) -> Shade:
    return Shade("–") if np.isnan(value) else Shade(f"{100 * value:.0f}", value, is_best)


def classes_section(evaluation: Evaluation) -> Section:
    """Figures and counts of each class."""
    columns: list[tuple[str, Callable[[ClassFigures, Counts], Cell]]] = [
        ("AP", lambda f, c: figure(f.ap, bar=True)),
        ("AP50", lambda f, c: figure(f.ap50, bar=True)),
        ("best F1", lambda f, c: figure(f.best.f1, bar=True)),
        ("at score", lambda f, c: figure(f.best.score, digits=2)),
        ("calibration error", lambda f, c: figure(f.calibration.error)),
        ("objects", lambda f, c: count(f.truths)),
        ("detections", lambda f, c: count(f.detections)),
        ("right", lambda f, c: count(c.tp)),
        ("wrong", lambda f, c: count(c.fp)),
        ("missed", lambda f, c: count(c.fn)),
    ]
    shown = [f for f in evaluation.per_class if f.truths or f.detections or f.crowd]
    rows = [[words(f.name), *(make(f, evaluation.errors.by_class[f.name]) for _, make in columns)] for f in shown]
    absent = len(evaluation.per_class) - len(shown)
    said = f"Right, wrong and missed at IoU 0.50 and score {number(evaluation.errors.score, 2)}"
    said += "; press a heading to sort." if len(rows) > 1 else "."
    if absent:
        said += f" {plural(absent, 'class')} neither present nor detected left out."
    listed = table("classes", ["class", *(name for name, _ in columns)], rows, tall=True)
    return Section("classes", "By class", markup(note(said), listed), "Classes")


def images_section(evaluation: Evaluation) -> Section | None:
    """All images with errors, those that cost most first."""
    costs = dict(evaluation.error_types.ranked)
    wrong = [(image, c) for image, c in evaluation.errors.ranked_images if c.fp + c.fn or image in costs]
    ranked = sorted(wrong, key=lambda item: -costs.get(item[0], 0.0))
    rows = [
        [
            words(image),
            Cell(number(costs.get(image), 4), costs.get(image)),
            *(count(n) for n in (c.tp, c.fp, c.fn)),
        ]
        for image, c in ranked[:_MOST_ROWS]
    ]
    if not rows:
        return None
    said = "What an image costs is the AP50 that would be gained if all in it were right."
    if len(ranked) > len(rows):
        said += f" {len(ranked) - len(rows):,} more are left out."
    listed = table("images with errors", ["image", "AP50 that it costs", "right", "wrong", "missed"], rows, tall=True)
    return Section("all-images", "Images with errors", markup(note(said), listed))


def figures_section(evaluation: Evaluation) -> Section:
    """COCO's twelve."""
    rows = [
        [words(name), words(_MEANINGS[name]), figure(value), Cell(interval_words(evaluation, name))]
        for name, value in evaluation.figures.items()
    ]
    said = note("A dash means that the split has no such objects. Intervals hold 95 % of the resamples of the images.")
    listed = table("COCO's twelve figures", ["figure", "what it is", "value", "95 % interval"], rows, sorts=False)
    return Section("figures", "COCO's twelve figures", markup(said, listed), "Figures")


def interval_words(evaluation: Evaluation, name: str) -> str:
    """`0.81 to 0.93`, "" where the figure has no interval."""
    if name not in evaluation.intervals:
        return ""
    low, high = evaluation.intervals[name]
    return f"{number(low)} to {number(high)}"
