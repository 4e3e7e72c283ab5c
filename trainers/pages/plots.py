"""Plots of trials as SVG: lines and points over axes of any range, in the colours of the page that holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tfds_builders.pages.markup import Markup, el, whole
from trainers.pages.axes import Area, Axis

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
class Mark:
    """A line through points (x, y), or points alone; `title` is told where the pointer rests."""

    points: Sequence[tuple[float, float]]
    look: Look
    title: str
    line: bool = True


def plot(title: str, x: Axis, y: Axis, marks: Sequence[Mark]) -> Markup:
    """An `<svg>` element. Later marks are drawn over earlier ones."""
    area = Area(x, y, height=300)
    return area.drawing(title, area.axes(), [_drawn(mark, area) for mark in marks])


def _drawn(mark: Mark, area: Area) -> Markup:
    places = [(area.place_x(a), area.place_y(b)) for a, b in mark.points]
    radius = 3 if mark.line else 4.5
    dots = [el("circle", cx=a, cy=b, r=radius, style=_FILLS[mark.look]) for a, b in places]
    path = whole("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places))
    is_line = mark.line and len(places) > 1
    line = el("path", class_="curve", style=_STYLES[mark.look], d=path) if is_line else None
    return el("g", el("title", mark.title), line, dots)
