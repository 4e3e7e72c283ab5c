"""Which detection found which object: one pass of pycocotools, and what it says of every box.

Matching is COCO's (Lin et al. 2014; `COCOeval.evaluateImg`): within an image and a class, detections take their turn
by falling score, and each takes the free object that it overlaps most, if the overlap reaches the threshold. A
detection that finds only a crowd region is ignored, as is one beyond the hundredth of its image and class. Because
of the order, leaving out all detections below some score changes nothing for those above: every score cut is a
prefix of one matching.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dataflow.boxes import xyxy_to_coco
from dataflow.records import ImageRecord, Objects, Predictions

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_ALL_AREAS = 0
_MOST_DETECTIONS = 2

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


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

    `thresholds` (T,) IoU, 0.50 to 0.95. Of the detections: `image`, `category` (P,) int64, `scores` (P,) float32,
    `found` (T, P) flat index of the matched object or -1, `ignored` (T, P), `ious` (T, P) with that object or NaN.
    Of the objects: `object_image`, `object_category` (G,) int64, `crowd` (G,).
    `precision` (T, 101, K) and `recall` (T, K) are pycocotools' at 100 detections and all areas, -1 where a class
    has no objects; `figures` the twelve by name, None where nothing in the split is of that kind.
    """

    image_ids: tuple[str, ...]
    thresholds: Floats
    image: Ints
    category: Ints
    scores: npt.NDArray[np.float32]
    found: Ints
    ignored: Flags
    ious: Floats
    object_image: Ints
    object_category: Ints
    crowd: Flags
    precision: Floats
    recall: Floats
    figures: Mapping[str, float | None]

    @property
    def right(self) -> Flags:
        """(T, P): the detection is a true positive."""
        return (self.found >= 0) & ~self.ignored

    @property
    def wrong(self) -> Flags:
        """(T, P): the detection is a false positive."""
        return (self.found < 0) & ~self.ignored

    def by_image(self, threshold: int = 0) -> dict[str, ImageMatches]:
        """What became of the boxes of each image at one of `thresholds`, given by its place."""
        verdicts = np.where(self.right[threshold], Verdict.TP, Verdict.FP)
        verdicts[self.ignored[threshold]] = Verdict.IGNORED
        found_by = np.full(len(self.object_image), -1)
        right = np.flatnonzero(self.right[threshold])
        found_by[self.found[threshold, right]] = right
        object_verdicts = np.where(found_by >= 0, Verdict.TP, Verdict.FN)
        object_verdicts[self.crowd] = Verdict.IGNORED
        edges = np.arange(len(self.image_ids) + 1)
        starts = np.searchsorted(self.image, edges)
        object_starts = np.searchsorted(self.object_image, edges)
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
    detections = [predictions[record.image_id] for record in truths]
    objects = [record.objects for record in truths]
    image, category, boxes = _flat(detections)
    object_image, object_category, object_boxes = _flat(objects)
    scores = _joined([p.scores for p in detections], np.float32)
    crowd = _joined([o.is_crowd for o in objects], np.bool_)
    areas = _joined([o.areas for o in objects], np.float64)
    # pycocotools multiplies the sides in double precision where it loads detections itself.
    detected_areas = boxes[:, 2].astype(np.float64) * boxes[:, 3]
    coco = _run_pycocotools(
        n_images=len(truths),
        n_categories=categories,
        objects=_annotations(object_image, object_category, object_boxes, area=areas, iscrowd=crowd.astype(int)),
        detections=_annotations(image, category, boxes, area=detected_areas, score=scores),
    )
    found, ignored, ious = _read_matches(coco, len(image))
    return Matching(
        image_ids=tuple(record.image_id for record in truths),
        thresholds=np.asarray(coco.params.iouThrs),
        image=image,
        category=category,
        scores=scores,
        found=found,
        ignored=ignored,
        ious=ious,
        object_image=object_image,
        object_category=object_category,
        crowd=crowd,
        precision=coco.eval["precision"][..., _ALL_AREAS, _MOST_DETECTIONS],
        recall=coco.eval["recall"][..., _ALL_AREAS, _MOST_DETECTIONS],
        figures={name: None if value < 0 else float(value) for name, value in zip(FIGURES, coco.stats, strict=True)},
    )


def _relative(indices: Ints, start: int) -> Ints:
    """Flat indices as indices within an image, -1 kept."""
    return np.where(indices >= 0, indices - start, -1)


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)


def _flat(items: Sequence[Predictions] | Sequence[Objects]) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
    """Place of the image (P,), class (P,) and COCO's box (P, 4) of everything in all images."""
    image = np.repeat(np.arange(len(items)), [len(item) for item in items])
    category = _joined([item.category_ids for item in items], np.int64)
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(item.boxes for item in items)])
    return image, category, xyxy_to_coco(boxes)


def _annotations(
    image: Ints, category: Ints, boxes: npt.NDArray[np.float32], **columns: npt.NDArray[Any]
) -> list[dict[str, Any]]:
    """COCO annotations with ids from 1: pycocotools takes a match with id 0 for none."""
    names = ("image_id", "category_id", "bbox", *columns)
    arrays: list[npt.NDArray[Any]] = [image + 1, category, boxes, *columns.values()]
    rows = zip(*(values.tolist() for values in arrays), strict=True)
    return [dict(zip(names, row, strict=True)) | {"id": index + 1} for index, row in enumerate(rows)]


def _run_pycocotools(
    n_images: int, n_categories: int, objects: list[dict[str, Any]], detections: list[dict[str, Any]]
) -> COCOeval:
    """A finished evaluation. The indices are made here because pycocotools' own loader fails on no detections."""
    indices = []
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools narrates.
        for annotations in (objects, detections):
            index = COCO()
            index.dataset = {
                "images": [{"id": image + 1} for image in range(n_images)],
                "categories": [{"id": category} for category in range(n_categories)],
                "annotations": annotations,
            }
            index.createIndex()
            indices.append(index)
        coco = COCOeval(*indices, "bbox")
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    return coco


def _read_matches(coco: COCOeval, detections: int) -> tuple[Ints, Flags, Floats]:
    """`found`, `ignored` and `ious` of `Matching` from the per-image results for objects of all sizes."""
    shape = (len(coco.params.iouThrs), detections)
    found = np.full(shape, -1)
    ignored = np.ones(shape, np.bool_)  # What pycocotools never looks at is beyond the most detections.
    ious = np.full(shape, np.nan)
    n_images, n_areas = len(coco.params.imgIds), len(coco.params.areaRng)
    for k, category in enumerate(coco.params.catIds):
        start = (k * n_areas + _ALL_AREAS) * n_images
        for result in coco.evalImgs[start : start + n_images]:
            if result is None or not result["dtIds"]:
                continue
            columns = np.asarray(result["dtIds"]) - 1
            matched = result["dtMatches"].astype(np.int64) - 1
            found[:, columns] = matched
            ignored[:, columns] = result["dtIgnore"]
            overlaps = coco.ious[result["image_id"], category]
            place = {truth["id"] - 1: j for j, truth in enumerate(coco._gts[result["image_id"], category])}
            for t, d in zip(*np.nonzero(matched >= 0), strict=True):
                ious[t, columns[d]] = overlaps[d, place[matched[t, d]]]
    return found, ignored, ious
