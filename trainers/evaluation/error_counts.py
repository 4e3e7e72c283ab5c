"""Right, wrong and missed at the operating point: in all, by class, by image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataflow.records import Change, ImageRecord
from trainers.evaluation.matching import ImageMatches, Matching, Verdict

_IOU_50 = 0


@dataclass(frozen=True)
class Counts:
    """Right, wrong and missed at one IoU and score."""

    tp: int
    fp: int
    fn: int


@dataclass(frozen=True)
class Errors:
    """Counts at IoU `iou` and lowest score `score`: by class, by change (found and all objects), by image."""

    iou: float
    score: float
    total: Counts
    by_class: Mapping[str, Counts]
    by_change: Mapping[str, tuple[int, int]]
    """(found, all) objects by what happened to them; empty unless the dataset has before/after pairs."""
    ranked_images: tuple[tuple[str, Counts], ...]
    """All images, most errors first; ties by id."""


def count_errors(
    matching: Matching,
    matches: Mapping[str, ImageMatches],
    truths: Mapping[str, ImageRecord],
    names: Sequence[str],
    *,
    score: float,
    has_changes: bool,
) -> Errors:
    """What is right, wrong and missed at IoU 0.5 among the detections of at least `score`."""
    kept = matching.scores >= np.float32(score)
    right, wrong = matching.right[_IOU_50] & kept, matching.wrong[_IOU_50] & kept
    tp, fp = (np.bincount(matching.detections.category[flags], minlength=len(names)) for flags in (right, wrong))
    objects = matching.truths
    by_class = {name: Counts(int(tp[i]), int(fp[i]), int(objects[i] - tp[i])) for i, name in enumerate(names)}
    cut = {image: result.at_score(score) for image, result in matches.items()}
    by_image = [
        (image, Counts(*(result.count(verdict) for verdict in (Verdict.TP, Verdict.FP, Verdict.FN))))
        for image, result in cut.items()
    ]
    return Errors(
        iou=float(matching.thresholds[_IOU_50]),
        score=score,
        total=Counts(int(tp.sum()), int(fp.sum()), int(objects.sum() - tp.sum())),
        by_class=by_class,
        by_change=_by_change(cut, truths) if has_changes else {},
        ranked_images=tuple(sorted(by_image, key=lambda item: (-item[1].fp - item[1].fn, item[0]))),
    )


def _by_change(matches: Mapping[str, ImageMatches], truths: Mapping[str, ImageRecord]) -> dict[str, tuple[int, int]]:
    """(found, all) objects by what happened to them, crowd regions left out."""
    counts = {change: [0, 0] for change in Change}
    for image, result in matches.items():
        changes = truths[image].objects.changes
        if changes is None:
            continue
        for change, verdict in zip(changes.tolist(), result.object_verdicts.tolist(), strict=True):
            if verdict != Verdict.IGNORED:
                counts[Change(change)][0] += verdict == Verdict.TP
                counts[Change(change)][1] += 1
    return {change.name.lower(): (found, total) for change, (found, total) in counts.items() if total}
