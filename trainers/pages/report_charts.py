"""The charts of a report."""

from collections.abc import Mapping

import numpy as np

from tfds_builders.pages.markup import Markup, el
from tfds_builders.pages.page import Section
from tfds_builders.pages.tables import number
from trainers.evaluation.evaluation import Evaluation
from trainers.pages.charts import Chart, draw, legend

_IOU_50 = 0
_NOTES = {
    "precision_recall": "COCO's interpolated precision, mean of the classes. The area under a line is the AP.",
    "classes": "COCO's interpolated precision at IoU 0.50, a thin line for each class.",
    "scores": "All classes together, IoU 0.50, counting detections of at least this score.",
}


def report_charts(evaluation: Evaluation) -> dict[str, Chart]:
    """The charts by the name of their file."""
    charts = {"precision_recall": _recall_chart(evaluation), "scores": _score_chart(evaluation)}
    if sum(figures.ap50 is not None for figures in evaluation.per_class) > 1:
        charts["classes"] = _class_chart(evaluation)
    if evaluation.calibration.counts.any():
        charts["calibration"] = _calibration_chart(evaluation)
    return charts


def curves_section(charts: Mapping[str, Chart], evaluation: Evaluation) -> Section:
    """All charts, beside each other where there is room."""
    error = evaluation.calibration.error
    notes = _NOTES | {
        "calibration": "How often detections of some score are right, at IoU 0.50; bars tell how many there are. "
        f"Expected calibration error {number(error)}."
    }
    drawn = [
        el(
            "div",
            el("h3", chart.title),
            legend(chart),
            _choice(chart),
            draw(chart),
            el("p", notes[name], class_="readout", aria_live="polite"),
            class_="box",
        )
        for name, chart in charts.items()
    ]
    beside = el("div", drawn, class_="pair three" if len(charts) == 3 else "pair")
    return Section("curves", "Curves", beside, "Curves", kind="")


def _choice(chart: Chart) -> Markup | None:
    """Which of the thin lines stands out."""
    if not chart.quiet:
        return None
    options = [el("option", "none", value=""), *(el("option", name, value=name) for name in chart.quiet)]
    return el("label", "class ", el("select", options, class_="stands-out"), class_="pick")


def _recall_chart(evaluation: Evaluation) -> Chart:
    curves = evaluation.curves
    names = {"0.50": "IoU 0.50", "0.75": "IoU 0.75", "0.50:0.95": "mean of 0.50 to 0.95"}
    series = {names[iou]: values for iou, values in curves.precision.items()}
    return Chart("Precision over recall", "recall", "precision", curves.recall, series)


def _class_chart(evaluation: Evaluation) -> Chart:
    curves = evaluation.curves
    known = {figures.name: figures.precision[_IOU_50] for figures in evaluation.per_class if figures.ap50 is not None}
    return Chart(
        "Precision over recall by class",
        "recall",
        "precision",
        curves.recall,
        {"mean of the classes": curves.precision["0.50"]},
        quiet=known,
    )


def _score_chart(evaluation: Evaluation) -> Chart:
    sweep = evaluation.curves.by_score
    series = {"precision": sweep.precision[0], "recall": sweep.recall[0], "F1": sweep.f1[0]}
    best = evaluation.best.score
    label = "" if best is None else f"best F1 at {best:.2f}"
    return Chart("Precision, recall and F1 over score", "lowest score", "", sweep.scores, series, best, label)


def _calibration_chart(evaluation: Evaluation) -> Chart:
    calibration = evaluation.calibration
    there = calibration.counts > 0
    x = calibration.scores[there]
    counts = calibration.counts[there]
    return Chart(
        "Do scores mean what they say?",
        "score",
        "share that is right",
        x,
        {"right": calibration.precision[there], "as the score says": x},
        columns=np.sqrt(counts / counts.max()),
    )
