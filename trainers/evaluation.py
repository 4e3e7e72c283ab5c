"""How good predictions are: COCO's figures, per class, over IoU and score, and where the errors are."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from dataflow.aligned_pair import align_pair, carry_objects
from dataflow.errors import DataRefusedError, UsageError
from dataflow.frame import Frame
from dataflow.images import decode_rgb
from dataflow.prepared import PreparedDataset
from dataflow.records import Change, ImageRecord
from dataflow.registration import AlignmentError, Method
from trainers.coco_figures import mean_or_none
from trainers.error_types import ErrorAnalysis, analyse_errors
from trainers.image_costs import rank_images
from trainers.matching import ImageMatches, Matching, Verdict, match
from trainers.overlaps import Flags, Floats
from trainers.predictions import PredictionSet, coco_image_ids

SWEEP_SCORES = np.linspace(0.0, 0.95, 20)
_CURVE_SCORES = np.linspace(0.0, 1.0, 101)
_IOU_50, _IOU_75 = 0, 5
# Images with most errors, whose costs are worked out: what is beyond costs little, and takes its time.
_WEIGHED = 2000


@dataclass(frozen=True, eq=False)
class Sweep:
    """Precision, recall and F1 of all classes together, (T, S) each by `ious` (T,) and lowest score `scores` (S,).

    NaN where undefined: precision without detections, recall without objects, F1 without either.
    """

    ious: Floats
    scores: Floats
    precision: Floats
    recall: Floats
    f1: Floats


@dataclass(frozen=True)
class OperatingPoint:
    """The lowest score at which F1 is best (`score` is None where there are no detections), at IoU 0.5."""

    score: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class; None where it has no objects. `best` is its own operating point."""

    name: str
    truths: int
    crowd: int
    detections: int
    ap: float | None
    ap50: float | None
    best: OperatingPoint


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


@dataclass(frozen=True, eq=False)
class Curves:
    """Precision (101,) over recall 0.00 to 1.00 by IoU, mean of the classes; and a fine sweep at IoU 0.5."""

    recall: Floats
    precision: Mapping[str, Floats]
    by_score: Sweep


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything known about one run's predictions of one split."""

    dataset: str
    fingerprint: str
    split: str
    run_id: str
    category_names: tuple[str, ...]
    figures: Mapping[str, float | None]
    """COCO's twelve; None means that nothing in the split is of that kind."""
    per_class: tuple[ClassFigures, ...]
    best: OperatingPoint
    sweep: Sweep
    curves: Curves
    errors: Errors
    error_types: ErrorAnalysis
    """What kind each error is, what each kind costs, and which images cost most; of these at most `_WEIGHED`."""
    matching: Matching
    matches: Mapping[str, ImageMatches]
    """What became of every box at IoU 0.5, by image id; `at_score(errors.score)` gives what `errors` counts."""
    truths: Mapping[str, ImageRecord]
    """The images by id, without their bytes."""
    detections: int


def evaluate(dataset: PreparedDataset, predictions: PredictionSet, split: str) -> Evaluation:
    """Compare predictions with the truth of a split.

    Raises:
        UsageError: there is no such split, or the predictions are of another dataset or split.
        DataRefusedError: the predictions lack images of the split, or have others.
    """
    truths = _read_truths(dataset, split, predictions.align)
    _check_compared(dataset, predictions, split, [record.image_id for record in truths])
    matching = match(truths, predictions.by_image, len(dataset.categories))
    counted = _counted_truths(matching)
    best = _best_point(matching, np.ones(len(matching.detections.image), np.bool_), int(counted.sum()))
    matches = matching.by_image()
    by_id = {record.image_id: record for record in truths}
    names = dataset.categories.names
    score = best.score if best.score is not None else 0.0
    has_changes = dataset.layout.is_ours and dataset.layout.kind != "images"
    errors = _errors(matching, matches, by_id, names, score=score, has_changes=has_changes)
    worst = [image for image, counts in errors.ranked_images[:_WEIGHED] if counts.fp + counts.fn]
    return Evaluation(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        split=split,
        run_id=predictions.run_id,
        category_names=names,
        figures=matching.figures,
        per_class=tuple(_class_figures(matching, index, name) for index, name in enumerate(names)),
        best=best,
        sweep=_sweep(matching, slice(None), SWEEP_SCORES),
        curves=_curves(matching),
        errors=errors,
        error_types=analyse_errors(matching, score, rank_images(matching, worst), {}),
        matching=matching,
        matches=matches,
        truths=by_id,
        detections=predictions.detections,
    )


def _read_truths(dataset: PreparedDataset, split: str, align: Method) -> list[ImageRecord]:
    """The images of a split without their bytes, in the order of COCO's image ids, which settles ties."""
    records = [replace(record, image=b"") for record in _truths(dataset, dataset.check_split(split), align)]
    order = coco_image_ids([(record.image_id, record.source_id) for record in records])
    numbers = {image: value for image, value in order.items() if isinstance(value, int)}
    return sorted(records, key=lambda record: (numbers.get(record.image_id, 0), record.image_id))


def _truths(dataset: PreparedDataset, split: str, align: Method) -> Iterator[ImageRecord]:
    """The images of a split; where frames were aligned to predict, with old places where the after frame has them."""
    if align == "none":
        yield from dataset.records(split)
        return
    for pair in dataset.pairs(split):
        before, after = (decode_rgb(frame.image, frame.orientation) for frame in (pair.before, pair.after))
        objects = pair.objects
        if objects.in_before.any():
            with suppress(AlignmentError):  # Nothing was predicted in it.
                aligned = align_pair(Frame(before), Frame(after), align)
                objects = carry_objects(objects, aligned.alignment.homography, aligned.size)
        yield replace(pair.after, image_id=pair.pair_id, objects=objects)


def _check_compared(dataset: PreparedDataset, predictions: PredictionSet, split: str, image_ids: Sequence[str]) -> None:
    """Refuse to compare what does not belong together; see `evaluate`."""
    what = f"the predictions of run {predictions.run_id!r}"
    if predictions.fingerprint != dataset.fingerprint:
        raise UsageError(
            f"{what} are of dataset {predictions.dataset!r} (fingerprint {predictions.fingerprint[:16]}), "
            f"not of {dataset.path} ({dataset.fingerprint[:16]})",
            "give the dataset that was predicted, or run `shardbox predict` on this one",
        )
    if predictions.split != split:
        raise UsageError(
            f"{what} are of the split {predictions.split!r}, not {split!r}",
            f"use --split {predictions.split}, or predict {split!r}",
        )
    missing = [image for image in image_ids if image not in predictions.by_image]
    unknown = sorted(set(predictions.by_image) - set(image_ids))
    for images, verb in ((missing, "lack"), (unknown, "have")):
        if images:
            raise DataRefusedError(
                f"{what} {verb} {len(images)} images that the split {split!r} "
                f"{'has' if verb == 'lack' else 'lacks'}, such as {images[0]!r}",
                "run `shardbox predict` again",
            )


def _counted_truths(matching: Matching) -> Flags:
    """(G,): objects that count, all but crowd regions."""
    return ~matching.crowd


def _class_figures(matching: Matching, index: int, name: str) -> ClassFigures:
    chosen = matching.detections.category == index
    own = matching.objects.category == index
    truths = int((own & ~matching.crowd).sum())
    return ClassFigures(
        name=name,
        truths=truths,
        crowd=int((own & matching.crowd).sum()),
        detections=int(chosen.sum()),
        ap=mean_or_none(matching.precision[:, :, index]),
        ap50=mean_or_none(matching.precision[_IOU_50, :, index]),
        best=_best_point(matching, chosen, truths),
    )


def _best_point(matching: Matching, chosen: Flags, truths: int) -> OperatingPoint:
    """Where F1 = 2 TP / (2 TP + FP + FN) is highest at IoU 0.5, over all cuts between different scores."""
    order = np.argsort(-matching.scores[chosen], kind="stable")
    scores = matching.scores[chosen][order]
    tp = np.cumsum(matching.right[_IOU_50, chosen][order])
    fp = np.cumsum(matching.wrong[_IOU_50, chosen][order])
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


def _sweep(matching: Matching, ious: slice, scores: Floats) -> Sweep:
    """All cells from one matching: sorted by score, a cut is a prefix, and its counts a place in running sums.

    Scores are float32, so the cuts are compared as float32: a detection scored 0.35 passes the cut 0.35.
    """
    order = np.argsort(-matching.scores, kind="stable")
    cuts = scores.astype(np.float32)
    kept = np.searchsorted(-matching.scores[order], -cuts, side="right")
    start = np.zeros((len(matching.thresholds[ious]), 1), np.int64)
    tp, fp = (
        np.concatenate([start, np.cumsum(flags[ious][:, order], axis=1)], axis=1)[:, kept].astype(np.float64)
        for flags in (matching.right, matching.wrong)
    )
    truths = float(_counted_truths(matching).sum())
    return Sweep(
        ious=matching.thresholds[ious],
        scores=scores,
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, np.full_like(tp, truths)),
        f1=_ratio(2 * tp, tp + fp + truths),
    )


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _curves(matching: Matching) -> Curves:
    """COCO's interpolated precision over recall, mean of the classes that have objects."""
    known = matching.precision[:, :, (matching.precision > -1).all(axis=(0, 1))]
    mean: Floats = known.mean(axis=2) if known.size else np.full(known.shape[:-1], np.nan)
    return Curves(
        recall=np.linspace(0.0, 1.0, mean.shape[1]),
        precision={"0.50": mean[_IOU_50], "0.75": mean[_IOU_75], "0.50:0.95": mean.mean(axis=0)},
        by_score=_sweep(matching, slice(_IOU_50, _IOU_50 + 1), _CURVE_SCORES),
    )


def _errors(
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
    objects = np.bincount(matching.objects.category[_counted_truths(matching)], minlength=len(names))
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
