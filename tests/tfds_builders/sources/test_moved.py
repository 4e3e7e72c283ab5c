"""Moved objects against the definition, written a second time from the words of the issue."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from dataflow.records import Change, Objects, no_objects
from tfds_builders.sources.moved import ARRIVED, LEFT, TARGETS, Targets, moved_objects, target_categories

Box = tuple[float, float, float, float]
# What a frame says of a track: its box, and whether it is to be ignored.
Frame = dict[int, tuple[Box, bool]]


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Up to 6 tracks on a coarse grid, so that equal and overlapping boxes happen."""
    frame: Frame = {}
    for track in draw(st.sets(st.integers(0, 7), max_size=6)):
        x, y = draw(st.integers(0, 6)), draw(st.integers(0, 6))
        box = (x * 2.0, y * 2.0, x * 2.0 + draw(st.integers(1, 6)), y * 2.0 + draw(st.integers(1, 6)))
        frame[track] = (box, draw(st.booleans()))
    return frame


def as_objects(frame: Frame, order: list[int] | None = None) -> Objects:
    tracks = list(frame) if order is None else order
    return Objects(
        boxes=np.array([frame[track][0] for track in tracks], np.float32).reshape(-1, 4),
        category_ids=np.zeros(len(tracks), np.int64),
        is_crowd=np.array([frame[track][1] for track in tracks], np.bool_),
        track_ids=np.array(tracks, np.int64),
    )


def iou(a: Box, b: Box) -> float:
    rows = [np.array([[x0, y0, x1 - x0, y1 - y0]], np.float64) for x0, y0, x1, y1 in (a, b)]
    return float(coco_mask.iou(*rows, [0])[0, 0])


def by_definition(before: Frame, after: Frame, targets: Targets, moved_iou: float) -> Counter[Any]:
    """(track, box, class, change, ignored) of every target.

    Objects that moved are the targets, by track id and by how far their box moved; one that is in one frame only
    came or went. Flag-0 rows become ignore regions, wherever they are. `after`: only where things now are.
    """
    rows: Counter[Any] = Counter()
    for track in {*before, *after}:
        ignored = any(track in frame and frame[track][1] for frame in (before, after))
        if track not in after:
            change = Change.VANISHED
        elif track not in before:
            change = Change.APPEARED
        else:
            change = Change.MOVED if iou(before[track][0], after[track][0]) < moved_iou else Change.NONE
        if change == Change.NONE and not ignored:
            continue
        two = targets == "arrived-and-left"
        if track in before and not (targets == "after" and not ignored):
            rows[track, before[track][0], LEFT if two else 0, change, ignored] += 1
        if track in after:
            rows[track, after[track][0], ARRIVED if two else 0, change, ignored] += 1
    return rows


def rows_of(objects: Objects) -> Counter[Any]:
    assert objects.track_ids is not None and objects.changes is not None
    boxes = [tuple(box) for box in objects.boxes.tolist()]
    columns = (objects.category_ids, objects.changes, objects.is_crowd)
    return Counter(zip(objects.track_ids.tolist(), boxes, *(column.tolist() for column in columns), strict=True))


@given(
    before=frames(),
    after=frames(),
    targets=st.sampled_from(TARGETS),
    moved_iou=st.sampled_from([0.1, 0.3, 0.5, 0.9, 1.0]),
)
def test_against_the_definition(before: Frame, after: Frame, targets: Targets, moved_iou: float) -> None:
    found = moved_objects(as_objects(before), as_objects(after), targets, moved_iou)
    assert rows_of(found) == by_definition(before, after, targets, moved_iou)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    np.testing.assert_array_equal(found.areas, sides[:, 0] * sides[:, 1])
    found.check_inside((30, 30), len(target_categories(targets)))


@given(before=frames(), after=frames(), data=st.data())
def test_order_of_rows_does_not_matter(before: Frame, after: Frame, data: st.DataObject) -> None:
    shuffled = [as_objects(frame, data.draw(st.permutations(list(frame)))) for frame in (before, after)]
    first = moved_objects(as_objects(before), as_objects(after), "both", 0.5)
    second = moved_objects(shuffled[0], shuffled[1], "both", 0.5)
    for name in ("boxes", "category_ids", "is_crowd", "track_ids", "changes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@given(frame=frames())
def test_nothing_moved(frame: Frame) -> None:
    found = moved_objects(as_objects(frame), as_objects(frame), "both", 1.0)
    assert found.is_crowd.all(), "only regions to ignore are left"


@given(before=frames(), after=frames())
def test_backwards_in_time(before: Frame, after: Frame) -> None:
    """What appeared has vanished, what arrived has left, and what moved has moved."""
    there = moved_objects(as_objects(before), as_objects(after), "arrived-and-left", 0.5)
    back = moved_objects(as_objects(after), as_objects(before), "arrived-and-left", 0.5)
    swap = {Change.APPEARED: Change.VANISHED, Change.VANISHED: Change.APPEARED}
    mirrored = Counter(
        {
            (track, box, {ARRIVED: LEFT, LEFT: ARRIVED}[label], swap.get(change, change), ignored): count
            for (track, box, label, change, ignored), count in rows_of(back).items()
        }
    )
    assert rows_of(there) == mirrored


def test_empty_frames() -> None:
    empty = Objects(no_objects().boxes, no_objects().category_ids, track_ids=np.zeros(0, np.int64))
    assert len(moved_objects(empty, empty, "both", 0.5)) == 0


@pytest.mark.parametrize(
    ("targets", "names"), [("both", ("moved",)), ("after", ("moved",)), ("arrived-and-left", ("arrived", "left"))]
)
def test_classes(targets: Targets, names: tuple[str, ...]) -> None:
    assert target_categories(targets).names == names
    assert {"both": 0, "after": 0, "arrived-and-left": 1}[targets] == len(names) - 1
    assert names[ARRIVED] in ("arrived", "moved")


def test_targets_keep_what_the_frames_say_of_them() -> None:
    """Areas of masks, outlines, and what the border cut; each from the frame that the target's box is of."""

    def frame(x: float, area: float, outline: str, cut: bool) -> Objects:
        box = np.array([[x, 0, x + 10, 10]], np.float32)
        return Objects(
            boxes=box,
            category_ids=np.zeros(1, np.int64),
            areas=np.array([area], np.float32),
            is_truncated=np.array([cut]),
            segmentations=(outline,),
            track_ids=np.zeros(1, np.int64),
        )

    found = moved_objects(frame(0, 60, "[[0,0,10,0,10,10]]", True), frame(40, 70, "", False), "both", 0.5)
    assert found.areas.tolist() == [60, 70]
    assert found.is_truncated.tolist() == [True, False]
    assert found.segmentations == ("[[0,0,10,0,10,10]]", "")
