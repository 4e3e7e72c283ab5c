"""Images with objects and detections that make matching hard, and what pycocotools says of them."""

import contextlib
import io
from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dataflow.boxes import xyxy_to_coco
from dataflow.records import ImageRecord, Objects, Predictions

SIDE = 400


def make(
    seed: int,
    images: int = 6,
    classes: int = 3,
    objects: int = 8,
    detections: int = 30,
    *,
    crowd: float = 0.2,
    grid: int = 8,
) -> tuple[list[ImageRecord], dict[str, Predictions]]:
    """Random images, a fifth of them without objects and a fifth without detections.

    Boxes lie on a coarse grid (0: none), so that equal boxes, equal overlaps and overlaps of exactly a threshold
    happen; sizes and areas fall into all of COCO's ranges and onto their borders; many detections are objects moved or
    copied, and half of the images have scores in steps of a twentieth.
    """
    rng = np.random.default_rng(seed)
    records, predictions = [], {}
    for number in range(images):
        n = int(rng.integers(0, objects + 1)) if rng.random() < 0.8 else 0
        boxes = _boxes(rng, n, grid)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * rng.choice([0.3, 1.0], n)
        areas[rng.random(n) < 0.1] = 32**2
        truth = Objects(boxes, rng.integers(0, classes, n), areas=areas, is_crowd=rng.random(n) < crowd)
        name = f"image {number}"
        records.append(ImageRecord(name, b"", SIDE, SIDE, truth, f"scene {number // 3}", "tests"))
        m = int(rng.integers(0, detections + 1)) if rng.random() < 0.8 else 0
        predictions[name] = _detections(rng, name, truth, m, classes=classes, grid=grid)
    return records, predictions


def _boxes(rng: np.random.Generator, n: int, grid: int) -> np.ndarray:
    sides = np.exp(rng.uniform(np.log(10), np.log(200), (n, 2)))
    start = rng.uniform(0, SIDE - sides)
    boxes = np.concatenate([start, start + sides], axis=1)
    if grid:
        boxes = np.round(boxes / grid) * grid
        boxes[:, :2] = np.minimum(boxes[:, :2], SIDE - grid)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + grid)
    return boxes.clip(0, SIDE).astype(np.float32)


def _detections(rng: np.random.Generator, name: str, truth: Objects, n: int, *, classes: int, grid: int) -> Predictions:
    boxes, category_ids = _boxes(rng, n, grid), rng.integers(0, classes, n)
    if len(truth):
        source = rng.integers(0, len(truth), n)
        near = rng.random(n) < 0.7
        step = (grid or 1) * (rng.integers(-2, 3, (n, 4)) if grid else rng.normal(0, 8, (n, 4)))
        moved = truth.boxes[source] + step * rng.integers(0, 2, (n, 1))
        moved[:, :2] = np.minimum(moved[:, :2], moved[:, 2:] - 1)
        boxes = np.where(near[:, None], moved, boxes)
        category_ids = np.where(near & (rng.random(n) < 0.8), truth.category_ids[source], category_ids)
    scores = rng.integers(0, 21, n) / 20 if grid and rng.random() < 0.5 else rng.random(n)
    return Predictions(name, boxes, scores, category_ids, "run")


def pycocotools(records: Sequence[ImageRecord], predictions: Mapping[str, Predictions], classes: int) -> COCOeval:
    """A finished evaluation. The indices are made here because pycocotools' own loader fails on no detections."""
    truths, found = [], []
    for number, record in enumerate(records):
        item, objects = predictions[record.image_id], record.objects
        for i, box in enumerate(xyxy_to_coco(objects.boxes).tolist()):
            more = {"area": float(objects.areas[i]), "iscrowd": int(objects.is_crowd[i])}
            truths.append(_annotation(len(truths), number, int(objects.category_ids[i]), box) | more)
        for i, box in enumerate(xyxy_to_coco(item.boxes).tolist()):
            more = {"area": box[2] * box[3], "score": float(item.scores[i])}
            found.append(_annotation(len(found), number, int(item.category_ids[i]), box) | more)
    indices = []
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools narrates.
        for annotations in (truths, found):
            index = COCO()
            index.dataset = {
                "images": [{"id": number} for number in range(len(records))],
                "categories": [{"id": category} for category in range(classes)],
                "annotations": annotations,
            }
            index.createIndex()
            indices.append(index)
        coco = COCOeval(*indices, "bbox")
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    return coco


def _annotation(number: int, image: int, category: int, box: list[float]) -> dict[str, object]:
    """With an id from 1: pycocotools takes a match with id 0 for none."""
    return {"id": number + 1, "image_id": image, "category_id": category, "bbox": box}


def matches(coco: COCOeval, detections: int) -> tuple[np.ndarray, np.ndarray]:
    """(T, P) flat index of the object found or -1, and whether a detection is ignored, for objects of all sizes."""
    shape = (len(coco.params.iouThrs), detections)
    found, ignored = np.full(shape, -1), np.ones(shape, np.bool_)  # It never looks at what is beyond the hundredth.
    n_images, n_areas = len(coco.params.imgIds), len(coco.params.areaRng)
    for k in range(len(coco.params.catIds)):
        start = k * n_areas * n_images
        for result in coco.evalImgs[start : start + n_images]:
            if result is not None and result["dtIds"]:
                columns = np.asarray(result["dtIds"]) - 1
                found[:, columns] = result["dtMatches"].astype(np.int64) - 1
                ignored[:, columns] = result["dtIgnore"]
    return found, ignored
