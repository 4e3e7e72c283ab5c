"""What preflight measures: a few steps of training on one batch, and batches of the loader without any training."""

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from dataflow.bridge.batches import Batch, normalise
from dataflow.bridge.loader import BatchLoader
from trainers.recipes.recipe import Recipe
from trainers.recipes.stages import Stage, frozen_norms
from trainers.training.detection_trainer import parameter_groups
from trainers.training.divergence import DivergedError, output_of
from trainers.training.memory import held_bytes, peak_bytes, reset_peak

_WARM_UP = 1 / 3
"""Share of the steps over which the learning rate rises: a detector of random weights stands no jump."""


@dataclass(frozen=True)
class Steps:
    """Training steps on one batch."""

    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    """Of each step: to the device, forward, backward and update."""
    images: int
    canvas: tuple[int, int]
    """(height, width) px."""
    grown: int | None
    """Bytes that were held at the peak beyond the parameters: gradients, optimiser states, activations, and what
    libraries allocate; None where nobody counts them."""

    @property
    def images_per_second(self) -> float:
        """Of the median step; the first, in which libraries settle, is left out where there are more."""
        return self.images / statistics.median(self.seconds[1:] or self.seconds)

    @property
    def ends(self) -> tuple[float, float]:
        """Mean loss of the first and of the last steps: where a loss is drawn at random, one value means little."""
        width = max(1, len(self.losses) // 5)
        return statistics.fmean(self.losses[:width]), statistics.fmean(self.losses[-width:])


def overfit(
    model: PreTrainedModel, recipe: Recipe, stage: Stage, batch: Batch, *, steps: int, device: torch.device
) -> Steps:
    """Train `model`, which is changed, on one batch again and again, with the recipe's optimiser.

    Args:
        stage: the stage of the recipe that the model is frozen for.

    Raises:
        DivergedError: the loss or a gradient is not finite; it names the step and the images.
    """
    model.to(device).train()
    optimiser = torch.optim.AdamW(parameter_groups(model, stage, recipe.weight_decay), lr=stage.learning_rate)
    rising = max(1, round(_WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / rising))
    losses, seconds = [], []
    held = held_bytes(device)
    reset_peak(device)
    for step in range(steps):
        settle(device)
        start = time.perf_counter()
        value = 0.0
        for part in _parts(batch, recipe.accumulate):
            loss = _loss(model, recipe, step + 1, part, device) / recipe.accumulate
            loss.backward()  # type: ignore[no-untyped-call]
            value += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        if not bool(torch.isfinite(norm)):  # Which it is not either where the loss is not.
            raise DivergedError(step + 1, value, batch.image_ids)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        settle(device)
        seconds.append(time.perf_counter() - start)
        losses.append(value)
    peak = peak_bytes(device)
    canvas = (int(batch.pixel_values.shape[2]), int(batch.pixel_values.shape[3]))
    grown = None if held is None or peak is None else peak - held
    return Steps(tuple(losses), tuple(seconds), len(batch), canvas, grown)


def _parts(batch: Batch, count: int) -> Iterator[dict[str, Any]]:
    """What a step takes in, one part after the other, as training takes it."""
    inputs = batch.inputs() | {"image_ids": batch.image_ids}
    size = len(batch) // count
    for start in range(0, len(batch), size):
        yield {name: values[start : start + size] for name, values in inputs.items()}


def _loss(
    model: PreTrainedModel, recipe: Recipe, step: int, inputs: Mapping[str, Any], device: torch.device
) -> torch.Tensor:
    """The loss of a part, near enough to what training makes of it: there the parts are weighed by their boxes."""
    for norm in frozen_norms(model):
        norm.eval()
    mask = inputs["pixel_mask"].to(device)
    pixels = normalise(inputs["pixel_values"].to(device), mask, recipe.mean, recipe.std)
    labels = [{name: value.to(device) for name, value in label.items()} for label in inputs["labels"]]
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
        output = output_of(model, step, inputs["image_ids"], pixel_values=pixels, pixel_mask=mask, labels=labels)
    loss: torch.Tensor = output.loss
    return loss


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True, eq=False)
class Feed:
    """Batches that the loader gave to nobody."""

    images_per_second: float
    largest: Batch
    """The batch with the most pixels that has objects, or the one with the most if none has: it decides the memory."""
    images: int


def feed(loader: BatchLoader, most: int, seconds: float) -> Feed:
    """Take up to `most` batches for up to `seconds` s, the first one, for which the threads start, aside."""
    batches = iter(loader)
    largest, images = next(batches), 0
    start = time.perf_counter()
    for batch in _some(batches, most, start + seconds):
        images += len(batch)
        largest = max(largest, batch, key=_weight)
    elapsed = time.perf_counter() - start
    batches.close()  # type: ignore[attr-defined]
    return Feed(images / elapsed if images else 0.0, largest, images)


def _some(batches: Iterator[Batch], most: int, until: float) -> Iterator[Batch]:
    for number, batch in enumerate(batches, 1):
        yield batch
        if number == most or time.perf_counter() >= until:
            return


def _weight(batch: Batch) -> tuple[bool, int]:
    return any(len(target) for target in batch.targets), batch.pixel_values.numel()
