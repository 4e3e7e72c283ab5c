"""What trains in each stage of a recipe: parameters by part and learning rate."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from trainers.detectors.detectors import part_patterns
from trainers.preflight.checks import Check
from trainers.recipes.recipe import Recipe
from trainers.recipes.stages import PlannedStage, freeze
from trainers.training.detection_trainer import parameter_groups


def enter(model: PreTrainedModel, trainable: Sequence[str], planned: PlannedStage) -> None:
    """Freeze the model for a stage; `trainable` are the names of what its builder lets train.

    Raises:
        UsageError: a name of the stage names no parameter.
    """
    freeze(model, trainable, planned.stage, part_patterns(model))


def heaviest(model: PreTrainedModel, trainable: Sequence[str], recipe: Recipe) -> PlannedStage:
    """The stage in which most parameters train, the longest of equals: it decides the memory and most of the time."""
    counts = []
    for planned in recipe.planned_stages():
        enter(model, trainable, planned)
        count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        counts.append((count, planned.steps, planned))
    return max(counts, key=lambda entry: entry[:2])[2]


def check_parameters(model: PreTrainedModel, trainable: Sequence[str], recipe: Recipe) -> Check:
    """What trains, stage by stage. The model is left as the last stage has it."""
    total = sum(parameter.numel() for parameter in model.parameters())
    if not trainable:
        return Check(
            "parameters", "bad", "none of them train", {"parameters": total, "stages": []}, remedy="unfreeze something"
        )
    stages, details = [], []
    planned_stages = recipe.planned_stages()
    for planned in planned_stages:
        enter(model, trainable, planned)
        parts = _parts(model, recipe, planned)
        count = sum(row["trainable"] for row in parts)
        stages.append({"steps": planned.steps, "trainable": count, "parts": parts})
        if len(planned_stages) > 1:
            details.append(f"stage {planned.index + 1}, {planned.steps} steps: {millions(count)} train")
        details += [_told(row) for row in parts]
    most = max(stage["trainable"] for stage in stages)
    says = f"{millions(most)} of {millions(total)} train" + (" at most" if len(stages) > 1 else "")
    return Check("parameters", "good", says, {"parameters": total, "trainable": most, "stages": stages}, tuple(details))


def _told(row: dict[str, Any]) -> str:
    rates = " and ".join(f"{rate:g}" for rate in row["learning_rates"])
    how = f"{millions(row['trainable'])} train at {rates}" if row["trainable"] else "frozen"
    return f"  {row['part']}: {millions(row['parameters'])}, {how}"


def _parts(model: PreTrainedModel, recipe: Recipe, planned: PlannedStage) -> list[dict[str, Any]]:
    """Parameters by part, which is the first word of their names, how many train, and at which learning rates."""
    groups = parameter_groups(model, planned.stage, recipe.weight_decay)
    rates = {id(parameter): float(group["lr"]) for group in groups for parameter in group["params"]}
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
    words = name.split(".")
    return words[1] if words[0] == "model" and len(words) > 2 else words[0]


def millions(count: int) -> str:
    """A number of parameters as a person reads it."""
    return f"{count / 1e6:.2f} M" if count >= 10_000 else f"{count:,}"
