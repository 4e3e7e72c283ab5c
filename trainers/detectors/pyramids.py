"""Pyramids of features, finest level first, whose levels do not depend on padding (see `trainers.detectors.areas`)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.detectors.areas import area_mask, inside


class FeaturePyramid(nn.Module):
    """The pyramid of Lin et al. (2017) over maps of several strides, at those strides.

    A coarser level has half as many cells, rounded up, as the one below it, so that the nearest of them is cell i // 2
    for cell i whatever the padding.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.lateral = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in channels)

    def forward(
        self, maps: Sequence[Tensor], sizes: Tensor, canvas: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Merge maps from the top down.

        Args:
            maps: per stride (B, channels, ceil(H / stride), ceil(W / stride)), zero outside the images' own areas.
            sizes: (B, 2) int64, each image's own height and width in px.
            canvas: height and width (H, W) in px of the padded batch.

        Returns:
            Levels (B, out_channels, ceil(H / stride), ceil(W / stride)), zero outside the images' own areas, and the
            masks (B, 1, ...) of those areas, or None where they fill the grid.
        """
        masks = [area_mask(sizes, stride, each.shape[2:]) for stride, each in zip(self.strides, maps, strict=True)]
        levels: list[Tensor] = []
        above: Tensor | None = None
        for i in reversed(range(len(maps))):
            merged = self.lateral[i](maps[i])
            if above is not None:
                merged = merged + functional.interpolate(above, size=merged.shape[2:], mode="nearest")
            above = inside(merged, masks[i])
            levels.insert(0, inside(self.smooth[i](above), masks[i]))
        return levels, masks


class SimplePyramid(nn.Module):
    """ViTDet's simple feature pyramid (Li et al. 2022, section 3) over the one map of a plain backbone.

    From the last map, of stride s, come levels of strides s / 2, s and 2 s: by a transposed convolution, as it is, and
    by the largest of each 2x2 cells. Each then passes a 1x1 and a 3x3 convolution, both with layer normalisation over
    channels. ViTDet's fourth level, of stride s / 4, is left out: three quarters of all cells would be its, and most
    of the cost.
    """

    def __init__(self, channels: int, stride: int, out_channels: int) -> None:
        super().__init__()
        self.strides = (stride // 2, stride, stride * 2)
        half = max(channels // 2, out_channels)
        self.finer = nn.ConvTranspose2d(channels, half, 2, stride=2)
        inputs = (half, channels, channels)
        self.project = nn.ModuleList(nn.Conv2d(width, out_channels, 1, bias=False) for width in inputs)
        self.smooth = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False) for _ in inputs)
        self.norms = nn.ModuleList(nn.LayerNorm(out_channels) for _ in range(2 * len(inputs)))

    def forward(
        self, maps: Sequence[Tensor], sizes: Tensor, canvas: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Levels and masks as `FeaturePyramid` has them, from one map (B, channels, ceil(H / s), ceil(W / s))."""
        (middle,) = maps
        grids = [[-(-side // stride) for side in canvas] for stride in self.strides]
        masks = [area_mask(sizes, stride, grid) for stride, grid in zip(self.strides, grids, strict=True)]
        # An image has as many cells as the stride says; one more may come out of the transposed convolution.
        finer = self.finer(middle)[:, :, : grids[0][0], : grids[0][1]]
        lowest = torch.finfo(middle.dtype).min  # Where there is no cell, none is the largest.
        known = middle if masks[1] is None else middle.masked_fill(~masks[1], lowest)
        coarser = functional.max_pool2d(known, 2, ceil_mode=True)
        if masks[2] is not None:
            coarser = coarser.masked_fill(~masks[2], 0.0)
        levels = []
        for i, x in enumerate((inside(finer, masks[0]), middle, coarser)):
            projected = inside(_channel_norm(self.norms[2 * i], self.project[i](x)), masks[i])
            levels.append(inside(_channel_norm(self.norms[2 * i + 1], self.smooth[i](projected)), masks[i]))
        return levels, masks


def build_pyramid(channels: Sequence[int], strides: Sequence[int], out_channels: int) -> FeaturePyramid | SimplePyramid:
    """The pyramid over maps of these channels and strides: ViTDet's over one map, Lin's over more."""
    if len(strides) == 1:
        return SimplePyramid(channels[0], strides[0], out_channels)
    return FeaturePyramid(channels, strides, out_channels)


def _channel_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Layer normalisation of every cell of x (B, C, H, W) over its channels."""
    normed: Tensor = norm(x.permute(0, 2, 3, 1))
    return normed.permute(0, 3, 1, 2)
