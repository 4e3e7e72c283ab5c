"""Batches as detectors take them, and the single way back from a detector's frame to pixels of the original image.

Legend for shapes: B images in the batch, C channels (3, or 6 for two images of one place), H and W px of the padded
canvas, h and w px of one resized image on it (at the top left), N objects of an image, M detections in it. Boxes are
cxcywh relative to the resized image *without* its padding: padding never enters into them. Where the whole image is
shown the same numbers are relative to the original image; where a part of it is, or its mirror image, `Batch.shown`
says which.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from dataflow.boxes import clip_boxes, shown_to_xyxy
from dataflow.errors import ShardboxError, UsageError
from dataflow.records import Predictions

_TOLERANCE = 1e-5
"""How far float32 rounding may carry a relative box over the border of its image."""


class BatchError(ShardboxError):
    """A batch or a target that breaks its own promises."""


def _require(condition: bool, message: str, remedy: str) -> None:
    if not condition:
        raise BatchError(message, remedy)


def _require_tensor(name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    """Raise unless `tensor` has this dtype and shape, in which None stands for any length."""
    fits = len(tensor.shape) == len(shape) and all(
        wanted is None or wanted == got for wanted, got in zip(shape, tensor.shape, strict=True)
    )
    if tensor.dtype != dtype or not fits:
        wanted_text = str(tuple("any" if length is None else length for length in shape))
        raise BatchError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}", f"make it {dtype} of shape {wanted_text}")


@dataclass(frozen=True, eq=False)
class Target:
    """What a detector should find in one image.

    `boxes` (N, 4) float32 cxcywh relative to the resized, unpadded image; `category_ids` (N,) int64 contiguous ids.
    """

    boxes: torch.Tensor
    category_ids: torch.Tensor

    def __post_init__(self) -> None:
        _require_tensor("boxes", self.boxes, torch.float32, (None, 4))
        _require_tensor("category_ids", self.category_ids, torch.int64, (len(self.boxes),))
        if self.boxes.device.type == "cpu" and len(self.boxes):  # Elsewhere, looking at values waits for the device.
            boxes, category_ids = self.boxes.numpy(), self.category_ids.numpy()
            centres, extents = boxes[:, :2], boxes[:, 2:]
            outside = (abs(centres - 0.5) + extents / 2 > 0.5 + _TOLERANCE) | ~(extents > 0)
            if outside.any():
                raise BatchError(
                    f"boxes are empty or leave their image: {boxes[outside.any(axis=1)].tolist()}",
                    "boxes are cx, cy, w, h relative to the resized image, without its padding",
                )
            _require(category_ids.min() >= 0, "a class id is negative", "use contiguous ids from 0")

    def __len__(self) -> int:
        return len(self.boxes)

    def cut(self, counts: list[int]) -> "list[Target]":
        """Those of several images, laid end to end, as those of each: what holds for all of them holds for each."""
        parts = []
        for boxes, category_ids in zip(
            *(torch.split(column, counts) for column in (self.boxes, self.category_ids)), strict=True
        ):
            part = object.__new__(Target)
            vars(part).update(boxes=boxes, category_ids=category_ids)
            parts.append(part)
        return parts


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of one step, padded at the bottom and on the right to a common canvas.

    `pixel_values` (B, C, H, W) uint8 RGB, or float32 normalised, zero in the padding; `pixel_mask` (B, H, W) bool, True
    on real pixels (as Hugging Face has it; the original DETR has the opposite); `targets` and `image_ids`, one per
    image; `sizes` (B, 2) int64 (h, w) px resized; `original_sizes` (B, 2) int64 (height, width) px of the upright
    images before that. `shown` (B, 4) float64: where the left, top, right and bottom edge of what is shown are in the
    original image, px. That is the whole image unless training changes it; left > right where it is mirrored; not a
    number where a transform of the user's made it something else.
    """

    pixel_values: torch.Tensor
    pixel_mask: torch.Tensor
    targets: tuple[Target, ...]
    image_ids: tuple[str, ...]
    sizes: torch.Tensor
    original_sizes: torch.Tensor
    shown: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        floats = self.pixel_values.dtype == torch.float32
        _require_tensor("pixel_values", self.pixel_values, torch.float32 if floats else torch.uint8, (None,) * 4)
        n, channels, height, width = self.pixel_values.shape
        _require(channels in (3, 6), f"pixel_values has {channels} channels", "give one RGB image, or two stacked")
        _require_tensor("pixel_mask", self.pixel_mask, torch.bool, (n, height, width))
        _require_tensor("sizes", self.sizes, torch.int64, (n, 2))
        _require_tensor("original_sizes", self.original_sizes, torch.int64, (n, 2))
        if not len(self.shown):
            near = self.original_sizes.new_zeros(n, 2, dtype=torch.float64)
            whole = torch.cat([near, self.original_sizes.flip(1).to(torch.float64)], dim=1)
            object.__setattr__(self, "shown", whole)
        _require_tensor("shown", self.shown, torch.float64, (n, 4))
        _require(
            n == len(self.targets) == len(self.image_ids),
            f"{n} images, {len(self.targets)} targets, {len(self.image_ids)} ids",
            "give one of each per image",
        )
        if self.sizes.device.type == "cpu" and n:
            heights, widths = zip(*self.sizes.tolist(), strict=True)
            _require(
                max(heights) <= height and max(widths) <= width and min(heights + widths) > 0,
                f"resized images up to (h, w) = {max(heights), max(widths)} px on a canvas of {(height, width)} px",
                "make the canvas at least as large as the largest image, and each image at least one pixel",
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        targets = (Target(change(target.boxes), change(target.category_ids)) for target in self.targets)
        return replace(
            self,
            pixel_values=change(self.pixel_values),
            pixel_mask=change(self.pixel_mask),
            targets=tuple(targets),
            sizes=change(self.sizes),
            original_sizes=change(self.original_sizes),
            shown=change(self.shown),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from which a GPU copies without waiting (needs CUDA)."""
        return self._map(lambda tensor: tensor.pin_memory())

    def inputs(self) -> dict[str, Any]:
        """What Hugging Face's detectors take: `pixel_values`, `pixel_mask`, and `labels`, a dictionary for each image.

        As `collate_fn` of a `DataLoader` with `batch_size=None` it makes these of every batch.
        """
        return {
            "pixel_values": self.pixel_values,
            "pixel_mask": self.pixel_mask,
            "labels": [{"class_labels": target.category_ids, "boxes": target.boxes} for target in self.targets],
        }

    def predictions(
        self, boxes: Sequence[Any], scores: Sequence[Any], category_ids: Sequence[Any], run_id: str
    ) -> list[Predictions]:
        """Detections in these images as predictions in pixels of the original ones; see `detections_to_predictions`.

        Raises:
            UsageError: a transform of the user's made an image into what nobody can lead back.
        """
        lost = [name for name, edges in zip(self.image_ids, self.shown.tolist(), strict=True) if edges[0] != edges[0]]
        if lost:
            raise UsageError(
                f"image {lost[0]!r} was changed by a transform, so boxes in it have no place in the original",
                "predict without a transform",
            )
        return detections_to_predictions(
            self.image_ids,
            self.original_sizes,
            boxes=boxes,
            scores=scores,
            category_ids=category_ids,
            run_id=run_id,
            shown=self.shown,
        )


def shares_to_levels(values: Sequence[float], device: torch.device | str = "cpu") -> torch.Tensor:
    """Values from 0 to 1, one per channel, as grey levels (C,) float32, rounded as Hugging Face does it."""
    return torch.tensor([*values], device=device) * (1.0 / (1 / 255))


def normalise(
    pixel_values: torch.Tensor, pixel_mask: torch.Tensor, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """(B, C, H, W) float32: (value / 255 - mean) / std on real pixels, 0 in the padding, on the tensors' own device.

    The operations and their order are those of Hugging Face's torchvision backend, which multiplies mean and std by
    255 instead of dividing the pixels and pads afterwards, so that the values equal its own bit for bit.

    Args:
        pixel_values: (B, C, H, W) uint8.
        pixel_mask: (B, H, W) bool, True on real pixels.
        mean: of the three channels of an image, for values from 0 to 1.
        std: of the three channels of an image, for values from 0 to 1.
    """
    images = pixel_values.shape[1] // 3
    shift, scale = (shares_to_levels([*values] * images, pixel_values.device).view(-1, 1, 1) for values in (mean, std))
    return pixel_values.to(torch.float32).sub_(shift).div_(scale).masked_fill_(~pixel_mask[:, None], 0.0)


def _to_numpy(values: Any) -> np.ndarray[Any, Any]:
    """A tensor of any device and float type, or an array, as a numpy array on the CPU."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        low = values.is_floating_point() and values.itemsize < 4  # numpy has no bfloat16.
        values = (values.float() if low else values).numpy()
    return np.asarray(values)


def detections_to_predictions(
    image_ids: Sequence[str],
    original_sizes: Any,
    *,
    boxes: Sequence[Any],
    scores: Sequence[Any],
    category_ids: Sequence[Any],
    run_id: str,
    shown: Any = None,
) -> list[Predictions]:
    """Detections in a detector's frame as predictions in pixels of the original images: every detector's only exit.

    Boxes are cut at the borders of their image; those left without area, and detections that are not finite, are
    dropped; scores are clamped to 0..1.

    Args:
        image_ids: of the B images.
        original_sizes: (B, 2) (height, width) px.
        boxes: for each image (M, 4) cxcywh relative to the unpadded image.
        scores: for each image (M,).
        category_ids: for each image (M,) contiguous ids.
        run_id: what the predictions say they come from.
        shown: (B, 4) px, where the edges of what is shown are in the original images (see `Batch`); None: the whole.
    """
    sizes = [(int(height), int(width)) for height, width in _to_numpy(original_sizes).reshape(-1, 2)]
    edges = [(0, 0, width, height) for height, width in sizes] if shown is None else _to_numpy(shown)
    predictions = []
    for image_id, size, part, *detections in zip(image_ids, sizes, edges, boxes, scores, category_ids, strict=True):
        relative, score, category = map(_to_numpy, detections)
        finite = np.isfinite(relative).all(axis=1) & np.isfinite(score)
        xyxy = clip_boxes(shown_to_xyxy(relative[finite], part), size)
        keep = (xyxy[:, :2] < xyxy[:, 2:]).all(axis=1)
        predictions.append(
            Predictions(
                image_id=image_id,
                boxes=xyxy[keep],
                scores=np.clip(score[finite][keep], 0, 1),
                category_ids=category[finite][keep],
                run_id=run_id,
            )
        )
    return predictions


def targets_to_predictions(batch: Batch, run_id: str) -> list[Predictions]:
    """The targets of a batch as if a detector had found them all with score 1: the oracle of the geometry."""
    return batch.predictions(
        boxes=[target.boxes for target in batch.targets],
        scores=[np.ones(len(target)) for target in batch.targets],
        category_ids=[target.category_ids for target in batch.targets],
        run_id=run_id,
    )
