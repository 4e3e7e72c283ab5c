"""Recipes: everything that decides a training run, as one frozen value each.

A variant is a value too: `dataclasses.replace(dense_cnn_small(), steps=400)`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

from transformers import PreTrainedModel

from dataflow.errors import UsageError
from dataflow.padding import TO_LARGEST, Padding
from dataflow.pair_augmentation import PairAugmentation
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories
from dataflow.resize import Resize, ResizePolicy
from dataflow.view import View
from trainers import dense_shapes
from trainers.checkpoints import LoadReport
from trainers.dense import DenseDetectorConfig, build_dense
from trainers.detr import DETR_R50, build_detr, small_detr_config

Channels = tuple[float, float, float]
AUGMENTATION = PairAugmentation(
    scale=1.25, exposure=0.2, contrast=0.1, colour=0.05, noise=2, shake_px=6, rotation=1, zoom=0.01
)
"""Where augmentation is asked for and the recipe names none."""
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
_HALF: Channels = (0.5, 0.5, 0.5)
"""Mean and deviation that both DiTs' published weights want."""


class Builder(Protocol):
    """Makes a model."""

    def __call__(
        self, categories: Categories, weights: str | None, *, view: View = ...
    ) -> tuple[PreTrainedModel, LoadReport]:
        """A model for `categories` and what `view` shows, with weights from somewhere, or random ones given None."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How to build a detector and how to train it."""

    name: str
    build: Builder
    """Makes the model."""
    resize: Resize
    batch_size: int
    """Images a step."""
    steps: int
    learning_rate: float
    """Of AdamW (Loshchilov & Hutter 2019), at its highest."""
    warm_up_steps: int
    """Steps over which the learning rate rises from 0; at most half of the steps."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to 0 afterwards, or that it does not."""
    backbone_learning_rate: float | None = None
    """Where a pretrained backbone learns more slowly."""
    weight_decay: float = 1e-4
    """Of convolutions and matrices; biases and normalisation have none."""
    clip_norm: float = 1.0
    """Norm that gradients are scaled down to."""
    mean: Channels = IMAGENET_MEAN
    """Subtracted from pixel values in [0, 1] ..."""
    std: Channels = IMAGENET_STD
    """... which are then divided by this."""
    pad: Padding = TO_LARGEST
    """To which size the images of a batch are padded."""
    flip: float = 0.5
    """Share of training images that are mirrored left to right."""
    view: View = View()
    """What is shown of pairs and differences; single images are shown as they are. The dataset decides what is left
    open."""
    augmentation: PairAugmentation | None = None
    """What happens to the frames of pairs before they are compared."""
    weights: str | None = None
    """Weights to start from unless others are given."""
    checkpoint_steps: int = 100
    """Steps from one checkpoint to the next."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "checkpoint_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"recipe {self.name}: {name} is {getattr(self, name)}", "give a positive number")

    def view_of(self, dataset: PreparedDataset) -> View:
        """What it is shown of a dataset unless the user says otherwise."""
        if dataset.layout.kind == "images":
            return View()
        return self.view if dataset.layout.kind == "pairs" else View(self.view.inputs)

    def settings(self) -> dict[str, Any]:
        """What the recipe says, in JSON's types, without the function that builds."""
        return {name: _plain(value) for name, value in asdict(self).items() if name != "build"}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


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
        weights=DETR_R50,
        checkpoint_steps=200,
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


_RECIPES: tuple[Callable[[], Recipe], ...] = (
    detr_r50,
    detr_small,
    dense_cnn_small,
    dense_deit_small,
    dense_document_dit_small,
    dense_diffusion_dit_small,
    faster_rcnn_small,
    retinanet_small,
    dense_deit,
    dense_document_dit,
    dense_diffusion_dit,
    faster_rcnn_r50,
)


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UsageError: there is none.
    """
    recipes = {make().name: make for make in _RECIPES}
    if name not in recipes:
        raise UsageError(f"there is no recipe {name!r}", f"choose --recipe among {', '.join(recipes)}")
    return recipes[name]()
