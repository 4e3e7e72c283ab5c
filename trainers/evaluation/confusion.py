"""Which class is taken for which, with the background as one of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainers.evaluation.greedy import Boxes, claim
from trainers.evaluation.matching import Matching
from trainers.evaluation.overlaps import Ints, rank_in_group

_IOU_50 = 0


@dataclass(frozen=True, eq=False)
class Confusion:
    """`counts` (K + 1, K + 1) int64: objects of class i (row) that were detected as class j (column).

    The last row is the background, which was detected as something; the last column are objects that were missed.
    `names` (K + 1) ends in `background`. Rows add up to the objects of a class, columns to the detections that count,
    at IoU 0.5 and the lowest score `score`.
    """

    names: tuple[str, ...]
    counts: Ints
    score: float


def confuse(matching: Matching, names: Sequence[str], score: float) -> Confusion:
    """The confusion matrix at a lowest score.

    The diagonal is what COCO's matching finds right. Of what is left, detections by falling score take the free
    object, of another class, that they overlap most, from IoU 0.5 on.
    """
    kept = matching.scores >= np.float32(score)
    right = np.flatnonzero(matching.right[_IOU_50] & kept)
    wrong = np.flatnonzero(matching.wrong[_IOU_50] & kept)
    free = ~matching.crowd
    free[matching.found[_IOU_50, right]] = False
    missed = np.flatnonzero(free)
    detection, claimed = _across_classes(matching, wrong, missed)
    as_background = np.setdiff1d(wrong, detection)
    lost = np.setdiff1d(missed, claimed)
    background = len(names)
    detected_as, is_of = matching.detections.category, matching.objects.category
    truth = np.concatenate(
        [detected_as[right], is_of[claimed], np.full(len(as_background), background), is_of[lost]],
    )
    detected = np.concatenate(
        [detected_as[right], detected_as[detection], detected_as[as_background], np.full(len(lost), background)],
    )
    size = len(names) + 1
    counts = np.bincount(truth * size + detected, minlength=size * size).reshape(size, size)
    return Confusion((*names, "background"), counts, score)


def _across_classes(matching: Matching, wrong: Ints, missed: Ints) -> tuple[Ints, Ints]:
    """Which of the `wrong` detections overlap which of the `missed` objects, whatever the classes of both."""
    detections, objects = _only(matching.detections, wrong), _only(matching.objects, missed)
    claims = claim(
        detections,
        detections.image,
        rank_in_group(detections.image, matching.scores[wrong])[1],
        objects,
        objects.image,
        crowd=np.zeros(len(missed), np.bool_),
        ignored=np.zeros((1, len(missed)), np.bool_),
        thresholds=matching.thresholds[:1],
    )
    found = claims.found[0, 0]
    return wrong[claims.detection[found >= 0]], missed[found[found >= 0]]


def _only(boxes: Boxes, chosen: Ints) -> Boxes:
    return Boxes(boxes.image[chosen], boxes.category[chosen], boxes.coco[chosen])
