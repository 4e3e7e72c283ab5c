"""Preflight: what would go wrong in a long training, found on the user's own data in a minute or two.

Nothing is written. The detector that is looked at is built as training builds it, trained a few steps on one batch, and
thrown away; what training builds afterwards is what it would have built without.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from dataflow.bridge.batches import Batch, normalise
from dataflow.bridge.loader import BatchLoader
from dataflow.errors import DataRefusedError, UsageError
from dataflow.prepared import PreparedDataset
from trainers.detectors.detectors import ClassHead, class_head, reach
from trainers.preflight.checks import Check, check_boxes, check_classes, read_truth
from trainers.preflight.stages import check_parameters, enter, heaviest
from trainers.preflight.steps import Feed, Steps, feed, overfit
from trainers.recipes.recipe import Recipe
from trainers.recipes.stages import Stage
from trainers.training.divergence import DivergedError
from trainers.training.memory import free_bytes, ran_out
from trainers.training.seeds import begin_at

_ADAM_STATES = 2
_FEED_SECONDS, _FEED_BATCHES = 5.0, 20
_BARELY = 0.05
"""Share that a loss should fall by in a few steps on one batch."""
LONG_RUN = 500
"""Steps from which on a training is worth the minute: preflight takes the time of about thirty."""


class NotReadyError(DataRefusedError):
    """Something must be mended before training. The notes of the error (`add_note`) say everything that must."""


@dataclass(frozen=True)
class Preflight:
    """What was found before a run of `recipe` on a split of a dataset."""

    dataset: str
    fingerprint: str
    split: str
    recipe: str
    device: str
    weights: str
    """Which weights it starts from, in a sentence."""
    checks: tuple[Check, ...]

    @property
    def bad(self) -> list[Check]:
        """What must be mended."""
        return [check for check in self.checks if check.level == "bad"]

    def lines(self) -> Iterator[str]:
        """What was found, in lines to print."""
        yield f"{self.recipe} on {self.dataset}, {self.split}, {self.device}; {self.weights}"
        for check in self.checks:
            yield f"  {check.level}: {check.name}: {check.says}"
            yield from (f"      {detail}" for detail in check.details)
            if check.remedy:
                yield f"      {check.remedy}"
        notes = sum(check.level == "note" for check in self.checks)
        if not self.bad:
            yield "ready to train" + (f"; {notes} to look at" if notes else "")

    def require(self) -> None:
        """Nothing, if nothing must be mended.

        Raises:
            NotReadyError: something must.
        """
        if not self.bad:
            return
        first = self.bad[0]
        more = f" (and {len(self.bad) - 1} more)" if len(self.bad) > 1 else ""
        error = NotReadyError(f"not ready to train: {first.name}: {first.says}{more}", first.remedy)
        for check in self.bad:
            error.add_note(f"{check.name}: {check.says}; {check.remedy}")
        raise error

    def to_json(self) -> dict[str, Any]:
        """Its fields, in JSON's types."""
        return asdict(self)


def preflight(
    dataset: PreparedDataset,
    recipe: Recipe,
    *,
    split: str = "train",
    seed: int = 0,
    weights: str | None = None,
    steps: int = 15,
) -> Preflight:
    """Look at a dataset, a detector for it, and a few steps of its training.

    Args:
        recipe: what would be trained, for this dataset (see `Recipe.asked`).
        split: which images would be trained on.
        seed: as for training.
        weights: hub name or checkpoint directory to start from instead of the recipe's.
        steps: how many on one batch.

    Raises:
        UsageError: no such split or an empty one; the weights are not there or do not fit; a seed out of range.
    """
    if not dataset.splits[dataset.check_split(split)]:
        raise UsageError(f"split {split!r} of {dataset.path} is empty", "look at another --split")
    if steps < 2:
        raise UsageError(f"{steps} steps of preflight", "give at least 2: a loss falls from one to the next")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    begin_at(seed)
    model, report = recipe.build(dataset.categories, recipe.weights if weights is None else weights, view=recipe.view)
    truth = read_truth(dataset, split, recipe)
    fed = feed(_loader(dataset, recipe, split, seed), _FEED_BATCHES, _FEED_SECONDS)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    parameters = check_parameters(model, trainable, recipe)
    checks = [
        check_classes(dataset.categories, truth, model, _class_head(model, recipe, fed.largest, device)),
        check_boxes(truth, reach(model)),
        parameters,
    ]
    if trainable:
        planned = heaviest(model, trainable, recipe)
        enter(model, trainable, planned)
        checks += _check_training(model, recipe, planned.stage, fed, steps=steps, device=device)
    described = f"{torch.cuda.get_device_name(device)}" if device.type == "cuda" else "cpu"
    return Preflight(dataset.name, dataset.fingerprint, split, recipe.name, described, str(report), tuple(checks))


def _loader(dataset: PreparedDataset, recipe: Recipe, split: str, seed: int) -> BatchLoader:
    """The loader that training would have."""
    return BatchLoader(
        dataset,
        split,
        recipe.resize,
        recipe.batch_size,
        training=True,
        pad=recipe.pad,
        seed=seed,
        flip=recipe.flip,
        view=recipe.view,
        augmentation=recipe.augmentation,
    )


def _class_head(model: PreTrainedModel, recipe: Recipe, batch: Batch, device: torch.device) -> ClassHead:
    """How the model scores classes, from what it yields for one image."""
    pixels, mask = batch.pixel_values[:1].to(device), batch.pixel_mask[:1].to(device)
    model.to(device).eval()
    with torch.no_grad():
        output = model(pixel_values=normalise(pixels, mask, recipe.mean, recipe.std), pixel_mask=mask)
    return class_head(model, output)


def _check_training(
    model: PreTrainedModel, recipe: Recipe, stage: Stage, fed: Feed, *, steps: int, device: torch.device
) -> list[Check]:
    """What a few steps on the largest batch show: whether the loss falls, what they need, and how long they take."""
    ids = ", ".join(fed.largest.image_ids[:8])
    needed = _state_bytes(model, recipe)
    free = free_bytes(device)
    remedy = "lower --batch-size, train on smaller images, or choose a smaller recipe"
    if free is not None and sum(needed.values()) > free:
        says = f"parameters, gradients and optimiser states need {_size(sum(needed.values()))}, {_size(free)} are free"
        return [Check("memory", "bad", says, needed | {"free": free}, remedy=remedy)]
    try:
        done = overfit(model, recipe, stage, fed.largest, steps=steps, device=device)
    except DivergedError as error:
        return [Check("overfit", "bad", error.message, {"image_ids": fed.largest.image_ids}, remedy=error.remedy)]
    except RuntimeError as error:
        if not ran_out(error):
            raise
        size = " x ".join(map(str, fed.largest.pixel_values.shape))
        says = f"a batch of {size} does not fit into the {_size(free or 0)} that are free"
        return [Check("memory", "bad", says, needed | {"free": free}, remedy=remedy)]
    return [_check_overfit(done, ids), _check_memory(done, needed, free), _check_speed(done, fed, recipe, device)]


def _check_overfit(done: Steps, ids: str) -> Check:
    before, after = done.ends
    figures = {"loss_before": before, "loss_after": after, "losses": done.losses, "steps": len(done.losses)}
    says = f"the loss of one batch goes from {before:.3g} to {after:.3g} in {len(done.losses)} steps"
    if after >= before:
        remedy = (
            "look at these images and their boxes, and at the learning rate: what cannot learn one batch learns none"
        )
        return Check("overfit", "bad", f"{says}: it does not fall (images {ids})", figures, remedy=remedy)
    if after > (1 - _BARELY) * before:
        return Check("overfit", "note", says, figures, remedy="that is little; a higher learning rate may do better")
    return Check("overfit", "good", says, figures)


def _state_bytes(model: PreTrainedModel, recipe: Recipe) -> dict[str, int]:
    """Bytes of the parameters, of the gradients, of AdamW's states (32 bits each), and of averaged weights."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    average = {} if recipe.ema is None else {"average": held}
    return {"parameters": held, "gradients": trained, "optimiser": _ADAM_STATES * trained, **average}


def _check_memory(done: Steps, needed: dict[str, int], free: int | None) -> Check:
    """What was held at the peak of the steps, of which activations are what nobody can compute beforehand."""
    parts = ", ".join(f"{name} {_size(count)}" for name, count in needed.items())
    if done.grown is None:
        says = f"{parts}; nobody here counts what a step takes beyond that"
        return Check("memory", "note", says, needed | {"peak": None, "activations": None, "free": free})
    activations = max(0, done.grown - needed["gradients"] - needed["optimiser"])
    peak = sum(needed.values()) + activations
    batch = f"{done.images} images on {done.canvas[0]}x{done.canvas[1]} px"
    says = f"{_size(peak)} at the peak of a step of {batch} ({parts}, activations {_size(activations)})"
    says += "" if free is None else f"; {_size(free)} were free"
    return Check("memory", "good", says, needed | {"peak": peak, "activations": activations, "free": free})


def _check_speed(done: Steps, fed: Feed, recipe: Recipe, device: torch.device) -> Check:
    """Loader against step. On a GPU the loader works while the device computes; a CPU does one or the other."""
    step, loader = done.images_per_second, fed.images_per_second
    overlap = device.type == "cuda"
    per_image = max(1 / step, 1 / loader) if overlap else 1 / step + 1 / loader
    seconds = recipe.steps * recipe.batch_size * per_image
    slower = "the loader" if loader < step else "the step"
    figures = {
        "loader_images_per_second": loader,
        "step_images_per_second": step,
        "bottleneck": "loader" if loader < step else "step",
        "estimated_seconds": seconds,
    }
    says = (
        f"the loader can give {loader:.0f} images/s, the step takes {step:.1f}: {slower} is the bottleneck; "
        f"{recipe.steps} steps of {recipe.batch_size} take about {_duration(seconds)}, evaluation aside"
    )
    if overlap and loader < step:
        remedy = "the device will wait for data: give the loader more CPU cores, or resize images before ingesting them"
        return Check("speed", "note", says, figures, remedy=remedy)
    return Check("speed", "good", says, figures)


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
