"""Precision, recall and F1 over score and overlap, where F1 is best, and whether scores mean what they say."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trainers.evaluation.coco_figures import RECALLS
from trainers.evaluation.matching import Matching
from trainers.evaluation.overlaps import Flags, Floats, Ints, rank_in_group

SWEEP_SCORES: Floats = np.linspace(0.0, 0.95, 20)
_CURVE_SCORES: Floats = np.linspace(0.0, 1.0, 101)
_IOU_50, _IOU_75 = 0, 5
_BINS = 20


@dataclass(frozen=True, eq=False)
class Sweep:
    """Precision, recall and F1, (T, S) each by `ious` (T,) and lowest score `scores` (S,).

    NaN where undefined: precision without detections, recall without objects, F1 without either.
    """

    ious: Floats
    scores: Floats
    precision: Floats
    recall: Floats
    f1: Floats


@dataclass(frozen=True, eq=False)
class Tally:
    """Right and wrong detections `tp`, `fp` (T, S, K) of each class by `ious` (T,) and lowest score `scores` (S,).

    `truths` (K,) are the objects of each class.
    """

    ious: Floats
    scores: Floats
    tp: Ints
    fp: Ints
    truths: Ints

    def of_all(self) -> Sweep:
        """All classes together."""
        return self._sweep(self.tp.sum(axis=2), self.fp.sum(axis=2), int(self.truths.sum()))

    def of_class(self, index: int) -> Sweep:
        """One class."""
        return self._sweep(self.tp[..., index], self.fp[..., index], int(self.truths[index]))

    def _sweep(self, right: Ints, wrong: Ints, truths: int) -> Sweep:
        return Sweep(
            ious=self.ious,
            scores=self.scores,
            precision=ratio(right, right + wrong),
            recall=ratio(right, np.full_like(right, truths)),
            f1=ratio(2 * right, right + wrong + truths),
        )


@dataclass(frozen=True)
class OperatingPoint:
    """The lowest score at which F1 is best (`score` is None where there are no detections), at IoU 0.5."""

    score: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, eq=False)
class Curves:
    """Precision (101,) over recall 0.00 to 1.00 by IoU, mean of the classes; and a fine sweep at IoU 0.5."""

    recall: Floats
    precision: dict[str, Floats]
    by_score: Sweep


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often detections of some score are right, at IoU 0.5; B bins of equal width from 0 to 1.

    `counts` (B,) detections that count; `scores` (B,) their mean score and `precision` (B,) the share of right
    ones, NaN where there are none. `error` is the expected calibration error, the mean distance of the two weighted by
    counts (Guo et al. 2017, section 2; for detections: the D-ECE of Küppers et al. 2020, section 3, with the score
    alone), None without detections.
    """

    edges: Floats
    counts: Ints
    scores: Floats
    precision: Floats
    error: float | None


def ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """`part / whole`, NaN where `whole` is 0."""
    shares: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return shares


def tally(matching: Matching, scores: Floats = SWEEP_SCORES, ious: slice = slice(None)) -> Tally:
    """All cells from one matching: each detection is counted once, between two cuts, and sums do the rest.

    Scores are float32, so the cuts, which rise, are compared as float32: a detection scored 0.35 passes the cut 0.35.
    """
    passed = np.searchsorted(scores.astype(np.float32), matching.scores, side="right")
    n_cells, n_classes = len(scores) + 1, len(matching.truths)
    cell = matching.detections.category * n_cells + passed

    def counts(flags: Flags) -> Ints:
        table = np.stack([np.bincount(cell[row], minlength=n_cells * n_classes) for row in flags])
        table = table.reshape(len(flags), n_classes, n_cells)
        # Those that pass a cut are those that pass it as their last, and all that pass the next.
        summed: Ints = table[:, :, :0:-1].cumsum(axis=2)[:, :, ::-1].transpose(0, 2, 1)
        return summed

    right, wrong = matching.right[ious], matching.wrong[ious]
    return Tally(matching.thresholds[ious], scores, counts(right), counts(wrong), matching.truths)


def draw_curves(matching: Matching) -> Curves:
    """COCO's interpolated precision over recall, mean of the classes that have objects."""
    known = matching.precision[:, :, (matching.precision > -1).all(axis=(0, 1))]
    mean: Floats = known.mean(axis=2) if known.size else np.full(known.shape[:-1], np.nan)
    return Curves(
        recall=RECALLS,
        precision={"0.50": mean[_IOU_50], "0.75": mean[_IOU_75], "0.50:0.95": mean.mean(axis=0)},
        by_score=tally(matching, _CURVE_SCORES, slice(_IOU_50, _IOU_50 + 1)).of_all(),
    )


def best_points(matching: Matching) -> tuple[OperatingPoint, tuple[OperatingPoint, ...]]:
    """Where F1 = 2 TP / (2 TP + FP + FN) is highest at IoU 0.5, over all cuts between different scores.

    That of all classes together, and that of each.
    """
    right, wrong = matching.right[_IOU_50], matching.wrong[_IOU_50]
    category, truths = matching.detections.category, matching.truths

    def best(order: Ints, objects: int) -> OperatingPoint:
        return _best_point(matching.scores[order], right[order], wrong[order], objects)

    order = rank_in_group(category, matching.scores)[0]
    edges = np.searchsorted(category[order], np.arange(len(truths) + 1))
    of_all = best(np.argsort(-matching.scores, kind="stable"), int(truths.sum()))
    return of_all, tuple(best(order[edges[k] : edges[k + 1]], int(truths[k])) for k in range(len(truths)))


def _best_point(scores: npt.NDArray[np.float32], right: Flags, wrong: Flags, truths: int) -> OperatingPoint:
    """The best cut through detections by falling score."""
    tp, fp = np.cumsum(right), np.cumsum(wrong)
    # Equal scores cannot be told apart by a cut: only the last of each may be one.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, np.int64)
    counted = last[tp[last] + fp[last] > 0]
    if truths == 0:
        return OperatingPoint(None, None, None, None)
    if not len(counted):
        return OperatingPoint(None, None, 0.0, 0.0)
    f1 = 2 * tp[counted] / (tp[counted] + fp[counted] + truths)
    at = counted[int(np.argmax(f1))]
    precision, recall = tp[at] / (tp[at] + fp[at]), tp[at] / truths
    return OperatingPoint(float(scores[at]), float(precision), float(recall), float(f1.max()))


def calibrate(matching: Matching, category: int | None = None) -> Calibration:
    """The reliability of all scores, or of those of one class."""
    counted = ~matching.ignored[_IOU_50]
    if category is not None:
        counted &= matching.detections.category == category
    scores = matching.scores[counted].astype(np.float64)
    bins = np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    mean = ratio(np.bincount(bins, scores, _BINS), counts)
    precision = ratio(np.bincount(bins, matching.right[_IOU_50, counted], _BINS), counts)
    distance = np.abs(precision - mean)[counts > 0] @ counts[counts > 0]
    error = float(distance / counts.sum()) if counts.any() else None
    return Calibration(np.linspace(0.0, 1.0, _BINS + 1), counts, mean, precision, error)
