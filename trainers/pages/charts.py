"""Line charts of figures between 0 and 1 as SVG, for pages and, with their colours and legend, as files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tfds_builders.pages.markup import Content, Markup, el, whole
from tfds_builders.pages.page import chart_style
from trainers.evaluation.overlaps import Floats
from trainers.pages.axes import Area, Axis

_DASHES = ("", "7 4", "2 3")


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

    @property
    def area(self) -> Area:
        """Where it is drawn."""
        return Area(Axis(self.x_label), Axis(self.y_label), height=340)


def draw(chart: Chart, below: Content = None, above: Content = None) -> Markup:
    """The chart as an `<svg>` element, with SVG of the caller's drawn below and above it.

    The page's script reads `data-chart` to show values under the pointer, or where the arrow keys have led.
    """
    area = chart.area
    data = {
        "x": [round(float(x), 4) for x in chart.x],
        "xLabel": chart.x_label,
        "series": {
            name: [None if np.isnan(y) else round(float(y), 4) for y in ys] for name, ys in chart.series.items()
        },
        "plot": [area.left, area.top, area.across, area.floor - area.top],
    }
    quiet = [
        el("path", el("title", name), class_="quiet", data_name=name, d=_path(area, chart.x, ys))
        for name, ys in chart.quiet.items()
    ]
    lines = [
        el("path", class_=f"curve s{i + 1}", stroke_dasharray=_DASHES[i], d=_path(area, chart.x, ys))
        for i, ys in enumerate(chart.series.values())
    ]
    hair = el("line", class_="hair", y1=area.top, y2=area.floor)
    parts = (below, area.axes(), _columns(chart), _mark(chart), quiet, lines, hair, above)
    return area.drawing(chart.title, *parts, data_chart=whole(json.dumps(data)), tabindex=0)


def legend(chart: Chart) -> Markup:
    """The names of the lines with a piece of each."""
    return el("div", [key(name, f"curve s{i + 1}", _DASHES[i]) for i, name in enumerate(chart.series)], class_="legend")


def key(name: str, kind: str, dashes: str = "", style: str | None = None) -> Markup:
    """A name with a piece of its line."""
    line = el("path", class_=kind, stroke_dasharray=dashes, style=style, d="M0 5H28")
    return el("span", el("svg", line, class_="chart key", viewBox="0 0 28 10", aria_hidden="true"), name)


def standalone(chart: Chart) -> str:
    """The chart as an SVG file, with its colours (light or dark as the reader prefers) and its legend as text."""
    area = chart.area
    names = []
    for i, name in enumerate(chart.series):
        y = area.floor - 46 + 16 * i
        line = f"M{area.left + 14} {y - 4}h24"
        names += [
            el("path", class_=f"curve s{i + 1}", stroke_dasharray=_DASHES[i], d=line),
            el("text", name, x=area.left + 44, y=y),
        ]
    return (
        draw(chart, [el("style", Markup(chart_style())), el("rect", class_="back", width="100%", height="100%")], names)
        + "\n"
    )


def _mark(chart: Chart) -> list[Markup]:
    if chart.mark is None:
        return []
    area, x = chart.area, chart.area.place_x(chart.mark)
    side, anchor = (6, "start") if chart.mark < 0.6 else (-6, "end")
    return [
        el("line", class_="mark", x1=x, x2=x, y1=area.top, y2=area.floor),
        el("text", chart.mark_label, x=x + side, y=area.floor - 8, text_anchor=anchor),
    ]


def _columns(chart: Chart) -> list[Markup]:
    """Bars a third as high as the chart at most, so that lines stay in front."""
    if chart.columns is None:
        return []
    area = chart.area
    width = area.across / 20 * 0.7
    return [
        el(
            "rect",
            class_="column",
            x=area.place_x(x) - width / 2,
            y=area.place_y(y / 3),
            width=width,
            height=area.floor - area.place_y(y / 3),
        )
        for x, y in zip(chart.x.tolist(), chart.columns.tolist(), strict=True)
    ]


def _path(area: Area, x: Floats, y: Floats) -> Markup:
    """SVG path of a line that is broken where `y` is NaN."""
    parts, pen = [], "M"
    for px, py in zip(x.tolist(), y.tolist(), strict=True):
        if np.isnan(py):
            pen = "M"
            continue
        parts.append(f"{pen}{area.place_x(px):.1f} {area.place_y(py):.1f}")
        pen = "L"
    return Markup("".join(parts))
