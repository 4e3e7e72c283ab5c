"""Models of transformers as backbones; among them BEiT (Bao et al. 2022).

The Document Image Transformer (Li et al. 2022, "DiT: Self-supervised Pre-training for Document Image Transformer") is
a BEiT with absolute positions.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

from dataflow.errors import UsageError
from trainers.detectors.backbones import Body, HuggingFaceBackbone

_STRIDES = (8, 16, 32)
_DROPPED = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "torch_dtype", "transformers_version")
"""What of a checkpoint's configuration says nothing of the backbone."""
_CHOSEN = ("_out_features", "_out_indices", "out_features", "out_indices", "num_channels", "stage_names")
"""What is decided here."""


class HuggingFaceBody(Body):
    """See `HuggingFaceBackbone`."""

    def __init__(self, kind: HuggingFaceBackbone, in_channels: int) -> None:
        super().__init__()
        config = backbone_config(kind, in_channels)
        self.network = AutoBackbone.from_config(config)
        self.channels = tuple(self.network.channels)
        staged = hasattr(config, "depths")
        self.strides = _STRIDES if staged else (config.patch_size,)
        # Patches begin where cells begin; networks with stages are taken for chains of padded convolutions.
        self.centre = 0.0 if staged else 0.5

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """See `Body`."""
        return list(self.network(pixels).feature_maps)


def backbone_config(kind: HuggingFaceBackbone, in_channels: int) -> PreTrainedConfig:
    """The configuration of a backbone that gives the maps wanted.

    Raises:
        UsageError: it is no backbone, or has neither three stages nor patches.
    """
    said = {name: value for name, value in kind.config.items() if name not in _CHOSEN}
    model_type = said.pop("model_type", None)
    try:
        config = AutoConfig.for_model(model_type, **said, num_channels=in_channels)
    except (TypeError, ValueError) as error:
        raise UsageError(f"transformers has no model {model_type!r} like this: {error}", "check model_type") from error
    if type(config) not in MODEL_FOR_BACKBONE_MAPPING:
        raise UsageError(
            f"transformers has no backbone of {model_type!r}", "choose another, or a model of timm (deit, vit)"
        )
    stages = list(config.stage_names)
    if hasattr(config, "depths") and len(config.depths) >= len(_STRIDES):
        config.out_features = stages[-len(_STRIDES) :]
    elif isinstance(getattr(config, "patch_size", None), int):
        config.out_features = stages[-1:]
    else:
        raise UsageError(
            f"the strides of {model_type!r} are not known", "choose a backbone with stages, or a plain one with patches"
        )
    return config


def kind_of(config: Mapping[str, Any]) -> HuggingFaceBackbone:
    """The kind of a checkpoint with this `config.json`."""
    return HuggingFaceBackbone({name: value for name, value in config.items() if name not in (*_DROPPED, *_CHOSEN)})
