"""Moved objects: what changed place between a before and an after frame, by track id.

Frames without track ids get them from `tfds_builders.sources.assignment`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from dataflow.boxes import pairwise_iou
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
    that is one in either frame is one in both. Areas, outlines and what the border cut stay as the frames have them.
    """
    assert before.track_ids is not None and after.track_ids is not None
    for ids in (before.track_ids, after.track_ids):
        assert len(np.unique(ids)) == len(ids), "a track is in a frame once: whoever reads the source finds others"
    first = {int(track): index for index, track in enumerate(before.track_ids)}
    second = {int(track): index for index, track in enumerate(after.track_ids)}
    rows: list[_Row] = []
    for track in sorted(first.keys() | second.keys()):
        i, j = first.get(track), second.get(track)
        ignored = (i is not None and bool(before.is_crowd[i])) or (j is not None and bool(after.is_crowd[j]))
        change = _change(before, after, i, j, moved_iou)
        if change is Change.NONE and not ignored:
            continue
        if i is not None and (ignored or targets != "after"):
            rows.append(_Row(before, i, LEFT, track, change, ignored))
        if j is not None:
            rows.append(_Row(after, j, ARRIVED, track, change, ignored))
    two_classes = targets == "arrived-and-left"
    return Objects(
        boxes=np.array([row.frame.boxes[row.index] for row in rows], np.float32).reshape(-1, 4),
        category_ids=np.array([row.place if two_classes else 0 for row in rows], np.int64),
        areas=np.array([row.frame.areas[row.index] for row in rows], np.float32),
        is_crowd=np.array([row.ignored for row in rows], np.bool_),
        is_truncated=np.array([row.frame.is_truncated[row.index] for row in rows], np.bool_),
        segmentations=tuple(row.frame.segmentations[row.index] for row in rows),
        track_ids=np.array([row.track for row in rows], np.int64),
        changes=np.array([row.change for row in rows], np.int64),
        in_before=np.array([row.place == LEFT for row in rows], np.bool_),
    )


@dataclass(frozen=True)
class _Row:
    """One target: which object of which frame, and what is said of it. `place` is ARRIVED or LEFT."""

    frame: Objects
    index: int
    place: int
    track: int
    change: Change
    ignored: bool


def _change(before: Objects, after: Objects, i: int | None, j: int | None, moved_iou: float) -> Change:
    if i is None:
        return Change.APPEARED
    if j is None:
        return Change.VANISHED
    overlap = pairwise_iou(before.boxes[i : i + 1], after.boxes[j : j + 1])[0, 0]
    return Change.MOVED if overlap < moved_iou else Change.NONE
