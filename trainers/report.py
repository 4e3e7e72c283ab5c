"""The report of an evaluation: `report.json`, `report.html` (one file that needs no network) and its charts."""

import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from dataflow.prepared import PreparedDataset
from dataflow.records import Predictions
from trainers.charts import Chart, draw, legend, standalone
from trainers.error_counts import Counts
from trainers.evaluation import ClassFigures, Evaluation
from trainers.outputs import whole_directory
from trainers.overlaps import Floats
from trainers.page import frame_choice, keys, page
from trainers.pictures import Panel, draw_panel, read_panels
from trainers.predictions import PredictionSet
from trainers.report_json import report_json

JSON = "report.json"
HTML = "report.html"
_PICTURES = 12
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
        out: directory to make: `report.json`, `report.html`, `precision_recall.svg`, `scores.svg`.
        pictures: how many of the worst images are shown.
        overwrite: replace an earlier report.

    Raises:
        UsageError: `out` exists (with `overwrite`: and holds no report).
    """
    with whole_directory(out, JSON, overwrite) as work:
        content = json.dumps(report_json(evaluation), indent=1, ensure_ascii=False, allow_nan=False)
        (work / JSON).write_text(content + "\n", encoding="utf-8")
        charts = {"precision_recall": _recall_chart(evaluation), "scores": _score_chart(evaluation)}
        for name, chart in charts.items():
            (work / f"{name}.svg").write_text(standalone(chart), encoding="utf-8")
        sections: Iterable[str] = (
            _header(evaluation),
            "<main>",
            _curves(charts.values()),
            _sweep(evaluation),
            _classes(evaluation),
            _changes(evaluation),
            _worst(evaluation, dataset, predictions, pictures),
            _figures(evaluation),
            "</main>",
            _footer(evaluation),
        )
        title = f"{evaluation.dataset} · {evaluation.split} · {evaluation.run_id}"
        body = "\n".join(section for section in sections if section)
        (work / HTML).write_text(page(title, body), encoding="utf-8")
    return out / HTML


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _header(evaluation: Evaluation) -> str:
    best, total = evaluation.best, evaluation.errors.total
    objects = total.tp + total.fn
    summary = (
        f"The split has {_plural(objects, 'object')} in {_plural(len(evaluation.truths), 'image')}. "
        f"Counting detections that score at least {_number(evaluation.errors.score, 2)}, where F1 is best, "
        f"the run finds <b>{total.tp:,}</b> of them, misses <b>{total.fn:,}</b> and reports "
        f"<b>{_plural(total.fp, 'thing')}</b> that {'is' if total.fp == 1 else 'are'} not there."
    )
    cards = [
        ("AP50", evaluation.figures["AP50"], "average precision at IoU 0.50"),
        ("AP", evaluation.figures["AP"], "mean of IoU 0.50 to 0.95"),
        ("AP75", evaluation.figures["AP75"], "at IoU 0.75"),
        ("F1", best.f1, f"best, at score {_number(best.score, 2)}"),
        ("Precision", best.precision, "there, at IoU 0.50"),
        ("Recall", best.recall, "there, at IoU 0.50"),
    ]
    drawn = "".join(
        f'<div class="card{" first" if i == 0 else ""}"><span>{name}</span><b>{_number(value)}</b>'
        f"<small>{meaning}</small></div>"
        for i, (name, value, meaning) in enumerate(cards)
    )
    return (
        f'<header><p class="eyebrow">Shardbox evaluation</p>'
        f"<h1>{escape(evaluation.run_id)} on {escape(evaluation.dataset)}, {escape(evaluation.split)}</h1>"
        f'<p class="lead">{summary}</p><div class="cards">{drawn}</div></header>'
    )


def _recall_chart(evaluation: Evaluation) -> Chart:
    curves = evaluation.curves
    names = {"0.50": "IoU 0.50", "0.75": "IoU 0.75", "0.50:0.95": "mean of 0.50 to 0.95"}
    series = {names[iou]: values for iou, values in curves.precision.items()}
    return Chart("Precision over recall", "recall", "precision", curves.recall, series)


def _score_chart(evaluation: Evaluation) -> Chart:
    sweep = evaluation.curves.by_score
    series = {"precision": sweep.precision[0], "recall": sweep.recall[0], "F1": sweep.f1[0]}
    best = evaluation.best.score
    label = "" if best is None else f"best F1 at {best:.2f}"
    return Chart("Precision, recall and F1 over score", "lowest score", "", sweep.scores, series, best, label)


def _curves(charts: Iterable[Chart]) -> str:
    notes = (
        "COCO's interpolated precision, mean of the classes. The area under a line is the AP.",
        "All classes together, IoU 0.50, counting detections of at least this score.",
    )
    drawn = "".join(
        f'<div class="box"><h3>{escape(chart.title)}</h3>{legend(chart)}{draw(chart)}'
        f'<p class="readout">{note}</p></div>'
        for chart, note in zip(charts, notes, strict=True)
    )
    return f'<section class="pair">{drawn}</section>'


def _sweep(evaluation: Evaluation) -> str:
    sweep = evaluation.sweep
    tables = {"F1": sweep.f1, "Precision": sweep.precision, "Recall": sweep.recall}
    tabs = "".join(
        f'<label><input type="radio" name="sweep" value="{name}"{" checked" if name == "F1" else ""}>{name}</label>'
        for name in tables
    )
    drawn = "".join(_heat_table(name, values, evaluation) for name, values in tables.items())
    return (
        '<section class="box"><h2>How strict, how sure</h2><p class="note">In percent, all classes together: '
        "down, the overlap (IoU) a detection needs to be right; across, the lowest score that counts. "
        "The best cell is framed.</p>"
        f'<div class="tabs">{tabs}</div><div class="scroll">{drawn}</div></section>'
    )


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


def _classes(evaluation: Evaluation) -> str:
    columns: list[tuple[str, Callable[[ClassFigures, Counts], float | None], bool]] = [
        ("AP", lambda f, c: f.ap, True),
        ("AP50", lambda f, c: f.ap50, True),
        ("best F1", lambda f, c: f.best.f1, True),
        ("at score", lambda f, c: f.best.score, False),
        ("objects", lambda f, c: f.truths, False),
        ("detections", lambda f, c: f.detections, False),
        ("right", lambda f, c: c.tp, False),
        ("wrong", lambda f, c: c.fp, False),
        ("missed", lambda f, c: c.fn, False),
    ]
    head = "".join(f'<th scope="col"><button>{name}</button></th>' for name in ("class", *(c[0] for c in columns)))
    rows = ""
    for figures in evaluation.per_class:
        if not (figures.truths or figures.detections or figures.crowd):
            continue
        counts = evaluation.errors.by_class[figures.name]
        cells = "".join(_class_cell(value(figures, counts), bar) for _, value, bar in columns)
        rows += f'<tr><td data-v="{escape(figures.name)}">{escape(figures.name)}</td>{cells}</tr>'
    absent = sum(not (f.truths or f.detections or f.crowd) for f in evaluation.per_class)
    note = (
        f" {_plural(absent, 'class').replace('classs', 'classes')} neither present nor detected left out."
        if absent
        else ""
    )
    return (
        '<section class="box"><h2>By class</h2><p class="note">Right, wrong and missed at IoU 0.50 and score '
        f"{_number(evaluation.errors.score, 2)}; press a heading to sort.{note}</p>"
        f'<div class="scroll tall"><table class="sorts"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        "</div></section>"
    )


def _class_cell(value: float | None, bar: bool) -> str:
    known = value is not None
    text = f"{value:,}" if isinstance(value, int) else _number(value)
    attributes = f' class="bar" style="--v:{100 * (value or 0):.0f}%"' if bar and known else ""
    return f'<td data-v="{value if known else ""}"{attributes}>{text}</td>'


def _changes(evaluation: Evaluation) -> str:
    if not evaluation.errors.by_change:
        return ""
    rows = "".join(
        f'<tr><td>{name}</td><td>{total:,}</td><td>{found:,}</td><td class="bar" '
        f'style="--v:{100 * found / total:.0f}%">{found / total:.3f}</td></tr>'
        for name, (found, total) in evaluation.errors.by_change.items()
    )
    return (
        '<section class="box"><h2>By what happened</h2><p class="note">How many of the objects that moved, appeared '
        f"or vanished are found, at IoU 0.50 and score {_number(evaluation.errors.score, 2)}.</p>"
        '<div class="scroll"><table><thead><tr><th>change</th><th>objects</th><th>found</th><th>recall</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div></section>"
    )


def _worst(evaluation: Evaluation, dataset: PreparedDataset, predictions: PredictionSet, pictures: int) -> str:
    ranked = evaluation.errors.ranked_images[:pictures]
    panels = dict(read_panels(dataset, evaluation.split, [image for image, _ in ranked]))
    wrong = sum(bool(counts.fp + counts.fn) for _, counts in evaluation.errors.ranked_images)
    shots = "".join(_shot(evaluation, predictions.by_image[image], counts, panels[image]) for image, counts in ranked)
    roles = [panel.role for panel in panels[ranked[0][0]]] if ranked else []
    single = " single" if all(len(frames) == 1 for frames in panels.values()) else ""
    return (
        f'<section><h2>Images, worst first</h2><p class="note">{wrong:,} of {_plural(len(evaluation.truths), "image")} '
        f"have errors at IoU 0.50 and score {_number(evaluation.errors.score, 2)}; {len(ranked)} are shown. "
        "Point at a box for its class, score and overlap; press a picture to enlarge it and label all boxes.</p>"
        f'<div class="keys">{keys()}{frame_choice(roles, "all")}</div>'
        f'<div class="shots{single}">{shots}</div></section>'
    )


def _shot(evaluation: Evaluation, predictions: Predictions, counts: Counts, panels: Sequence[Panel]) -> str:
    """One image: its frames with the boxes over them."""
    image = predictions.image_id
    matches = evaluation.matches[image].at_score(evaluation.errors.score)
    frames = ""
    for panel in panels:
        drawn = draw_panel(panel, evaluation.truths[image], predictions, matches, evaluation.category_names)
        caption = f"<figcaption>{escape(panel.title)}</figcaption>" if len(panels) > 1 else ""
        role = f' data-role="{panel.role}"' if len(panels) > 1 else ""
        frames += f'<figure{role} tabindex="0">{drawn}{caption}</figure>'
    chips = "".join(
        f'<span class="chip"><b>{count}</b> {word}</span>'
        for count, word in ((counts.tp, "right"), (counts.fp, "wrong"), (counts.fn, "missed"))
    )
    return f'<div class="box shot"><h3>{escape(image)} {chips}</h3><div class="frames">{frames}</div></div>'


def _figures(evaluation: Evaluation) -> str:
    rows = "".join(
        f'<tr><td>{name}</td><td class="words">{_MEANINGS[name]}</td><td>{_number(value)}</td></tr>'
        for name, value in evaluation.figures.items()
    )
    return (
        '<section class="box"><h2>COCO\'s twelve figures</h2><p class="note">By pycocotools. A dash means that the '
        f'split has no such objects.</p><div class="scroll"><table><tbody>{rows}</tbody></table></div></section>'
    )


def _footer(evaluation: Evaluation) -> str:
    entries = {
        "dataset": evaluation.dataset,
        "fingerprint": evaluation.fingerprint,
        "split": evaluation.split,
        "run": evaluation.run_id,
        "detections": f"{evaluation.detections:,}",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in entries.items())
    return f"<footer><h3>What was compared</h3><dl>{listed}</dl></footer>"
