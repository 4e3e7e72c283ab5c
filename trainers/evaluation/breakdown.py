"""Where a run is good and where it is not: by size, by what happened, by alignment, by scene."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dataflow.records import Change, ImageRecord
from trainers.evaluation.coco_figures import AREAS, average_precision, mean_or_none
from trainers.evaluation.matching import Matching
from trainers.evaluation.overlaps import Flags, Ints

_IOU_50 = 0
_SIZES = ("small", "medium", "large")
# Below the first no pair is accepted (`dataflow.pairs.aligned_pair.LEAST_SCORE`).
_ALIGNMENTS = (0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Part:
    """One part of a split: its images (None where parts cut through images), and right, wrong and missed in it.

    Counts are those at IoU 0.5 and the operating score; `fp` is None where wrong detections belong to no part. `ap50`
    is COCO's AP50 of this part alone, None where it is not defined.
    """

    name: str
    images: int | None
    tp: int
    fp: int | None
    fn: int
    ap50: float | None

    @property
    def precision(self) -> float | None:
        """Share of the detections that is right."""
        return None if self.fp is None or self.tp + self.fp == 0 else self.tp / (self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Share of the objects that is found."""
        return None if self.tp + self.fn == 0 else self.tp / (self.tp + self.fn)


@dataclass(frozen=True)
class Breakdown:
    """A split in parts, each way.

    `by_size`: COCO's small, medium and large, objects by their area and wrong detections by that of their box;
    `by_change`: objects by what happened to them (empty unless there are before/after pairs); `by_alignment`: pairs by
    how well they could be aligned (empty unless frames were aligned); `by_scene`: images by scene (empty where each
    image is a scene of its own), by name.
    """

    by_size: tuple[Part, ...]
    by_change: tuple[Part, ...]
    by_alignment: tuple[Part, ...]
    by_scene: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class _Outcome:
    """Of each detection whether it is right or wrong, of each object whether it counts and is found, at a score."""

    right: Flags
    wrong: Flags
    counts: Flags
    found: Flags


def break_down(
    matching: Matching, truths: Mapping[str, ImageRecord], alignment: Mapping[str, float], score: float
) -> Breakdown:
    """The parts of a split.

    Args:
        matching: of all detections.
        truths: the images by id.
        alignment: alignment scores by image id, of pairs whose frames were aligned.
        score: the operating score.
    """
    kept = matching.scores >= np.float32(score)
    right = matching.right[_IOU_50] & kept
    found = np.zeros(len(matching.crowd), np.bool_)
    found[matching.found[_IOU_50, right]] = True
    outcome = _Outcome(right, matching.wrong[_IOU_50] & kept, ~matching.crowd, found)
    records = [truths[image] for image in matching.image_ids]
    return Breakdown(
        by_size=_by_size(matching, outcome),
        by_change=_by_change(records, outcome) if any(r.objects.changes is not None for r in records) else (),
        by_alignment=_by_alignment(matching, outcome, alignment),
        by_scene=_by_scene(matching, outcome, records),
    )


def _by_size(matching: Matching, outcome: _Outcome) -> tuple[Part, ...]:
    """COCO's areas; what lies on a border is counted with the smaller, in AP50 with both, as COCO does."""
    edges = [high for _, high in AREAS[1:-1]]
    size = np.searchsorted(edges, matching.areas)
    boxes = matching.detections.coco.astype(np.float64)
    detected = np.searchsorted(edges, boxes[:, 2] * boxes[:, 3])
    parts = []
    for place, name in enumerate(_SIZES):
        own = outcome.counts & (size == place)
        tp, fp = int((own & outcome.found).sum()), int((outcome.wrong & (detected == place)).sum())
        ap50 = mean_or_none(matching.accumulated.precision[_IOU_50, :, :, place + 1])
        parts.append(Part(name, None, tp, fp, int(own.sum()) - tp, ap50))
    return tuple(parts)


def _by_change(records: Sequence[ImageRecord], outcome: _Outcome) -> tuple[Part, ...]:
    """A wrong detection has not happened to anything, so there is no precision."""
    none = [np.zeros(0, np.int64)]
    listed = [r.objects.changes if r.objects.changes is not None else np.zeros(len(r.objects)) for r in records]
    changes = np.concatenate(none + listed)
    parts = []
    for change in Change:
        own = outcome.counts & (changes == change)
        if own.any():
            tp = int((own & outcome.found).sum())
            parts.append(Part(change.name.lower(), None, tp, None, int(own.sum()) - tp, None))
    return tuple(parts)


def _by_alignment(matching: Matching, outcome: _Outcome, alignment: Mapping[str, float]) -> tuple[Part, ...]:
    scores = np.array([alignment.get(image, -1.0) for image in matching.image_ids])
    if (scores < 0).all():
        return ()
    part = np.where(scores < 0, -1, np.searchsorted(_ALIGNMENTS[1:-1], scores, side="right"))
    names = [f"{low:g} to {high:g}" for low, high in pairwise(_ALIGNMENTS)]
    return _by_image(matching, outcome, part, names)


def _by_scene(matching: Matching, outcome: _Outcome, records: Sequence[ImageRecord]) -> tuple[Part, ...]:
    names, part = np.unique(np.array([record.group_id for record in records], np.str_), return_inverse=True)
    return () if len(names) == len(records) else _by_image(matching, outcome, part, names.tolist())


def _by_image(matching: Matching, outcome: _Outcome, part: Ints, names: Sequence[str]) -> tuple[Part, ...]:
    """Parts of whole images; `part` (I,) is -1 where an image belongs to none. Empty parts are left out."""
    n_parts, n_classes = len(names), len(matching.truths)
    of_detection, of_object = part[matching.detections.image], part[matching.objects.image]

    def count(parts: Ints) -> list[int]:
        numbers: list[int] = np.bincount(parts[parts >= 0], minlength=n_parts).tolist()
        return numbers

    images, tp, fp = count(part), count(of_detection[outcome.right]), count(of_detection[outcome.wrong])
    objects = count(of_object[outcome.counts])
    # Each class of each part is a class of its own.
    counted = ~matching.ignored[_IOU_50] & (of_detection >= 0)
    cells = of_object * n_classes + matching.objects.category
    truths = np.bincount(cells[outcome.counts & (of_object >= 0)], minlength=n_parts * n_classes)
    found = average_precision(
        (of_detection * n_classes + matching.detections.category)[counted],
        matching.scores[counted],
        matching.right[_IOU_50, counted],
        truths,
    ).reshape(n_parts, n_classes)
    ap50 = [mean_or_none(np.nan_to_num(row, nan=-1.0)) for row in found]
    return tuple(
        Part(name, images[p], tp[p], fp[p], objects[p] - tp[p], ap50[p]) for p, name in enumerate(names) if images[p]
    )
