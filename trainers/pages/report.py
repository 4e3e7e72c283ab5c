"""The report of an evaluation: `report.json`, `report.html` (one file that needs no network) and its charts."""

import json
from collections.abc import Sequence
from pathlib import Path

from dataflow.prepared import PreparedDataset
from dataflow.records import Predictions
from tfds_builders.pages.markup import Markup, el, markup, plural
from tfds_builders.pages.page import Card, Section, cards, note, page, provenance
from tfds_builders.pages.tables import number
from trainers.evaluation.error_counts import Counts
from trainers.evaluation.evaluation import Evaluation
from trainers.outputs import whole_directory
from trainers.pages.charts import standalone
from trainers.pages.pictures import Panel, draw_panel, read_panels, switches
from trainers.pages.report_charts import curves_section, report_charts
from trainers.pages.report_json import report_json
from trainers.pages.report_tables import (
    breakdown_section,
    classes_section,
    confusion_section,
    errors_section,
    figures_section,
    images_section,
    interval_words,
    sweep_section,
)
from trainers.prediction.predictions import PredictionSet

JSON = "report.json"
HTML = "report.html"
_PICTURES = 12


def write_report(
    evaluation: Evaluation,
    dataset: PreparedDataset,
    predictions: PredictionSet,
    out: Path,
    *,
    pictures: int = _PICTURES,
    overwrite: bool = False,
) -> Path:
    """Write the report directory `out`, whole or not at all, and return the path of its `report.html`.

    Args:
        evaluation: what `evaluate` found for these `predictions` of this `dataset`.
        dataset: gives the pictures.
        predictions: give the boxes.
        out: directory to make: `report.json`, `report.html`, and its charts as `*.svg`.
        pictures: how many of the worst images are shown.
        overwrite: replace an earlier report.

    Raises:
        UsageError: `out` exists (with `overwrite`: and holds no report).
    """
    with whole_directory(out, JSON, overwrite) as work:
        content = json.dumps(report_json(evaluation), indent=1, ensure_ascii=False, allow_nan=False)
        (work / JSON).write_text(content + "\n", encoding="utf-8")
        charts = report_charts(evaluation)
        for name, chart in charts.items():
            (work / f"{name}.svg").write_text(standalone(chart), encoding="utf-8")
        sections = [
            curves_section(charts, evaluation),
            errors_section(evaluation),
            _worst(evaluation, dataset, predictions, pictures),
            images_section(evaluation),
            classes_section(evaluation),
            breakdown_section(evaluation),
            confusion_section(evaluation),
            sweep_section(evaluation),
            figures_section(evaluation),
        ]
        title = f"{evaluation.run_id} on {evaluation.dataset}, {evaluation.split}"
        text = page("evaluation", title, _headline(evaluation), sections, _foot(evaluation))
        (work / HTML).write_text(text, encoding="utf-8")
    return out / HTML


def _headline(evaluation: Evaluation) -> Markup:
    best, total = evaluation.best, evaluation.errors.total
    summary = el(
        "p",
        f"The split has {plural(total.tp + total.fn, 'object')} in {plural(len(evaluation.truths), 'image')}. Counting "
        f"detections that score at least {number(evaluation.errors.score, 2)}, where F1 is best, the run finds ",
        el("b", f"{total.tp:,}"),
        " of them, misses ",
        el("b", f"{total.fn:,}"),
        " and reports ",
        el("b", plural(total.fp, "thing")),
        f" that {'is' if total.fp == 1 else 'are'} not there.",
        class_="lead",
    )
    shown = [
        ("AP50", evaluation.figures["AP50"], "AP50", "average precision at IoU 0.50"),
        ("AP", evaluation.figures["AP"], "AP", "mean of IoU 0.50 to 0.95"),
        ("AP75", evaluation.figures["AP75"], "AP75", "at IoU 0.75"),
        ("F1", best.f1, "f1", f"best, at score {number(best.score, 2)}"),
        ("Precision", best.precision, "precision", "there, at IoU 0.50"),
        ("Recall", best.recall, "recall", "there, at IoU 0.50"),
    ]
    drawn = [Card(name, number(value), meaning, _interval(evaluation, key)) for name, value, key, meaning in shown]
    warned = [el("li", sentence) for sentence in evaluation.warnings]
    return markup(summary, el("ul", warned, class_="warned") if warned else None, cards(drawn))


def _interval(evaluation: Evaluation, name: str) -> Markup | None:
    """The 95 % interval of a figure, drawn from 0 to 1 and in numbers."""
    if name not in evaluation.intervals:
        return None
    low, high = evaluation.intervals[name]
    place = f"--low:{100 * low:.1f}%;--high:{100 * high:.1f}%"
    return markup(el("i", class_="range", style=place), el("em", interval_words(evaluation, name)))


def _worst(
    evaluation: Evaluation, dataset: PreparedDataset, predictions: PredictionSet, pictures: int
) -> Section | None:
    costs = dict(evaluation.error_types.ranked)
    counts = dict(evaluation.errors.ranked_images)
    wrong = [image for image, c in counts.items() if c.fp + c.fn]
    # Those that cost most, and then those with most errors; one without errors where there is no other.
    ranked = list(dict.fromkeys([*costs, *wrong]))[:pictures] or list(counts)[: min(1, pictures)]
    if not ranked:
        return None
    panels = dict(read_panels(dataset, evaluation.split, ranked))
    shots = [
        _shot(evaluation, predictions.by_image[image], (counts[image], costs.get(image)), panels[image])
        for image in ranked
    ]
    single = all(len(frames) == 1 for frames in panels.values())
    said = note(
        _which(len(ranked), len(set(ranked) - set(wrong)), len(wrong), evaluation),
        " Point at a box for its class, score, overlap and kind of error; press a picture to enlarge it and label all "
        "boxes.",
    )
    roles = [panel.role for panel in panels[ranked[0]]]
    content = markup(said, switches(roles, "all"), el("div", shots, class_="shots single" if single else "shots"))
    return Section("images", "Images that cost most", content, "Images", kind="")


def _which(shown: int, right: int, wrong: int, evaluation: Evaluation) -> str:
    """Which images are shown: they have errors at the operating score, or cost AP50 by detections below it."""
    at = f"at IoU 0.50 and score {number(evaluation.errors.score, 2)}"
    said = f"{wrong:,} of {plural(len(evaluation.truths), 'image')} {'has' if wrong == 1 else 'have'} errors {at}. "
    said += f"The {shown} whose errors, mended, would gain most AP50" if shown > 1 else "The one that costs most AP50"
    said += " are shown" if shown > 1 else " is shown"
    if right:
        said += f"; {right} of them by detections that score less, and so are not drawn"
    return said + "."


def _shot(
    evaluation: Evaluation, predictions: Predictions, worth: tuple[Counts, float | None], panels: Sequence[Panel]
) -> Markup:
    """One image: its counts and what it costs, its frames with the boxes over them."""
    counts, cost = worth
    image = predictions.image_id
    matches = evaluation.matches[image].at_score(evaluation.errors.score)
    several = len(panels) > 1
    frames = []
    for panel in panels:
        drawn = draw_panel(
            panel,
            evaluation.truths[image],
            predictions,
            matches,
            evaluation.category_names,
            errors=evaluation.error_types.by_image[image],
        )
        caption = el("figcaption", panel.title) if several else None
        frames.append(el("figure", drawn, caption, data_role=panel.role if several else None, tabindex=0))
    told = [
        el("span", el("b", f"{n}"), f" {word}", class_="count")
        for n, word in ((counts.tp, "right"), (counts.fp, "wrong"), (counts.fn, "missed"))
    ]
    if cost is not None:
        told.append(el("span", "costs ", el("b", number(cost, 4)), " AP50", class_="count"))
    return el("div", el("h3", image, " ", told), el("div", frames, class_="frames"), class_="box shot")


def _foot(evaluation: Evaluation) -> Markup:
    return provenance(
        [
            ("dataset", evaluation.dataset),
            ("fingerprint", evaluation.fingerprint),
            ("split", evaluation.split),
            ("run", evaluation.run_id),
            ("detections", f"{evaluation.detections:,}"),
        ]
    )
