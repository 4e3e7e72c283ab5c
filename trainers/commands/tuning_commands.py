"""What the commands that come before a long training do: options to a stage, its result to lines and a dictionary."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from trainers.commands.training_commands import asked


def preflight(arguments: Namespace) -> dict[str, Any]:
    """`shardbox preflight`: what would go wrong in a long training."""
    from dataflow.prepared import PreparedDataset

    found = _found(PreparedDataset(arguments.dataset), arguments, steps=arguments.trial_steps)
    for line in found.lines():
        print(line)
    found.require()
    result: dict[str, Any] = found.to_json()
    return result


def look_first(dataset: Any, arguments: Namespace) -> None:
    """Preflight before a training that is long, or as `--preflight` says; once, where several processes train.

    Raises:
        NotReadyError: something must be mended before training.
    """
    from trainers.preflight.preflight import LONG_RUN

    if arguments.resume or int(os.environ.get("RANK", "0")):
        return
    wanted = arguments.preflight
    if wanted is None:
        wanted = _recipe(dataset, arguments).steps >= LONG_RUN
    if not wanted:
        return
    found = _found(dataset, arguments)
    sys.stderr.writelines(f"{line}\n" for line in found.lines())
    found.require()


def _recipe(dataset: Any, arguments: Namespace) -> Any:
    """The recipe with what was asked for."""
    from trainers.recipes.catalogue import find_recipe

    recipe = find_recipe(arguments.recipe)
    return recipe.asked(dataset, arguments.split, **asked(arguments, recipe))


def _found(dataset: Any, arguments: Namespace, **options: Any) -> Any:
    from trainers.preflight.preflight import preflight as look

    return look(
        dataset,
        _recipe(dataset, arguments),
        split=arguments.split,
        seed=arguments.seed,
        weights=arguments.weights,
        **options,
    )


def tune(arguments: Namespace) -> dict[str, Any]:
    """`shardbox tune`: a search for better values of a recipe."""
    from dataflow.prepared import PreparedDataset
    from trainers.recipes.catalogue import find_recipe
    from trainers.recipes.changes import Changes
    from trainers.tuning.report import search_json
    from trainers.tuning.search import Search
    from trainers.tuning.tuning import tune as search_for

    recipe = find_recipe(arguments.recipe)
    changes = Changes(**asked(arguments, recipe))  # type: ignore[typeddict-item]
    search = Search(
        recipe,
        _space(arguments, recipe, changes),
        metric=arguments.metric,
        split=arguments.split,
        evaluate_split=arguments.evaluate_split,
        evaluations=arguments.evaluations,
        seed=arguments.seed,
        weights=arguments.weights,
        changes=changes,
    )
    dataset = PreparedDataset(arguments.dataset)
    found = search_for(dataset, search, arguments.out, trials=arguments.trials, timeout=arguments.timeout)
    for line in _found_lines(found, arguments):
        print(line)
    result: dict[str, Any] = search_json(found)
    return {"out": str(arguments.out), **result}


def _space(arguments: Namespace, recipe: Any, changes: Any) -> Any:
    """What is varied: what was asked for, or what is usual for the recipe with what was asked for."""
    from dataclasses import replace

    from trainers.tuning.search_space import default_space, parse_vary, read_space

    if arguments.space is not None:
        return read_space(arguments.space)
    if arguments.vary:
        return parse_vary(arguments.vary)
    rate = changes.get("learning_rate")
    batch_size = changes.get("batch_size") or recipe.batch_size
    recipe = replace(recipe if rate is None else recipe.at_learning_rate(rate), batch_size=batch_size)
    return default_space(recipe, changes.get("augment"))


def _found_lines(found: Any, arguments: Namespace) -> Iterator[str]:
    """What came of a search, and what to do with it."""
    from trainers.tuning.search_space import shown

    best, own, metric, out = found.best, found.own, arguments.metric, arguments.out
    ended = sum(trial.state.name != "FAIL" for trial in found.trials)
    if best is None:
        yield f"none of {ended} trials went to its end; read {out / 'tune.html'}"
        return
    values = ", ".join(f"{name} {shown(value)}" for name, value in best.params.items())
    before = "" if own is None or own.value is None else f" ({arguments.recipe} as it is: {own.value:.3f})"
    yield f"{ended} trials: the best {metric} is {best.value:.3f}{before}, of trial {best.number}: {values}"
    augment = " --augment" if best.params.get("augment") else ""
    yield f"train with it: shardbox train {arguments.dataset} --recipe {out / 'recipe.json'}{augment} --out RUN"
    yield f"written: {out}; read {out / 'tune.html'}"
