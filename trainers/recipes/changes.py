"""What may be asked of a run to be other than its recipe has it."""

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypedDict

from dataflow.bridge.padding import Padding, PadToLargest, PadToSize
from dataflow.bridge.resize import FixedSize, KeepSize, LongestEdge, Resize, ResizePolicy
from dataflow.bridge.view import View
from trainers.recipes.watch import Watch

_SHAPES: Mapping[str, tuple[type, ...]] = {
    "resize": (ResizePolicy, FixedSize, LongestEdge, KeepSize),
    "pad": (PadToLargest, PadToSize),
    "view": (View,),
    "watch": (Watch,),
}
"""What the dictionaries in `run.json` were made of."""
PLAIN = ("batch_size", "resize", "pad", "accumulate", "ema", "bf16", "watch")
"""Changes that are fields of a recipe as they are."""


class Changes(TypedDict, total=False):
    """Other than the recipe has it; left out or None where it may stay. Resuming, where it may stay as it was."""

    steps: int | None
    epochs: float | None
    """Passes over the split, in place of steps."""
    batch_size: int | None
    learning_rate: float | None
    """The highest; all other rates of the recipe change in proportion."""
    resize: Resize | None
    pad: Padding | None
    view: View | None
    augment: bool | None
    """Change images at random, of pairs both frames before they are compared."""
    accumulate: int | None
    ema: float | None
    bf16: bool | None
    watch: Watch | None


def to_json(changes: Changes) -> dict[str, Any]:
    """Changes as `run.json` keeps them."""
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in given.items()
    }


def or_as_it_was(asked: Changes, description: Mapping[str, Any]) -> Changes:
    """What is asked now and, for the rest, what was asked when the run was started."""
    before = description.get("changes")
    if before is None:  # Runs from before it was kept; these were all that could be asked.
        recipe = description["recipe"]
        before = {
            "steps": recipe["steps"],
            "batch_size": recipe["batch_size"],
            "view": recipe["view"],
            "augment": recipe["augmentation"] is not None,
        }
    now = {name: value for name, value in asked.items() if value is not None}
    if "steps" in now:
        before = {name: value for name, value in before.items() if name != "epochs"}
    merged = {name: _from_json(name, value) for name, value in before.items()} | now
    return Changes(**merged)  # type: ignore[typeddict-item]


def _from_json(name: str, value: Any) -> Any:
    """The value that `to_json` wrote."""
    for shape in _SHAPES.get(name, ()):
        if {field.name for field in fields(shape)} == set(value):
            return shape(**value)
    return value
