"""What the commands that come before a long training do: options to a stage, its result to lines and a dictionary."""

import os
import sys
from argparse import Namespace
from typing import Any

from trainers.training_commands import asked


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
    from trainers.preflight import LONG_RUN
    from trainers.recipes import find_recipe

    steps = find_recipe(arguments.recipe).steps if arguments.steps is None else arguments.steps
    wanted = steps >= LONG_RUN if arguments.preflight is None else arguments.preflight
    if not wanted or arguments.resume or int(os.environ.get("RANK", "0")):
        return
    found = _found(dataset, arguments)
    sys.stderr.writelines(f"{line}\n" for line in found.lines())
    found.require()


def _found(dataset: Any, arguments: Namespace, **options: Any) -> Any:
    from trainers.preflight import preflight as look
    from trainers.recipes import find_recipe

    recipe = find_recipe(arguments.recipe)
    return look(
        dataset,
        recipe.asked(dataset, **asked(arguments, recipe)),
        split=arguments.split,
        seed=arguments.seed,
        weights=arguments.weights,
        **options,
    )
