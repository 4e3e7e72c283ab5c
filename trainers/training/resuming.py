"""Going on with a run: whether it is the one that is asked for, and from which checkpoint."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from trainers.recipes.recipe import completed
from trainers.training.runs import describe_run, last_checkpoint, read_description, stage_directory
from trainers.training.stage_training import Plan

_SHOWN_FINGERPRINT = 12


def resumed(out: Path, plan: Plan, dataset: PreparedDataset) -> Plan:
    """The plan from the last checkpoint in `out` on; from the beginning if there is none.

    Raises:
        UsageError: the run in `out` was started with other settings or on other data.
    """
    before = read_description(out)
    before["recipe"] = completed(before["recipe"])
    now = describe_run(
        dataset,
        plan.recipe,
        split=plan.split,
        seed=plan.seed,
        weights=plan.weights,
        weights_identity=before["weights_identity"],
    )
    changed = list(_differences(before, now))
    if changed:
        raise UsageError(
            f"{out} was started differently: {'; '.join(changed)}",
            "--resume goes on with what was chosen then: leave out what differs, or start another run",
        )
    stages = plan.recipe.planned_stages()
    for stage in reversed(stages):
        found = last_checkpoint(stage_directory(out, stage.index, len(stages)))
        if found is not None:
            return replace(plan, stage=stage.index, checkpoint=found)
    return plan


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two descriptions. Another version of a library may go on with a run; `run_id` tells."""
    found: list[str] = []
    for key in sorted(set(before) & set(now) - {"run_id", "versions"}):
        # One resize policy may have some of the names of another. Values of two kinds are compared as a whole.
        alike = isinstance(before[key], Mapping) and isinstance(now[key], Mapping)
        if alike and (not prefix or before[key].keys() == now[key].keys()):
            found += _differences(before[key], now[key], f"{prefix}{key}.")
        elif before[key] != now[key]:
            was, is_now = (
                value[key][:_SHOWN_FINGERPRINT] if key == "fingerprint" else value[key] for value in (before, now)
            )
            found.append(f"{prefix}{key} was {was}, now {is_now}")
    return found
