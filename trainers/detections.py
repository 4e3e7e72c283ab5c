"""What every detector yields for an image, before it goes back to pixels."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """The detections in one image, best first.

    `boxes` (M, 4) cxcywh relative to the resized, unpadded image, the frame the targets are in; `scores` (M,) in
    [0, 1]; `labels` (M,) int64 contiguous class ids.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
