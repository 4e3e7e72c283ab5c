"""A small residual network with a feature pyramid, whose features do not depend on padding.

Batches are padded on the right and at the bottom. Here every layer sees zeros beyond an image's own area, just as if
the image had come alone, and normalisation statistics are taken over that area only; so an image has the same features
in any batch, up to the order of floating-point sums.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
"""Pixels per cell of the pyramid's levels, finest first."""


def area_mask(sizes: Tensor, stride: int, grid: Sequence[int]) -> Tensor | None:
    """Mask (B, 1, *grid) bool of the cells that belong to images of `sizes` (B, 2) px; None where all do."""
    valid = (sizes + stride - 1) // stride  # What a chain of padded stride-2 convolutions leaves of an image.
    rows = torch.arange(grid[0], device=sizes.device) < valid[:, :1]
    columns = torch.arange(grid[1], device=sizes.device) < valid[:, 1:]
    mask = (rows[:, :, None] & columns[:, None, :])[:, None]
    return None if bool(mask.all()) else mask


def group_norm(norm: nn.GroupNorm, x: Tensor, mask: Tensor | None) -> Tensor:
    """Group normalisation (Wu & He 2018, section 3) of x (B, C, H, W) over the cells of `mask`; zero elsewhere."""
    if mask is None:
        return torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    grouped = x.reshape(len(x), norm.num_groups, -1, *x.shape[2:])
    inside = mask[:, :, None].to(x.dtype)
    count = inside.sum((2, 3, 4), keepdim=True) * grouped.shape[2]
    mean = (grouped * inside).sum((2, 3, 4), keepdim=True) / count
    centred = (grouped - mean) * inside
    variance = centred.square().sum((2, 3, 4), keepdim=True) / count
    scaled = (centred * torch.rsqrt(variance + norm.eps)).reshape(x.shape)
    return (scaled * norm.weight[:, None, None] + norm.bias[:, None, None]) * mask


class NormedConvolution(nn.Module):
    """A 3x3 convolution and group normalisation."""

    def __init__(self, inputs: int, outputs: int, groups: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, outputs)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """X (B, inputs, H, W) to (B, outputs, H', W'); `mask` is that of the result."""
        return group_norm(self.norm, self.conv(x), mask)


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut (He et al. 2016, figure 2); the first may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, groups: int, stride: int) -> None:
        super().__init__()
        self.first = NormedConvolution(inputs, outputs, groups, stride)
        self.second = NormedConvolution(outputs, outputs, groups)
        plain = stride == 1 and inputs == outputs
        self.shortcut = None if plain else nn.Conv2d(inputs, outputs, 1, bias=False)
        self.stride = stride

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """X (B, inputs, H, W) to (B, outputs, H', W'); `mask` is that of the result."""
        residual = self.second(functional.relu(self.first(x, mask)), mask)
        if self.shortcut is not None:
            # Cells are left out here and not by the convolution's stride, which gives the same: oneDNN's kernel for
            # strided 1x1 convolutions (torch 2.15) writes past its memory where channels are last and fewer than 16.
            x = self.shortcut(x[:, :, :: self.stride, :: self.stride])
        return functional.relu(residual + x)


class ResidualPyramid(nn.Module):
    """A stem and four residual stages, each at half the resolution before it, under a feature pyramid.

    The pyramid (Lin et al. 2017) has levels at strides 8, 16 and 32. A coarser level has half as many cells, rounded
    up, as the one below it, so that the nearest of them is cell i // 2 for cell i whatever the padding.

    Where it compares frames, stem and stages see two frames apart, and the pyramid sees what the stages made of the
    after frame less what they made of the before frame, as in FC-Siam-diff (Daudt, Le Saux & Boulch 2018), but with
    its sign: its absolute value shows what arrived and what left alike. Frames that are the same leave exactly zero.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        out_channels: int,
        groups: int,
        in_channels: int,
        *,
        compares_frames: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.compares_frames = compares_frames
        self.stem = NormedConvolution(in_channels, widths[0], groups, stride=2)
        stages = []
        for inputs, outputs in zip((widths[0], *widths), widths, strict=False):
            first = ResidualBlock(inputs, outputs, groups, stride=2)
            stages.append(
                nn.ModuleList([first, *(ResidualBlock(outputs, outputs, groups, 1) for _ in range(blocks - 1))])
            )
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in widths[1:])
        self.smooth = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in widths[1:])

    def forward(self, pixels: Tensor, sizes: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Features of a padded batch.

        Args:
            pixels: (B, in_channels, H, W), zero outside the images; where it compares frames (B, 2 * in_channels, H,
                W), the before frame's channels first.
            sizes: (B, 2) int64, each image's own height and width in px.

        Returns:
            Per stride of `STRIDES`: features (B, out_channels, ceil(H / stride), ceil(W / stride)), zero outside the
            images' own areas, and the mask (B, 1, ...) of those areas, or None where they fill the grid.
        """
        if self.compares_frames:
            levels, masks = self._stages(torch.cat(pixels.chunk(2, dim=1)), sizes.repeat(2, 1))
            maps = [after - before for before, after in (level.chunk(2) for level in levels)]
            masks = [None if mask is None else mask[: len(pixels)] for mask in masks]
        else:
            maps, masks = self._stages(pixels, sizes)
        return self._merge(maps, masks), masks

    def _stages(self, pixels: Tensor, sizes: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Maps of the stages under the pyramid, and their masks."""
        stride, masks = 2, []
        grid = [(side + 1) // 2 for side in pixels.shape[-2:]]
        x = functional.relu(self.stem(pixels, area_mask(sizes, stride, grid)))
        maps = []
        for stage in self.stages:
            stride *= 2
            grid = [(side + 1) // 2 for side in grid]
            mask = area_mask(sizes, stride, grid)
            for block in stage.children():
                x = block(x, mask)
            maps.append(x)
            masks.append(mask)
        return maps[1:], masks[1:]

    def _merge(self, maps: list[Tensor], masks: list[Tensor | None]) -> list[Tensor]:
        """Top-down merging of backbone maps (finest first) into the pyramid's levels."""
        levels: list[Tensor] = []
        above: Tensor | None = None
        for i in reversed(range(len(maps))):
            merged = self.lateral[i](maps[i])
            if above is not None:
                merged = merged + functional.interpolate(above, size=merged.shape[2:], mode="nearest")
            above = merged if masks[i] is None else merged * masks[i]
            smooth = self.smooth[i](above)
            levels.insert(0, smooth if masks[i] is None else smooth * masks[i])
        return levels
