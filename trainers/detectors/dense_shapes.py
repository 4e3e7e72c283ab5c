"""Shapes of dense detectors: small ones for laptops, from random weights, and those of published backbones."""

from trainers.detectors.backbones import BackboneKind, DiffusionBackbone, HuggingFaceBackbone, TimmBackbone
from trainers.detectors.dense import DenseDetectorConfig

_CHANNELS = 256
"""Of the pyramid, as in FCOS, RetinaNet and ViTDet."""


def small_deit() -> DenseDetectorConfig:
    """A small DeiT without distillation token, pyramid, FCOS."""
    shape = {"embed_dim": 192, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0}
    return DenseDetectorConfig(body=TimmBackbone("deit_tiny_patch16_224", shape))


def small_document_dit() -> DenseDetectorConfig:
    """A small BEiT of the Document Image Transformer's kind, pyramid, FCOS."""
    shape = {
        "model_type": "beit",
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 384,
        "use_absolute_position_embeddings": True,
        "layer_scale_init_value": 1.0,
        "drop_path_rate": 0.0,
    }
    return DenseDetectorConfig(body=HuggingFaceBackbone(shape))


def small_diffusion_dit() -> DenseDetectorConfig:
    """A small Diffusion Transformer whose autoencoder learns too, at next to no noise, pyramid, FCOS."""
    vae = {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [8, 32, 64],
        "layers_per_block": 1,
        "latent_channels": 8,
        "mid_block_add_attention": False,
        "norm_num_groups": 8,
        "sample_size": 256,
        "scaling_factor": 1.0,
    }
    transformer = {
        "num_attention_heads": 4,
        "attention_head_dim": 32,
        "in_channels": 8,
        "num_layers": 3,
        "sample_size": 64,
        "patch_size": 2,
        "num_embeds_ada_norm": 1,
    }
    return DenseDetectorConfig(body=DiffusionBackbone(transformer, vae, block=3, timestep=0, trains="everything"))


def small_faster_rcnn() -> DenseDetectorConfig:
    """Faster R-CNN on the small residual network."""
    return DenseDetectorConfig(head="faster_rcnn", box_head_width=256, regions_per_image=128, nms_threshold=0.5)


def small_retinanet() -> DenseDetectorConfig:
    """RetinaNet on the small residual network."""
    return DenseDetectorConfig(head="retinanet", nms_threshold=0.5)


def _large(body: BackboneKind) -> DenseDetectorConfig:
    """FCOS as published over a backbone."""
    return DenseDetectorConfig(body=body, pyramid_channels=_CHANNELS, head_convolutions=4)


def deit_base() -> DenseDetectorConfig:
    """DeiT-B with its distillation token, ViTDet's pyramid, FCOS."""
    return _large(TimmBackbone("deit_base_distilled_patch16_224"))


def document_dit_base() -> DenseDetectorConfig:
    """The base Document Image Transformer, ViTDet's pyramid, FCOS."""
    shape = {"model_type": "beit", "use_absolute_position_embeddings": True, "use_mask_token": True}
    return _large(HuggingFaceBackbone(shape))


def diffusion_dit_xl() -> DenseDetectorConfig:
    """DiT-XL/2 up to block 13 of 28, at timestep 100: about where its features tell most (DDAE, Xiang et al. 2023)."""
    vae = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 256,
    }
    transformer = {
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 28,
        "sample_size": 32,
        "patch_size": 2,
        "num_embeds_ada_norm": 1000,
    }
    return _large(DiffusionBackbone(transformer, vae, block=13, timestep=100))


def faster_rcnn_r50() -> DenseDetectorConfig:
    """Faster R-CNN on a ResNet-50 with a feature pyramid."""
    body = HuggingFaceBackbone({"model_type": "resnet"})
    return DenseDetectorConfig(head="faster_rcnn", body=body, pyramid_channels=_CHANNELS, nms_threshold=0.5)
