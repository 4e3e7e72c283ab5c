"""Moved objects: what changed place between a before and an after frame, by track id."""

from typing import Literal, get_args

import numpy as np

from dataflow.boxes import box_areas, pairwise_iou
from dataflow.records import Categories, Change, Objects

Targets = Literal["both", "after", "arrived-and-left"]
TARGETS: tuple[Targets, ...] = get_args(Targets)
ARRIVED, LEFT = 0, 1


def target_categories(targets: Targets) -> Categories:
    """The classes that a detector of moved objects tells apart."""
    return Categories(("arrived", "left") if targets == "arrived-and-left" else ("moved",))


def moved_objects(before: Objects, after: Objects, targets: Targets, moved_iou: float) -> Objects:
    """The targets of a pair of frames with tracks, as boxes in the frame they share (the camera stands still).

    A track in both frames has moved when the IoU of its two boxes is below `moved_iou`. A track in one frame only
    has appeared or vanished. `both` marks the old and the new place alike, `after` only the new one,
    `arrived-and-left` gives the places a class each. Ignore regions of either frame stay ignore regions, and a track
    that is one in either frame is one in both.
    """
    assert before.track_ids is not None and after.track_ids is not None
    first = {int(track): index for index, track in enumerate(before.track_ids)}
    second = {int(track): index for index, track in enumerate(after.track_ids)}
    rows: list[tuple[np.ndarray, int, int, Change, bool]] = []
    for track in sorted(first.keys() | second.keys()):
        i, j = first.get(track), second.get(track)
        ignored = (i is not None and bool(before.is_crowd[i])) or (j is not None and bool(after.is_crowd[j]))
        change = _change(before, after, i, j, moved_iou)
        if change is Change.NONE and not ignored:
            continue
        if i is not None and (ignored or targets != "after"):
            rows.append((before.boxes[i], LEFT, track, change, ignored))
        if j is not None:
            rows.append((after.boxes[j], ARRIVED, track, change, ignored))
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    two_classes = targets == "arrived-and-left"
    return Objects(
        boxes=boxes,
        category_ids=np.array([row[1] if two_classes else 0 for row in rows], np.int64),
        areas=box_areas(boxes),
        is_crowd=np.array([row[4] for row in rows], np.bool_),
        track_ids=np.array([row[2] for row in rows], np.int64),
        changes=np.array([row[3] for row in rows], np.int64),
    )


def _change(before: Objects, after: Objects, i: int | None, j: int | None, moved_iou: float) -> Change:
    if i is None:
        return Change.APPEARED
    if j is None:
        return Change.VANISHED
    overlap = pairwise_iou(before.boxes[i : i + 1], after.boxes[j : j + 1])[0, 0]
    return Change.MOVED if overlap < moved_iou else Change.NONE
