"""A training that has gone wrong, told by step and images."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from dataflow.errors import DataRefusedError

_NAMED_IMAGES = 8


class DivergedError(DataRefusedError):
    """The loss is no longer a number."""

    def __init__(self, step: int, loss: float, image_ids: Iterable[str]) -> None:
        ids = list(image_ids)
        named = ", ".join(ids[:_NAMED_IMAGES]) + (", ..." if len(ids) > _NAMED_IMAGES else "")
        super().__init__(
            f"the loss is {loss} at step {step} (images {named})",
            "look at these images and their boxes; if they are sound, lower the recipe's learning_rate",
        )


@contextmanager
def told_if_diverged(model: PreTrainedModel, step: int, image_ids: Iterable[str]) -> Iterator[None]:
    """Turn into a `DivergedError` what DETR's matching raises of boxes that are not numbers: it takes their corners to
    be in the wrong order."""
    try:
        yield
    except ValueError as error:
        if all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            raise
        raise DivergedError(step, math.nan, image_ids) from error
