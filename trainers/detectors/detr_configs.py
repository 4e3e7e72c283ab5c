"""Small configurations of the DETR family, for laptops and tests: no published weights, no timm."""

from typing import Any

from transformers import (
    ConditionalDetrConfig,
    DeformableDetrConfig,
    DetrConfig,
    DFineConfig,
    HGNetV2Config,
    ResNetConfig,
    RTDetrResNetConfig,
    RTDetrV2Config,
    YolosConfig,
)

_PLAIN: dict[str, Any] = {
    "d_model": 128,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 100,
    "dropout": 0.0,
}
"""Of DETR and Conditional DETR; Deformable DETR, whose attention is dear, is narrower."""
_HYBRID: dict[str, Any] = {
    "freeze_backbone_batch_norms": False,
    "encoder_in_channels": [64, 96, 128],
    "encoder_hidden_dim": 64,
    "encoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "hidden_expansion": 0.5,
    "d_model": 64,
    "decoder_in_channels": [64, 64, 64],
    "decoder_ffn_dim": 128,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
}
"""Of RT-DETR v2 and D-FINE. They have as many queries as the large ones: they cost little, and each is a cell that
learns its box."""


def _small_resnet(*stages: str) -> ResNetConfig:
    return ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 256],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=list(stages),
    )


def small_detr_config() -> DetrConfig:
    """A DETR of 3 M parameters."""
    return DetrConfig(backbone_config=_small_resnet("stage4"), **_PLAIN)


def small_conditional_detr_config() -> ConditionalDetrConfig:
    """The same as a Conditional DETR."""
    return ConditionalDetrConfig(backbone_config=_small_resnet("stage4"), **_PLAIN)


def small_deformable_detr_config() -> DeformableDetrConfig:
    """A Deformable DETR with box refinement, on four levels."""
    return DeformableDetrConfig(
        backbone_config=_small_resnet("stage2", "stage3", "stage4"),
        with_box_refine=True,
        **_PLAIN
        | {"d_model": 64, "encoder_layers": 1, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_queries": 50},
    )


def small_rt_detr_v2_config() -> RTDetrV2Config:
    """An RT-DETR v2 with a small ResNet."""
    return RTDetrV2Config(
        backbone_config=RTDetrResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 96, 128],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        ),
        **_HYBRID,
    )


def small_d_fine_config() -> DFineConfig:
    """A D-FINE with a small HGNet v2."""
    return DFineConfig(
        backbone_config=HGNetV2Config(
            stem_channels=[3, 16, 16],
            stage_in_channels=[16, 32, 64, 96],
            stage_mid_channels=[16, 16, 32, 32],
            stage_out_channels=[32, 64, 96, 128],
            hidden_sizes=[32, 64, 96, 128],
            stage_num_blocks=[1, 1, 1, 1],
            stage_numb_of_layers=[2, 2, 2, 2],
            use_learnable_affine_block=True,
            out_features=["stage2", "stage3", "stage4"],
        ),
        depth_mult=0.34,
        **_HYBRID,
    )


def small_yolos_config() -> YolosConfig:
    """A YOLOS on patches of 16 px."""
    return YolosConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=192,
        image_size=[256, 320],
        num_detection_tokens=50,
        use_mid_position_embeddings=False,
    )
