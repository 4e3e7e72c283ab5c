"""The report of an evaluation: `report.json`, `report.html` (one file that needs no network) and its charts."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from dataflow.prepared import PreparedDataset
from dataflow.records import Predictions
from trainers.charts import standalone
from trainers.error_counts import Counts
from trainers.evaluation import Evaluation
from trainers.outputs import whole_directory
from trainers.page import footer, frame_choice, keys, number, page, plural, section
from trainers.pictures import Panel, draw_panel, read_panels
from trainers.predictions import PredictionSet
from trainers.report_charts import curves_section, report_charts
from trainers.report_json import report_json
from trainers.report_tables import (
    breakdown_section,
    classes_section,
    confusion_section,
    errors_section,
    figures_section,
    images_section,
    interval_words,
    sweep_section,
)

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
        body = [
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
        sections = [
            _header(evaluation),
            _navigation(body),
            "<main>",
            *filter(None, body),
            "</main>",
            _footer(evaluation),
        ]
        title = f"{evaluation.dataset} · {evaluation.split} · {evaluation.run_id}"
        (work / HTML).write_text(page(title, "\n".join(sections)), encoding="utf-8")
    return out / HTML


def _header(evaluation: Evaluation) -> str:
    best, total = evaluation.best, evaluation.errors.total
    objects = total.tp + total.fn
    summary = (
        f"The split has {plural(objects, 'object')} in {plural(len(evaluation.truths), 'image')}. "
        f"Counting detections that score at least {number(evaluation.errors.score, 2)}, where F1 is best, "
        f"the run finds <b>{total.tp:,}</b> of them, misses <b>{total.fn:,}</b> and reports "
        f"<b>{plural(total.fp, 'thing')}</b> that {'is' if total.fp == 1 else 'are'} not there."
    )
    cards = [
        ("AP50", evaluation.figures["AP50"], "AP50", "average precision at IoU 0.50"),
        ("AP", evaluation.figures["AP"], "AP", "mean of IoU 0.50 to 0.95"),
        ("AP75", evaluation.figures["AP75"], "AP75", "at IoU 0.75"),
        ("F1", best.f1, "f1", f"best, at score {number(best.score, 2)}"),
        ("Precision", best.precision, "precision", "there, at IoU 0.50"),
        ("Recall", best.recall, "recall", "there, at IoU 0.50"),
    ]
    drawn = "".join(
        f'<div class="card{" first" if i == 0 else ""}"><span>{name}</span><b>{number(value)}</b>'
        f"{_interval(evaluation, key)}<small>{meaning}</small></div>"
        for i, (name, value, key, meaning) in enumerate(cards)
    )
    warned = "".join(f"<li>{escape(sentence)}</li>" for sentence in evaluation.warnings)
    return (
        f'<header><p class="eyebrow">Shardbox evaluation</p>'
        f"<h1>{escape(evaluation.run_id)} on {escape(evaluation.dataset)}, {escape(evaluation.split)}</h1>"
        f'<p class="lead">{summary}</p>{f"<ul class=warned>{warned}</ul>" if warned else ""}'
        f'<div class="cards">{drawn}</div></header>'
    )


def _interval(evaluation: Evaluation, name: str) -> str:
    """The 95 % interval of a figure, drawn from 0 to 1 and in numbers."""
    if name not in evaluation.intervals:
        return ""
    low, high = evaluation.intervals[name]
    place = f"--low:{100 * low:.1f}%;--high:{100 * high:.1f}%"
    return f'<i class="range" style="{place}"></i><em>{interval_words(evaluation, name)}</em>'


def _navigation(sections: Sequence[str]) -> str:
    """Links to the sections that there are."""
    names = {
        "curves": "Curves",
        "errors": "Errors",
        "images": "Images",
        "classes": "Classes",
        "parts": "Parts",
        "confusion": "Confusion",
        "sweep": "Overlap and score",
        "figures": "Figures",
    }
    there = "".join(sections)
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name in names.items() if f' id="{key}"' in there)
    return f'<nav aria-label="sections">{links}</nav>'


def _worst(evaluation: Evaluation, dataset: PreparedDataset, predictions: PredictionSet, pictures: int) -> str:
    costs = dict(evaluation.error_types.ranked)
    counts = dict(evaluation.errors.ranked_images)
    # Those that cost most; where too few cost anything, those with most errors, and then any.
    ranked = list(dict.fromkeys([*costs, *counts]))[:pictures]
    if not ranked:
        return ""
    panels = dict(read_panels(dataset, evaluation.split, ranked))
    wrong = sum(bool(c.fp + c.fn) for c in counts.values())
    shots = "".join(
        _shot(evaluation, predictions.by_image[image], (counts[image], costs.get(image)), panels[image])
        for image in ranked
    )
    roles = [panel.role for panel in panels[ranked[0]]]
    single = " single" if all(len(frames) == 1 for frames in panels.values()) else ""
    note = (
        f"{wrong:,} of {plural(len(evaluation.truths), 'image')} have errors at IoU 0.50 and score "
        f"{number(evaluation.errors.score, 2)}; {len(ranked)} are shown, first those in which mending all errors would "
        "gain most AP50. Point at a box for its class, score, overlap and kind of error; press a picture to enlarge it "
        "and label all boxes."
    )
    switches = f'<div class="keys">{keys()}{frame_choice(roles, "all")}</div>'
    body = f'{switches}<div class="shots{single}">{shots}</div>'
    return section("images", "Images that cost most", note, body, box=False)


def _shot(
    evaluation: Evaluation, predictions: Predictions, worth: tuple[Counts, float | None], panels: Sequence[Panel]
) -> str:
    """One image: its counts and what it costs, its frames with the boxes over them."""
    counts, cost = worth
    image = predictions.image_id
    matches = evaluation.matches[image].at_score(evaluation.errors.score)
    frames = ""
    for panel in panels:
        drawn = draw_panel(
            panel,
            evaluation.truths[image],
            predictions,
            matches,
            evaluation.category_names,
            errors=evaluation.error_types.by_image[image],
        )
        caption = f"<figcaption>{escape(panel.title)}</figcaption>" if len(panels) > 1 else ""
        role = f' data-role="{panel.role}"' if len(panels) > 1 else ""
        frames += f'<figure{role} tabindex="0">{drawn}{caption}</figure>'
    chips = "".join(
        f'<span class="chip"><b>{count}</b> {word}</span>'
        for count, word in ((counts.tp, "right"), (counts.fp, "wrong"), (counts.fn, "missed"))
    )
    if cost is not None:
        chips += f'<span class="chip">costs <b>{number(cost, 4)}</b> AP50</span>'
    return f'<div class="box shot"><h3>{escape(image)} {chips}</h3><div class="frames">{frames}</div></div>'


def _footer(evaluation: Evaluation) -> str:
    return footer(
        [
            ("dataset", evaluation.dataset),
            ("fingerprint", evaluation.fingerprint),
            ("split", evaluation.split),
            ("run", evaluation.run_id),
            ("detections", f"{evaluation.detections:,}"),
        ]
    )
