"""Plots of trials as SVG: lines and points over axes of any range, in the colours of the page that holds them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

_WIDTH, _HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 44
_DIGITS = 3
Look = Literal["best", "own", "other", "pruned"]
"""Whose a line or a point is: the best trial's, the recipe's own values', another's, or one that was ended early."""
_STYLES: dict[Look, str] = {
    "best": "stroke:var(--c1)",
    "own": "stroke:var(--c2)",
    "other": "stroke:var(--soft);stroke-opacity:.6;stroke-width:1.3",
    "pruned": "stroke:var(--soft);stroke-opacity:.6;stroke-width:1.3;stroke-dasharray:3 3",
}
_FILLS: dict[Look, str] = {
    "best": "fill:var(--c1)",
    "own": "fill:var(--c2)",
    "other": "fill:var(--soft);fill-opacity:.75",
    "pruned": "fill:none;stroke:var(--soft);stroke-width:1.5",
}


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, by orders of magnitude where `logarithmic`; over `names` instead where there are any."""

    label: str
    low: float = 0.0
    high: float = 1.0
    logarithmic: bool = False
    names: tuple[str, ...] = ()

    def share(self, value: float) -> float:
        """Where a value is, from 0 to 1; of names, the value is an index."""
        if self.names:
            return (value + 0.5) / len(self.names)
        low, high, at = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Places in [0, 1] and what is written there."""
        if self.names:
            return [(self.share(index), name) for index, name in enumerate(self.names)]
        return [(self.share(value), f"{value:.{_DIGITS}g}") for value in self._round_values()]

    def _round_values(self) -> list[float]:
        """Round numbers on the axis."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1,) if len(decades) > 3 else (1, 2, 5)
            values = [factor * 10.0**decade for decade in decades for factor in factors]
            return [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]
        if not self.high > self.low:
            return [self.low]
        rough = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(index * step, 12) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Mark:
    """A line through points (x, y), or points alone; `title` is told where the pointer rests."""

    points: Sequence[tuple[float, float]]
    look: Look
    title: str
    line: bool = True


def plot(title: str, x: Axis, y: Axis, marks: Sequence[Mark]) -> str:
    """An `<svg>` element. Later marks are drawn over earlier ones."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">'
    ]
    for share, text in y.ticks():
        at = _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for share, text in x.ticks():
        at = _LEFT + share * (_WIDTH - _LEFT - _RIGHT)
        parts.append(f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{escape(text)}</text>')
    middle, centre = (_TOP + _HEIGHT - _BOTTOM) / 2, (_LEFT + _WIDTH - _RIGHT) / 2
    parts += [
        f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>',
        f'<text x="{centre}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>',
        f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(y.label)}</text>',
        *(_drawn(mark, x, y) for mark in marks),
        "</svg>",
    ]
    return "\n".join(parts)


def _drawn(mark: Mark, x: Axis, y: Axis) -> str:
    places = [
        (
            _LEFT + x.share(a) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - min(1.0, max(0.0, y.share(b))) * (_HEIGHT - _TOP - _BOTTOM),
        )
        for a, b in mark.points
    ]
    told = f"<title>{escape(mark.title)}</title>"
    dots = "".join(
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{3 if mark.line else 4.5}" style="{_FILLS[mark.look]}"/>'
        for a, b in places
    )
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    line = f'<path class="curve" style="{_STYLES[mark.look]}" d="M{path}"/>' if mark.line and len(places) > 1 else ""
    return f"<g>{told}{line}{dots}</g>"
