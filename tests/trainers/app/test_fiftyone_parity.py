"""What is stored of every box beside what FiftyOne's own `evaluate_detections` says of it: differences have causes."""

from collections import defaultdict

import numpy as np
import pytest

from dataflow.boxes import fiftyone_to_xyxy, pairwise_iou
from dataflow.records import Objects, Predictions
from tests.trainers.conftest import random_boxes
from tests.trainers.fiftyone_sets import SIZE, labels_of, make, run_of
from trainers.prediction.predictions import collect_predictions

_OURS, _THEIRS = "eval_r", "theirs"


def _both(stores, dataset, run, into):
    """The stored dataset, evaluated by FiftyOne as well; its results."""
    stores.store(dataset, [run], split="validation", **into)
    stored = stores.fo.load_dataset(into["name"])
    options = {"eval_key": _THEIRS, "iou": 0.5, "classwise": True, "progress": False}
    return stored, stored.evaluate_detections("pred_r", "ground_truth", **options)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_without_crowd_regions_all_is_the_same(samples, stores, into, seed):
    dataset = make(samples, seed, images=9)
    stored, results = _both(stores, dataset, run_of(samples, dataset, seed, "r"), into)
    checked = set()
    for side in ("pred_r", "ground_truth"):
        for label in labels_of(stored, side).values():
            assert label[_OURS] == label[_THEIRS]
            assert label[f"{_OURS}_id"] == label[f"{_THEIRS}_id"]
            if label[_OURS] == "tp":
                assert label[f"{_OURS}_iou"] == pytest.approx(label[f"{_THEIRS}_iou"], abs=1e-6)
            checked.add(label[_OURS])
    assert checked == {"tp", "fp", "fn"}
    for count in ("tp", "fp", "fn"):
        assert stored.values(f"{_OURS}_{count}") == stored.values(f"{_THEIRS}_{count}")
    # The registered evaluation is one FiftyOne can work with.
    mine = stored.load_evaluation_results(_OURS)
    assert mine.metrics() == results.metrics()
    types = stored.to_evaluation_patches(_OURS).count_values("type")
    assert types == stored.to_evaluation_patches(_THEIRS).count_values("type")


def _hard_sets(samples):
    """Images of all kinds that are hard to evaluate, (objects, boxes, scores, classes) of each by name."""
    rng = np.random.default_rng(0)
    made = {"nothing": (samples.objects(rng, 0, SIZE), [], [], [])}
    for i in range(6):
        made[f"undetected {i}"] = (samples.objects(rng, 5, SIZE, crowd=0.2), [], [], [])
        made[f"empty {i}"] = (samples.objects(rng, 0, SIZE), random_boxes(rng, 5, SIZE), rng.random(5), [0, 0, 1, 1, 2])
        # Copies of objects, and of detections with equal scores, all of one class.
        objects = np.repeat(random_boxes(rng, 2, SIZE), 2, axis=0)
        made[f"copies {i}"] = (Objects(objects, [0] * 4), np.repeat(objects, 2, axis=0), [0.5] * 8, [0] * 8)
        # Detections between objects that overlap: many are equally near.
        places = 8 * np.arange(1, 6)
        objects = np.stack([places, places * 0, places + 24, places * 0 + 24], axis=1)
        between = objects[rng.integers(0, 5, 6)] + 4 * rng.integers(-1, 2, (6, 1)) * np.array([1, 0, 1, 0])
        made[f"equal overlaps {i}"] = (Objects(objects, [0] * 5), between, rng.integers(1, 4, 6) / 4, [0] * 6)
    for i in range(2):
        objects = samples.objects(rng, 120, SIZE, classes=1, crowd=0.3)
        near = np.clip(objects.boxes[rng.integers(0, 120, 90)] + rng.integers(-2, 3, (90, 4)), 0, 64)
        near[:, :2] = np.minimum(near[:, :2], near[:, 2:] - 1).clip(0)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        made[f"crowd {i}"] = (objects, near, rng.random(90), [0] * 90)
        # The same without the regions, which alone are to blame for the differences.
        made[f"left out {i}"] = (objects.only(~objects.is_crowd), *made[f"crowd {i}"][1:])
    # The object on the left is found by the first detection, that on the right by the hundred and thirtieth.
    left, right = [4, 4, 24, 34], [60, 4, 90, 34]
    boxes = [left, *[[100, 40, 110, 50]] * 128, right]
    made["many"] = (Objects([left, right], [0, 0]), boxes, np.linspace(1, 0.01, 130), [0] * 130)
    return made


def test_every_difference_has_its_cause(samples, stores, into):
    """Nothing detected, nothing there, ties, copies, crowd regions among objects, more than a hundred detections."""
    made = _hard_sets(samples)
    dataset = samples.dataset({"validation": [samples.record(name, item[0], SIZE) for name, item in made.items()]})
    found = [
        Predictions(name, np.reshape(boxes, (-1, 4)).astype(np.float32), np.array(scores, np.float32), kinds, "r")
        for name, (_, boxes, scores, kinds) in made.items()
    ]
    run = collect_predictions(found, run_id="r", dataset=dataset, split="validation")
    stored, _ = _both(stores, dataset, run, into)
    causes, same = defaultdict(set), defaultdict(set)
    for sample in stored:
        kind = sample["image_id"].rstrip(" 0123456789")
        for label in [*sample["ground_truth"].detections, *sample["pred_r"].detections]:
            if label[_OURS] == label[_THEIRS]:
                same[kind].add(label[_OURS])
            else:
                causes[kind].add(_cause(sample, label))
    assert dict(causes) == {
        "crowd": {"a region to ignore", "a region before an object"},
        "undetected": {"a region to ignore"},
        "many": {"beyond the hundredth"},
    }
    assert dict(same) == {
        "undetected": {"fn"},
        "empty": {"fp"},
        "copies": {"tp", "fp"},
        "equal overlaps": {"tp", "fp", "fn"},
        "crowd": {"tp", "fp", "fn"},
        "left out": {"tp", "fp", "fn"},
        "many": {"tp", "fp"},
    }


def _cause(sample, label):
    """Why FiftyOne says something else of a box than is stored.

    - a region to ignore: what lies on it, and the region itself, is right or missed there, and ignored here.
    - a region before an object: a detection that a region and an object would both have takes, there, what the index
      of boxes gives first, and the object may go without.
    - beyond the hundredth: without average precision, FiftyOne has no limit on detections.
    """
    objects, found = sample["ground_truth"].detections, sample["pred_r"].detections
    regions = {o.id for o in objects if o["iscrowd"]}
    of_class = sorted((d for d in found if d.label == label.label), key=lambda d: d.confidence, reverse=True)
    beyond = {d.id for d in of_class[100:]}
    ours, theirs = label[_OURS], label[_THEIRS]
    if label.id in regions:
        assert (ours, theirs) in {("ignored", "tp"), ("ignored", "fn")}
        return "a region to ignore"
    if label.id in beyond or label[f"{_THEIRS}_id"] in beyond:
        assert (ours, theirs) in {("ignored", "tp"), ("ignored", "fp"), ("fn", "tp")}
        return "beyond the hundredth"
    if ours == "ignored" and label[f"{_OURS}_id"] in regions:
        assert theirs == "tp"
        return "a region to ignore"
    torn = [d for d in of_class if _reached(d, objects, regions) == {True, False}]
    return "a region before an object" if torn else f"unknown: {label}"


def _reached(detection, objects, regions):
    """Whether the objects of its class that a detection overlaps enough are regions: a set of what there is."""
    own = [o for o in objects if o.label == detection.label]
    (box,) = fiftyone_to_xyxy([detection.bounding_box], SIZE)
    boxes = fiftyone_to_xyxy([o.bounding_box for o in own], SIZE)
    overlaps = pairwise_iou(box[None], boxes)[0]
    shared = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(axis=1)
    inside = shared / (box[2:] - box[:2]).prod()
    is_region = [o.id in regions for o in own]
    return {
        region
        for region, overlap, share in zip(is_region, overlaps, inside, strict=True)
        if (share if region else overlap) >= 0.5
    }
