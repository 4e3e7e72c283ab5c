"""Checkpoint directories in the layouts that are published on the hub: configurations as they are there, tensors by the
names they have there, with random values and fewer or smaller layers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    DFineConfig,
    DFineForObjectDetection,
    PreTrainedModel,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
)

from tests.trainers.small_detrs import noisy

# What facebook/detr-resnet-50 has in its config.json, but for the sizes: a ResNet-26 of the same blocks, few layers.
DETR_R50 = {
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": ["DetrForObjectDetection"],
    "attention_dropout": 0.0,
    "auxiliary_loss": False,
    "backbone": "resnet26",
    "bbox_cost": 5,
    "bbox_loss_coefficient": 5,
    "class_cost": 1,
    "classifier_dropout": 0.0,
    "d_model": 32,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 32,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 2,
    "dice_loss_coefficient": 1,
    "dilation": False,
    "dropout": 0.1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 1,
    "eos_coefficient": 0.1,
    "giou_cost": 2,
    "giou_loss_coefficient": 2,
    "id2label": {str(i): f"LABEL_{i}" for i in range(91)},
    "init_std": 0.02,
    "init_xavier_std": 1.0,
    "is_encoder_decoder": True,
    "label2id": {f"LABEL_{i}": i for i in range(91)},
    "mask_loss_coefficient": 1,
    "max_position_embeddings": 1024,
    "model_type": "detr",
    "num_channels": 3,
    "num_hidden_layers": 1,
    "num_queries": 20,
    "position_embedding_type": "sine",
    "scale_embedding": False,
    "torch_dtype": "float32",
    "transformers_version": "4.27.0.dev0",
    "use_pretrained_backbone": True,
    "use_timm_backbone": True,
}
DETR_BACKBONE = "model.backbone.conv_encoder.model."
"""Prefix of the backbone's names in the published file."""
_HYBRID = {
    "activation_dropout": 0.0,
    "activation_function": "silu",
    "anchor_image_size": None,
    "attention_dropout": 0.0,
    "auxiliary_loss": True,
    "backbone": None,
    "backbone_kwargs": None,
    "batch_norm_eps": 1e-05,
    "box_noise_scale": 1.0,
    "decoder_activation_function": "relu",
    "decoder_attention_heads": 8,
    "decoder_method": "default",
    "decoder_offset_scale": 0.5,
    "dropout": 0.0,
    "encoder_activation_function": "gelu",
    "encoder_attention_heads": 8,
    "encoder_layers": 1,
    "eos_coefficient": 0.0001,
    "eval_size": None,
    "focal_loss_alpha": 0.75,
    "focal_loss_gamma": 2.0,
    "freeze_backbone_batch_norms": True,
    "id2label": {str(i): f"thing {i}" for i in range(80)},
    "initializer_bias_prior_prob": None,
    "initializer_range": 0.01,
    "is_encoder_decoder": True,
    "label2id": {f"thing {i}": i for i in range(80)},
    "label_noise_ratio": 0.5,
    "layer_norm_eps": 1e-05,
    "learn_initial_query": False,
    "matcher_alpha": 0.25,
    "matcher_bbox_cost": 5.0,
    "matcher_class_cost": 2.0,
    "matcher_gamma": 2.0,
    "matcher_giou_cost": 2.0,
    "normalize_before": False,
    "num_denoising": 100,
    "num_queries": 300,
    "positional_encoding_temperature": 10000,
    "torch_dtype": "float32",
    "use_focal_loss": True,
    "use_pretrained_backbone": False,
    "use_timm_backbone": False,
    "weight_loss_bbox": 5.0,
    "weight_loss_giou": 2.0,
    "weight_loss_vfl": 1.0,
    "with_box_refine": True,
}
"""What RT-DETR v2 and D-FINE have in common in their config.json."""
# What PekingU/rtdetr_v2_r18vd has in its config.json, as the script that converted it writes it, but for widths, and
# one block to a stage where it has two.
RT_DETR_V2_R18 = _HYBRID | {
    "architectures": ["RTDetrV2ForObjectDetection"],
    "backbone_config": {
        "depths": [1, 1, 1, 1],
        "downsample_in_bottleneck": False,
        "downsample_in_first_stage": False,
        "embedding_size": 16,
        "hidden_act": "relu",
        "hidden_sizes": [16, 32, 64, 128],
        "layer_type": "basic",
        "model_type": "rt_detr_resnet",
        "num_channels": 3,
        "out_features": ["stage2", "stage3", "stage4"],
        "out_indices": [2, 3, 4],
        "stage_names": ["stem", "stage1", "stage2", "stage3", "stage4"],
    },
    "d_model": 64,
    "decoder_ffn_dim": 64,
    "decoder_in_channels": [64, 64, 64],
    "decoder_layers": 3,
    "decoder_n_levels": 3,
    "decoder_n_points": 4,
    "encode_proj_layers": [2],
    "encoder_ffn_dim": 64,
    "encoder_hidden_dim": 64,
    "encoder_in_channels": [32, 64, 128],
    "feat_strides": [8, 16, 32],
    "hidden_expansion": 0.5,
    "model_type": "rt_detr_v2",
    "num_feature_levels": 3,
    "transformers_version": "4.49.0.dev0",
}
# What ustc-community/dfine-nano-coco has in its config.json, as the script that converted it writes it, but for widths.
D_FINE_N = _HYBRID | {
    "architectures": ["DFineForObjectDetection"],
    "backbone_config": {
        "depths": [3, 4, 6, 3],
        "embedding_size": 32,
        "hidden_act": "relu",
        "hidden_sizes": [16, 32, 64, 128],
        "model_type": "hgnet_v2",
        "num_channels": 3,
        "out_features": ["stage3", "stage4"],
        "out_indices": [3, 4],
        "stage_downsample": [False, True, True, True],
        "stage_in_channels": [16, 16, 32, 64],
        "stage_kernel_size": [3, 3, 5, 5],
        "stage_light_block": [False, False, True, True],
        "stage_mid_channels": [16, 16, 16, 32],
        "stage_names": ["stem", "stage1", "stage2", "stage3", "stage4"],
        "stage_num_blocks": [1, 1, 2, 1],
        "stage_numb_of_layers": [3, 3, 3, 3],
        "stage_out_channels": [16, 32, 64, 128],
        "stem_channels": [3, 16, 16],
        "use_learnable_affine_block": True,
    },
    "d_model": 64,
    "decoder_ffn_dim": 64,
    "decoder_in_channels": [64, 64],
    "decoder_layers": 3,
    "decoder_n_points": [6, 6],
    "depth_mult": 0.5,
    "encode_proj_layers": [1],
    "encoder_ffn_dim": 64,
    "encoder_hidden_dim": 64,
    "encoder_in_channels": [64, 128],
    "eval_idx": -1,
    "feat_strides": [16, 32],
    "hidden_expansion": 0.34,
    "layer_scale": 1.0,
    "lqe_hidden_dim": 64,
    "lqe_layers": 2,
    "max_num_bins": 32,
    "model_type": "d_fine",
    "num_feature_levels": 2,
    "reg_scale": 4.0,
    "top_prob_values": 4,
    "transformers_version": "4.52.0.dev0",
    "up": 0.5,
    "weight_loss_ddf": 1.5,
    "weight_loss_fgl": 0.15,
}
_OF_LAYERS = {
    f"model.{part}.layers.0.{layer}.weight"
    for part in ("encoder.encoder.0", "decoder")
    for layer in ("self_attn.q_proj", "self_attn.out_proj", "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm")
}
_OF_HYBRIDS = _OF_LAYERS | {
    "model.encoder_input_proj.1.1.running_var",
    "model.encoder.fpn_blocks.0.conv1.conv.weight",
    "model.decoder.layers.2.encoder_attn.sampling_offsets.bias",
    "model.decoder.class_embed.2.weight",
    "model.decoder.bbox_embed.2.layers.2.bias",
    "model.decoder.query_pos_head.layers.1.weight",
    "model.denoising_class_embed.weight",
    "model.enc_output.1.weight",
    "model.enc_score_head.bias",
    "model.enc_bbox_head.layers.2.bias",
}
_NAMES: Mapping[str, set[str]] = {
    "detr": {
        DETR_BACKBONE + "conv1.weight",
        DETR_BACKBONE + "layer4.1.bn3.running_var",
        "model.input_projection.weight",
    },
    "rt_detr_v2": _OF_HYBRIDS
    | {
        "model.backbone.model.embedder.embedder.0.convolution.weight",
        "model.backbone.model.encoder.stages.0.layers.0.shortcut.convolution.weight",
        "model.backbone.model.encoder.stages.1.layers.0.shortcut.1.normalization.running_mean",
        "model.backbone.model.encoder.stages.3.layers.0.layer.1.convolution.weight",
        "model.encoder.fpn_blocks.0.bottlenecks.2.conv2.norm.weight",
        "model.encoder.pan_blocks.1.conv3.norm.running_var",
        "model.decoder.layers.0.encoder_attn.n_points_scale",
        "model.decoder_input_proj.1.0.weight",
    },
    "d_fine": _OF_HYBRIDS
    | {
        "model.backbone.model.embedder.stem2a.convolution.weight",
        "model.backbone.model.encoder.stages.0.blocks.0.layers.0.lab.scale",
        "model.backbone.model.encoder.stages.2.blocks.1.layers.2.conv2.normalization.running_mean",
        "model.backbone.model.encoder.stages.1.downsample.convolution.weight",
        "model.backbone.model.encoder.stages.3.blocks.0.aggregation.1.convolution.weight",
        "model.encoder.fpn_blocks.0.csp_rep1.bottlenecks.0.conv1.conv.weight",
        "model.encoder.pan_blocks.0.conv4.norm.weight",
        "model.encoder.downsample_convs.0.conv2.norm.running_var",
        "model.decoder.layers.1.gateway.gate.weight",
        "model.decoder.lqe_layers.2.reg_conf.layers.1.bias",
        "model.decoder.pre_bbox_head.layers.2.weight",
        "model.decoder.layers.0.encoder_attn.num_points_scale",
    },
}
"""Names that the published files have, as the scripts that converted them from the authors' own give them."""


def write_detr(directory: Path) -> Path:
    """A checkpoint in the layout of facebook/detr-resnet-50."""
    timm = {"backbone": "resnet26", "use_timm_backbone": True, "use_pretrained_backbone": False}
    sizes = ("d_model", "decoder_ffn_dim", "encoder_ffn_dim", "decoder_layers", "encoder_layers", "num_queries")
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    torch.manual_seed(5)
    config = DetrConfig(**timm, **heads, **{k: DETR_R50[k] for k in sizes}, num_labels=91)
    return _write(directory, DetrForObjectDetection(config), DETR_R50)


def write_rt_detr_v2(directory: Path) -> Path:
    """A checkpoint in the layout of PekingU/rtdetr_v2_r18vd."""
    torch.manual_seed(5)
    model = RTDetrV2ForObjectDetection(RTDetrV2Config.from_dict(RT_DETR_V2_R18))
    return _write(directory, noisy(model, (320, 320)), RT_DETR_V2_R18)


def write_d_fine(directory: Path) -> Path:
    """A checkpoint in the layout of ustc-community/dfine-nano-coco."""
    torch.manual_seed(5)
    model = DFineForObjectDetection(DFineConfig.from_dict(D_FINE_N))
    return _write(directory, noisy(model, (320, 320)), D_FINE_N)


def _write(directory: Path, model: PreTrainedModel, config: Mapping[str, Any]) -> Path:
    model.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(config))
    missing = _NAMES[str(config["model_type"])] - set(load_file(directory / "model.safetensors"))
    assert not missing, f"not the published layout: {sorted(missing)}"
    return directory
