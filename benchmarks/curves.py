"""How trainings went: loss and AP50 over their steps, as SVG.

    python benchmarks/curves.py RUN [RUN ...] --out docs/curves

Each RUN was trained with `--evaluate-every`; its `run.json` holds the figures. Each recipe has a plot of its runs, in
green those that average their weights (`--ema`), in orange the others. Writes `OUT-ap50.svg` and `OUT-loss.svg`, and
prints a table.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measuring import ROOT

Run = dict[str, Any]
Points = list[tuple[float, float]]
WIDTH, HEIGHT = 520, 300
"""Of a plot."""
HEADING, INDENT = 26, 56
"""Height of the line above it, and where that begins."""


def read(path: Path) -> Run:
    """What `run.json` says of a run that was evaluated while it trained."""
    sys.path.insert(0, str(ROOT))
    from dataflow.errors import UsageError
    from trainers.training.runs import read_description

    try:
        run: Run = read_description(path)
    except UsageError as error:
        raise SystemExit(f"curves: {error}") from error
    if not run.get("evaluations"):
        raise SystemExit(f"curves: {path} was not evaluated while it trained; train with --evaluate-every")
    return run


def ap50(run: Run) -> Points:
    return [(entry["step"], entry["AP50"]) for entry in run["evaluations"]]


def loss(run: Run) -> Points:
    """Of the training batches, each the mean since the one before."""
    return [(step, value) for step, value in run["losses"]]


def sheet(title: str, label: str, runs: Sequence[Run], points: Callable[[Run], Points]) -> str:
    """A picture that stands on its own, on light paper and on dark: a plot for each recipe, two beside each other."""
    from tfds_builders.pages.markup import Markup, el
    from tfds_builders.pages.page import chart_style

    by_recipe: dict[str, list[Run]] = {}
    for run in runs:
        by_recipe.setdefault(run["recipe"]["name"], []).append(run)
    columns = min(2, len(by_recipe))
    parts = []
    for place, (name, own) in enumerate(by_recipe.items()):
        x, y = place % columns * WIDTH, place // columns * (HEIGHT + HEADING)
        parts.append(el("text", name, class_="name", x=x + INDENT, y=y + 20))
        parts.append(el("svg", panel(name, label, own, points), x=x, y=y + HEADING, width=WIDTH, height=HEIGHT))
    width, height = columns * WIDTH, -(-len(by_recipe) // columns) * (HEIGHT + HEADING)
    style = f"{chart_style()}.name {{ font: bold 13px system-ui, sans-serif; fill: var(--ink); }}"
    back = el("rect", class_="back", width="100%", height="100%")
    named = {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria_label": title}
    return el("svg", el("style", Markup(style)), back, parts, viewBox=f"0 0 {width} {height}", **named) + "\n"


def panel(name: str, label: str, runs: Sequence[Run], points: Callable[[Run], Points]) -> Any:
    """The plot of one recipe's runs, an `<svg>` element."""
    from trainers.pages.axes import Axis
    from trainers.pages.plots import Mark, plot

    last = max(step for run in runs for step, _ in points(run))
    high = max(1.0, *(value for run in runs for _, value in points(run)))
    marks = [
        Mark(points(run), "own" if run["recipe"].get("ema") is None else "best", f"seed {run['seed']}") for run in runs
    ]
    return plot(f"{label} of {name} over steps", Axis("step", 0, last), Axis(label, 0, high), marks)


def row(run: Run) -> str:
    """One of the table in Markdown: AP50 at the last step, and the most that was seen."""
    figures = ap50(run)
    step, best = max(figures, key=lambda point: point[1])
    recipe = run["recipe"]
    average = "-" if recipe.get("ema") is None else recipe["ema"]
    return f"| `{recipe['name']}` | {average} | {run['seed']} | {figures[-1][1]:.3f} | {best:.3f} at {step:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, help="where to write, without ending")
    given = parser.parse_args()
    runs = [read(path) for path in given.runs]
    for name, label, points in (("ap50", "AP50", ap50), ("loss", "loss of the training batches", loss)):
        Path(f"{given.out}-{name}.svg").write_text(sheet(f"{label} over steps", label, runs, points))
    print("| recipe | `--ema` | seed | AP50 at the end | best AP50 |\n|---|---|---|---|---|")
    for run in runs:
        print(row(run))


if __name__ == "__main__":
    main()
