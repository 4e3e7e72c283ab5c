"""Small backbones of every library, and batches to show them."""

import torch

from trainers.detectors.backbones import BackboneKind, DiffusionBackbone, HuggingFaceBackbone, TimmBackbone

VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 16, 32, 32],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 64,
}
DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 10,
    "norm_type": "ada_norm_zero",
}
_PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
}
BEIT = {"model_type": "beit", "use_absolute_position_embeddings": True, "use_mask_token": True, **_PLAIN}
KINDS: dict[str, BackboneKind] = {
    "deit": TimmBackbone(
        "deit_tiny_distilled_patch16_224", {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 64}
    ),
    "timm resnet": TimmBackbone("resnet18", {"channels": (16, 16, 32, 32), "layers": (1, 1, 1, 1)}),
    "convnext": TimmBackbone("convnext_atto", {"dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1)}),
    "beit": HuggingFaceBackbone(BEIT),
    "beit, relative": HuggingFaceBackbone({"model_type": "beit", "use_relative_position_bias": True, **_PLAIN}),
    "beit, shared": HuggingFaceBackbone({"model_type": "beit", "use_shared_relative_position_bias": True, **_PLAIN}),
    "dinov2": HuggingFaceBackbone({"model_type": "dinov2", "patch_size": 16, **_PLAIN}),
    "resnet": HuggingFaceBackbone(
        {
            "model_type": "resnet",
            "embedding_size": 16,
            "hidden_sizes": [16, 16, 32, 32],
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
        }
    ),
    "swin": HuggingFaceBackbone(
        {
            "model_type": "swin",
            "embed_dim": 16,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 2, 2],
            "image_size": 64,
            "window_size": 4,
        }
    ),
    "diffusion": DiffusionBackbone(DIT, VAE, block=2, timestep=50, trains="everything"),
}


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Weights that leave nothing at zero, so that every part shows; norms stay near one."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.normal_(mean=float(name.endswith("weight")), std=0.2)
