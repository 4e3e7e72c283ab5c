"""How trainings went: loss and AP50 over their steps, as SVG.

    python benchmarks/curves.py RUN [RUN ...] --out docs/curves

Each RUN was trained with `--evaluate-every`; its `run.json` holds the figures. Runs that average their weights
(`--ema`) are drawn in green, the others in orange. Writes `OUT-ap50.svg` and `OUT-loss.svg`, and prints a table.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from measuring import ROOT

Run = dict[str, Any]
Points = list[tuple[float, float]]


def read(path: Path) -> Run:
    """What `run.json` says of a run that was evaluated while it trained."""
    sys.path.insert(0, str(ROOT))
    from trainers.runs import read_description

    run: Run = read_description(path)
    if not run.get("evaluations"):
        raise SystemExit(f"curves: {path} was not evaluated while it trained; train with --evaluate-every")
    return run


def ap50(run: Run) -> Points:
    return [(entry["step"], entry["AP50"]) for entry in run["evaluations"]]


def loss(run: Run) -> Points:
    """Of the training batches, each the mean since the one before."""
    return [(step, value) for step, value in run["losses"]]


def svg(title: str, label: str, runs: Sequence[Run], points: Callable[[Run], Points]) -> str:
    """A plot that stands on its own, on light paper and on dark."""
    from trainers.charts import PALETTE_DARK, PALETTE_LIGHT, STYLE
    from trainers.plots import Axis, Mark, plot

    lines = [points(run) for run in runs]
    high = max(1.0, *(value for line in lines for _, value in line))
    x = Axis("step", 0, max(step for line in lines for step, _ in line))
    marks = [
        Mark(
            line, "own" if run["recipe"].get("ema") is None else "best", f"{run['recipe']['name']}, seed {run['seed']}"
        )
        for run, line in zip(runs, lines, strict=True)
    ]
    drawn = plot(title, x, Axis(label, 0, high), marks)
    colours = f":root{{{PALETTE_LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{PALETTE_DARK}}}}}"
    at = drawn.index(">") + 1
    paper = '<rect width="100%" height="100%" style="fill:var(--paper)"/>'
    return f"{drawn[:at]}<style>{colours}{STYLE}</style>{paper}{drawn[at:]}\n"


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
        Path(f"{given.out}-{name}.svg").write_text(svg(f"{label} over steps", label, runs, points))
    print("| recipe | `--ema` | seed | AP50 at the end | best AP50 |\n|---|---|---|---|---|")
    for run in runs:
        print(row(run))


if __name__ == "__main__":
    main()
