"""Axes of charts as SVG, drawn here so that a page needs neither a plotting library nor a network.

Colours come from CSS variables (`--c1`, `--c2`, ... of the page that holds the chart), so that a chart follows the page
into the dark.
"""

import math
from dataclasses import dataclass

from tfds_builders.pages.markup import Content, Markup, el

_DIGITS = 3


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
class Area:
    """Where two axes are on a drawing, in its own units."""

    x: Axis
    y: Axis
    width: int = 520
    height: int = 320
    left: int = 58
    right: int = 16
    top: int = 14
    bottom: int = 46

    @property
    def floor(self) -> int:
        """Where the y axis begins."""
        return self.height - self.bottom

    @property
    def across(self) -> int:
        """How long the x axis is."""
        return self.width - self.left - self.right

    def place_x(self, value: float) -> float:
        """Where a value of the x axis is."""
        return self.left + self.x.share(value) * self.across

    def place_y(self, value: float) -> float:
        """Where a value of the y axis is; values beyond its ends are at them."""
        return self.floor - min(1.0, max(0.0, self.y.share(value))) * (self.floor - self.top)

    def axes(self) -> list[Markup]:
        """Both axes with their labels, ticks and grid."""
        drawn = []
        for share, text in self.y.ticks():
            at = self.floor - share * (self.floor - self.top)
            drawn += [
                el("line", class_="grid", x1=self.left, x2=self.width - self.right, y1=at, y2=at),
                el("text", text, x=self.left - 8, y=at + 4, text_anchor="end"),
            ]
        for share, text in self.x.ticks():
            at = self.left + share * self.across
            drawn.append(el("text", text, x=at, y=self.floor + 18, text_anchor="middle"))
        middle = f"translate(14 {(self.top + self.floor) / 2:.1f}) rotate(-90)"
        return [
            *drawn,
            el("path", class_="axis", d=f"M{self.left} {self.top}V{self.floor}H{self.width - self.right}"),
            el("text", self.x.label, x=self.left + self.across / 2, y=self.height - 8, text_anchor="middle"),
            el("text", self.y.label, transform=middle, text_anchor="middle"),
        ]

    def drawing(self, title: str, *content: Content, **attributes: str | float | None) -> Markup:
        """The `<svg>` element that holds `content`."""
        return el(
            "svg",
            *content,
            xmlns="http://www.w3.org/2000/svg",
            class_="chart",
            viewBox=f"0 0 {self.width} {self.height}",
            role="img",
            aria_label=title,
            **attributes,
        )
