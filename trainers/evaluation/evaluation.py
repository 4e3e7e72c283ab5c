"""How good predictions are: COCO's figures, per class, over IoU and score, in parts, and where the errors are."""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from dataflow.errors import DataRefusedError, UsageError
from dataflow.images import decode_rgb
from dataflow.pairs.aligned_pair import align_pair, carry_objects
from dataflow.pairs.frame import Frame
from dataflow.pairs.registration import AlignmentError, Method
from dataflow.prepared import PreparedDataset
from dataflow.records import FramePair, ImageRecord
from trainers.evaluation.bootstrap import intervals
from trainers.evaluation.breakdown import Breakdown, break_down
from trainers.evaluation.change_causes import add_causes
from trainers.evaluation.coco_figures import mean_or_none
from trainers.evaluation.confusion import Confusion, confuse
from trainers.evaluation.curves import (
    Calibration,
    Curves,
    OperatingPoint,
    Sweep,
    Tally,
    best_points,
    calibrate,
    draw_curves,
    tally,
)
from trainers.evaluation.error_counts import Errors, count_errors
from trainers.evaluation.error_types import ErrorAnalysis, analyse_errors
from trainers.evaluation.frames import dataset_kind
from trainers.evaluation.image_costs import rank_images
from trainers.evaluation.matching import ImageMatches, Matching, match
from trainers.evaluation.overlaps import Floats
from trainers.evaluation.score_checks import warnings
from trainers.prediction.predictions import PredictionSet, coco_image_ids

_IOU_50 = 0
# Images with most errors, whose costs are worked out: what is beyond costs little, and takes its time.
_WEIGHED = 2000


@dataclass(frozen=True, eq=False)
class ClassFigures:
    """The figures of one class; None where it has no objects. `best` is its own operating point.

    `precision` (T, 101) is over recall by IoU, -1 without objects; `sweep` over IoU and score.
    """

    name: str
    truths: int
    crowd: int
    detections: int
    ap: float | None
    ap50: float | None
    best: OperatingPoint
    precision: Floats
    sweep: Sweep
    calibration: Calibration


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
    intervals: Mapping[str, tuple[float, float]]
    """95 % intervals of `AP`, `AP50`, `AP75`, and of `precision`, `recall` and `f1` at `errors.score`."""
    warnings: tuple[str, ...]
    """Sentences on what makes the figures say less than they seem to."""
    per_class: tuple[ClassFigures, ...]
    best: OperatingPoint
    sweep: Sweep
    curves: Curves
    calibration: Calibration
    confusion: Confusion
    breakdown: Breakdown
    errors: Errors
    error_types: ErrorAnalysis
    """What kind each error is, what each kind costs, and which images cost most: of the 2,000 with most errors."""
    matching: Matching
    matches: Mapping[str, ImageMatches]
    """What became of every box at IoU 0.5, by image id; `at_score(errors.score)` gives what `errors` counts."""
    truths: Mapping[str, ImageRecord]
    """The images by id, without their bytes."""
    detections: int


def evaluate(
    dataset: PreparedDataset, predictions: PredictionSet, split: str, images: Container[str] | None = None
) -> Evaluation:
    """Compare predictions with the truth of a split.

    With `images`, of these alone, whatever dataset and split the predictions were made on; all must be predicted.

    Raises:
        UsageError: there is no such split, or the predictions are of another dataset or split.
        DataRefusedError: the predictions lack images of the split, or have others.
    """
    truths, alignment = read_truths(dataset, split, predictions.align)
    if images is None:
        _check_compared(dataset, predictions, split, [record.image_id for record in truths])
    else:
        truths = [record for record in truths if record.image_id in images]
    names = dataset.categories.names
    matching = match(truths, predictions.by_image, len(names))
    matches = matching.by_image()
    by_id = {record.image_id: record for record in truths}
    best, best_of_class = best_points(matching)
    tallied = tally(matching)
    score = best.score if best.score is not None else 0.0
    has_changes = dataset_kind(dataset.layout) != "images"
    errors = count_errors(matching, matches, by_id, names, score=score, has_changes=has_changes)
    worst = [image for image, counts in errors.ranked_images[:_WEIGHED] if counts.fp + counts.fn]
    error_types = analyse_errors(matching, score, rank_images(matching, worst))
    return Evaluation(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        split=split,
        run_id=predictions.run_id,
        category_names=names,
        figures=matching.figures,
        intervals=intervals(matching, score),
        warnings=warnings(matching, names),
        per_class=_class_figures(matching, names, tallied, best_of_class),
        best=best,
        sweep=tallied.of_all(),
        curves=draw_curves(matching),
        calibration=calibrate(matching),
        confusion=confuse(matching, names, score),
        breakdown=break_down(matching, by_id, alignment, score),
        errors=errors,
        error_types=add_causes(error_types, dataset, predictions, split) if has_changes else error_types,
        matching=matching,
        matches=matches,
        truths=by_id,
        detections=len(matching.scores),
    )


def read_truths(dataset: PreparedDataset, split: str, align: Method) -> tuple[list[ImageRecord], dict[str, float]]:
    """The images of a split without their bytes, in the order of COCO's image ids, which settles ties.

    And the scores of the alignments of pairs whose frames were aligned, by image id. `align` is how they were aligned
    to be predicted: boxes are where the after frame has them.

    Raises:
        UsageError: there is no such split.
    """
    records, alignment = [], {}
    for record, score in _truths(dataset, dataset.check_split(split), align):
        records.append(replace(record, image=b""))
        if score is not None:
            alignment[record.image_id] = score
    order = coco_image_ids([(record.image_id, record.source_id) for record in records])
    numbers = {image: value for image, value in order.items() if isinstance(value, int)}
    if all(score == 1.0 for score in alignment.values()):  # What a pair has that was never aligned.
        alignment.clear()
    return sorted(records, key=lambda record: (numbers.get(record.image_id, 0), record.image_id)), alignment


def _truths(dataset: PreparedDataset, split: str, align: Method) -> Iterator[tuple[ImageRecord, float | None]]:
    """The images of a split with the scores of their alignments, if they were aligned before or to be predicted.

    In the latter case old places are where the after frame has them.
    """
    if dataset_kind(dataset.layout) == "images":
        yield from ((record, None) for record in dataset.records(split))
        return
    for pair in dataset.pairs(split):
        record = replace(pair.after, image_id=pair.pair_id, objects=pair.objects)
        if align == "none":
            yield record, pair.alignment_score
        else:
            yield _aligned_truth(pair, record, align)


def _aligned_truth(pair: FramePair, record: ImageRecord, align: Method) -> tuple[ImageRecord, float | None]:
    """What `_truths` yields of a pair that was aligned to be predicted."""
    before, after = (decode_rgb(frame.image, frame.orientation) for frame in (pair.before, pair.after))
    with suppress(AlignmentError):  # Nothing was predicted in it.
        aligned = align_pair(Frame(before), Frame(after), align)
        objects = carry_objects(pair.objects, aligned.alignment.homography, aligned.size)
        return replace(record, objects=objects), aligned.alignment.score
    return record, None


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


def _class_figures(
    matching: Matching, names: Sequence[str], tallied: Tally, best: Sequence[OperatingPoint]
) -> tuple[ClassFigures, ...]:
    crowd = np.bincount(matching.objects.category[matching.crowd], minlength=len(names))
    detections = np.bincount(matching.detections.category, minlength=len(names))
    return tuple(
        ClassFigures(
            name=name,
            truths=int(matching.truths[index]),
            crowd=int(crowd[index]),
            detections=int(detections[index]),
            ap=mean_or_none(matching.precision[:, :, index]),
            ap50=mean_or_none(matching.precision[_IOU_50, :, index]),
            best=best[index],
            precision=matching.precision[:, :, index],
            sweep=tallied.of_class(index),
            calibration=calibrate(matching, index),
        )
        for index, name in enumerate(names)
    )
