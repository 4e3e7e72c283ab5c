"""Every detector whose weights are no numbers, or so large that nothing is that comes of them, is told by its batch."""

import math
from typing import Any

import pytest
import torch

from tests.trainers.small_dense import HEADS, make_model
from tests.trainers.small_detrs import EVERY, SIZE, labels_of, pictures, small_detector
from trainers.training.divergence import DivergedError, output_of

NAMES = ("street/1", "street/2")


def batch() -> dict[str, Any]:
    pixels, mask = pictures(SIZE, SIZE)
    return {"pixel_values": pixels, "pixel_mask": mask, "labels": labels_of(3, 1)}


@pytest.mark.parametrize("factor", [math.nan, 1e10], ids=["no numbers", "too large"])
@pytest.mark.parametrize("architecture", EVERY)
def test_a_detr_that_went_wrong_names_step_and_images(architecture, factor: float) -> None:
    model = small_detector(architecture).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    with pytest.raises(DivergedError, match=r"the loss is nan at step 7 \(images street/1, street/2\); look at these"):
        output_of(model, 7, NAMES, **batch())


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_of_a_dense_detector_that_went_wrong_is_no_number(head: str) -> None:
    """Which training looks at."""
    model = make_model(head).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e10)
    assert not math.isfinite(output_of(model, 7, NAMES, **batch()).loss.item())


def test_another_error_stays_what_it_is() -> None:
    model = small_detector("detr").train()
    wrong = batch()
    wrong["labels"][0]["boxes"] = -wrong["labels"][0]["boxes"]
    with pytest.raises(ValueError, match="corner") as error:
        output_of(model, 7, NAMES, **wrong)
    assert not isinstance(error.value, DivergedError)
