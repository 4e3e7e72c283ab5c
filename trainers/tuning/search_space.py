"""What a search may vary of a recipe, and over which values, as data.

| name | values |
|---|---|
| `learning_rate` | the highest; all other rates of the recipe follow in proportion |
| `backbone_learning_rate` | of a recipe that has one, apart from the other |
| `weight_decay`, `clip_norm`, `flip` | numbers |
| `warm_up_steps`, `batch_size` | whole numbers; with the batch size, the steps change so that as many images are seen |
| `schedule` | `cosine`, `linear`, `constant` |
| `augment` | `true`, `false`: as `shardbox train --augment` does |

In text a range is `1e-4..1e-2` and a choice `4,8,16`.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from dataflow.errors import UsageError
from trainers.recipes.recipe import Recipe

Name = Literal[
    "learning_rate",
    "backbone_learning_rate",
    "weight_decay",
    "clip_norm",
    "flip",
    "warm_up_steps",
    "batch_size",
    "schedule",
    "augment",
]
NAMES: tuple[Name, ...] = get_args(Name)
Value = float | int | str | bool
_WHOLE: tuple[Name, ...] = ("warm_up_steps", "batch_size")
_ONE_STAGE: tuple[Name, ...] = ("backbone_learning_rate", "warm_up_steps", "schedule")
"""What recipes with stages say for each stage."""
_LIMITS: Mapping[str, tuple[float, float]] = {
    "learning_rate": (1e-12, 1e3),
    "backbone_learning_rate": (1e-12, 1e3),
    "weight_decay": (0, 1e3),
    "clip_norm": (1e-12, 1e12),
    "flip": (0, 1),
    "warm_up_steps": (0, 1e9),
    "batch_size": (1, 1e6),
}
_WORDS: Mapping[str, tuple[Value, ...]] = {"schedule": ("cosine", "linear", "constant"), "augment": (False, True)}
_LOGARITHMIC = 10.0
"""A range whose ends are so many times apart is searched by orders of magnitude."""
_AROUND = 5.0
"""How far around the recipe's own learning rates is searched, by default."""


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`."""

    low: float
    high: float
    whole: bool = False

    @property
    def logarithmic(self) -> bool:
        """Whether orders of magnitude matter rather than differences."""
        return self.low > 0 and self.high / self.low >= _LOGARITHMIC and not self.whole

    def holds(self, value: Any) -> bool:
        """Whether `value` is among them."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True)
class Choice:
    """Any of `values`."""

    values: tuple[Value, ...]

    def holds(self, value: Any) -> bool:
        """Whether `value` is among them."""
        return value in self.values

    def __str__(self) -> str:
        return ",".join(shown(value) for value in self.values)


Space = Mapping[str, Range | Choice]


def shown(value: Value) -> str:
    """A value as it is written in a space."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def default_space(recipe: Recipe, augment: bool | None = None) -> Space:
    """What is worth varying of most recipes: learning rates around their own, weight decay, warm-up, changes of images.

    Args:
        augment: what the user decided about augmentation, which is then not searched.
    """
    space: dict[str, Range | Choice] = {"learning_rate": _around(recipe.learning_rate)}
    if recipe.backbone_learning_rate is not None and not recipe.stages:
        space["backbone_learning_rate"] = _around(recipe.backbone_learning_rate)
    space["weight_decay"] = Range(min(1e-5, recipe.weight_decay or 1), max(1e-1, recipe.weight_decay))
    if recipe.warm_up_steps and not recipe.stages:
        space["warm_up_steps"] = Range(0, 2 * recipe.warm_up_steps, whole=True)
    space["flip"] = Choice(tuple(sorted({0.0, 0.5, recipe.flip})))
    if augment is None:
        space["augment"] = Choice((False, True))
    return space


def _around(rate: float) -> Range:
    return Range(rate / _AROUND, rate * _AROUND)


def read_space(path: Path) -> Space:
    """A space from a YAML or JSON file: a mapping of names to text, or to lists of values.

    Raises:
        UsageError: it is not there or no such mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise UsageError(f"--space {path} cannot be read: {what}", "give a YAML file such as {flip: 0..0.5}") from error
    if not isinstance(content, dict) or not content:
        raise UsageError(f"--space {path} holds no names and values", "write lines such as learning_rate: 1e-4..1e-2")
    return {
        name: parse(str(name), ",".join(map(str, text)) if isinstance(text, list) else str(text), str(path))
        for name, text in content.items()
    }


def parse_vary(texts: list[str]) -> Space:
    """A space from `--vary` options, each `NAME=VALUES`.

    Raises:
        UsageError: one is no such thing, or a name occurs twice.
    """
    space: dict[str, Range | Choice] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        if not sign:
            raise UsageError(f"--vary {text}", "write --vary NAME=LOW..HIGH or --vary NAME=A,B,C")
        if name in space:
            raise UsageError(f"--vary {name} twice", "give one range or choice of each")
        space[name] = parse(name, values, "--vary")
    return space


def parse(name: str, text: str, where: str) -> Range | Choice:
    """The values of `name` that a text from `where` stands for.

    Raises:
        UsageError: nothing of this name can be varied, or not over these values.
    """
    if name not in NAMES:
        raise UsageError(f"{where}: nothing is called {name!r}", f"vary one of {', '.join(NAMES)}")
    words = [word.strip() for word in text.split(",")]
    if name in _WORDS:
        known = {shown(value): value for value in _WORDS[name]}
        values = [known.get(word.lower()) for word in words]
        if None in values or len(set(words)) != len(words):
            raise UsageError(f"{where}: {name}={text}", f"choose, with commas between, among {', '.join(known)}")
        return Choice(tuple(value for value in values if value is not None))
    low, dots, high = text.partition("..")
    numbers = [_number(name, word, where) for word in ([low, high] if dots else words)]
    if dots and numbers[0] >= numbers[1]:
        raise UsageError(f"{where}: {name}={text}", "a range goes from a lower to a higher number, such as 1e-4..1e-2")
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"{where}: {name}={text}", "give every value once")
    return Range(numbers[0], numbers[1], whole=name in _WHOLE) if dots else Choice(tuple(numbers))


def _number(name: str, word: str, where: str) -> float | int:
    low, high = _LIMITS[name]
    try:
        number = int(word) if name in _WHOLE else float(word)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        kind = "a whole number" if name in _WHOLE else "a number"
        raise UsageError(f"{where}: {name}={word}", f"give {kind} from {low:g} to {high:g}")
    return number


def check_space(space: Space, recipe: Recipe) -> None:
    """Raise `UsageError` for what this recipe does not have."""
    for name in space:
        if recipe.stages and name in _ONE_STAGE:
            raise UsageError(f"{recipe.name} has stages, each with its own {name}", "vary learning_rate: all follow it")
        if name == "backbone_learning_rate" and recipe.backbone_learning_rate is None:
            raise UsageError(
                f"{recipe.name} has no backbone_learning_rate", "vary learning_rate, which is of all of it"
            )


def own_values(space: Space, recipe: Recipe) -> dict[str, Value] | None:
    """What the recipe itself has for the names of a space; None where that is not in the space."""
    own: dict[str, Value] = {
        name: recipe.augmentation is not None if name == "augment" else getattr(recipe, name) for name in space
    }
    return own if all(space[name].holds(value) for name, value in own.items()) else None


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values for some of `NAMES`, `augment` aside, which needs a dataset to become one.

    Raises:
        UsageError: a value that no recipe can have.
    """
    if "learning_rate" in values:
        recipe = recipe.at_learning_rate(values["learning_rate"])
    plain = {name: value for name, value in values.items() if name not in ("learning_rate", "augment")}
    if "batch_size" in plain:
        plain["steps"] = max(1, round(recipe.steps * recipe.batch_size / plain["batch_size"]))
    return replace(recipe, **plain)


def space_to_json(space: Space) -> dict[str, Any]:
    """A space in JSON's types."""
    return {name: asdict(values) for name, values in space.items()}
