"""Makes checkpoints in the layouts of published ones: configurations, names, shapes; random values, less depth."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher, ResNetConfig, ResNetForImageClassification

from tests.trainers.small_backbones import randomise

DEPTH = 2
DIT_BASE = {
    "architectures": ["BeitForMaskedImageModeling"],
    "attention_probs_dropout_prob": 0.0,
    "auxiliary_channels": 256,
    "auxiliary_concat_input": False,
    "auxiliary_loss_weight": 0.4,
    "auxiliary_num_convs": 1,
    "drop_path_rate": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 768,
    "image_size": 224,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "layer_scale_init_value": 0.1,
    "model_type": "beit",
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": DEPTH,
    "out_indices": [3, 5, 7, 11],
    "patch_size": 16,
    "pool_scales": [1, 2, 3, 6],
    "semantic_loss_ignore_index": 255,
    "torch_dtype": "float32",
    "transformers_version": "4.12.0.dev0",
    "use_absolute_position_embeddings": True,
    "use_auxiliary_head": True,
    "use_mask_token": True,
    "use_mean_pooling": True,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": False,
    "vocab_size": 8192,
}
DEIT = {
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 768,
    "image_size": 224,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "model_type": "deit",
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": DEPTH,
    "patch_size": 16,
}
XL_TRANSFORMER = {
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.12.0.dev0",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": DEPTH,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "upcast_attention": False,
}
XL_VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.12.0.dev0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
XL_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": True,
    "steps_offset": 0,
}


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def make_published_dit(directory: Path, width: int = 768, hidden: int = 3072, vocabulary: int = 8192) -> None:
    """microsoft/dit-base: a BEiT before masked image modelling."""
    config = {**DIT_BASE, "hidden_size": width, "intermediate_size": hidden, "vocab_size": vocabulary}
    torch.manual_seed(3)
    shapes = {
        "beit.embeddings.cls_token": (1, 1, width),
        "beit.embeddings.mask_token": (1, 1, width),
        "beit.embeddings.position_embeddings": (1, 197, width),
        "beit.embeddings.patch_embeddings.projection.weight": (width, 3, 16, 16),
        "beit.embeddings.patch_embeddings.projection.bias": (width,),
        "layernorm.weight": (width,),
        "layernorm.bias": (width,),
        "lm_head.weight": (vocabulary, width),
        "lm_head.bias": (vocabulary,),
    }
    for layer in range(DEPTH):
        own = {
            "lambda_1": (width,),
            "lambda_2": (width,),
            "attention.attention.query.weight": (width, width),
            "attention.attention.query.bias": (width,),
            "attention.attention.key.weight": (width, width),
            "attention.attention.value.weight": (width, width),
            "attention.attention.value.bias": (width,),
            "attention.output.dense.weight": (width, width),
            "attention.output.dense.bias": (width,),
            "intermediate.dense.weight": (hidden, width),
            "intermediate.dense.bias": (hidden,),
            "output.dense.weight": (width, hidden),
            "output.dense.bias": (width,),
            "layernorm_before.weight": (width,),
            "layernorm_before.bias": (width,),
            "layernorm_after.weight": (width,),
            "layernorm_after.bias": (width,),
        }
        shapes |= {f"beit.encoder.layer.{layer}.{name}": shape for name, shape in own.items()}
    write_json(directory / "config.json", config)
    tensors = {name: 0.05 * torch.randn(shape) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def make_published_deit(directory: Path) -> None:
    """facebook/deit-base-distilled-patch16-224."""
    names = {str(i): f"class {i}" for i in range(1000)}
    config = {**DEIT, "architectures": ["DeiTForImageClassificationWithTeacher"], "id2label": names}
    whole = DeiTForImageClassificationWithTeacher(DeiTConfig(**DEIT, num_labels=1000))
    randomise(whole)
    whole.save_pretrained(directory)
    write_json(directory / "config.json", config)
    stored = set(load_file(directory / "model.safetensors"))
    assert {
        "deit.embeddings.distillation_token",
        "deit.encoder.layer.1.attention.attention.query.weight",
        "deit.encoder.layer.0.attention.output.dense.bias",
        "deit.encoder.layer.0.intermediate.dense.weight",
        "deit.layernorm.weight",
        "cls_classifier.weight",
        "distillation_classifier.bias",
    } <= stored


def write_pipeline(directory: Path, transformer: dict, vae: dict, old_names: bool) -> None:
    """A pipeline as diffusers publishes it; before safetensors, attention of the autoencoder had other names."""
    write_json(directory / "model_index.json", {"_class_name": "DiTPipeline", "_diffusers_version": "0.12.0.dev0"})
    write_json(directory / "scheduler" / "scheduler_config.json", XL_SCHEDULER)
    for part, config, model_class in (
        ("transformer", transformer, DiTTransformer2DModel),
        ("vae", vae, AutoencoderKL),
    ):
        write_json(directory / part / "config.json", config)
        model = model_class(**{name: value for name, value in config.items() if not name.startswith("_")})
        randomise(model)
        state = model.state_dict()
        if old_names:
            for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
                state = {
                    name.replace(f".{new}.", f".{old}.") if "mid_block.attentions" in name else name: tensor
                    for name, tensor in state.items()
                }
            torch.save(state, directory / part / "diffusion_pytorch_model.bin")
        else:
            save_file(state, directory / part / "diffusion_pytorch_model.safetensors", {"format": "pt"})


def small_resnet(directory: Path) -> ResNetForImageClassification:
    """The layout of microsoft/resnet-50, in small."""
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 2, 1], num_labels=1000)
    whole = ResNetForImageClassification(config).eval()
    randomise(whole)
    whole.resnet.embedder.embedder.normalization.running_mean.normal_()
    whole.save_pretrained(directory)
    return whole
