"""COCO's precision, recall and twelve figures from what became of the detections (`COCOeval.accumulate`, `summarize`).

Precision has to be known only where a detection overlaps an object: between two such it falls, and the interpolated
curve takes the best of what is to its right. All other detections are counted by one running sum.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainers.evaluation.greedy import RIGHT, UNMATCHED, Claims
from trainers.evaluation.overlaps import Flags, Floats, Ints, rank_in_group

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
RECALLS: Floats = np.linspace(0.0, 1.0, 101)
# Square pixels: all, small, medium, large; both ends belong to a range.
AREAS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
MOST_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True, eq=False)
class Accumulated:
    """Precision (T, 101, K, A) at a hundred detections an image and class; recall (T, K, A) there and by fewer.

    `recall_of_few` (2, T, K) counts one and ten detections, objects of all sizes. -1 where a class has no objects.
    """

    precision: Floats
    recall: Floats
    recall_of_few: Floats


def accumulate(
    category: Ints, scores: npt.NDArray[np.float32], claims: Claims, *, rank: Ints, in_area: Flags, truths: Ints
) -> Accumulated:
    """Precision and recall of each class.

    Args:
        category: (P,) of the detections.
        scores: (P,) from 0 on.
        claims: of these detections, in ranges A.
        rank: (P,) place of a detection among those of its image and class.
        in_area: (A, P) an unmatched detection counts.
        truths: (A, K) objects that count.
    """
    n_thresholds, n_areas = claims.outcome.shape[:2]
    n_classes = truths.shape[1]
    kept = np.flatnonzero(rank < MOST_DETECTIONS[-1])
    order = kept[rank_in_group(category[kept], scores[kept])[0]]
    place = np.full(len(category), -1)
    place[order] = np.arange(len(order))
    unmatched = np.zeros((n_areas, len(order) + 1), np.int32)
    np.cumsum(in_area[:, order], axis=1, out=unmatched[:, 1:])
    starts = np.searchsorted(category[order], np.arange(n_classes + 1))

    precision = np.full((n_thresholds, len(RECALLS), n_classes, n_areas), -1.0)
    recall = np.full((n_thresholds, n_classes, n_areas), -1.0)
    few = np.full((2, n_thresholds, n_classes), -1.0)
    by_place = np.flatnonzero(place[claims.detection] >= 0)
    by_place = by_place[np.argsort(place[claims.detection[by_place]])]
    claimed = place[claims.detection[by_place]]
    edges = np.searchsorted(claimed, starts)
    for k in np.flatnonzero(truths.any(axis=0)).tolist():
        own = by_place[edges[k] : edges[k + 1]]
        at = claimed[edges[k] : edges[k + 1]]
        outcome = claims.outcome[:, :, own]
        base = in_area[:, claims.detection[own]]
        right = outcome == RIGHT
        counted = np.cumsum((right | ((outcome == UNMATCHED) & base)).astype(np.int32) - base, axis=2)
        counted += unmatched[:, at + 1] - unmatched[:, starts[k], None]
        tp = np.cumsum(right, axis=2, dtype=np.int32)
        for a in np.flatnonzero(truths[:, k]).tolist():
            n = int(truths[a, k])
            precision[:, :, k, a] = interpolated(tp[:, a], counted[:, a], n)
            recall[:, k, a] = right[:, a].sum(axis=1) / n
        for m, most in enumerate(MOST_DETECTIONS[:-1]):
            if truths[0, k]:
                few[m, :, k] = right[:, 0, rank[claims.detection[own]] < most].sum(axis=1) / truths[0, k]
    return Accumulated(precision, recall, few)


def interpolated(tp: npt.NDArray[np.integer], counted: npt.NDArray[np.integer], truths: int) -> Floats:
    """Interpolated precision (T, 101) at `RECALLS` of one class with `truths` objects, of at least one.

    Each of the T rows is a list of detections of its own: `tp` and `counted` (T, C) are the numbers of right and of all
    counted detections down to certain places of it, among them every place where one is right.
    """
    precision = tp / (tp + (counted - tp) + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    needed = np.searchsorted(np.arange(1, truths + 1) / truths, RECALLS) + 1
    n_rows, width = tp.shape
    # One search for all rows: each row's numbers lie above those of the row before.
    offset = np.arange(n_rows)[:, None] * (truths + 2)
    first = np.searchsorted((tp + offset).ravel(), (needed + offset).ravel()).reshape(n_rows, -1)
    first -= np.arange(n_rows)[:, None] * width
    padded = np.concatenate([envelope, np.zeros((n_rows, 1))], axis=1)
    sampled: Floats = np.take_along_axis(padded, np.clip(first, 0, width), axis=1)
    return sampled


def coco_figures(found: Accumulated) -> Mapping[str, float | None]:
    """The twelve by name; None where nothing in the split is of that kind."""
    values = [
        found.precision[..., 0],
        found.precision[0, ..., 0],
        found.precision[5, ..., 0],
        *(found.precision[..., a] for a in (1, 2, 3)),
        *found.recall_of_few,
        found.recall[..., 0],
        *(found.recall[..., a] for a in (1, 2, 3)),
    ]
    return dict(zip(FIGURES, map(mean_or_none, values), strict=True))


def mean_or_none(values: Floats) -> float | None:
    """Mean of what is known; -1 stands for a class without objects."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def average_precision(category: Ints, scores: npt.NDArray[np.float32], right: Flags, truths: Ints) -> Floats:
    """COCO's AP (K,) at one threshold from the P detections that count; NaN where `truths` (K,) has no objects."""
    order = rank_in_group(category, scores)[0]
    right = right[order]
    edges = np.searchsorted(category[order], np.arange(len(truths) + 1))
    found = np.full(len(truths), np.nan)
    for k in np.flatnonzero(truths).tolist():
        places = np.flatnonzero(right[edges[k] : edges[k + 1]])
        tp = np.arange(1, len(places) + 1, dtype=np.int32)
        found[k] = interpolated(tp[None], (places + 1).astype(np.int32)[None], int(truths[k])).mean()
    return found
