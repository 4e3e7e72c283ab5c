"""Bars and maps as SVG for pages, in the colours of the page that holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2

from dataflow.tallies import Heat
from tfds_builders.pages.markup import Markup, el

_WIDTH, _HEIGHT = 520, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 16, 12, 26


@dataclass(frozen=True)
class Bars:
    """A histogram: `values` of bars side by side, what each is, ticks and marks by their place in bars."""

    title: str
    values: Sequence[int]
    names: Sequence[str]
    ticks: Mapping[float, str]
    marks: Sequence[float] = field(default=())


def log_bars(title: str, counts: Mapping[str, int], unit: str, marks: Sequence[float] = ()) -> Bars:
    """A histogram over the quarter octaves of `dataflow.tallies`; `marks` are values that lines point out."""
    bins = {int(name): count for name, count in counts.items() if name != "none"} or {0: 0}
    low, high = 4 * (min(bins) // 4), 4 * (max(bins) // 4 + 1)
    unit = f" {unit}" if unit else ""
    span = range(low, high)
    octaves = range(low // 4, high // 4 + 1)
    step = max(1, len(octaves) // 10)
    return Bars(
        title,
        [bins.get(k, 0) for k in span],
        [f"{_short(2 ** (k / 4))} to {_short(2 ** ((k + 1) / 4))}{unit}" for k in span],
        {4.0 * octave - low: _short(2.0**octave) for octave in octaves[::step]},
        [place for mark in marks if 0 <= (place := 4 * log2(mark) - low) <= len(span)],
    )


def draw_bars(bars: Bars) -> Markup:
    """The histogram as an `<svg>` element; each bar says what it is to who points at it."""
    top = max(1, *bars.values, 1)
    width = (_WIDTH - _LEFT - _RIGHT) / max(1, len(bars.values))
    floor = _HEIGHT - _BOTTOM

    def x(place: float) -> float:
        return _LEFT + place * width

    drawn = []
    for place, (value, name) in enumerate(zip(bars.values, bars.names, strict=True)):
        if value:
            height = max(1.0, value / top * (floor - _TOP))
            sides = {"width": max(1.0, width - 1), "height": height}
            told = el("title", f"{name}: {value:,}")
            drawn.append(el("rect", told, class_="b", x=x(place) + 0.5, y=floor - height, **sides))
    drawn += [el("line", class_="mark", x1=x(m), x2=x(m), y1=_TOP, y2=floor) for m in bars.marks]
    drawn += [el("text", text, x=x(place), y=floor + 17, text_anchor="middle") for place, text in bars.ticks.items()]
    return el(
        "svg",
        el("line", class_="axis", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=floor, y2=floor),
        el("text", f"{top:,}", x=_LEFT - 7, y=_TOP + 9, text_anchor="end"),
        el("text", "0", x=_LEFT - 7, y=floor, text_anchor="end"),
        drawn,
        class_="chart",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=bars.title,
    )


def draw_heat(heat: Heat, aspect: float) -> Markup:
    """A map of counts (rows, columns) over an image of this width / height as `<svg>`, the largest in full colour."""
    top = max(1, int(heat.max()))
    rows, columns = heat.shape
    width = aspect * rows / columns
    cells = [
        el(
            "rect",
            el("title", f"{int(heat[row, column]):,}"),
            x=f"{column * width:.3f}",
            y=row,
            width=f"{width * 1.02:.3f}",
            height="1.02",
            fill_opacity=f"{heat[row, column] / top:.3f}",
        )
        for row in range(rows)
        for column in range(columns)
        if heat[row, column]
    ]
    box = f"0 0 {columns * width:.3f} {rows}"
    return el("svg", cells, class_="map", viewBox=box, role="img", aria_label="where objects are")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
