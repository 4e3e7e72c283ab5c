"""Line charts as SVG, drawn here so that a report needs neither a plotting library nor a network.

Colours come from CSS variables (`--c1`, `--c2`, ... of the page that holds the chart), so that a chart follows the
page into the dark; `standalone` gives a chart those variables for a file of its own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

import numpy as np

from trainers.overlaps import Floats

_WIDTH, _HEIGHT = 520, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 14, 14, 48
_DASHES = ("", "7 4", "2 3")

STYLE = """
.chart text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.chart .axis { stroke: var(--line); fill: none; }
.chart .grid { stroke: var(--line); stroke-opacity: .55; }
.chart .curve { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.chart .mark { stroke: var(--ink); stroke-dasharray: 3 3; }
.chart .s1 { stroke: var(--c1); } .chart .s2 { stroke: var(--c2); } .chart .s3 { stroke: var(--c3); }
.chart .quiet { fill: none; stroke: var(--soft); stroke-opacity: .3; stroke-width: 1.2; }
.chart .quiet.on { stroke: var(--c2); stroke-opacity: 1; stroke-width: 2.6; }
.chart .column { fill: var(--soft); fill-opacity: .16; }
.chart .hair { stroke: var(--soft); visibility: hidden; }
"""
PALETTE_LIGHT = "--ink:#1d1c1a;--soft:#6b675f;--line:#dcd7cd;--paper:#ffffff;--c1:#00796b;--c2:#c2570c;--c3:#5b57c8;"
PALETTE_DARK = "--ink:#eceae5;--soft:#a29d93;--line:#3a3832;--paper:#1e1d1a;--c1:#3fc9b4;--c2:#f59a52;--c3:#a29dff;"


@dataclass(frozen=True, eq=False)
class Chart:
    """Lines over a common `x` (N,), x and y from 0 to 1; `series` (N,) by name, NaN where there is no line.

    `mark` is an x that a vertical line points out, and `mark_label` what to write there. `quiet` are thin lines behind
    the others, too many to tell apart, by name; `columns` (N,) heights, the highest 1, of bars behind all.
    """

    title: str
    x_label: str
    y_label: str
    x: Floats
    series: Mapping[str, Floats]
    mark: float | None = None
    mark_label: str = ""
    quiet: Mapping[str, Floats] = field(default_factory=dict)
    columns: Floats | None = None


def draw(chart: Chart, below: str = "", above: str = "") -> str:
    """The chart as an `<svg>` element, with SVG of the caller's drawn below and above it.

    The page's script reads `data-chart` to show values under the pointer.
    """
    data = {
        "x": [round(float(x), 4) for x in chart.x],
        "xLabel": chart.x_label,
        "series": {
            name: [None if np.isnan(y) else round(float(y), 4) for y in ys] for name, ys in chart.series.items()
        },
        "plot": [_LEFT, _TOP, _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM],
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(chart.title)}" data-chart="{escape(json.dumps(data))}">',
        below,
        *_axes(chart),
        *_columns(chart),
        *_mark(chart),
        *(
            f'<path class="quiet" data-name="{escape(name)}" d="{_path(chart.x, ys)}">'
            f"<title>{escape(name)}</title></path>"
            for name, ys in chart.quiet.items()
        ),
        *(
            f'<path class="curve s{i + 1}" stroke-dasharray="{_DASHES[i]}" d="{_path(chart.x, ys)}"/>'
            for i, ys in enumerate(chart.series.values())
        ),
        f'<line class="hair" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>',
        above,
        "</svg>",
    ]
    return "\n".join(parts)


def legend(chart: Chart) -> str:
    """The names of the lines with a piece of each, as HTML."""
    items = (
        f'<span><svg class="chart key" viewBox="0 0 28 10"><path class="curve s{i + 1}" '
        f'stroke-dasharray="{_DASHES[i]}" d="M0 5H28"/></svg>{escape(name)}</span>'
        for i, name in enumerate(chart.series)
    )
    return f'<div class="legend">{"".join(items)}</div>'


def standalone(chart: Chart) -> str:
    """The chart as an SVG file, with its colours (light or dark as the reader prefers) and its legend as text."""
    style = (
        f"<style>svg{{{PALETTE_LIGHT}}}@media (prefers-color-scheme:dark){{svg{{{PALETTE_DARK}}}}}{STYLE}"
        ".back{fill:var(--paper)}</style>"
    )
    names = "".join(
        f'<path class="curve s{i + 1}" stroke-dasharray="{_DASHES[i]}" d="M{_LEFT + 14} {y - 4}h24"/>'
        f'<text x="{_LEFT + 44}" y="{y}">{escape(name)}</text>'
        for i, name in enumerate(chart.series)
        for y in (_HEIGHT - _BOTTOM - 46 + 16 * i,)
    )
    return draw(chart, f'{style}<rect class="back" width="100%" height="100%"/>', names) + "\n"


def _x(value: float) -> float:
    return _LEFT + value * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float) -> float:
    return _HEIGHT - _BOTTOM - value * (_HEIGHT - _TOP - _BOTTOM)


def _axes(chart: Chart) -> list[str]:
    parts = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_y(tick):.1f}" y2="{_y(tick):.1f}"/>',
            f'<text x="{_LEFT - 8}" y="{_y(tick) + 4:.1f}" text-anchor="end">{tick:.1f}</text>',
            f'<text x="{_x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick:.1f}</text>',
        ]
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    return [
        *parts,
        f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>',
        f'<text x="{_x(0.5):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(chart.x_label)}</text>',
        f'<text transform="translate(14 {middle:.1f}) rotate(-90)" text-anchor="middle">{escape(chart.y_label)}</text>',
    ]


def _mark(chart: Chart) -> list[str]:
    if chart.mark is None:
        return []
    x = _x(chart.mark)
    side, anchor = (6, "start") if chart.mark < 0.6 else (-6, "end")
    return [
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>',
        f'<text x="{x + side:.1f}" y="{_HEIGHT - _BOTTOM - 8}" text-anchor="{anchor}">'
        f"{escape(chart.mark_label)}</text>",
    ]


def _columns(chart: Chart) -> list[str]:
    """Bars a third as high as the chart at most, so that lines stay in front."""
    if chart.columns is None:
        return []
    width = (_WIDTH - _LEFT - _RIGHT) / 20 * 0.7
    return [
        f'<rect class="column" x="{_x(x) - width / 2:.1f}" y="{_y(y / 3):.1f}" width="{width:.1f}" '
        f'height="{_y(0) - _y(y / 3):.1f}"/>'
        for x, y in zip(chart.x.tolist(), chart.columns.tolist(), strict=True)
    ]


def _path(x: Floats, y: Floats) -> str:
    """SVG path of a line that is broken where `y` is NaN."""
    parts, pen = [], "M"
    for px, py in zip(x.tolist(), y.tolist(), strict=True):
        if np.isnan(py):
            pen = "M"
            continue
        parts.append(f"{pen}{_x(px):.1f} {_y(py):.1f}")
        pen = "L"
    return "".join(parts)
