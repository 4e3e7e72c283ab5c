"""Several runs on the same images: what the others do better and worse than the first, and how sure that is.

Differences come with the paired bootstrap over images (Efron and Tibshirani 1993, chapter 8): every resample takes the
same images for all runs, so that images that are hard for all do not blur the difference.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataflow.errors import DataRefusedError, UsageError
from dataflow.prepared import PreparedDataset
from trainers.evaluation.bootstrap import draw_weights, resampled_classes
from trainers.evaluation.curves import ratio
from trainers.evaluation.error_counts import Counts
from trainers.evaluation.error_types import ERROR_TYPES, ErrorType
from trainers.evaluation.evaluation import Evaluation, evaluate
from trainers.evaluation.matching import ImageMatches, Verdict
from trainers.evaluation.overlaps import Floats
from trainers.prediction.predictions import PredictionSet

COMPARED = ("AP", "AP50")
RESAMPLES = 1000
_THRESHOLDS = {"AP": slice(None), "AP50": slice(0, 1)}
_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class Change:
    """A figure of the first run and of another; None where there are no such objects.

    95 percent of resamples have a difference from `low` to `high`; in a share `better` of them the other run is ahead
    (where both are level, half counts).
    """

    first: float | None
    other: float | None
    low: float | None
    high: float | None
    better: float | None

    @property
    def difference(self) -> float | None:
        """What the other run gained."""
        return None if self.first is None or self.other is None else self.other - self.first


@dataclass(frozen=True)
class TypeChange:
    """Errors of one type by the first run and by another, and the AP50 that they cost each."""

    first: int
    other: int
    cost_first: float
    cost_other: float


@dataclass(frozen=True)
class ImageChange:
    """One image under two runs: right, wrong and missed, and the AP50 that would be gained if all in it were right."""

    image_id: str
    first: Counts
    other: Counts
    cost_first: float
    cost_other: float

    @property
    def gain(self) -> float:
        """AP50 that the image costs the other run less; negative where it costs more."""
        return self.cost_first - self.cost_other


@dataclass(frozen=True)
class FoundObjects:
    """How many objects both runs find, one alone, or neither; at IoU 0.5 and each run's own best score."""

    both: int
    first_only: int
    other_only: int
    neither: int


@dataclass(frozen=True)
class RunChanges:
    """Another run beside the first.

    `figures` and `classes` (AP50, of classes with objects) by name; `images` those that changed, most gained first;
    `found` by class; `only_first` and `only_other` are the objects that one run alone finds, as (image id, place).
    """

    label: str
    figures: Mapping[str, Change]
    classes: Mapping[str, Change]
    error_types: Mapping[ErrorType, TypeChange]
    images: tuple[ImageChange, ...]
    found: Mapping[str, FoundObjects]
    only_first: tuple[tuple[str, int], ...]
    only_other: tuple[tuple[str, int], ...]

    @property
    def found_in_all(self) -> FoundObjects:
        """The objects of all classes."""
        counts = self.found.values()
        return FoundObjects(
            *(sum(getattr(c, name) for c in counts) for name in ("both", "first_only", "other_only", "neither"))
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """All runs on the images that they share. `left_out` counts images of the split that not all runs predicted."""

    labels: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    changes: tuple[RunChanges, ...]
    fingerprints: tuple[str, ...]
    resamples: int
    left_out: int


def compare(
    dataset: PreparedDataset,
    runs: Mapping[str, PredictionSet],
    split: str | None = None,
    *,
    across_datasets: bool = False,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare runs, by label, with the first of them, by the truth of `dataset`.

    Args:
        dataset: its truth decides.
        runs: at least two.
        split: default: the one that the first run predicted.
        across_datasets: take predictions of other datasets too, such as that before a correction: images are
            those of the split, by id, that all runs predicted.
        resamples: how many, for the intervals.

    Raises:
        UsageError: fewer than two runs; predictions of another dataset or split, without `across_datasets`.
        DataRefusedError: predictions lack images or have others; with `across_datasets`: other classes, or no image
            that all predicted.
    """
    if len(runs) < 2:
        raise UsageError("there is one run to compare", "give the directories of two or more predictions")
    first = next(iter(runs.values()))
    split = dataset.check_split(split or first.split)
    if not across_datasets:
        _check_same_dataset(dataset, runs)
    images = _shared_images(dataset, runs, split) if across_datasets else None
    evaluations = tuple(evaluate(dataset, predictions, split, images) for predictions in runs.values())
    weights = draw_weights(len(evaluations[0].truths), resamples)
    precision = [resampled_classes(evaluation.matching, weights) for evaluation in evaluations]
    changes = tuple(
        _changes(label, evaluations[0], evaluation, precision[0], resampled)
        for label, evaluation, resampled in zip(list(runs)[1:], evaluations[1:], precision[1:], strict=True)
    )
    return Comparison(
        labels=tuple(runs),
        evaluations=evaluations,
        changes=changes,
        fingerprints=tuple(predictions.fingerprint for predictions in runs.values()),
        resamples=resamples,
        left_out=dataset.splits[split] - len(evaluations[0].truths),
    )


def _check_same_dataset(dataset: PreparedDataset, runs: Mapping[str, PredictionSet]) -> None:
    for label, predictions in runs.items():
        if predictions.fingerprint != dataset.fingerprint:
            raise UsageError(
                f"the predictions {label!r} are of dataset {predictions.dataset!r} (fingerprint "
                f"{predictions.fingerprint[:16]}), not of {dataset.path} ({dataset.fingerprint[:16]})",
                "predict it anew, or add --across-datasets: the truth given then decides, on the images that all have",
            )


def _shared_images(dataset: PreparedDataset, runs: Mapping[str, PredictionSet], split: str) -> set[str]:
    """The images of a split that all runs predicted."""
    for label, predictions in runs.items():
        if predictions.categories.names != dataset.categories.names:
            raise DataRefusedError(
                f"the predictions {label!r} have the classes {', '.join(predictions.categories.names)}, {dataset.path} "
                f"has {', '.join(dataset.categories.names)}",
                "compare runs with the same classes in the same order",
            )
    shared = {record.image_id for record in dataset.records(split)}
    for predictions in runs.values():
        shared &= set(predictions.by_image)
    if not shared:
        raise DataRefusedError(
            f"no image of the split {split!r} was predicted by all runs", "compare runs that share images, by id"
        )
    return shared


def _changes(
    label: str, first: Evaluation, other: Evaluation, resampled: Floats, other_resampled: Floats
) -> RunChanges:
    figures = {
        name: _change(
            (first.figures[name], other.figures[name]),
            _mean(resampled[_THRESHOLDS[name]]),
            _mean(other_resampled[_THRESHOLDS[name]]),
        )
        for name in COMPARED
    }
    classes = {
        name: _change((first.per_class[k].ap50, other.per_class[k].ap50), resampled[0, k], other_resampled[0, k])
        for k, name in enumerate(first.category_names)
        if first.per_class[k].truths
    }
    types = [evaluation.error_types for evaluation in (first, other)]
    cuts = [_cut(evaluation) for evaluation in (first, other)]
    found, only_first, only_other = _found(first, *cuts)
    return RunChanges(
        label=label,
        figures=figures,
        classes=classes,
        error_types={
            name: TypeChange(types[0].counts[name], types[1].counts[name], types[0].cost[name], types[1].cost[name])
            for name in ERROR_TYPES
        },
        images=_images(types[0].ranked, types[1].ranked, *cuts),
        found=found,
        only_first=only_first,
        only_other=only_other,
    )


def _mean(precision: Floats) -> Floats:
    """Mean (R,) of AP (T, K, R) over thresholds and the classes that a resample has; NaN where it has none."""
    known = np.isfinite(precision)
    return ratio(np.where(known, precision, 0.0).sum(axis=(0, 1)), known.sum(axis=(0, 1)))


def _change(values: Sequence[float | None], resampled: Floats, other: Floats) -> Change:
    difference = other - resampled
    difference = difference[~np.isnan(difference)]
    if not len(difference):
        return Change(values[0], values[1], None, None, None)
    low, high = np.quantile(difference, _INTERVAL)
    # What differs in the last digit only, by the order of sums, is level.
    level = np.abs(difference) < 1e-9
    better = float(((difference > 0) & ~level).mean() + level.mean() / 2)
    return Change(values[0], values[1], float(low), float(high), better)


def _cut(evaluation: Evaluation) -> dict[str, ImageMatches]:
    """What became of the boxes of each image at the run's own best score."""
    return {image: matches.at_score(evaluation.errors.score) for image, matches in evaluation.matches.items()}


def _images(
    ranked: Iterable[tuple[str, float]],
    other_ranked: Iterable[tuple[str, float]],
    cut: Mapping[str, ImageMatches],
    other_cut: Mapping[str, ImageMatches],
) -> tuple[ImageChange, ...]:
    """The images that changed in what they cost or in their counts, most gained first; ties by fewer errors, by id."""
    costs, other_costs = dict(ranked), dict(other_ranked)
    changes = [
        ImageChange(image, counts(cut[image]), counts(other_cut[image]), costs.get(image, 0), other_costs.get(image, 0))
        for image in cut
    ]
    changed = [change for change in changes if change.gain or change.first != change.other]
    return tuple(sorted(changed, key=lambda c: (-c.gain, _wrong(c.other) - _wrong(c.first), c.image_id)))


def counts(matches: ImageMatches) -> Counts:
    """Right, wrong and missed in one image."""
    return Counts(*(matches.count(verdict) for verdict in (Verdict.TP, Verdict.FP, Verdict.FN)))


def _wrong(counted: Counts) -> int:
    return counted.fp + counted.fn


def _found(
    first: Evaluation, cut: Mapping[str, ImageMatches], other_cut: Mapping[str, ImageMatches]
) -> tuple[dict[str, FoundObjects], tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]:
    """Objects by class and by who finds them; and those that one run alone finds."""
    names = first.category_names
    table = np.zeros((len(names), 2, 2), np.int64)
    alone: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
    for image, record in first.truths.items():
        verdicts = [side[image].object_verdicts for side in (cut, other_cut)]
        counting = verdicts[0] != Verdict.IGNORED
        by_first, by_other = (side == Verdict.TP for side in verdicts)
        np.add.at(
            table,
            (record.objects.category_ids[counting], *(side[counting].astype(int) for side in (by_first, by_other))),
            1,
        )
        for side, only in zip(alone, (by_first & ~by_other, by_other & ~by_first), strict=True):
            side += [(image, place) for place in np.flatnonzero(only & counting).tolist()]
    found = {
        name: FoundObjects(*(int(table[k][cell]) for cell in ((1, 1), (1, 0), (0, 1), (0, 0))))
        for k, name in enumerate(names)
        if table[k].any()
    }
    return found, tuple(alone[0]), tuple(alone[1])
