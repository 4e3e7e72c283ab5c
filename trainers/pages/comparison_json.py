"""A comparison as `compare.json`: plain numbers, None where nothing is defined."""

from typing import Any

from trainers.evaluation.comparison import Change, Comparison, FoundObjects, ImageChange, RunChanges
from trainers.evaluation.error_counts import Counts


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The content of `compare.json`."""
    first = comparison.evaluations[0]
    return {
        "dataset": {
            "name": first.dataset,
            "fingerprint": first.fingerprint,
            "split": first.split,
            "images": len(first.truths),
            "images_left_out": comparison.left_out,
        },
        "resamples": comparison.resamples,
        "runs": [
            {"label": label, "run_id": e.run_id, "fingerprint": fingerprint, **e.figures, "score": e.errors.score}
            for label, e, fingerprint in zip(
                comparison.labels, comparison.evaluations, comparison.fingerprints, strict=True
            )
        ],
        "changes": [_changes_json(comparison.labels[0], changes) for changes in comparison.changes],
    }


def _changes_json(first: str, changes: RunChanges) -> dict[str, Any]:
    return {
        "from": first,
        "to": changes.label,
        **{name: _change_json(change) for name, change in changes.figures.items()},
        "AP50_by_class": {name: _change_json(change) for name, change in changes.classes.items()},
        "error_types": {
            name: {"from": t.first, "to": t.other, "AP50_cost_from": t.cost_first, "AP50_cost_to": t.cost_other}
            for name, t in changes.error_types.items()
        },
        "objects": {
            "all": _found_json(changes.found_in_all),
            "by_class": {name: _found_json(found) for name, found in changes.found.items()},
        },
        "found_by_from_only": [{"image_id": image, "object": place} for image, place in changes.only_first],
        "found_by_to_only": [{"image_id": image, "object": place} for image, place in changes.only_other],
        "images": [_image_json(change) for change in changes.images],
    }


def _change_json(change: Change) -> dict[str, float | None]:
    return {
        "from": change.first,
        "to": change.other,
        "difference": change.difference,
        "low": change.low,
        "high": change.high,
        "share_better": change.better,
    }


def _found_json(found: FoundObjects) -> dict[str, int]:
    return {"both": found.both, "from_only": found.first_only, "to_only": found.other_only, "neither": found.neither}


def _image_json(change: ImageChange) -> dict[str, Any]:
    def counts(c: Counts) -> dict[str, int]:
        return {"tp": c.tp, "fp": c.fp, "fn": c.fn}

    return {
        "image_id": change.image_id,
        "AP50_gain": change.gain,
        "from": counts(change.first),
        "to": counts(change.other),
    }
