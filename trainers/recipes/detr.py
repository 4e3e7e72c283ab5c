"""Recipes of the DETR family: fine-tuning at the authors' settings, and small ones that start from nothing."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from transformers import PreTrainedConfig

from dataflow.bridge.resize import FixedSize, ResizePolicy
from trainers.detectors.detr import Architecture, build_detr
from trainers.detectors.detr_configs import (
    small_conditional_detr_config,
    small_d_fine_config,
    small_deformable_detr_config,
    small_detr_config,
    small_rt_detr_v2_config,
    small_yolos_config,
)
from trainers.recipes.recipe import PHOTOGRAPH_AUGMENTATION, Recipe
from trainers.recipes.stages import Stage
from trainers.recipes.watch import Watch


def detr_r50() -> Recipe:
    """DETR with a ResNet-50, fine-tuned from its COCO weights at the published resolution; wants a GPU."""
    return Recipe(
        name="detr_r50",
        build=build_detr,
        resize=ResizePolicy(shortest_edge=800, longest_edge=1333),
        batch_size=8,
        steps=2000,
        learning_rate=1e-4,
        backbone_learning_rate=1e-5,
        warm_up_steps=50,
        clip_norm=0.1,
        weights="facebook/detr-resnet-50",
        checkpoint_steps=200,
    )


def detr_r50_staged() -> Recipe:
    """DETR with a ResNet-50 fine-tuned in three stages: its head alone, then all of it, then all of it slowly.

    Each falls by cosines that start again. Batch normalisation is frozen throughout, as in DETR's own training.
    """
    return replace(
        detr_r50(),
        name="detr_r50_staged",
        steps=3000,
        stages=(
            Stage(1e-4, trains=("head",), warm_up_steps=50, cycles=2),
            Stage(5e-5, rates=(("backbone", 1e-5),), warm_up_steps=50, cycles=2),
            Stage(1e-5, cycles=2),
        ),
    )


def detr_r50_tfds() -> Recipe:
    """DETR with a ResNet-50 trained on photographs of any TFDS detection dataset (`voc`, `coco/2017`), randomly scaled
    and cropped, at a size that a GPU of 16 GB holds, and evaluated as it goes on."""
    return replace(
        detr_r50(),
        name="detr_r50_tfds",
        resize=ResizePolicy(shortest_edge=480, longest_edge=800),
        batch_size=16,
        steps=5000,
        warm_up_steps=250,
        augmentation=PHOTOGRAPH_AUGMENTATION,
        accumulate=2,
        watch=Watch(500),
    )


def conditional_detr_r50() -> Recipe:
    """Conditional DETR with a ResNet-50, as `detr_r50`: the authors' settings are DETR's."""
    return replace(
        detr_r50(),
        name="conditional_detr_r50",
        build=partial(build_detr, architecture="conditional_detr"),
        weights="microsoft/conditional-detr-resnet-50",
    )


def deformable_detr_r50() -> Recipe:
    """Deformable DETR with a ResNet-50, as `detr_r50` at its authors' learning rates (theirs for sampling offsets and
    reference points, a tenth, aside)."""
    return replace(
        detr_r50(),
        name="deformable_detr_r50",
        build=partial(build_detr, architecture="deformable_detr"),
        learning_rate=2e-4,
        backbone_learning_rate=2e-5,
        weights="SenseTime/deformable-detr",
    )


def rt_detr_v2_r18() -> Recipe:
    """RT-DETR v2 with a ResNet-18, at its authors' settings but for their moving average of weights; wants a GPU.

    Batch norm of the backbone is frozen, as in every checkpoint that transformers has of it.
    """
    return Recipe(
        name="rt_detr_v2_r18",
        build=partial(build_detr, architecture="rt_detr_v2"),
        resize=FixedSize(640, 640),
        batch_size=16,
        steps=2000,
        learning_rate=1e-4,
        warm_up_steps=200,
        clip_norm=0.1,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        weights="PekingU/rtdetr_v2_r18vd",
        checkpoint_steps=200,
    )


def d_fine_n() -> Recipe:
    """D-FINE nano, as `rt_detr_v2_r18`; its authors' learning rates, for 128 images a step, are scaled to 16."""
    return replace(
        rt_detr_v2_r18(),
        name="d_fine_n",
        build=partial(build_detr, architecture="d_fine"),
        learning_rate=1e-4,
        backbone_learning_rate=5e-5,
        weights="ustc-community/dfine-nano-coco",
    )


def yolos_tiny() -> Recipe:
    """YOLOS tiny at its authors' learning rate and shorter side; one size for all images, since padding disturbs it."""
    return replace(
        detr_r50(),
        name="yolos_tiny",
        build=partial(build_detr, architecture="yolos"),
        resize=FixedSize(512, 688),
        learning_rate=5e-5,
        backbone_learning_rate=None,
        weights="hustvl/yolos-tiny",
    )


def detr_small() -> Recipe:
    """A small DETR from random weights. It runs anywhere, but like every plain DETR it takes very long to learn."""
    return Recipe(
        name="detr_small",
        build=partial(build_detr, config=small_detr_config, train_early_layers=True),
        resize=ResizePolicy(shortest_edge=256, longest_edge=416),
        batch_size=8,
        steps=1000,
        learning_rate=5e-4,
        warm_up_steps=20,
    )


def detr_small_staged() -> Recipe:
    """`detr_small` in the three stages of `detr_r50_staged`, at rates for random weights: to try that road anywhere."""
    return replace(
        detr_small(),
        name="detr_small_staged",
        steps=300,
        stages=(
            Stage(5e-4, trains=("head",), warm_up_steps=10, cycles=2),
            Stage(5e-4, warm_up_steps=10, cycles=2),
            Stage(1e-4, cycles=2),
        ),
    )


def _small(
    recipe: Recipe, architecture: Architecture, config: Callable[[], PreTrainedConfig], **changes: Any
) -> Recipe:
    """A small detector of another architecture, trained as `recipe` says but for `changes`: all of it, from nothing."""
    build = partial(build_detr, config=config, train_early_layers=True, architecture=architecture)
    return replace(recipe, name=f"{architecture}_small", build=build, **changes)


def conditional_detr_small() -> Recipe:
    """A small Conditional DETR from random weights; it too takes long to learn."""
    return _small(detr_small(), "conditional_detr", small_conditional_detr_config)


def deformable_detr_small() -> Recipe:
    """A small Deformable DETR from random weights."""
    return _small(detr_small(), "deformable_detr", small_deformable_detr_config)


def yolos_small() -> Recipe:
    """A small YOLOS from random weights. It runs anywhere, and learns as slowly as `detr_small`."""
    return _small(detr_small(), "yolos", small_yolos_config, resize=FixedSize(256, 336))


def rt_detr_v2_small() -> Recipe:
    """A small RT-DETR v2 from random weights, in minutes on a CPU."""
    return _small(
        detr_small(),
        "rt_detr_v2",
        small_rt_detr_v2_config,
        resize=FixedSize(288, 384),
        steps=400,
        learning_rate=1e-3,
        warm_up_steps=40,
        checkpoint_steps=50,
    )


def d_fine_small() -> Recipe:
    """A small D-FINE from random weights, in minutes on a CPU."""
    return _small(rt_detr_v2_small(), "d_fine", small_d_fine_config, steps=300)
