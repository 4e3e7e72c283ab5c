"""What preflight measures: a few steps of training on one batch, and batches of the loader without any training."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from dataflow.batches import Batch, normalise
from dataflow.bridge import BatchLoader
from trainers.detection_trainer import DivergedError, parameter_groups
from trainers.memory import held_bytes, peak_bytes, reset_peak
from trainers.recipe import Recipe

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


def overfit(model: PreTrainedModel, recipe: Recipe, batch: Batch, steps: int, device: torch.device) -> Steps:
    """Train `model`, which is changed, on one batch again and again, with the recipe's optimiser.

    Raises:
        DivergedError: the loss or a gradient is not finite; it names the step and the images.
    """
    model.to(device).train()
    optimiser = torch.optim.AdamW(_groups(model, recipe), lr=recipe.learning_rate)
    rising = max(1, round(_WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / rising))
    losses, seconds = [], []
    held = held_bytes(device)
    reset_peak(device)
    for step in range(steps):
        settle(device)
        start = time.perf_counter()
        loss = loss_of(model, recipe, batch, device)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        value = float(loss.detach())
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


def loss_of(model: PreTrainedModel, recipe: Recipe, batch: Batch, device: torch.device) -> torch.Tensor:
    """The loss of a batch as training has it.

    Raises:
        DivergedError: the matching of a DETR was given boxes that are not numbers.
    """
    batch = batch.to(device, non_blocking=True)
    pixels = normalise(batch.pixel_values, batch.pixel_mask, recipe.mean, recipe.std)
    inputs = batch.inputs() | {"pixel_values": pixels}
    try:
        loss: torch.Tensor = model(**inputs).loss
    except ValueError as error:
        if all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            raise
        raise DivergedError(0, float("nan"), batch.image_ids) from error
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


def _groups(model: PreTrainedModel, recipe: Recipe) -> list[dict[str, Any]]:
    """The parameter groups of the stage that lasts longest, with everything that the builder lets train."""
    longest = max(recipe.planned_stages(), key=lambda planned: planned.steps)
    return parameter_groups(model, longest.stage, recipe.weight_decay)


def parameter_table(model: PreTrainedModel, recipe: Recipe) -> list[dict[str, Any]]:
    """The parameters by what happens to them: `part` (by the first word of their names), their number, how many train,
    and at which learning rates."""
    rates: Mapping[int, float] = {
        id(parameter): float(group["lr"]) for group in _groups(model, recipe) for parameter in group["params"]
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        part = _part(name)
        row = rows.setdefault(part, {"part": part, "parameters": 0, "trainable": 0, "learning_rates": set()})
        row["parameters"] += parameter.numel()
        if id(parameter) in rates:
            row["trainable"] += parameter.numel()
            row["learning_rates"].add(rates[id(parameter)])
    return [row | {"learning_rates": sorted(row["learning_rates"])} for row in rows.values()]


def _part(name: str) -> str:
    """`backbone` of `model.backbone.conv.weight`: what a person calls it."""
    words: Sequence[str] = name.split(".")
    return words[1] if words[0] == "model" and len(words) > 2 else words[0]
