"""A pair of frames made comparable: the before frame drawn in the after frame and in its light, its boxes beside it.

The one way from two decoded frames to what is subtracted, for `shardbox diff` and for the bridge alike.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dataflow.boxes import LEAST_SIDE_PX, Size, box_areas, clip_boxes
from dataflow.images import RgbImage
from dataflow.pairs.frame import Frame
from dataflow.pairs.illumination import match_illumination
from dataflow.pairs.image_diff import DiffMode, Mask, checked_pair, difference
from dataflow.pairs.motion_models import carry_boxes, is_identity
from dataflow.pairs.registration import Alignment, AlignmentError, Method, align_frames, warp_to_after
from dataflow.records import Objects

# True alignments of real frames never fell below 0.8, wrong ones lie around 0.5.
LEAST_SCORE = 0.6
_REMEDY = "check that both frames show one scene; for a steady camera use --align none"


@dataclass(frozen=True, eq=False)
class AlignedPair:
    """Both frames (H, W, 3) uint8 RGB in the pixels of the after frame.

    `before` is drawn there and in the light of `after`; `valid` (H, W) bool are the pixels that it shows, None for all.
    """

    before: RgbImage
    after: RgbImage
    alignment: Alignment
    valid: Mask | None = None

    @property
    def size(self) -> Size:
        """(height, width) px of both."""
        return self.after.shape[0], self.after.shape[1]

    def difference(self, mode: DiffMode) -> RgbImage:
        """The difference image, (H, W, 3) uint8; pixels without counterpart show no change."""
        return difference(self.before, self.after, mode, self.valid)


def align_pair(before: Frame, after: Frame, method: Method) -> AlignedPair:
    """A pair with the movement of the camera and the change of its light undone; with method `none` as it is.

    A frame of several pairs is looked at once if they are given the same `Frame`; it changes nothing but time.

    Raises:
        SizeMismatchError: the frames differ in size.
        AlignmentError: no movement explains them, or it cannot be trusted (a score below `LEAST_SCORE`).
        UsageError: an image is empty, not of 8 bits, or of neither one nor three channels.
    """
    pixels = checked_pair(before.pixels, after.pixels, None)
    alignment = align_frames(before, after, method)
    if method == "none":
        return AlignedPair(*pixels, alignment)
    if alignment.score < LEAST_SCORE:
        raise AlignmentError(f"an alignment of score {alignment.score:.2f}", _REMEDY)
    return lay_over(*pixels, alignment)


def lay_over(before: RgbImage, after: RgbImage, alignment: Alignment) -> AlignedPair:
    """The before frame drawn where a known alignment puts it in the after frame, and in its light.

    Where the camera stood still, that is the frame itself, and all of its pixels are valid.
    """
    if alignment.model == "identity":
        return AlignedPair(match_illumination(before, after), after, alignment)
    drawn, valid = warp_to_after(before, alignment, (after.shape[0], after.shape[1]))
    return AlignedPair(match_illumination(drawn, after, valid), after, alignment, valid)


def carry_objects(objects: Objects, homography: npt.NDArray[np.float64], size: Size) -> Objects:
    """Objects in the pixels of the after frame, of `size` (height, width).

    Those of the before frame are carried there by `homography` (3, 3) and cut at the border; what the camera lost from
    view is left out. Masks of the before frame are not carried.
    """
    if not objects.in_before.any() or is_identity(homography):
        return objects
    moved = clip_boxes(carry_boxes(objects.boxes, homography), size)
    boxes = np.where(objects.in_before[:, None], moved, objects.boxes)
    keep = np.asarray((boxes[:, 2:] - boxes[:, :2] >= LEAST_SIDE_PX).all(axis=1))
    areas = np.where(objects.in_before, box_areas(boxes), objects.areas)
    kept = objects.only(keep)
    masks = ("" if before else text for text, before in zip(kept.segmentations, kept.in_before, strict=True))
    return replace(kept, boxes=boxes[keep], areas=areas[keep], segmentations=tuple(masks))
