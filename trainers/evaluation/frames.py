"""The frames of an example: one image, or before and after (and their difference), and boxes in each of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.boxes import Boxes, clip_boxes
from dataflow.images import RgbImage, decode_rgb
from dataflow.prepared import PreparedDataset
from dataflow.records import ImageRecord
from dataflow.schema import Kind, Layout, example_to_pair, example_to_record

Role = Literal["image", "before", "after", "diff"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of an example.

    `homography` (3, 3) leads from its pixels to those that boxes are in; None where they are the same.
    """

    role: Role
    record: ImageRecord
    homography: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Example:
    """What boxes and ids refer to, and the frames that show it: one, or before, after and perhaps their difference."""

    record: ImageRecord
    frames: tuple[Frame, ...]
    alignment_score: float | None = None


def dataset_kind(layout: Layout) -> Kind:
    """What a dataset holds; only our own are known to hold pairs."""
    return layout.kind if layout.is_ours else "images"


def to_example(example: Mapping[str, Any], layout: Layout, position: str) -> Example:
    """A parsed example (images still encoded) with its frames."""
    record = example_to_record(example, layout, position)
    if dataset_kind(layout) == "images":
        return Example(record, (Frame("image", record),))
    pair = example_to_pair(example, layout, position)
    moved = not np.array_equal(pair.homography, np.eye(3)) or pair.before.size != pair.after.size
    before = Frame("before", pair.before, pair.homography if moved else None)
    frames: tuple[Frame, ...] = (before, Frame("after", pair.after))
    if layout.kind == "differences":
        frames += (Frame("diff", record),)
    return Example(record, frames, pair.alignment_score)


def examples(dataset: PreparedDataset, split: str) -> Iterator[Example]:
    """The examples of a split with their frames, in shard order."""
    for position, example in dataset.examples(split):
        yield to_example(example, dataset.layout, position)


def without_bytes(frame: Frame) -> Frame:
    """The frame without its encoded picture."""
    return replace(frame, record=replace(frame.record, image=b""))


def boxes_in_frame(boxes: Boxes, frame: Frame) -> Boxes:
    """Boxes (N, 4) xyxy px of the example in the pixels of one of its frames.

    Where that is another frame, a box becomes what encloses its carried corners, cut at the border; one that is not
    in the frame at all becomes empty.
    """
    if frame.homography is None or not len(boxes):
        return boxes
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]].astype(np.float64).reshape(1, -1, 2)
    carried = cv2.perspectiveTransform(corners, np.linalg.inv(frame.homography)).reshape(-1, 4, 2)
    return clip_boxes(np.concatenate([carried.min(axis=1), carried.max(axis=1)], axis=1), frame.record.size)


def aligned_pixels(frame: Frame, example: Example) -> RgbImage:
    """Pixels (H, W, 3) of a frame, warped to where the boxes are; black where the frame does not reach.

    Raises:
        ImageError: the picture cannot be decoded.
    """
    pixels = decode_rgb(frame.record.image, frame.record.orientation)
    if frame.homography is None:
        return pixels
    height, width = example.record.size
    return np.asarray(cv2.warpPerspective(pixels, frame.homography, (width, height)), np.uint8)
