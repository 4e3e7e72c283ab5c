"""Recipes that train in a second, for tests of training itself."""

from dataclasses import replace
from functools import partial
from typing import Any

from dataflow.bridge.resize import FixedSize, ResizePolicy
from trainers.detectors.dense import DenseDetectorConfig, build_dense
from trainers.detectors.detr import build_detr
from trainers.detectors.detr_configs import small_detr_config
from trainers.recipes.recipe import Recipe
from trainers.recipes.stages import Stage
from trainers.recipes.watch import Watch


def tiny_dense_config(**changes: Any) -> DenseDetectorConfig:
    shape = {"widths": (8, 8, 8, 8), "blocks": 1, "pyramid_channels": 32, "groups": 4, "head_convolutions": 1}
    return DenseDetectorConfig(**(shape | changes))


def tiny_detr_config() -> Any:
    config = small_detr_config()
    config.backbone_config.hidden_sizes = [16, 16, 16, 16]  # oneDNN corrupts memory below 16.
    config.backbone_config.embedding_size = 16
    config.d_model = config.encoder_ffn_dim = config.decoder_ffn_dim = 32
    config.encoder_layers = config.decoder_layers = 1
    config.num_queries = 10
    config.dropout = 0.1  # Whatever draws random numbers must go on where it stopped.
    return config


TINY = Recipe(
    name="tiny_dense",
    build=partial(build_dense, config=tiny_dense_config),
    resize=ResizePolicy(32, 64),
    batch_size=3,
    steps=6,
    learning_rate=2e-3,
    warm_up_steps=2,
    checkpoint_steps=2,
)
TINY_DETR = replace(TINY, name="tiny_detr", build=partial(build_detr, config=tiny_detr_config, train_early_layers=True))
STAGED = replace(
    TINY_DETR,
    name="tiny_staged",
    batch_size=4,
    steps=9,
    stages=(
        Stage(2e-3, trains=("head",), warm_up_steps=1, cycles=2),
        Stage(5e-4, rates=(("backbone", 1e-4),)),
        Stage(1e-4, schedule="linear"),
    ),
)
"""Three stages of three steps."""


def _still_detr_config() -> Any:
    config = tiny_detr_config()
    config.dropout = 0.0
    return config


SHARED = replace(
    STAGED,
    name="tiny_shared",
    build=partial(build_detr, config=_still_detr_config, train_early_layers=True),
    resize=FixedSize(64, 64),
    flip=0.0,
    batch_size=4,
    accumulate=2,
    ema=0.9,
    watch=Watch(2, best="loss", patience=3, pictures=1),
)
"""Everything at once, but for what is drawn at random: processes draw each their own."""
