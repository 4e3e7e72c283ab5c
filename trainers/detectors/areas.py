"""What keeps an image's features independent of padding.

Batches are padded on the right and at the bottom. Every layer of the dense detectors sees zeros beyond an image's own
area, just as if the image had come alone, and normalisation statistics are taken over that area only; so an image has
the same features in any batch, up to the order of floating-point sums.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def area_mask(sizes: Tensor, stride: int, grid: Sequence[int]) -> Tensor | None:
    """Mask (B, 1, *grid) bool of the cells that belong to images of `sizes` (B, 2) px; None where all do."""
    valid = (sizes + stride - 1) // stride  # What a chain of padded stride-2 convolutions leaves of an image.
    rows = torch.arange(grid[0], device=sizes.device) < valid[:, :1]
    columns = torch.arange(grid[1], device=sizes.device) < valid[:, 1:]
    mask = (rows[:, :, None] & columns[:, None, :])[:, None]
    return None if bool(mask.all()) else mask


def inside(x: Tensor, mask: Tensor | None) -> Tensor:
    """X (B, C, H, W), zero outside of `mask`."""
    return x if mask is None else x * mask


def group_norm(norm: nn.GroupNorm, x: Tensor, mask: Tensor | None) -> Tensor:
    """Group normalisation (Wu & He 2018, section 3) of x (B, C, H, W) over the cells of `mask`; zero elsewhere."""
    if mask is None:
        return torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    grouped = x.reshape(len(x), norm.num_groups, -1, *x.shape[2:])
    cells = mask[:, :, None].to(x.dtype)
    count = cells.sum((2, 3, 4), keepdim=True) * grouped.shape[2]
    mean = (grouped * cells).sum((2, 3, 4), keepdim=True) / count
    centred = (grouped - mean) * cells
    variance = centred.square().sum((2, 3, 4), keepdim=True) / count
    scaled = (centred * torch.rsqrt(variance + norm.eps)).reshape(x.shape)
    return (scaled * norm.weight[:, None, None] + norm.bias[:, None, None]) * mask


def tower(layers: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """X (B, C, H, W) through a sequence of layers, nested or not, each confined to the cells of `mask`."""
    for layer in layers.children():
        if isinstance(layer, nn.Sequential):
            x = tower(layer, x, mask)
        elif isinstance(layer, nn.GroupNorm):
            x = group_norm(layer, x, mask)
        else:
            x = layer(x)
    return x
