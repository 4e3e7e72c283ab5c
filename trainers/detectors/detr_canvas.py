"""The canvas that a detector of the DETR family works on, so that its results are those of the unpadded image.

Legend for shapes: B images, C channels, H and W px of the canvas, h and w cells of a map of it, Q queries.

Two kinds of detectors differ in what padding is to them. Those that heed `pixel_mask` (DETR, Conditional DETR,
Deformable DETR) know where an image ends: their boxes are relative to it. Their attention leaves the padding out, but
their convolutions do not: what lies beyond the border is zero where an image comes alone, and leaks where it is padded.
Here it is zero either way, so an image has the same detections in any batch.

The others (RT-DETR v2, D-FINE, YOLOS) take the padding for a part of the picture: their boxes are relative to the
canvas, and depend on it. The recipes show them images of one size, without padding. Where there is padding all the
same, labels are carried to the canvas and boxes back to the image, so that both are where they belong.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from dataflow.errors import UsageError
from trainers.detectors.areas import group_norm


class Canvas:
    """What happens to a model's inputs and outputs; attached to it by `attach_canvas`."""

    def __init__(self, multiple_of: int, heeds_mask: bool) -> None:
        self._multiple_of = multiple_of
        self._heeds_mask = heeds_mask
        self._mask: Tensor | None = None
        self._shares = torch.ones(0)

    def enter(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        """Pad the images of a call to whole cells, and tell the model what it should know of the padding."""
        call = dict(zip(("pixel_values", "pixel_mask"), args, strict=False)) | kwargs
        pixels, mask = _padded(call.pop("pixel_values"), call.pop("pixel_mask", None), self._multiple_of)
        _check_cells(model, pixels)
        if self._heeds_mask:
            self._mask = None if bool(mask.all()) else mask
            return (), {**call, "pixel_values": pixels, "pixel_mask": mask}
        self._shares = _shares(mask)
        if call.get("labels") is not None:
            call["labels"] = [
                {**label, "boxes": label["boxes"] * share}
                for label, share in zip(call["labels"], self._shares, strict=True)
            ]
        return (), {**call, "pixel_values": pixels}

    def leave(self, _: nn.Module, args: tuple[Any, ...], output: ModelOutput) -> ModelOutput:
        """Carry the boxes that are relative to the canvas back to the images."""
        if not self._heeds_mask:
            output.pred_boxes = output.pred_boxes / self._shares[:, None]
        return output

    def confine(self, _: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        """Let a layer that looks at neighbours see zeros beyond each image's border."""
        mask = self._mask_of(args[0])
        return None if mask is None else (args[0] * mask,)

    def normalise(self, norm: nn.GroupNorm, args: tuple[Tensor], output: Tensor) -> Tensor:
        """Group normalisation over the cells of the images alone."""
        mask = self._mask_of(args[0])
        return output if mask is None else group_norm(norm, args[0], mask)

    def _mask_of(self, maps: Tensor) -> Tensor | None:
        """Which cells of maps (B, C, h, w) belong to the images, (B, 1, h, w) bool; None where all do.

        A chain of padded layers of stride 2 leaves a cell to every started stride of an image.
        """
        if self._mask is None:
            return None
        height, width = self._mask.shape[1:]
        return self._mask[:, None, :: height // maps.shape[-2], :: width // maps.shape[-1]]


def attach_canvas(model: PreTrainedModel, multiple_of: int, heeds_mask: bool) -> None:
    """Let a model, called with `pixel_values`, `pixel_mask` and `labels`, work as this module says.

    It stays the class that it is, with the parameters that it has: `save_pretrained` writes what plain transformers
    reads.

    Args:
        model: any of the DETR family.
        multiple_of: px that the sides of its canvas must be multiples of: the stride of its coarsest map.
        heeds_mask: whether the model itself heeds `pixel_mask`.
    """
    canvas = Canvas(multiple_of, heeds_mask)
    model.register_forward_pre_hook(canvas.enter, with_kwargs=True)
    model.register_forward_hook(canvas.leave)
    if heeds_mask:
        for module in (layer for part in _convolutional(model) for layer in part.modules()):
            if isinstance(module, (nn.Conv2d, nn.MaxPool2d)) and _looks_at_neighbours(module):
                module.register_forward_pre_hook(canvas.confine)
            elif isinstance(module, nn.GroupNorm):
                module.register_forward_hook(canvas.normalise)


def _convolutional(model: PreTrainedModel) -> list[nn.Module]:
    projections = ("input_projection", "input_proj")
    return [model.model.backbone, *(getattr(model.model, name) for name in projections if hasattr(model.model, name))]


def _looks_at_neighbours(layer: nn.Conv2d | nn.MaxPool2d) -> bool:
    return layer.kernel_size not in (1, (1, 1))


def _padded(pixels: Tensor, mask: Tensor | None, multiple_of: int) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) and their mask (B, H, W) bool on a canvas of whole multiples."""
    height, width = pixels.shape[-2:]
    if mask is None:
        mask = torch.ones((len(pixels), height, width), dtype=torch.bool, device=pixels.device)
    missing = (0, -width % multiple_of, 0, -height % multiple_of)
    return functional.pad(pixels, missing), functional.pad(mask.bool(), missing)


def _shares(mask: Tensor) -> Tensor:
    """The share (B, 4) of the canvas that images take, as cxcywh: (width, height, width, height)."""
    height, width = mask.shape[1:]
    share = torch.stack([mask[:, 0].sum(1) / width, mask[:, :, 0].sum(1) / height], dim=1)
    return share.repeat(1, 2)


def _check_cells(model: nn.Module, pixels: Tensor) -> None:
    """A detector that picks its queries among the cells of its maps needs as many cells as queries.

    Raises:
        UsageError: it has fewer.
    """
    config: Any = model.config
    strides = getattr(config, "feat_strides", None)
    if strides is None:
        return
    height, width = pixels.shape[-2:]
    cells = sum((height // stride) * (width // stride) for stride in strides[: config.num_feature_levels])
    if cells < config.num_queries:
        raise UsageError(
            f"{config.model_type} picks {config.num_queries} queries among the {cells} cells of {height}x{width} px",
            "resize to more pixels, or configure fewer queries",
        )
