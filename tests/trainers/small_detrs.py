"""Small detectors of every architecture of the DETR family, and what to feed them."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dataflow.bridge.view import View
from dataflow.records import Categories
from trainers.detectors import detr_configs
from trainers.detectors.detr import ARCHITECTURES, Architecture, build_detr
from trainers.detectors.stems import channels_of

CATEGORIES = Categories(("person", "car <b>", "dog"), (7, 3, 90))
EVERY: tuple[Architecture, ...] = tuple(ARCHITECTURES)  # type: ignore[arg-type]
MASKED = tuple(name for name in EVERY if ARCHITECTURES[name].heeds_mask)
UNMASKED = tuple(name for name in EVERY if not ARCHITECTURES[name].heeds_mask)
SIZE = (128, 192)
"""Of a canvas, (height, width) px, on which every architecture has as many cells as it wants queries."""

Label = dict[str, Tensor]


def small_detector(
    architecture: Architecture, categories: Categories = CATEGORIES, view: View = View(), seed: int = 0
) -> PreTrainedModel:
    """Random weights, and boxes and scores that differ from query to query."""
    torch.manual_seed(seed)
    config = getattr(detr_configs, f"small_{architecture}_config")
    model, _ = build_detr(categories, None, config, True, architecture=architecture, view=view)
    return model


def noisy(model: PreTrainedModel, size: tuple[int, int] = SIZE) -> PreTrainedModel:
    """The model with every weight moved at random, so that nothing is 0 or 1 for having just been made, and batch norm
    that has seen pictures of `size` (height, width) px."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.add_(torch.rand(tensor.shape, generator=generator), alpha=0.05)
            elif tensor.is_floating_point() and not name.endswith(("points_scale", ".up", ".reg_scale")):
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.02)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None  # The average over all that it sees.
        channels = channels_of(model.config)
        model.train()(pixel_values=torch.randn((2, channels, *size), generator=generator))
    return model.eval()


def labels_of(*counts: int) -> list[Label]:
    """Random labels of images with so many objects."""
    return [{"class_labels": torch.randint(3, (n,)), "boxes": 0.25 + 0.5 * torch.rand(n, 4)} for n in counts]


def pictures(
    *sizes: tuple[int, int], canvas: tuple[int, int] | None = None, channels: int = 3
) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) of (height, width) px on a canvas, by default their largest, and the mask (B, H, W) bool."""
    height, width = canvas or (max(size[0] for size in sizes), max(size[1] for size in sizes))
    mask = torch.zeros((len(sizes), height, width), dtype=torch.bool)
    for image, size in zip(mask, sizes, strict=True):
        image[: size[0], : size[1]] = True
    return torch.randn(len(sizes), channels, height, width) * mask[:, None], mask
