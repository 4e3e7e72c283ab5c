"""Which detection found which object: one pass of COCO's matching, and what it says of every box.

A detection that finds only a crowd region is ignored, as is one beyond the hundredth of its image and class. Because
detections take their turn by falling score, leaving out all of them below some score changes nothing for those above:
every score cut is a prefix of one matching.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dataflow.boxes import xyxy_to_coco
from dataflow.records import ImageRecord, Objects, Predictions
from trainers.evaluation.coco_figures import AREAS, MOST_DETECTIONS, THRESHOLDS, Accumulated, accumulate, coco_figures
from trainers.evaluation.greedy import IGNORED, RIGHT, UNMATCHED, Boxes, Claims, claim
from trainers.evaluation.overlaps import Flags, Floats, Ints, rank_in_group

_ALL_AREAS = 0


class Verdict(IntEnum):
    """What a detection or an object turned out to be."""

    IGNORED = 0
    """A detection on a crowd region or beyond the most that count; an object that is a crowd region."""
    TP = 1
    """A detection that is right; an object that was found."""
    FP = 2
    """A detection that is wrong."""
    FN = 3
    """An object that was missed."""
    CUT = 4
    """A detection below the score that is looked at."""


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """What became of the M detections and N objects of one image at one IoU threshold.

    `verdicts` (M,) of `Verdict`; `found` (M,) index of the object (or crowd region) a detection matched, or -1;
    `ious` (M,) overlap with it (for a crowd region: the share of the detection that lies in it), NaN without one;
    `scores` (M,) float32; `object_verdicts` (N,) of `Verdict`; `found_by` (N,) index of the detection, or -1.
    """

    image_id: str
    iou_threshold: float
    verdicts: Ints
    found: Ints
    ious: Floats
    scores: npt.NDArray[np.float32]
    object_verdicts: Ints
    found_by: Ints

    def at_score(self, score: float) -> "ImageMatches":
        """The same with detections below `score` left out (`CUT`) and the objects they found missed."""
        cut = self.scores < np.float32(score)
        lost = (self.found_by >= 0) & np.isin(self.found_by, np.flatnonzero(cut))
        return replace(
            self,
            verdicts=np.where(cut, Verdict.CUT, self.verdicts),
            object_verdicts=np.where(lost, Verdict.FN, self.object_verdicts),
            found_by=np.where(lost, -1, self.found_by),
        )

    def count(self, verdict: Verdict) -> int:
        """Number of right or wrong detections (TP, FP), or of missed objects (FN)."""
        side = self.object_verdicts if verdict is Verdict.FN else self.verdicts
        return int((side == verdict).sum())


@dataclass(frozen=True, eq=False)
class Matching:
    """All detections (P of them) and objects (G) of a split as flat arrays, in the order of `image_ids`.

    `thresholds` (T,) IoU, 0.50 to 0.95. `detections` and `objects` are the boxes with their images and classes;
    `scores` (P,) float32; `rank` (P,) places of detections in their image and class by falling score; `crowd` (G,);
    `areas` (G,) px2; `categories` is the number of classes. `claims` are what all else is worked out from, each when
    it is asked for.
    """

    image_ids: tuple[str, ...]
    thresholds: Floats
    detections: Boxes
    scores: npt.NDArray[np.float32]
    rank: Ints
    objects: Boxes
    crowd: Flags
    areas: Floats
    categories: int
    claims: Claims

    @cached_property
    def accumulated(self) -> Accumulated:
        """COCO's precision and recall of the classes."""
        return accumulate(
            self.detections.category,
            self.scores,
            self.claims,
            rank=self.rank,
            in_area=_detections_in_areas(self.detections),
            truths=np.stack(
                [
                    np.bincount(self.objects.category[counts & ~self.crowd], minlength=self.categories)
                    for counts in _in_areas(self.areas)
                ]
            ),
        )

    @cached_property
    def figures(self) -> Mapping[str, float | None]:
        """COCO's twelve by name, None where nothing in the split is of that kind."""
        return coco_figures(self.accumulated)

    @property
    def precision(self) -> Floats:
        """(T, 101, K): over recall, at 100 detections, objects of all sizes; -1 where a class has none."""
        return self.accumulated.precision[..., _ALL_AREAS]

    @property
    def recall(self) -> Floats:
        """(T, K): at 100 detections, objects of all sizes; -1 where a class has none."""
        return self.accumulated.recall[..., _ALL_AREAS]

    @cached_property
    def truths(self) -> Ints:
        """(K,) objects of each class that count."""
        return np.bincount(self.objects.category[~self.crowd], minlength=self.categories)

    @cached_property
    def right(self) -> Flags:
        """(T, P): the detection is a true positive."""
        return self._of_claimants(np.broadcast_to(False, self._shape), self._outcome == RIGHT)

    @cached_property
    def ignored(self) -> Flags:
        """(T, P): the detection is neither right nor wrong."""
        beyond = self.rank >= MOST_DETECTIONS[-1]
        out = np.broadcast_to(beyond | ~_detections_in_areas(self.detections)[_ALL_AREAS], self._shape)
        unmatched = out[:, self._claimants] & (self._outcome == UNMATCHED)
        return self._of_claimants(out, unmatched | (self._outcome == IGNORED))

    @cached_property
    def wrong(self) -> Flags:
        """(T, P): the detection is a false positive."""
        return ~(self.right | self.ignored)

    @cached_property
    def found(self) -> Ints:
        """(T, P): flat index of the matched object, or -1."""
        nothing = np.broadcast_to(-1, self._shape)
        return self._of_claimants(nothing, self.claims.found[:, _ALL_AREAS, self._looked_at])

    @cached_property
    def ious(self) -> Floats:
        """(T, P): overlap with that object, or NaN."""
        nothing = np.broadcast_to(np.nan, self._shape)
        return self._of_claimants(nothing, self.claims.overlap[:, _ALL_AREAS, self._looked_at])

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.thresholds), len(self.scores)

    @cached_property
    def _looked_at(self) -> Flags:
        """(C,): of the claims, those of detections that are not beyond the most that count."""
        return self.rank[self.claims.detection] < MOST_DETECTIONS[-1]

    @property
    def _claimants(self) -> Ints:
        return self.claims.detection[self._looked_at]

    @property
    def _outcome(self) -> npt.NDArray[np.int8]:
        return self.claims.outcome[:, _ALL_AREAS, self._looked_at]

    def _of_claimants(self, others: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`others` (T, P) with `values` in place of those of detections that claim anything."""
        whole = others.copy()
        whole[:, self._claimants] = values
        return whole

    def by_image(self, threshold: int = 0) -> dict[str, ImageMatches]:
        """What became of the boxes of each image at one of `thresholds`, given by its place."""
        verdicts = np.where(self.right[threshold], Verdict.TP, Verdict.FP)
        verdicts[self.ignored[threshold]] = Verdict.IGNORED
        found_by = np.full(len(self.crowd), -1)
        right = np.flatnonzero(self.right[threshold])
        found_by[self.found[threshold, right]] = right
        object_verdicts = np.where(found_by >= 0, Verdict.TP, Verdict.FN)
        object_verdicts[self.crowd] = Verdict.IGNORED
        edges = np.arange(len(self.image_ids) + 1)
        starts = np.searchsorted(self.detections.image, edges)
        object_starts = np.searchsorted(self.objects.image, edges)
        matches = {}
        for index, image_id in enumerate(self.image_ids):
            part = slice(starts[index], starts[index + 1])
            objects = slice(object_starts[index], object_starts[index + 1])
            matches[image_id] = ImageMatches(
                image_id=image_id,
                iou_threshold=float(self.thresholds[threshold]),
                verdicts=verdicts[part],
                found=_relative(self.found[threshold, part], objects.start),
                ious=self.ious[threshold, part],
                scores=self.scores[part],
                object_verdicts=object_verdicts[objects],
                found_by=_relative(found_by[objects], part.start),
            )
        return matches


def match(truths: Sequence[ImageRecord], predictions: Mapping[str, Predictions], categories: int) -> Matching:
    """Match detections with objects as COCO does.

    Args:
        truths: the images (their bytes are not needed), in the order that settles ties between equal scores of
            different images; pycocotools uses the order of its image ids.
        predictions: by image id, one for every image of `truths`.
        categories: number of classes.
    """
    detected = [predictions[record.image_id] for record in truths]
    annotated = [record.objects for record in truths]
    detections, objects = _flat(detected), _flat(annotated)
    scores = _joined([p.scores for p in detected], np.float32)
    crowd = _joined([o.is_crowd for o in annotated], np.bool_)
    areas = _joined([o.areas for o in annotated], np.float64)
    ignored = ~_in_areas(areas) | crowd
    group, object_group = (boxes.image * categories + boxes.category for boxes in (detections, objects))
    rank = rank_in_group(group, scores)[1]
    claims = claim(detections, group, rank, objects, object_group, crowd=crowd, ignored=ignored, thresholds=THRESHOLDS)
    return Matching(
        image_ids=tuple(record.image_id for record in truths),
        thresholds=THRESHOLDS,
        detections=detections,
        scores=scores,
        rank=rank,
        objects=objects,
        crowd=crowd,
        areas=areas,
        categories=categories,
        claims=claims,
    )


def _relative(indices: Ints, start: int) -> Ints:
    """Flat indices as indices within an image, -1 kept."""
    return np.where(indices >= 0, indices - start, -1)


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)


def _flat(items: Sequence[Predictions] | Sequence[Objects]) -> Boxes:
    """The boxes of all images."""
    image = np.repeat(np.arange(len(items)), [len(item) for item in items])
    category = _joined([item.category_ids for item in items], np.int64)
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(item.boxes for item in items)])
    return Boxes(image, category, xyxy_to_coco(boxes))


def _in_areas(areas: Floats) -> Flags:
    """(A, N): the area lies in the range."""
    return np.stack([(areas >= low) & (areas <= high) for low, high in AREAS])


def _detections_in_areas(detections: Boxes) -> Flags:
    """(A, P); pycocotools multiplies the sides in double precision where it loads detections itself."""
    return _in_areas(detections.coco[:, 2].astype(np.float64) * detections.coco[:, 3])
