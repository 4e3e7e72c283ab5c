"""Bars and maps as SVG for pages, drawn here so that a page needs neither a plotting library nor a network.

Colours are the page's (`.plot`, `.heat` in its style), so that a plot follows it into the dark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import log2

from dataflow.tallies import Heat

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


def draw_bars(bars: Bars) -> str:
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
            drawn.append(
                f'<rect class="b" x="{x(place) + 0.5:.1f}" y="{floor - height:.1f}" width="{max(1.0, width - 1):.1f}" '
                f'height="{height:.1f}"><title>{escape(name)}: {value:,}</title></rect>'
            )
    drawn += [f'<line class="mark" x1="{x(m):.1f}" x2="{x(m):.1f}" y1="{_TOP}" y2="{floor}"/>' for m in bars.marks]
    drawn += [
        f'<text x="{x(place):.1f}" y="{floor + 17}" text-anchor="middle">{escape(text)}</text>'
        for place, text in bars.ticks.items()
    ]
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(bars.title)}">'
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>'
        f'<text x="{_LEFT - 7}" y="{_TOP + 9}" text-anchor="end">{top:,}</text>'
        f'<text x="{_LEFT - 7}" y="{floor}" text-anchor="end">0</text>{"".join(drawn)}</svg>'
    )


def draw_heat(heat: Heat, aspect: float) -> str:
    """A map of counts (rows, columns) over an image of this width / height as `<svg>`, the largest in full colour."""
    top = max(1, int(heat.max()))
    rows, columns = heat.shape
    width = aspect * rows / columns
    cells = "".join(
        f'<rect x="{column * width:.3f}" y="{row}" width="{width * 1.02:.3f}" height="1.02" '
        f'fill-opacity="{heat[row, column] / top:.3f}"><title>{int(heat[row, column]):,}</title></rect>'
        for row in range(rows)
        for column in range(columns)
        if heat[row, column]
    )
    box = f"0 0 {columns * width:.3f} {rows}"
    return f'<svg class="heat" viewBox="{box}" role="img" aria-label="where objects are">{cells}</svg>'


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
