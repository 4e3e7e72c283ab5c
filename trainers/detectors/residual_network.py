"""A small residual network, whose features do not depend on padding (see `trainers.detectors.areas`)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from trainers.detectors.areas import area_mask, group_norm


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


class ResidualNetwork(nn.Module):
    """A stem and four residual stages, each at half the resolution before it; the last three are its maps."""

    strides = (8, 16, 32)
    """Pixels per cell of the maps, finest first."""
    centre = 0.0
    """A chain of padded 3x3 convolutions of stride 2 centres cell i on pixel i * stride."""

    def __init__(self, widths: Sequence[int], blocks: int, groups: int, in_channels: int) -> None:
        super().__init__()
        self.channels = tuple(widths[1:])
        self.stem = NormedConvolution(in_channels, widths[0], groups, stride=2)
        stages = []
        for inputs, outputs in zip((widths[0], *widths), widths, strict=False):
            first = ResidualBlock(inputs, outputs, groups, stride=2)
            stages.append(
                nn.ModuleList([first, *(ResidualBlock(outputs, outputs, groups, 1) for _ in range(blocks - 1))])
            )
        self.stages = nn.ModuleList(stages)

    def forward(self, pixels: Tensor, sizes: Tensor) -> list[Tensor]:
        """Maps of a padded batch.

        Args:
            pixels: (B, in_channels, H, W), zero outside the images.
            sizes: (B, 2) int64, each image's own height and width in px.

        Returns:
            Per stride: a map (B, channels, ceil(H / stride), ceil(W / stride)), zero outside the images' own areas.
        """
        stride = 2
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
        return maps[1:]
