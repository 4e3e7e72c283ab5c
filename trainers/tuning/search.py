"""A search for better values of a recipe, as data: what is searched, and what came of it so far."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from dataflow.prepared import PreparedDataset
from trainers.recipes.changes import Changes
from trainers.recipes.recipe import Recipe
from trainers.recipes.watch import Figure, Watch
from trainers.tuning.search_space import Space, space_to_json, with_values

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of a trial that counts."""


@dataclass(frozen=True)
class Search:
    """All that decides a search but the number of its trials."""

    recipe: Recipe
    space: Space
    metric: Figure = "AP50"
    """Highest average precision, or lowest loss, of an evaluation of the trial."""
    split: str = "train"
    evaluate_split: str = "validation"
    evaluations: int = 4
    """Of a trial: after each but the last it may be pruned."""
    seed: int = 0
    """Of what is drawn, and of every training."""
    weights: str | None = None
    changes: Changes = field(default_factory=Changes)
    """What is other than the recipe has it in all trials."""

    def applied(self, dataset: PreparedDataset, values: Mapping[str, Any]) -> Recipe:
        """The recipe of a trial, but for `augment`, which training applies."""
        recipe = with_values(self.recipe.asked(dataset, self.split, **self.changes), values)
        every = math.ceil(recipe.steps / self.evaluations)
        return replace(recipe, watch=Watch(every, split=self.evaluate_split, best=self.metric, pictures=0))

    def settings(self, dataset: PreparedDataset) -> dict[str, Any]:
        """What may not change from one call to the next, in JSON's types."""
        return {
            "dataset": dataset.name,
            "fingerprint": dataset.fingerprint,
            "recipe": self.recipe.name,
            "recipe_settings": self.applied(dataset, {}).settings(),
            "space": space_to_json(self.space),
            "metric": self.metric,
            "split": self.split,
            "evaluate_split": self.evaluate_split,
            "evaluations": self.evaluations,
            "seed": self.seed,
            "weights": self.weights,
        }


@dataclass(frozen=True, eq=False)
class Searched:
    """A search as far as it has come."""

    search: Search
    settings: Mapping[str, Any]
    trials: tuple[FrozenTrial, ...]
    """In the order in which they began."""
    wanted: int
    study: optuna.Study

    def of(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials that ended so."""
        return [trial for trial in self.trials if trial.state in states]

    @property
    def best(self) -> FrozenTrial | None:
        """The complete trial with the best value, the first of equals."""
        complete = self.of(TrialState.COMPLETE)
        sign = 1 if self.search.metric == "loss" else -1
        return min(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)

    @property
    def own(self) -> FrozenTrial | None:
        """The trial with the recipe's own values, if there is one."""
        return next((trial for trial in self.of(*ENDED) if trial.user_attrs.get("own")), None)


def recipe_json(found: Searched) -> str:
    """The best trial's values as a recipe file, see `trainers.recipes.catalogue.find_recipe`."""
    assert found.best is not None
    values = {name: value for name, value in found.best.params.items() if name != "augment"}
    return json.dumps({"recipe": found.search.recipe.name, "values": values}, indent=1) + "\n"
