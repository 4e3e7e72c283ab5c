"""What a recipe is: everything that decides a training run, as one frozen value.

A variant is a value too: `dataclasses.replace(dense_cnn_small(), steps=400)`.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from transformers import PreTrainedModel

from dataflow.errors import UsageError
from dataflow.image_augmentation import ImageAugmentation
from dataflow.padding import TO_LARGEST, Padding
from dataflow.pair_augmentation import PairAugmentation
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories
from dataflow.resize import Resize
from dataflow.view import View
from trainers.checkpoints import LoadReport

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
    augmentation: ImageAugmentation | PairAugmentation | None = None
    """What happens to images, or to the frames of pairs before they are compared."""
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

    def augmentation_of(self, dataset: PreparedDataset) -> ImageAugmentation | PairAugmentation:
        """What happens to the images of a dataset where augmentation is asked for."""
        usual: dict[str, ImageAugmentation | PairAugmentation]
        usual = {"images": PHOTOGRAPH_AUGMENTATION, "differences": DIFFERENCE_AUGMENTATION, "pairs": AUGMENTATION}
        return self.augmentation or usual[dataset.layout.kind]

    def asked(
        self,
        dataset: PreparedDataset,
        *,
        steps: int | None = None,
        batch_size: int | None = None,
        view: View | None = None,
        augment: bool | None = None,
    ) -> "Recipe":
        """The recipe for a dataset with what was asked for; None leaves a thing to the recipe.

        Raises:
            UsageError: a number out of range, or a view that the dataset does not have.
        """
        return replace(
            self,
            steps=self.steps if steps is None else steps,
            batch_size=self.batch_size if batch_size is None else batch_size,
            view=(view or self.view_of(dataset)).settled(dataset),
            augmentation={None: self.augmentation, True: self.augmentation_of(dataset), False: None}[augment],
        )

    def settings(self) -> dict[str, Any]:
        """What the recipe says, in JSON's types, without the function that builds."""
        return {name: _plain(value) for name, value in asdict(self).items() if name != "build"}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
