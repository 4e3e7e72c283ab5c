"""Models of timm as backbones; DeiT (Touvron et al. 2021) among them."""

import re
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dataflow.errors import UsageError
from trainers.detectors.backbones import Body, TimmBackbone

_STRIDES = (8, 16, 32)
_ANY_SIZE = ("vision_transformer", "eva")
"""Families whose models interpolate their positions when asked to (`dynamic_img_size`)."""
PREFIX = "network.model."
"""Of a checkpoint's names in a `TimmBody`."""


class TimmBody(Body):
    """See `TimmBackbone`."""

    def __init__(self, kind: TimmBackbone, in_channels: int) -> None:
        super().__init__()
        options = dict(kind.options)
        if family_of(kind.name) in _ANY_SIZE:
            options["dynamic_img_size"] = True
        indices = _indices(kind.name, options)
        self.network: nn.Module = timm.create_model(
            kind.name,
            pretrained=False,
            in_chans=in_channels,
            features_only=True,
            feature_cls="getter",  # Its weights have the names that they have in checkpoints.
            out_indices=indices,
            **options,
        )
        self.channels = tuple(self.network.feature_info.channels())  # type: ignore[operator, union-attr]
        self.strides = tuple(self.network.feature_info.reduction())  # type: ignore[operator, union-attr]
        # Patches begin where cells begin; networks with stages are taken for chains of padded convolutions.
        self.centre = 0.5 if len(self.strides) == 1 else 0.0

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """See `Body`."""
        return list(self.network(pixels))


def family_of(name: str) -> str:
    """The architecture of a model: timm's module that defines it. DeiT is a vision transformer, trained otherwise.

    Raises:
        UsageError: timm has no such model.
    """
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}", "see timm.list_models()")
    module: str = timm.model_entrypoint(name).__module__
    return "vision_transformer" if module == "timm.models.deit" else module.removeprefix("timm.models.")


def _indices(name: str, options: Mapping[str, Any]) -> list[int]:
    """Which of a model's maps are used: the last of a plain one's, else those of strides 8, 16 and 32."""
    with torch.device("meta"):
        info = timm.create_model(name, pretrained=False, **options).feature_info
    strides = [each["reduction"] for each in info]
    if len(set(strides)) == 1:
        return [len(strides) - 1]
    if not set(_STRIDES) <= set(strides):
        raise UsageError(
            f"{name} has maps of strides {sorted(set(strides))}",
            "choose a model with maps of strides 8, 16 and 32, or a plain vision transformer",
        )
    return [strides.index(stride) for stride in _STRIDES]


def kind_of(config: Mapping[str, Any]) -> TimmBackbone:
    """The kind of a checkpoint, by its `config.json`: timm's own, or Hugging Face's of a DeiT or ViT.

    Raises:
        UsageError: timm has no model of this shape.
    """
    if "architecture" in config:
        return TimmBackbone(config["architecture"], config.get("model_args") or {})
    patch, size, width = config["patch_size"], config["image_size"], config["hidden_size"]
    distilled = "_distilled" if "DeiTForImageClassificationWithTeacher" in config.get("architectures", []) else ""
    family = "deit" if config["model_type"] == "deit" else "vit"
    shape = {
        "embed_dim": width,
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": config["intermediate_size"] / width,
        "img_size": size,
        "patch_size": patch,
    }
    return TimmBackbone(f"{family}_base{distilled}_patch16_224", shape)


def names_in_body(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors by their names in a `TimmBody`; those of Hugging Face's DeiT and ViT become timm's."""
    if any(re.match(r"(deit|vit)\.embeddings\.", name) for name in state):
        state = _renamed(state)
    return {PREFIX + name: tensor for name, tensor in state.items()}


_RENAMED = (
    (r"^(deit|vit)\.embeddings\.cls_token$", "cls_token"),
    (r"^(deit|vit)\.embeddings\.distillation_token$", "dist_token"),
    (r"^(deit|vit)\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^(deit|vit)\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(deit|vit)\.(encoder\.)?layers?\.(\d+)\.", r"blocks.\3."),
    (r"^(deit|vit)\.layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.(intermediate\.dense|mlp\.fc1)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.fc2)\.", ".mlp.fc2."),
)
_PART = re.compile(
    r"^(?:deit|vit)\.(?:encoder\.)?layers?\.(\d+)\.attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.(\w+)$"
)


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's names of a DeiT or ViT as timm's, queries, keys and values put into one layer."""
    parts: dict[str, dict[str, Tensor]] = {}
    renamed = {}
    for name, tensor in state.items():
        if part := _PART.match(name):
            layer, which, what = part.groups()
            parts.setdefault(f"blocks.{layer}.attn.qkv.{what}", {})[which[0]] = tensor
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901
        renamed[name] = tensor
    for name, part_of in parts.items():
        if set(part_of) == set("qkv"):
            renamed[name] = torch.cat([part_of[which] for which in "qkv"])
    return renamed
