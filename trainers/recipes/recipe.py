"""What a recipe is: everything that decides a training run, as one frozen value.

A variant is a value too: `dataclasses.replace(dense_cnn_small(), steps=400)`.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, Unpack

from transformers import PreTrainedModel

from dataflow.bridge.image_augmentation import ImageAugmentation
from dataflow.bridge.padding import TO_LARGEST, Padding
from dataflow.bridge.pair_augmentation import PairAugmentation
from dataflow.bridge.resize import Resize
from dataflow.bridge.view import View
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories
from trainers.detectors.checkpoints import LoadReport
from trainers.recipes.changes import PLAIN, Changes
from trainers.recipes.stages import PlannedStage, Schedule, Stage, plan_stages
from trainers.recipes.watch import Watch

Channels = tuple[float, float, float]
AUGMENTATION = PairAugmentation(
    scale=1.25, exposure=0.2, contrast=0.1, colour=0.05, noise=2, shake_px=6, rotation=1, zoom=0.01
)
"""Of pairs, where augmentation is asked for and the recipe names none."""
PHOTOGRAPH_AUGMENTATION = ImageAugmentation(scale=1.5, crop=0.7, exposure=0.2, contrast=0.2, colour=0.1)
"""Of single images."""
DIFFERENCE_AUGMENTATION = ImageAugmentation(scale=1.5, crop=0.7)
"""Of differences that were made before, whose values mean something."""
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
_MOST_RATE = 1e30
"""Beyond it the optimiser fails with an error of its own; what is too much for a detector is far below."""


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
    """Images a step, of all processes together."""
    steps: int
    learning_rate: float
    """Of AdamW (Loshchilov & Hutter 2019), at its highest. With `stages`, the highest of theirs."""
    warm_up_steps: int
    """Steps over which the learning rate rises from 0; at most half of the steps. With `stages`, this and the two that
    follow are theirs to say."""
    schedule: Schedule = "cosine"
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
    augmentation: ImageAugmentation | PairAugmentation | None = None
    """What happens to images, or to the frames of pairs before they are compared."""
    weights: str | None = None
    """Weights to start from unless others are given."""
    checkpoint_steps: int = 100
    """Steps from one checkpoint to the next."""
    stages: tuple[Stage, ...] = ()
    """What trains when, over the recipe's steps; without, all of it at once."""
    accumulate: int = 1
    """Parts that a step's images are taken in, one after the other. The gradient is that of all at once (see
    `trainers.detectors.normalisers`), the memory that of a part."""
    ema: float | None = None
    """Decay of the moving average of the weights that is evaluated and saved (see `trainers.training.averaging`); None:
    the weights themselves are."""
    bf16: bool = False
    """Compute in bfloat16 where torch's autocast does so; weights stay float32."""
    watch: Watch | None = None
    """Evaluation while training; None: the model is that of the last step."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "checkpoint_steps", "accumulate"):
            if getattr(self, name) < 1:
                raise UsageError(f"recipe {self.name}: {name} is {getattr(self, name)}", "give a positive number")
        if not 0 <= self.learning_rate <= _MOST_RATE:
            raise UsageError(
                f"recipe {self.name}: learning_rate is {self.learning_rate}", "give a positive number, such as 0.001"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise UsageError(f"recipe {self.name}: ema is {self.ema}", "give a decay between 0 and 1, such as 0.999")
        if self.batch_size % self.accumulate:
            raise UsageError(
                f"recipe {self.name}: {self.batch_size} images a step in {self.accumulate} parts",
                "accumulate a divisor of the batch size",
            )

    def planned_stages(self) -> tuple[PlannedStage, ...]:
        """The stages over the steps; one where the recipe names none.

        Raises:
            UsageError: there are more stages than steps.
        """
        slower = () if self.backbone_learning_rate is None else (("backbone", self.backbone_learning_rate),)
        whole = Stage(self.learning_rate, rates=slower, warm_up_steps=self.warm_up_steps, schedule=self.schedule)
        return plan_stages(self.stages or (whole,), self.steps)

    def at_learning_rate(self, rate: float) -> "Recipe":
        """With `rate` for its learning rate, and all its other rates in proportion."""
        factor = rate / self.learning_rate
        slower = None if self.backbone_learning_rate is None else self.backbone_learning_rate * factor
        stages = tuple(
            replace(
                stage,
                learning_rate=stage.learning_rate * factor,
                rates=tuple((name, own * factor) for name, own in stage.rates),
            )
            for stage in self.stages
        )
        return replace(self, learning_rate=rate, backbone_learning_rate=slower, stages=stages)

    def view_of(self, dataset: PreparedDataset) -> View:
        """What it is shown of a dataset unless the user says otherwise."""
        if dataset.layout.kind == "images":
            return View()
        return self.view if dataset.layout.kind == "pairs" else View(self.view.inputs)

    def augmentation_of(self, dataset: PreparedDataset) -> ImageAugmentation | PairAugmentation:
        """What happens to the images of a dataset where augmentation is asked for."""
        usual: dict[str, ImageAugmentation | PairAugmentation]
        usual = {"images": PHOTOGRAPH_AUGMENTATION, "differences": DIFFERENCE_AUGMENTATION, "pairs": AUGMENTATION}
        return self.augmentation or usual[dataset.layout.kind]

    def asked(self, dataset: PreparedDataset, split: str = "train", **changes: Unpack[Changes]) -> "Recipe":
        """The recipe for a split of a dataset with what was asked for.

        Raises:
            UsageError: no such split; a number out of range, both steps and epochs, or a view that the dataset does not
                have.
        """
        rate = changes.get("learning_rate")
        recipe = self if rate is None else self.at_learning_rate(rate)
        plain: dict[str, Any] = {name: value for name in PLAIN if (value := changes.get(name)) is not None}
        recipe = replace(recipe, **plain)
        view = changes.get("view") or self.view_of(dataset)
        usual = {None: self.augmentation, True: self.augmentation_of(dataset), False: None}
        return replace(
            recipe,
            steps=recipe._steps(changes, dataset.splits[dataset.check_split(split)]),
            view=view.settled(dataset),
            augmentation=usual[changes.get("augment")],
        )

    def _steps(self, changes: Changes, images: int) -> int:
        """Optimiser steps; of epochs, as many as show at least so many images."""
        steps, epochs = changes.get("steps"), changes.get("epochs")
        if epochs is None:
            return self.steps if steps is None else steps
        if steps is not None:
            raise UsageError(f"both {steps} steps and {epochs:g} epochs", "give one of them")
        if not 0 < epochs < math.inf:
            raise UsageError(f"{epochs:g} epochs", "give a positive number")
        return math.ceil(epochs * images / self.batch_size)

    def settings(self) -> dict[str, Any]:
        """What the recipe says, in JSON's types, without the function that builds."""
        return {name: _plain(value) for name, value in asdict(self).items() if name != "build"}


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings, with what runs from before there was a choice did not record."""
    since = {field.name: _plain(_as_dict(field.default)) for field in fields(Recipe) if field.default is not MISSING}
    return {**since, **settings}


def _as_dict(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _plain(value: Any) -> Any:
    """Tuples as lists, at any depth."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
