"""A training that has gone wrong, told by step and images."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from dataflow.errors import DataRefusedError
from trainers.detectors.detr import without_sharing

_NAMED_IMAGES = 8
_NO_BOXES = "boxes1 must be in"
"""What transformers' losses say of predicted boxes (labels' are `boxes2`) whose corners are in the wrong order. As they
have width and height, they are not numbers then, as may be where weights are large, and numbers themselves."""


class DivergedError(DataRefusedError):
    """The loss is no longer a number."""

    def __init__(self, step: int, loss: float, image_ids: Iterable[str]) -> None:
        ids = list(image_ids)
        named = ", ".join(ids[:_NAMED_IMAGES]) + (", ..." if len(ids) > _NAMED_IMAGES else "")
        super().__init__(
            f"the loss is {loss} at step {step} (images {named})",
            "look at these images and their boxes; if they are sound, lower --learning-rate",
        )


def output_of(
    model: Any,
    step: int,
    image_ids: Iterable[str],
    *,
    pixel_values: Tensor,
    pixel_mask: Tensor,
    labels: Sequence[Mapping[str, Tensor]],
) -> ModelOutput:
    """What a detector makes of a batch with its labels, losses included.

    Args:
        model: the detector, or what spreads it over processes.
        step: of the run, to be named.
        image_ids: of the batch, to be named.
        pixel_values: (B, C, H, W) float, normalised.
        pixel_mask: (B, H, W) bool, True on real pixels.
        labels: per image, as `Batch.inputs` has them.

    Raises:
        DivergedError: its boxes are not numbers, which DETR's matching takes for corners in the wrong order.
    """
    try:
        with without_sharing():
            output: ModelOutput = model(pixel_values=pixel_values, pixel_mask=pixel_mask, labels=labels)
    except ValueError as error:
        sound = all(bool(parameter.isfinite().all()) for parameter in model.parameters())
        if sound and _NO_BOXES not in str(error):
            raise
        raise DivergedError(step, math.nan, image_ids) from error
    return output
