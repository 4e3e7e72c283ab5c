"""The types of errors against tidecv and by hand; what an image costs against doing it."""

import numpy as np
import pytest

from dataflow.boxes import xyxy_to_coco
from dataflow.records import ImageRecord, Objects, Predictions
from tests.trainers import made_matches
from trainers.evaluation import coco_figures
from trainers.evaluation.error_types import ERROR_TYPES, analyse_errors
from trainers.evaluation.image_costs import rank_images
from trainers.evaluation.matching import match

THEIRS = {"Cls": 0, "Loc": 1, "Both": 2, "Dupe": 3, "Bkg": 4, "Miss": 5}


def _tide(records, predictions):
    """A run of tidecv, which wants opencv-python and so is no dependency."""
    quantify = pytest.importorskip("tidecv.quantify", reason="tidecv is not installed (pip install --no-deps tidecv)")
    data = [quantify.Data(name) for name in ("truth", "detections")]
    for record in records:
        data[0].add_image(record.image_id, record.image_id)
        objects, item = record.objects, predictions[record.image_id]
        for box, category in zip(xyxy_to_coco(objects.boxes).tolist(), objects.category_ids.tolist(), strict=True):
            data[0].add_ground_truth(record.image_id, category, box)
        columns = (xyxy_to_coco(item.boxes), item.category_ids, item.scores)
        for box, category, score in zip(*(column.tolist() for column in columns), strict=True):
            data[1].add_detection(record.image_id, category, score, box)
    return quantify.TIDERun(*data, 0.5, 0.1, quantify.TIDE.BOX, 100)


@pytest.mark.parametrize("seed", range(6))
def test_types_and_costs_are_those_of_tidecv(monkeypatch, seed):
    # Its recalls are 0.07 where COCO's are 0.07 and a bit.
    monkeypatch.setattr(coco_figures, "RECALLS", np.array([x / 100 for x in range(101)]))
    records, predictions = made_matches.make(
        seed, images=30, classes=1 + seed % 4, objects=7, detections=40, crowd=0.0, grid=0
    )
    theirs = _tide(records, predictions)
    matching = match(records, predictions, 1 + seed % 4)
    assert theirs.ap / 100 == pytest.approx(matching.figures["AP50"], abs=1e-12)
    ours = analyse_errors(matching, 0.0, ())
    assert list(theirs.count_errors().values()) == list(ours.counts.values())
    costs = {THEIRS[kind.short_name]: cost / 100 for kind, cost in theirs.fix_main_errors().items()}
    for code, name in enumerate(ERROR_TYPES):
        assert ours.cost[name] == pytest.approx(costs[code], abs=1e-12), name
    special = {kind.short_name: cost / 100 for kind, cost in theirs.fix_special_errors().items()}
    assert ours.false_positives == pytest.approx(special["FalsePos"], abs=1e-12)
    assert ours.false_negatives == pytest.approx(special["FalseNeg"], abs=1e-12)
    # Box by box: theirs are numbered in the order in which they were added.
    of_detection = {error.pred["_id"]: THEIRS[error.short_name] for error in theirs.errors if hasattr(error, "pred")}
    flat = [name for record in records for name in ours.by_image[record.image_id].detections]
    assert [None if i not in of_detection else ERROR_TYPES[of_detection[i]] for i in range(len(flat))] == flat
    missed = {error.gt["_id"] for error in theirs.errors if error.short_name == "Miss"}
    objects = [name for record in records for name in ours.by_image[record.image_id].objects]
    assert {i for i, name in enumerate(objects) if name == "missed"} == missed


def _one(boxes, classes, detected, detected_classes, *, scores, crowd=None):
    crowd = np.zeros(len(boxes), np.bool_) if crowd is None else np.array(crowd)
    record = ImageRecord("a", b"", 200, 200, Objects(boxes, classes, is_crowd=crowd), "s", "tests")
    return match([record], {"a": Predictions("a", detected, scores, detected_classes, "run")}, 3)


def test_every_type_by_hand():
    boxes = [[0, 0, 20, 20], [50, 0, 70, 20], [100, 0, 120, 20], [150, 0, 170, 20]]
    detected = [
        [0, 0, 20, 20],  # Right.
        [0, 0, 20, 19],  # The same again.
        [50, 0, 70, 20],  # Of another class.
        [110, 0, 130, 20],  # Half beside: IoU 1/3.
        [0, 100, 20, 120],  # Nothing there.
        [112, 0, 132, 20],  # Of another class, and beside.
    ]
    matching = _one(boxes, [0, 0, 1, 2], detected, [0, 0, 2, 1, 0, 0], scores=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    errors = analyse_errors(matching, 0.0, ()).by_image["a"]
    assert errors.detections == (None, "duplicate", "classification", "localisation", "background", "both")
    assert errors.objects == (None, "classification", "localisation", "missed")
    assert errors.causes == (None,) * 6
    cut = analyse_errors(matching, 0.65, ())
    assert cut.by_image["a"].detections == (None, "duplicate", "classification", None, None, None)
    assert cut.by_image["a"].objects == (None, "classification", "missed", "missed")
    assert (cut.counts["missed"], cut.counts["both"]) == (2, 0)
    # Mending the class finds the second object of class 0; without the other changes of class 1 and 2.
    assert cut.cost["classification"] == pytest.approx(
        (coco_figures.average_precision(*_as_arrays([0.9, 0.8, 0.7, 0.5, 0.4], [1, 0, 1, 0, 0], 2)) - 51 / 101)[0] / 3
    )


def _as_arrays(scores, right, truths):
    return np.zeros(len(scores), int), np.array(scores, np.float32), np.array(right, bool), np.array([truths])


def test_crowd_regions_are_no_errors():
    matching = _one([[0, 0, 50, 50]], [0], [[5, 5, 20, 20], [100, 0, 120, 20]], [0, 0], scores=[0.9, 0.8], crowd=[True])
    errors = analyse_errors(matching, 0.0, ()).by_image["a"]
    assert errors.detections == (None, "background") and errors.objects == (None,)


@pytest.mark.parametrize("seed", range(5))
def test_what_an_image_costs_is_what_is_gained_when_all_in_it_is_right(seed):
    records, predictions = made_matches.make(seed, images=12, classes=2, detections=15)
    matching = match(records, predictions, 2)
    ranked = dict(rank_images(matching, matching.image_ids))
    of_image = matching.by_image()
    for record in records:
        item, objects, result = predictions[record.image_id], record.objects, of_image[record.image_id]
        right = result.verdicts == 1
        missed = np.flatnonzero(result.object_verdicts == 3)
        better = Predictions(
            record.image_id,
            np.concatenate([item.boxes[right], objects.boxes[missed]]),
            np.concatenate([item.scores[right] / 2, np.ones(len(missed))]),
            np.concatenate([item.category_ids[right], objects.category_ids[missed]]),
            "run",
        )
        halved = {
            name: Predictions(name, other.boxes, other.scores / 2, other.category_ids, "run")
            for name, other in predictions.items()
        }
        mended = match(records, {**halved, record.image_id: better}, 2)
        gain = mended.figures["AP50"] - matching.figures["AP50"]
        assert ranked.get(record.image_id, 0.0) == pytest.approx(gain, abs=1e-9)
    costs = list(ranked.values())
    assert costs == sorted(costs, reverse=True) and min(costs, default=1) > 0


def test_only_images_that_are_named_are_ranked(monkeypatch):
    records, predictions = made_matches.make(9, images=12, classes=2)
    matching = match(records, predictions, 2)
    whole = rank_images(matching, matching.image_ids)
    named = [image for image, _ in whole[2:5]]
    assert rank_images(matching, named) == whole[2:5]
    monkeypatch.setattr("trainers.evaluation.image_costs._CELLS", 1)
    assert rank_images(matching, matching.image_ids) == whole
