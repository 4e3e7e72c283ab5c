"""How far figures depend on which images happen to be in a split: the bootstrap over images.

Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3: images are drawn anew, with replacement,
as many as there are, and each figure is worked out again. An image that is drawn twice counts twice, so that a draw is
a weight for each image, and nothing is matched again.

Interpolated precision, a maximum of what is to come, is higher where detections come in twos and threes, so that
resampled average precision lies above that of the split (chapter 10: the bias). An interval is therefore laid around
the figure: it reaches as far as the middle 95 of a hundred results lie from their own mean.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from trainers.evaluation.coco_figures import RECALLS
from trainers.evaluation.curves import ratio
from trainers.evaluation.matching import Matching
from trainers.evaluation.overlaps import Flags, Floats, Ints, rank_in_group

RESAMPLES = 500
_TAILS = (2.5, 97.5)
_LEAST_DEFINED = 0.9
_IOU_50, _IOU_75 = 0, 5
# Numbers in a table at a time.
_CELLS = 4_000_000

Weights = npt.NDArray[np.int32]


def draw_weights(images: int, resamples: int = RESAMPLES, seed: int = 0) -> Weights:
    """(I, R): how often each of I images is drawn in each of R resamples."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((images, resamples), np.int32)
    for column in range(resamples):
        drawn[:, column] = np.bincount(rng.integers(0, images, images), minlength=images)
    return drawn


def intervals(matching: Matching, score: float, seed: int = 0) -> Mapping[str, tuple[float, float]]:
    """95 % intervals of AP, AP50, AP75, and of precision, recall and F1 at IoU 0.5 and the lowest score `score`.

    Resamples in which a figure is not defined do not count for it; a figure that is not in a tenth of them, or in the
    split, is left out.
    """
    n_images = len(matching.image_ids)
    if not n_images:
        return {}
    weights = np.concatenate([np.ones((n_images, 1), np.int32), draw_weights(n_images, seed=seed)], axis=1)
    figures = {**resampled_precision(matching, weights), **resampled_counts(matching, weights, score)}
    found = {}
    for name, (figure, *values) in figures.items():
        known = np.array(values)[np.isfinite(values)]
        if np.isfinite(figure) and len(known) >= _LEAST_DEFINED * len(values):
            low, high = np.clip(figure + np.percentile(known - known.mean(), _TAILS), 0.0, 1.0)
            found[name] = (float(low), float(high))
    return found


def resampled_counts(matching: Matching, weights: Weights, score: float) -> dict[str, Floats]:
    """`precision`, `recall` and `f1` (R,) at IoU 0.5 and the lowest score `score`; NaN where undefined."""
    kept = matching.scores >= np.float32(score)
    image = matching.detections.image
    n_images = len(weights)

    def total(images: Ints) -> Floats:
        summed: Floats = np.bincount(images, minlength=n_images).astype(np.float64) @ weights
        return summed

    tp, fp = (total(image[flags[_IOU_50] & kept]) for flags in (matching.right, matching.wrong))
    truths = total(matching.objects.image[~matching.crowd])
    return {
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, truths),
        "f1": ratio(2 * tp, tp + fp + truths),
    }


def resampled_precision(matching: Matching, weights: Weights) -> dict[str, Floats]:
    """`AP`, `AP50` and `AP75` (R,) with image i counted `weights[i]` (I, R) times; NaN where there are no objects."""
    found = resampled_classes(matching, weights)
    known = np.isfinite(found)
    n_classes = known[0].sum(axis=0).astype(np.float64)
    by_iou = np.stack([ratio(row, n_classes) for row in np.where(known, found, 0.0).sum(axis=1)])
    return {"AP": by_iou.mean(axis=0), "AP50": by_iou[_IOU_50], "AP75": by_iou[_IOU_75]}


def resampled_classes(matching: Matching, weights: Weights) -> Floats:
    """AP (T, K, R) of each class and threshold, images weighted; NaN where a resample has no objects of a class."""
    category, truths = matching.detections.category, matching.truths
    order = rank_in_group(category, matching.scores)[0]
    edges = np.searchsorted(category[order], np.arange(len(truths) + 1))
    found = np.full((len(matching.thresholds), len(truths), weights.shape[1]), np.nan)
    for k in np.flatnonzero(truths).tolist():
        own = order[edges[k] : edges[k + 1]]
        right, ignored = matching.right[:, own], matching.ignored[:, own]
        image = matching.detections.image[own]
        objects = matching.objects.image[~matching.crowd & (matching.objects.category == k)]
        step = max(_CELLS // max(len(own), 1), 1)
        for start in range(0, weights.shape[1], step):
            part = np.ascontiguousarray(weights[:, start : start + step])
            found[:, k, start : start + step] = _class_precision(right, ignored, part[image], part[objects].sum(axis=0))
    return found


def _class_precision(right: Flags, ignored: Flags, weights: Weights, truths: Ints) -> Floats:
    """AP (T, R) of one class: its P detections by falling score, (T, P), their weights (P, R), its objects (R,).

    The curve is worked out only where a detection is right. What is right, or ignored, at some threshold and not at all
    of them is counted for each; all others are summed up between these once.
    """
    found = np.where(truths > 0, 0.0, np.full((len(right), 1), np.nan))
    never: Flags = np.asarray(ignored.all(axis=0))
    special: Flags = np.asarray(right.any(axis=0) | (ignored.any(axis=0) & ~never))
    places = np.flatnonzero(special)
    if not len(places):
        return found
    plain = np.where((special | never)[:, None], 0, weights)
    own = weights[places]
    all_counted = np.cumsum(np.add.reduceat(plain, np.append(0, places), axis=0)[:-1] + own, axis=0, dtype=np.int32)
    n = np.maximum(truths, 1).astype(np.float64)
    for t in range(len(right)):
        here = np.flatnonzero(right[t, places])
        apart = ignored[t, places]
        counted = all_counted
        if apart.any():
            counted = counted - np.cumsum(own * apart[:, None], axis=0, dtype=np.int32)
        tp = np.cumsum(own[here], axis=0, dtype=np.int32)
        precision = tp / np.maximum(counted[here], 1)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        share = np.diff(_recalls_reached(tp / n), axis=0, prepend=0)
        found[t, truths > 0] = (envelope * share).sum(axis=0)[truths > 0] / len(RECALLS)
    return found


def _recalls_reached(recall: Floats) -> Ints:
    """How many of `RECALLS` do not lie above each recall."""
    nearest = (recall * 100 + 1e-9).astype(np.int64)
    reached: Ints = nearest + (RECALLS[nearest] <= recall)
    return reached
