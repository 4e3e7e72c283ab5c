"""An evaluation as `report.json`: plain numbers, None where nothing is defined."""

from typing import Any

import numpy as np
import numpy.typing as npt

from trainers.evaluation import ClassFigures, Counts, Errors, Evaluation, OperatingPoint, Sweep

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
        "best": _point_json(evaluation.best),
        "per_class": [_class_json(figures) for figures in evaluation.per_class],
        "sweep": _sweep_json(evaluation.sweep),
        "curves": {
            "recall": _numbers(evaluation.curves.recall),
            "precision": {iou: _numbers(values) for iou, values in evaluation.curves.precision.items()},
            "by_score": _sweep_json(evaluation.curves.by_score),
        },
        "errors": _errors_json(evaluation.errors),
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
