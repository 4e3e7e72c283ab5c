"""Recipes: everything that decides a training run, as one frozen value each.

A variant is a value too: `dataclasses.replace(dense_cnn_small(), steps=400)`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

from transformers import PreTrainedConfig, PreTrainedModel

from dataflow.errors import UsageError
from dataflow.padding import TO_LARGEST, Padding
from dataflow.pair_augmentation import PairAugmentation
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories
from dataflow.resize import FixedSize, Resize, ResizePolicy
from dataflow.view import View
from trainers.checkpoints import LoadReport
from trainers.dense import build_dense
from trainers.detr import Architecture, build_detr
from trainers.detr_configs import (
    small_conditional_detr_config,
    small_d_fine_config,
    small_deformable_detr_config,
    small_detr_config,
    small_rt_detr_v2_config,
    small_yolos_config,
)

Channels = tuple[float, float, float]
AUGMENTATION = PairAugmentation(
    scale=1.25, exposure=0.2, contrast=0.1, colour=0.05, noise=2, shake_px=6, rotation=1, zoom=0.01
)
"""Where augmentation is asked for and the recipe names none."""
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


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
        weights="facebook/detr-resnet-50",
        checkpoint_steps=200,
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


def conditional_detr_small() -> Recipe:
    """A small Conditional DETR from random weights; it too takes long to learn."""
    return replace(
        detr_small(),
        name="conditional_detr_small",
        build=_small("conditional_detr", small_conditional_detr_config),
    )


def deformable_detr_small() -> Recipe:
    """A small Deformable DETR from random weights."""
    return replace(
        detr_small(),
        name="deformable_detr_small",
        build=_small("deformable_detr", small_deformable_detr_config),
    )


def rt_detr_v2_small() -> Recipe:
    """A small RT-DETR v2 from random weights, in minutes on a CPU."""
    return Recipe(
        name="rt_detr_v2_small",
        build=_small("rt_detr_v2", small_rt_detr_v2_config),
        resize=FixedSize(288, 384),
        batch_size=8,
        steps=400,
        learning_rate=1e-3,
        warm_up_steps=40,
        checkpoint_steps=50,
    )


def d_fine_small() -> Recipe:
    """A small D-FINE from random weights, in minutes on a CPU."""
    return replace(rt_detr_v2_small(), name="d_fine_small", build=_small("d_fine", small_d_fine_config), steps=300)


def yolos_small() -> Recipe:
    """A small YOLOS from random weights. It runs anywhere, and learns as slowly as `detr_small`."""
    return replace(
        detr_small(), name="yolos_small", build=_small("yolos", small_yolos_config), resize=FixedSize(256, 336)
    )


def _small(architecture: Architecture, config: Callable[[], PreTrainedConfig]) -> Builder:
    """A builder of small detectors, which train throughout because they start from nothing."""
    return partial(build_detr, config=config, train_early_layers=True, architecture=architecture)


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


_RECIPES: tuple[Callable[[], Recipe], ...] = (
    dense_cnn_small,
    rt_detr_v2_small,
    d_fine_small,
    deformable_detr_small,
    conditional_detr_small,
    detr_small,
    yolos_small,
    rt_detr_v2_r18,
    d_fine_n,
    deformable_detr_r50,
    conditional_detr_r50,
    detr_r50,
    yolos_tiny,
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
