"""The matching and the figures against pycocotools, detection by detection."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.boxes import pairwise_iou
from dataflow.records import ImageRecord, Objects, Predictions, no_objects
from tests.trainers import made_matches
from trainers.evaluation import overlaps
from trainers.evaluation.coco_figures import FIGURES
from trainers.evaluation.matching import match


def _assert_as_pycocotools(records, predictions, classes):
    ours = match(records, predictions, classes)
    theirs = made_matches.pycocotools(records, predictions, classes)
    found, ignored = made_matches.matches(theirs, len(ours.scores))
    np.testing.assert_array_equal(ours.found, found)
    np.testing.assert_array_equal(ours.ignored, ignored)
    np.testing.assert_array_equal(ours.accumulated.precision, theirs.eval["precision"][..., 2])
    np.testing.assert_array_equal(ours.accumulated.recall, theirs.eval["recall"][..., 2])
    np.testing.assert_array_equal(ours.accumulated.recall_of_few, np.moveaxis(theirs.eval["recall"][:, :, 0, :2], 2, 0))
    for name, value in zip(FIGURES, theirs.stats, strict=True):
        assert ours.figures[name] is None if value == -1 else ours.figures[name] == pytest.approx(value, abs=1e-12)
    return ours


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(1, 4),
    sizes=st.fixed_dictionaries(
        {
            "images": st.integers(1, 7),
            "objects": st.integers(0, 10),
            "detections": st.integers(0, 40),
            "crowd": st.sampled_from([0.0, 0.2, 1.0]),
            "grid": st.sampled_from([0, 1, 8, 40]),
        }
    ),
)
def test_every_match_and_figure_is_that_of_pycocotools(seed, classes, sizes):
    records, predictions = made_matches.make(seed, classes=classes, **sizes)
    _assert_as_pycocotools(records, predictions, classes)


def test_more_than_a_hundred_detections_of_a_class():
    records, predictions = made_matches.make(3, images=4, classes=2, objects=12, detections=700)
    ours = _assert_as_pycocotools(records, predictions, 2)
    assert (ours.ignored.all(axis=0) & (ours.found < 0).all(axis=0)).any()


def test_many_copies_of_one_box():
    """Every detection overlaps every object alike, so that only the order decides."""
    boxes = np.tile(np.array([[10, 10, 60, 60]], np.float32), (9, 1))
    crowd = np.arange(9) % 4 == 3
    areas = np.where(np.arange(9) % 2, 32**2, 2500)
    objects = Objects(boxes, [0] * 9, areas=areas, is_crowd=crowd)
    records = [ImageRecord(name, b"", 99, 99, objects, "s", "tests") for name in "ab"]
    predictions = {name: Predictions(name, np.tile(boxes, (2, 1)), np.full(18, 0.5), [0] * 18, "run") for name in "ab"}
    _assert_as_pycocotools(records, predictions, 1)


def test_no_images_no_objects_no_detections():
    assert set(match([], {}, 2).figures.values()) == {None}
    records = [ImageRecord("a", b"", 9, 9, no_objects(), "s", "tests")]
    nothing = {"a": Predictions("a", [], [], [], "run")}
    assert set(_assert_as_pycocotools(records, nothing, 2).figures.values()) == {None}


@pytest.mark.parametrize("pairs", [1, 50])
def test_parts_of_any_size_give_the_same(monkeypatch, pairs):
    records, predictions = made_matches.make(11, images=12, classes=2)
    whole = match(records, predictions, 2)
    monkeypatch.setattr(overlaps, "_PAIRS", pairs)
    parts = match(records, predictions, 2)
    for name in ("found", "ignored", "ious"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert parts.figures == whole.figures


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), limit=st.integers(1, 40))
def test_pairs_are_all_and_in_order(seed, limit):
    rng = np.random.default_rng(seed)
    units = np.sort(rng.integers(0, 5, int(rng.integers(0, 30))))
    group, others = units * 2 + rng.integers(0, 2, len(units)), rng.integers(0, 12, int(rng.integers(0, 30)))
    before, overlaps._PAIRS = overlaps._PAIRS, limit
    try:
        parts = list(overlaps.pair_parts(group, others, units))
    finally:
        overlaps._PAIRS = before
    pairs = [(i, j) for part in parts for i, j in zip(*part, strict=True)]
    assert pairs == [(i, j) for i in range(len(group)) for j in range(len(others)) if group[i] == others[j]]
    of_unit = [{units[i] for i in part[0]} for part in parts]
    assert sum(map(len, of_unit)) == len(set().union(*of_unit)) if of_unit else True, "a unit came in two parts"
    assert all(len(part[0]) <= limit or len(unit) == 1 for part, unit in zip(parts, of_unit, strict=True))


def test_overlaps_are_those_of_pairwise_iou():
    records, predictions = made_matches.make(5, crowd=0.0, grid=0)
    ours = match(records, predictions, 3)
    edges = np.searchsorted(ours.objects.image, np.arange(len(records)))
    for t, d in zip(*np.nonzero(ours.found >= 0), strict=True):
        image = ours.detections.image[d]
        place = d - np.searchsorted(ours.detections.image, image)
        expected = pairwise_iou(predictions[records[image].image_id].boxes[place], records[image].objects.boxes)
        assert ours.ious[t, d] == pytest.approx(expected[0, ours.found[t, d] - edges[image]], abs=1e-6)
