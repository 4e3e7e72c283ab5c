"""Recipes of the dense family: small ones that start from nothing, and fine-tuning of published backbones."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from dataflow.bridge.resize import ResizePolicy
from trainers.detectors import dense_shapes
from trainers.detectors.dense import DenseDetectorConfig, build_dense
from trainers.recipes.recipe import Channels, Recipe

_HALF: Channels = (0.5, 0.5, 0.5)
"""Mean and deviation that both DiTs' published weights want."""


def dense_cnn_small() -> Recipe:
    """FCOS on a small residual network, from random weights, in minutes on a CPU."""
    return Recipe(
        name="dense_cnn_small",
        build=build_dense,
        resize=ResizePolicy(shortest_edge=360, longest_edge=480),
        batch_size=8,
        steps=200,
        learning_rate=2e-3,
        warm_up_steps=20,
        checkpoint_steps=50,
    )


def _small(name: str, config: Callable[[], DenseDetectorConfig], **changes: Any) -> Recipe:
    """A dense detector from random weights, in minutes on a CPU: like `dense_cnn_small` but for `changes`."""
    return replace(dense_cnn_small(), name=name, build=partial(build_dense, config=config), **changes)


def dense_deit_small() -> Recipe:
    """FCOS on a small DeiT with ViTDet's pyramid, from random weights."""
    return _small("dense_deit_small", dense_shapes.small_deit, steps=250, learning_rate=1e-3)


def dense_document_dit_small() -> Recipe:
    """FCOS on a small Document Image Transformer with ViTDet's pyramid, from random weights."""
    return _small("dense_document_dit_small", dense_shapes.small_document_dit, steps=200, learning_rate=1e-3)


def dense_diffusion_dit_small() -> Recipe:
    """FCOS on a small Diffusion Transformer and its autoencoder, with ViTDet's pyramid, from random weights."""
    return _small(
        "dense_diffusion_dit_small",
        dense_shapes.small_diffusion_dit,
        resize=ResizePolicy(shortest_edge=240, longest_edge=320),
        steps=100,
        learning_rate=1e-3,
        mean=_HALF,
        std=_HALF,
    )


def faster_rcnn_small() -> Recipe:
    """Faster R-CNN on a small residual network, from random weights."""
    return _small("faster_rcnn_small", dense_shapes.small_faster_rcnn)


def retinanet_small() -> Recipe:
    """RetinaNet on a small residual network, from random weights."""
    return _small("retinanet_small", dense_shapes.small_retinanet)


def _fine_tuned(name: str, config: Callable[[], DenseDetectorConfig], weights: str, **changes: Any) -> Recipe:
    """A dense detector whose backbone starts from published weights; wants a GPU."""
    return replace(
        Recipe(
            name=name,
            build=partial(build_dense, config=config),
            resize=ResizePolicy(shortest_edge=640, longest_edge=1024),
            batch_size=8,
            steps=4000,
            learning_rate=1e-4,
            backbone_learning_rate=2e-5,
            warm_up_steps=250,
            weight_decay=0.05,
            weights=weights,
            checkpoint_steps=500,
        ),
        **changes,
    )


def dense_deit() -> Recipe:
    """FCOS on DeiT-B (distilled) with ViTDet's pyramid."""
    return _fine_tuned("dense_deit", dense_shapes.deit_base, "facebook/deit-base-distilled-patch16-224")


def dense_document_dit() -> Recipe:
    """FCOS on the base Document Image Transformer with ViTDet's pyramid."""
    return _fine_tuned(
        "dense_document_dit", dense_shapes.document_dit_base, "microsoft/dit-base", mean=_HALF, std=_HALF
    )


def dense_diffusion_dit() -> Recipe:
    """FCOS on features of DiT-XL/2, which learn along, over its autoencoder, which does not."""
    return _fine_tuned(
        "dense_diffusion_dit",
        dense_shapes.diffusion_dit_xl,
        "facebook/DiT-XL-2-256",
        resize=ResizePolicy(shortest_edge=512, longest_edge=768),
        batch_size=4,
        backbone_learning_rate=1e-5,
        mean=_HALF,
        std=_HALF,
    )


def faster_rcnn_r50() -> Recipe:
    """Faster R-CNN on a ResNet-50, fine-tuned slowly after a long warm-up."""
    return _fine_tuned(
        "faster_rcnn_r50",
        dense_shapes.faster_rcnn_r50,
        "microsoft/resnet-50",
        backbone_learning_rate=1e-5,
        warm_up_steps=500,
        weight_decay=1e-4,
    )
