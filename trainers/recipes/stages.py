"""Stages of training as data: which parameters train, how fast, and for which share of the steps.

A stage names parameters by the parts of a detector, `backbone` and `head` (see
`trainers.detectors.detectors.part_patterns`), by `all`, or by a regular expression that is searched for in the names of
`named_parameters`. What the builder of a detector keeps as it was published, such as the early layers of DETR's
backbone, no stage trains.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel

from dataflow.errors import UsageError

Schedule = Literal["cosine", "linear", "constant"]
ALL = "all"
_NAMED = 4


@dataclass(frozen=True)
class Stage:
    """One stage of a training; its optimiser starts anew.

    Raises:
        UsageError: a number out of range.
    """

    learning_rate: float
    """Of AdamW at its highest, of all that `rates` does not name."""
    share: float = 1.0
    """Of the recipe's steps, relative to the shares of the other stages."""
    trains: tuple[str, ...] = (ALL,)
    """Parts or regular expressions; everything else is frozen, its batch normalisation statistics too."""
    rates: tuple[tuple[str, float], ...] = ()
    """(part or regular expression, learning rate); the first that names a parameter decides."""
    warm_up_steps: int = 0
    """Steps over which the learning rate rises from 0; at most half of the stage's."""
    schedule: Schedule = "cosine"
    """How the learning rate falls to 0 afterwards, or that it does not."""
    cycles: int = 1
    """How often a cosine falls to 0: it starts again from the highest (SGDR, Loshchilov & Hutter 2017)."""

    def __post_init__(self) -> None:
        rates = [self.learning_rate, *(rate for _, rate in self.rates)]
        for good, what in (
            (self.share > 0, f"a share of {self.share}"),
            (all(rate >= 0 for rate in rates), f"the learning rates {rates}"),
            (self.warm_up_steps >= 0, f"{self.warm_up_steps} warm-up steps"),
            (self.cycles >= 1, f"{self.cycles} cycles"),
            (self.cycles == 1 or self.schedule == "cosine", f"{self.cycles} cycles of a {self.schedule} schedule"),
            (bool(self.trains), "nothing to train"),
        ):
            if not good:
                raise UsageError(f"a stage with {what}", "give positive numbers, and cycles to a cosine only")


@dataclass(frozen=True)
class PlannedStage:
    """A stage and the steps that it takes of a run."""

    stage: Stage
    index: int
    first_step: int
    """Steps of the run before it."""
    steps: int


def plan_stages(stages: Sequence[Stage], steps: int) -> tuple[PlannedStage, ...]:
    """Stages in their order over `steps`, by their shares, each of at least one step.

    Raises:
        UsageError: there are more stages than steps.
    """
    if steps < len(stages):
        raise UsageError(f"{steps} steps for {len(stages)} stages", f"give at least {len(stages)} steps")
    whole = sum(stage.share for stage in stages)
    planned, start, shares = [], 0, 0.0
    for index, stage in enumerate(stages):
        shares += stage.share
        left = len(stages) - index - 1
        end = steps if not left else min(max(round(steps * shares / whole), start + 1), steps - left)
        planned.append(PlannedStage(stage, index, start, end - start))
        start = end
    return tuple(planned)


def freeze(model: PreTrainedModel, trainable: Sequence[str], stage: Stage, parts: Mapping[str, str]) -> None:
    """Let train what `stage` names among the parameters `trainable` (names), and nothing else.

    Raises:
        UsageError: a name of the stage names no parameter.
    """
    patterns = [_pattern(name, parts) for name in stage.trains]
    for name, pattern in zip(stage.trains, patterns, strict=True):
        _check_used(name, pattern, trainable)
    allowed = set(trainable)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in allowed and any(pattern.search(name) for pattern in patterns))


def learning_rates(model: PreTrainedModel, stage: Stage, parts: Mapping[str, str]) -> Iterator[tuple[Any, float]]:
    """Every parameter that trains, with its learning rate.

    Raises:
        UsageError: a rate is of nothing.
    """
    rates = [(_pattern(name, parts), rate) for name, rate in stage.rates]
    names = [name for name, _ in model.named_parameters()]
    for (name, _), (pattern, _) in zip(stage.rates, rates, strict=True):
        _check_used(name, pattern, names)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield parameter, next((rate for pattern, rate in rates if pattern.search(name)), stage.learning_rate)


def frozen_norms(model: PreTrainedModel) -> list[nn.Module]:
    """The batch normalisations none of whose parameters train: their statistics must not follow the batches either."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not any(parameter.requires_grad for parameter in module.parameters())
    ]


def _pattern(name: str, parts: Mapping[str, str]) -> re.Pattern[str]:
    """The names that a part or an expression stands for."""
    try:
        return re.compile("" if name == ALL else parts.get(name, name))
    except re.error as error:
        raise UsageError(f"{name!r} is no regular expression: {error}", _remedy(parts)) from error


def _check_used(name: str, pattern: re.Pattern[str], names: Sequence[str]) -> None:
    if not any(pattern.search(each) for each in names):
        known = ", ".join(names[:: max(1, len(names) // _NAMED)])
        raise UsageError(f"{name!r} names no parameter that could train, such as {known}", _remedy({}))


def _remedy(parts: Mapping[str, str]) -> str:
    return f"name a part ({', '.join(sorted({*parts, 'backbone', 'head', ALL}))}) or write a regular expression"
