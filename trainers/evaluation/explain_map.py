"""Why two tools give one set of predictions two figures: the difference, shared out among its causes.

Between two conventions, each field in which they differ is a cause. What one of them changes depends on which of the
others have been changed before, so its share is the mean over all orders (Shapley 1953, "A value for n-person
games"): the shares add up to the whole difference. Where only a figure is given, single differences and pairs of them
are tried.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from dataflow.errors import UsageError
from dataflow.progress import Progress
from trainers.evaluation.convention_figures import ConventionFigures
from trainers.evaluation.conventions import FIGURES, PRESETS, Convention, Figure, Tool, alternatives

_SPELLINGS: Mapping[str, Figure] = {
    **{name.lower(): name for name in FIGURES},
    **{"map": "AP", "map5095": "AP", "map50": "AP50", "map75": "AP75"},
    **{"mapsmall": "APs", "mapmedium": "APm", "maplarge": "APl"},
    **{"metrics/map5095(b)": "AP", "metrics/map50(b)": "AP50"},
}
_EXACT = 2e-6
_LISTED = 5


@dataclass(frozen=True)
class Given:
    """A figure that some tool gave, and how far its digits let it be from the truth."""

    value: float
    tolerance: float


@dataclass(frozen=True)
class Cause:
    """One difference between two conventions, `field` from `before` to `after`, and its share of each figure."""

    field: str
    before: Any
    after: Any
    shares: Mapping[Figure, float]


@dataclass(frozen=True)
class Explanation:
    """From the figures under one convention to those under another, and what is left to those given.

    Figures that one of the two does not define (no object of that size) are in neither `start` nor `end`.
    `causes` come largest first; `start` + their shares = `end`. `left` is the largest |given - end|, and `explained`
    says that every given figure is reached as closely as its digits tell; both are None where none was given.
    """

    convention: Convention
    start: Mapping[Figure, float]
    end: Mapping[Figure, float]
    causes: tuple[Cause, ...]
    left: float | None = None
    explained: bool | None = None


def parse_figure(text: str) -> tuple[Figure, Given]:
    """`NAME=VALUE`, such as `AP50=0.893` or `mAP50-95=0.357`, known as closely as its digits say.

    Raises:
        UsageError: the name is no figure, or the value no share.
    """
    name, _, digits = text.partition("=")
    known = _SPELLINGS.get(_plain(name))
    try:
        value = float(digits)
    except ValueError:
        value = math.nan
    if known is None or not 0 <= value <= 1:
        wrong = f"{name!r} is no figure" if known is None else f"{digits!r} is no number from 0 to 1"
        raise UsageError(f"--figure {text}: {wrong}", f"give NAME=VALUE, NAME one of {', '.join(FIGURES)}")
    _, _, decimals = digits.strip().lower().partition("e")[0].partition(".")
    return known, Given(value, max(_EXACT, 0.5000001 * 10.0 ** -len(decimals)))


def read_torchmetrics(path: Path) -> dict[Figure, Given]:
    """The figures in what torchmetrics' `MeanAveragePrecision.compute()` gave, as JSON; -1 (nothing there) left out.

    Raises:
        UsageError: the file is missing, no JSON object, or has none of the figures.
    """
    remedy = "write {name: value.item() for map, map_50, map_75, ...} of MeanAveragePrecision.compute() as JSON"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} cannot be read as JSON ({error})", remedy) from error
    given = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        known = _SPELLINGS.get(_plain(name))
        if known is not None and isinstance(value, int | float) and value >= 0:
            given[known] = Given(float(value), _EXACT)
    if not given:
        raise UsageError(f"{path} has none of torchmetrics' figures (map, map_50, map_75, ...)", remedy)
    return given


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace("-", "").replace("@", "").replace(":", "").replace(".", "")


def walk(figures: ConventionFigures, start: Convention, end: Convention, names: Sequence[Figure]) -> Explanation:
    """Share the difference between two conventions out among the fields in which they differ."""
    names = [name for name in names if None not in (_value(figures, c, name) for c in (start, end))]
    players = start.differences(end)

    def reached(changed: frozenset[str]) -> Mapping[Figure, float]:
        convention = replace(start, **{field: getattr(end, field) for field in changed})
        return {name: _value(figures, convention, name) or 0.0 for name in names}

    causes = []
    for field in players:
        others = [other for other in players if other != field]
        shares = dict.fromkeys(names, 0.0)
        for size in range(len(others) + 1):
            weight = math.factorial(size) * math.factorial(len(others) - size) / math.factorial(len(players))
            for chosen in combinations(others, size):
                with_it, without = reached(frozenset((*chosen, field))), reached(frozenset(chosen))
                for name in names:
                    shares[name] += weight * (with_it[name] - without[name])
        causes.append(Cause(field, getattr(start, field), getattr(end, field), shares))
    causes.sort(key=lambda cause: -max((abs(share) for share in cause.shares.values()), default=0.0))
    return Explanation(end, reached(frozenset()), reached(frozenset(players)), tuple(causes))


def explain(
    figures: ConventionFigures, given: Mapping[Figure, Given], tool: Tool | None = None
) -> tuple[Explanation, ...]:
    """Ways from pycocotools' figures to those given, most likely first.

    The convention of `tool` is tried as it is, then with one usual difference, then with two: the fewest that reach
    every figure. Where none does, the nearest come first. Differences that bring the figures no nearer are left out.

    Raises:
        UsageError: the truth has no objects of the kind that a figure is about.
    """
    names = tuple(given)
    base = PRESETS[tool or "pycocotools"]
    for name in names:
        if _value(figures, base, name) is None:
            raise UsageError(f"{name} is not defined here: no object of that size counts", "leave this figure out")

    def off(convention: Convention) -> float:
        """How many times its tolerance the worst figure is off; up to 1 is reached."""
        values = figures.figures(convention, names)
        return max(abs(item.value - (values[name] or 0.0)) / item.tolerance for name, item in given.items())

    tried = _try(base, alternatives(base, names), off)
    # Among what misses, the nearest; among what reaches, the fewest differences.
    tried.sort(key=lambda item: (item[0], item[2] if item[0] else item[1], item[2]))
    reached = [item for item in tried if not item[0]]
    fewest = [item for item in reached if item[1] == reached[0][1]] or tried[:1]
    found = []
    for missed, _, _, convention in fewest[:_LISTED]:
        explanation = walk(figures, PRESETS["pycocotools"], convention, names)
        reached_values = figures.figures(convention, names)
        left = max(abs(item.value - (reached_values[name] or 0.0)) for name, item in given.items())
        found.append(replace(explanation, left=left, explained=not missed))
    return tuple(found)


def _try(
    base: Convention, changes: Sequence[tuple[str, Any]], off: Callable[[Convention], float]
) -> list[tuple[bool, int, float, Convention]]:
    """(misses, differences, how far off, convention) of `base`, of single differences, and if all miss, of pairs."""
    plain = off(base)
    tried = [(plain > 1, 0, plain, base)]
    single = {(field, value): off(replace(base, **{field: value})) for field, value in changes}
    tried += [
        (error > 1, 1, error, replace(base, **dict([change]))) for change, error in single.items() if error < plain
    ]
    if not all(missed for missed, *_ in tried):
        return tried
    pairs = [(one, other) for one, other in combinations(changes, 2) if one[0] != other[0]]
    progress = Progress("trying pairs of differences", len(pairs), "pairs")
    for place, (one, other) in enumerate(pairs):
        convention = replace(base, **dict([one, other]))
        error = off(convention)
        if error < min(plain, single[one], single[other]) * 0.999:
            tried.append((error > 1, 2, error, convention))
        progress.update(place + 1)
    progress.close(len(pairs))
    return tried


def _value(figures: ConventionFigures, convention: Convention, name: Figure) -> float | None:
    return figures.figures(convention, (name,))[name]
