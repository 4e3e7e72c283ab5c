"""An evaluation as `report.json`: plain numbers, None where nothing is defined."""

from typing import Any

import numpy as np
import numpy.typing as npt

from trainers.evaluation.breakdown import Part
from trainers.evaluation.confusion import Confusion
from trainers.evaluation.curves import Calibration, OperatingPoint, Sweep
from trainers.evaluation.error_counts import Counts, Errors
from trainers.evaluation.error_types import ErrorAnalysis
from trainers.evaluation.evaluation import ClassFigures, Evaluation

_WORST = 100


def report_json(evaluation: Evaluation) -> dict[str, Any]:
    """The content of `report.json`."""
    return {
        "compared": {
            "dataset": {
                "name": evaluation.dataset,
                "fingerprint": evaluation.fingerprint,
                "split": evaluation.split,
                "images": len(evaluation.truths),
                "objects": sum(c.truths for c in evaluation.per_class),
                "crowd_regions": sum(c.crowd for c in evaluation.per_class),
            },
            "predictions": {
                "run_id": evaluation.run_id,
                "fingerprint": evaluation.fingerprint,
                "images": len(evaluation.matches),
                "detections": evaluation.detections,
            },
        },
        **evaluation.figures,
        "intervals": {name: list(interval) for name, interval in evaluation.intervals.items()},
        "warnings": list(evaluation.warnings),
        "best": _point_json(evaluation.best),
        "per_class": [_class_json(figures) for figures in evaluation.per_class],
        "sweep": _sweep_json(evaluation.sweep),
        "curves": {
            "recall": _numbers(evaluation.curves.recall),
            "precision": {iou: _numbers(values) for iou, values in evaluation.curves.precision.items()},
            "by_score": _sweep_json(evaluation.curves.by_score),
        },
        "calibration": _calibration_json(evaluation.calibration),
        "confusion": _confusion_json(evaluation.confusion),
        "breakdown": {
            name: [_part_json(part) for part in getattr(evaluation.breakdown, name)]
            for name in ("by_size", "by_change", "by_alignment", "by_scene")
        },
        "errors": _errors_json(evaluation.errors),
        "error_types": _error_types_json(evaluation.error_types),
    }


def _numbers(values: npt.NDArray[Any]) -> Any:
    """An array as nested lists with None for NaN."""
    if values.ndim > 1:
        return [_numbers(row) for row in values]
    return [None if np.isnan(value) else float(value) for value in values]


def _point_json(point: OperatingPoint) -> dict[str, float | None]:
    return {"score": point.score, "precision": point.precision, "recall": point.recall, "f1": point.f1}


def _class_json(figures: ClassFigures) -> dict[str, Any]:
    return {
        "name": figures.name,
        "objects": figures.truths,
        "crowd_regions": figures.crowd,
        "detections": figures.detections,
        "AP": figures.ap,
        "AP50": figures.ap50,
        "best": _point_json(figures.best),
        "precision": {"0.50": _curve(figures.precision[0]), "0.50:0.95": _curve(figures.precision.mean(axis=0))},
        "sweep": _sweep_json(figures.sweep),
        "calibration_error": figures.calibration.error,
    }


def _curve(precision: npt.NDArray[Any]) -> Any:
    """Precision over recall, None for a class without objects."""
    return None if (precision < 0).any() else _numbers(precision)


def _calibration_json(calibration: Calibration) -> dict[str, Any]:
    bins = {name: _numbers(getattr(calibration, name)) for name in ("edges", "scores", "precision")}
    return {**bins, "counts": calibration.counts.tolist(), "error": calibration.error}


def _confusion_json(confusion: Confusion) -> dict[str, Any]:
    """Only cells that are not 0: of many classes most are."""
    cells = [
        {
            "object": confusion.names[row],
            "detected_as": confusion.names[column],
            "count": int(confusion.counts[row, column]),
        }
        for row, column in zip(*np.nonzero(confusion.counts), strict=True)
    ]
    return {"score": confusion.score, "cells": sorted(cells, key=lambda cell: -cell["count"])}


def _part_json(part: Part) -> dict[str, Any]:
    return {
        "name": part.name,
        "images": part.images,
        "tp": part.tp,
        "fp": part.fp,
        "fn": part.fn,
        "precision": part.precision,
        "recall": part.recall,
        "AP50": part.ap50,
    }


def _error_types_json(analysis: ErrorAnalysis) -> dict[str, Any]:
    return {
        "types": {name: {"count": count, "AP50_cost": analysis.cost[name]} for name, count in analysis.counts.items()},
        "false_positives_AP50_cost": analysis.false_positives,
        "false_negatives_AP50_cost": analysis.false_negatives,
        "causes": dict(analysis.causes),
        "costliest_images": [{"image_id": image, "AP50_cost": cost} for image, cost in analysis.ranked[:_WORST]],
    }


def _sweep_json(sweep: Sweep) -> dict[str, Any]:
    return {name: _numbers(getattr(sweep, name)) for name in ("ious", "scores", "precision", "recall", "f1")}


def _counts_json(counts: Counts) -> dict[str, int]:
    return {"tp": counts.tp, "fp": counts.fp, "fn": counts.fn}


def _errors_json(errors: Errors) -> dict[str, Any]:
    wrong = [(image, counts) for image, counts in errors.ranked_images if counts.fp + counts.fn]
    return {
        "iou": errors.iou,
        "score": errors.score,
        **_counts_json(errors.total),
        "by_class": {name: _counts_json(counts) for name, counts in errors.by_class.items()},
        "by_change": {
            name: {"found": found, "objects": total, "recall": found / total}
            for name, (found, total) in errors.by_change.items()
        },
        "images_with_errors": len(wrong),
        "worst_images": [{"image_id": image, **_counts_json(c)} for image, c in wrong[:_WORST]],
    }
