"""What a detector of moved objects should be shown: every mode of difference, stacks and both frames, side by side.

    python benchmarks/changes.py SEQUENCE --out DIR [--jobs 2]

SEQUENCE is a MOTChallenge sequence of a steady camera (PETS09-S2L1, frames 1 to 200). Frames ten apart become pairs,
frames 151 to 200 are never trained on. Every input is trained for each kind of target with three seeds, on the same
batches and for the same number of steps, from random weights. Each training is a process of one thread. A training that
is done is not repeated: the command can be stopped and called again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from measuring import ROOT

TARGETS = ("both", "after", "arrived-and-left")
VIEWS = (
    "absolute",
    "signed",
    "grey",
    "threshold",
    "ssim",
    "stack absolute",
    "stack signed",
    "frames",
)
SEEDS = (0, 1, 2)
SPLITS = "train=1-150,validation=151-200"
GAP = 10


@dataclass(frozen=True)
class Training:
    """One training and its evaluation on frames that it has not seen."""

    targets: str
    view: str
    seed: int
    steps: int
    shortest_edge: int

    @property
    def name(self) -> str:
        """A directory for it."""
        parts = (self.targets, self.view, self.seed, self.steps, self.shortest_edge)
        return "-".join(str(part).replace(" ", "-") for part in parts)


def pairs_of(sequence: Path, out: Path, targets: str) -> Any:
    """The pairs of a sequence with one kind of targets, prepared."""
    from dataflow.prepared import PreparedDataset
    from dataflow.splits import FrameRanges, parse_splits
    from tfds_builders.builders import SourceBuilder
    from tfds_builders.formats.mot import open_mot
    from tfds_builders.ingest_options import IngestOptions
    from tfds_builders.planning import PlanOptions
    from tfds_builders.sources.pairing import PairOptions

    name = f"pairs_{targets.replace('-', '_')}"
    if not (out / name).is_dir():
        ranges = parse_splits(SPLITS)
        assert isinstance(ranges, FrameRanges)
        source = open_mot(sequence, PairOptions(GAP, targets=targets), ranges)  # type: ignore[arg-type]
        SourceBuilder(source, name=name, out=out, options=IngestOptions(PlanOptions(ranges))).prepare()
    return PreparedDataset(out / name / "1.0.0")


def view_of(name: str, align: str = "none") -> Any:
    """The view that a row of the table is named after."""
    from dataflow.bridge.view import View

    if name == "frames":
        return View("frames", None, align)  # type: ignore[arg-type]
    inputs, _, mode = name.rpartition(" ")
    return View(inputs or "image", mode, align)  # type: ignore[arg-type]


def train_one(training: Training, dataset: Any, run: Path) -> None:
    """Train unless that is done."""
    import torch

    from dataflow.bridge.resize import ResizePolicy
    from trainers.recipes.dense import dense_cnn_small
    from trainers.training.runs import is_finished
    from trainers.training.training import train

    torch.set_num_threads(1)
    edge = training.shortest_edge
    recipe = replace(dense_cnn_small(), resize=ResizePolicy(edge, edge * 4 // 3))
    if not is_finished(run):
        view = view_of(training.view)
        train(dataset, recipe, run, steps=training.steps, seed=training.seed, view=view, resume=run.exists())


def score(dataset: Any, run: Path, out: Path) -> dict[str, float]:
    """COCO's figures of a run on the validation frames."""
    from trainers.evaluation.evaluation import evaluate
    from trainers.prediction.prediction import predict
    from trainers.prediction.predictions import read_predictions

    if not out.exists():
        predict(dataset, run, out)
    found = evaluate(dataset, read_predictions(out), "validation").figures
    return {name: float(found[name] or 0.0) for name in ("AP", "AP50")}


def run_one(arguments: argparse.Namespace) -> None:
    """What a process of its own does: one training."""
    training = Training(**json.loads(arguments.one))
    result = arguments.out / "results" / f"{training.name}.json"
    dataset = pairs_of(arguments.sequence, arguments.out / "data", training.targets)
    run = arguments.out / "runs" / training.name
    train_one(training, dataset, run)
    figures = score(dataset, run, arguments.out / "predictions" / training.name)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps({**asdict(training), **figures}))


def in_processes(trainings: Sequence[Training], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The results of all trainings, `jobs` at a time."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(training: Training) -> dict[str, Any]:
        result = arguments.out / "results" / f"{training.name}.json"
        if not result.is_file():
            words = [str(arguments.sequence), "--out", str(arguments.out), "--one", json.dumps(asdict(training))]
            done = subprocess.run(
                [sys.executable, __file__, *words], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{training.name}: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(result.read_text())
        print(f"{training.name}: AP50 {found['AP50']:.3f}, AP {found['AP']:.3f}", file=sys.stderr)
        return found

    with ThreadPoolExecutor(arguments.jobs) as pool:
        return list(pool.map(run, trainings))


def rows(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table in Markdown: AP50, mean of the seeds, with the least and the most of them."""
    yield "| shown | " + " | ".join(f"`{targets}`" for targets in TARGETS) + " | mean | AP |"
    yield "|---|" + "---|" * (len(TARGETS) + 2)
    for view in VIEWS:
        cells, means, aps = [], [], []
        for targets in TARGETS:
            found = [r for r in results if (r["view"], r["targets"]) == (view, targets)]
            if not found:
                cells.append("-")
                continue
            values = [r["AP50"] for r in found]
            means.append(statistics.mean(values))
            aps.append(statistics.mean(r["AP"] for r in found))
            cells.append(f"{means[-1]:.3f} ({min(values):.2f} to {max(values):.2f})")
        if means:
            yield f"| {view} | {' | '.join(cells)} | {statistics.mean(means):.3f} | {statistics.mean(aps):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequence", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="directory for data, runs and results")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings side by side")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--shortest-edge", type=int, default=240, help="px that frames are resized to")
    parser.add_argument("--views", nargs="*", choices=VIEWS, default=VIEWS, metavar="VIEW")
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=TARGETS, metavar="TARGETS")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS, metavar="SEED")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments)
        return
    for targets in arguments.targets:
        pairs_of(arguments.sequence, arguments.out / "data", targets)
    trainings = [
        Training(targets, view, seed, arguments.steps, arguments.shortest_edge)
        for seed in arguments.seeds
        for targets in arguments.targets
        for view in arguments.views
    ]
    for line in rows(in_processes(trainings, arguments)):
        print(line)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
