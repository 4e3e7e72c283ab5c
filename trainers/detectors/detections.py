"""What every detector yields for an image, before it goes back to pixels; and its units, on tensors."""

from dataclasses import dataclass

from torch import Tensor
from torchvision.ops import box_convert


def cxcywh_to_xyxy(boxes: Tensor, size: Tensor) -> Tensor:
    """Relative cxcywh (N, 4) float to xyxy px of an image of `size` (2,) (height, width), on the tensors' device."""
    corners: Tensor = box_convert(boxes, "cxcywh", "xyxy") * size.flip(0).repeat(2)
    return corners


def xyxy_to_cxcywh(boxes: Tensor, size: Tensor) -> Tensor:
    """Xyxy px (N, 4) float of an image of `size` (2,) (height, width) to relative cxcywh, on the tensors' device."""
    relative: Tensor = box_convert(boxes, "xyxy", "cxcywh") / size.flip(0).repeat(2)
    return relative


@dataclass(frozen=True)
class Detections:
    """The detections in one image, best first.

    `boxes` (M, 4) cxcywh relative to the resized, unpadded image, the frame the targets are in; `scores` (M,) in
    [0, 1]; `labels` (M,) int64 contiguous class ids.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
