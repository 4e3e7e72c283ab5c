"""Backbones that other libraries have: what is said of one in a configuration, and how its maps are had.

| kind | library | what |
|---|---|---|
| `TimmBackbone` | timm | any model that gives features: DeiT, ViT, ResNet, ConvNeXt, ... |
| `HuggingFaceBackbone` | transformers | any `AutoBackbone`: BEiT (and so the Document Image Transformer), ResNet, ... |
| `DiffusionBackbone` | diffusers | a Diffusion Transformer over an autoencoder's latents |

A kind is a value that JSON can hold; it becomes a `Body` in its own module, which imports its library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from dataflow.errors import UsageError

RGB = 3


@dataclass(frozen=True)
class TimmBackbone:
    """A model of timm, by name.

    A plain vision transformer gives its last block's tokens, without class and distillation tokens, its position
    embedding interpolated to the input; other models give their maps of strides 8, 16 and 32.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of its constructor, where they differ from what the name says."""


@dataclass(frozen=True)
class HuggingFaceBackbone:
    """A model of transformers that can be a backbone, by its configuration.

    One with stages gives its last three, of strides 8, 16 and 32; a plain vision transformer gives its last layer's
    tokens. Absolute positions are interpolated to the input, and so are the tables of relative ones.
    """

    config: Mapping[str, Any]
    """As `config.json` has it: `model_type` and what differs from that type's defaults."""


Trained = Literal["nothing", "transformer", "everything"]


@dataclass(frozen=True)
class DiffusionBackbone:
    """A Diffusion Transformer (Peebles & Xie 2023) that looks at an image as it does at one it is to clear of noise.

    The features are the tokens after block `block` at noise of timestep `timestep`, for no class, which is how DDAE
    (Xiang et al. 2023) reads such models. The configurations are those of diffusers' `DiTTransformer2DModel`,
    `AutoencoderKL` and scheduler.
    """

    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """What differs from a linear schedule from 0.0001 to 0.02 in 1000 steps."""
    block: int = 13
    timestep: int = 100
    trains: Trained = "transformer"
    """What learns with the detector; the autoencoder costs most of it."""


BackboneKind = TimmBackbone | HuggingFaceBackbone | DiffusionBackbone
_KINDS: Mapping[str, type[TimmBackbone] | type[HuggingFaceBackbone] | type[DiffusionBackbone]] = {
    "timm": TimmBackbone,
    "transformers": HuggingFaceBackbone,
    "diffusers": DiffusionBackbone,
}


def library_of(kind: BackboneKind) -> str:
    """The library that a backbone is of."""
    return next(library for library, each in _KINDS.items() if isinstance(kind, each))


def architecture_of(kind: BackboneKind) -> str:
    """The library that a backbone is of and, where that has many architectures whose weights it names, which.

    Raises:
        UsageError: timm has no such model.
    """
    match kind:
        case TimmBackbone():
            from trainers.detectors.timm_body import family_of

            return f"timm ({family_of(kind.name)})"
        case HuggingFaceBackbone():
            return f"transformers ({kind.config['model_type']})"
        case DiffusionBackbone():
            return "diffusers"


def kind_to_json(kind: BackboneKind) -> dict[str, Any]:
    """A backbone's kind in JSON's types."""
    return {"library": library_of(kind), **asdict(kind)}


def kind_from_json(content: Mapping[str, Any]) -> BackboneKind:
    """The inverse of `kind_to_json`.

    Raises:
        UsageError: there is no such library.
    """
    library, rest = str(content.get("library")), {name: value for name, value in content.items() if name != "library"}
    if library not in _KINDS:
        raise UsageError(f"a backbone of the library {library!r}", f"choose among {', '.join(_KINDS)}")
    return _KINDS[library](**rest)


class Body(nn.Module):
    """A network of another library.

    Its `forward` maps pixels (B, in_channels, h, w), h and w multiples of the largest stride, to one map (B, channels,
    h / stride, w / stride) per stride, finest first.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    centre: float
    """Cell i of a map is centred on pixel (i + centre) * stride."""

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """See `forward`."""
        maps: list[Tensor] = super().__call__(pixels)
        return maps

    def keep(self) -> None:
        """Prepare for Hugging Face's loader, once built.

        The loader leaves buffers that a library does not save as garbage: they are saved here. And initial weights are
        the library's own affair: the detector's initialisation leaves them alone.
        """
        for module in self.modules():
            module._non_persistent_buffers_set.clear()
        for parameter in self.parameters():
            parameter._is_hf_initialized = True  # type: ignore[attr-defined]


class OwnSizeBackbone(nn.Module):
    """A `Body` that sees every image at its own size, those of one size together.

    What global attention, interpolated positions, group or batch statistics make of an image depends on all that is
    shown to them; so the padding is not shown. An image is only filled up with zeros to a multiple of the largest
    stride. (Batch normalisation that is not frozen sees other images while it trains, as it does everywhere.)
    """

    def __init__(self, body: Body, *, frozen_batch_norm: bool) -> None:
        super().__init__()
        self.body = body
        self.frozen_batch_norm = frozen_batch_norm
        self.channels, self.strides, self.centre = body.channels, body.strides, body.centre

    def train(self, mode: bool = True) -> "OwnSizeBackbone":
        """Switch to training, but for batch normalisation that keeps its statistics."""
        super().train(mode)
        if self.frozen_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, pixels: Tensor, sizes: Tensor) -> list[Tensor]:
        """Maps of a padded batch.

        Args:
            pixels: (B, in_channels, H, W).
            sizes: (B, 2) int64, each image's own height and width in px.

        Returns:
            Per stride: a map (B, channels, ceil(H / stride), ceil(W / stride)), zero outside the images' own areas.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for row, (height, width) in enumerate(sizes.tolist()):
            groups.setdefault((height, width), []).append(row)
        canvas = (pixels.shape[2], pixels.shape[3])
        if list(groups) == [canvas]:
            return self._maps(pixels)
        maps = [
            pixels.new_zeros(len(pixels), channels, *cells(canvas, stride))
            for channels, stride in zip(self.channels, self.strides, strict=True)
        ]
        for (height, width), rows in groups.items():
            for whole, own in zip(maps, self._maps(pixels[rows, :, :height, :width]), strict=True):
                whole[rows, :, : own.shape[2], : own.shape[3]] = own.to(whole.dtype)
        return maps

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """Maps (b, channels, ceil(h / stride), ceil(w / stride)) of images of one size without padding."""
        size = (pixels.shape[2], pixels.shape[3])
        multiple = max(self.strides)
        full = functional.pad(pixels, (0, -size[1] % multiple, 0, -size[0] % multiple))
        maps = []
        for whole, stride in zip(self.body(full), self.strides, strict=True):
            if (whole.shape[2] * stride, whole.shape[3] * stride) != tuple(full.shape[2:]):
                raise UsageError(
                    f"of {full.shape[2]}x{full.shape[3]} px the backbone makes a map of {whole.shape[2]}x"
                    f"{whole.shape[3]}, not one cell for {stride} px",
                    "choose a backbone with maps of strides 8, 16 and 32, or a plain vision transformer",
                )
            height, width = cells(size, stride)
            maps.append(whole[:, :, :height, :width])
        return maps


def cells(size: Sequence[int], stride: int) -> tuple[int, int]:
    """Rows and columns of the cells that an image of a size in px has."""
    return -(-size[0] // stride), -(-size[1] // stride)


def build_body(kind: BackboneKind, in_channels: int) -> Body:
    """The network that is said, with random weights.

    Raises:
        UsageError: its library has none like this.
    """
    body: Body
    match kind:
        case TimmBackbone():
            from trainers.detectors.timm_body import TimmBody

            body = TimmBody(kind, in_channels)
        case HuggingFaceBackbone():
            from trainers.detectors.huggingface_body import HuggingFaceBody

            body = HuggingFaceBody(kind, in_channels)
        case DiffusionBackbone():
            from trainers.detectors.diffusion_body import DiffusionBody

            body = DiffusionBody(kind, in_channels)
    body.keep()
    return body
