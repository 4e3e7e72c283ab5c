"""What a moving camera does to a detector of moved objects, with and without alignment.

    python benchmarks/camera.py SEQUENCE --out DIR

DIR is where benchmarks/changes.py left its runs, which were trained on a steady camera. Here the after frames of the
validation pairs are shaken: shifts to 12 px, rotation to 2 degrees, zoom to 2 percent, exposure to 20 percent. The
same runs then predict the steady pairs, the shaken ones as they are, and the shaken ones aligned. A second set of pairs
shows nothing moved at all: each is one frame twice, with noise, the second one shaken; what is detected there is false.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from changes import SEEDS, Training, pairs_of
from measuring import ROOT

NOISE = 2.0
ROWS = (
    ("both", "absolute"),
    ("both", "frames"),
    ("after", "signed"),
    ("after", "stack signed"),
    ("after", "frames"),
    ("arrived-and-left", "signed"),
)
Change = Callable[[Any, np.random.Generator], Any]


def shaken(pair: Any, rng: np.random.Generator, carried: bool, still: bool, moves: bool = True) -> Any:
    """A pair whose after frame was taken by a camera that moved (if it `moves`).

    `carried`: boxes of the before frame are put where the true movement leads them in the after frame. `still`: the
    after frame shows what the before frame shows, so that nothing has changed; both get noise.
    """
    from dataflow.bridge.pair_augmentation import PairMotion, move_objects
    from dataflow.images import decode_rgb, encode_jpeg
    from dataflow.pairs.aligned_pair import carry_objects
    from dataflow.pairs.camera_motion import Movement, random_movement, shake
    from dataflow.records import no_objects

    before = decode_rgb(pair.before.image, pair.before.orientation)
    after = before if still else decode_rgb(pair.after.image, pair.after.orientation)
    seen = shake(after, random_movement(rng) if moves else Movement())
    objects = move_objects(pair.objects, PairMotion(np.eye(3), seen.homography), pair.after.size)
    if carried:
        objects = carry_objects(objects, seen.homography, pair.after.size)
        objects = replace(objects, in_before=np.zeros(len(objects), np.bool_))
    frames = [before, seen.pixels]
    if still:
        objects = no_objects()
        frames = [np.clip(np.rint(f + rng.normal(0, NOISE, f.shape)), 0, 255).astype(np.uint8) for f in frames]
    images = [encode_jpeg(frame) for frame in frames] if still else [pair.before.image, encode_jpeg(frames[1])]
    return replace(
        pair,
        before=replace(pair.before, image=images[0]),
        after=replace(pair.after, image=images[1]),
        objects=objects,
    )


def changed_pairs(dataset: Any, out: Path, name: str, change: Change) -> Any:
    """The validation pairs of a dataset, each changed, as a prepared dataset of their own."""
    from dataflow.prepared import PreparedDataset
    from tfds_builders.builders import SourceBuilder
    from tfds_builders.formats.pairs import open_pairs
    from tfds_builders.formats.pairs_writer import PairsWriter

    if not (out / name).is_dir():
        with tempfile.TemporaryDirectory() as folder:
            writer = PairsWriter(Path(folder), dataset.categories, ("validation",))
            for number, pair in enumerate(sorted(dataset.pairs("validation"), key=lambda pair: pair.pair_id)):
                writer.add(change(pair, np.random.default_rng(number)), "validation")
            writer.close()
            SourceBuilder(open_pairs(Path(folder)), name=name, out=out).prepare()
    return PreparedDataset(out / name / "1.0.0")


def figures(run: Any, dataset: Any, align: str, out: Path) -> tuple[float, dict[str, Any], float]:
    """AP50 of a run on a dataset seen with `align`; its predictions; the score of the best F1."""
    from dataflow.bridge.loader import BatchLoader
    from trainers.evaluation.evaluation import evaluate
    from trainers.prediction.prediction import predict_batch
    from trainers.prediction.predictions import read_predictions, write_predictions

    view = replace(run.view, align=align)
    loader = BatchLoader(dataset, "validation", run.resize, run.batch_size, training=False, view=view, pad=run.pad)
    stream = (found for batch in loader for found in predict_batch(run, batch))
    with tempfile.TemporaryDirectory(dir=out) as folder:
        where = Path(folder) / "predictions"
        write_predictions(where, stream, run_id=run.run_id, dataset=dataset, split="validation")
        predictions = read_predictions(where)
    if not any(len(pair.objects) for pair in dataset.pairs("validation")):
        return 0.0, dict(predictions.by_image), 1.0
    evaluation = evaluate(dataset, predictions, "validation")
    return float(evaluation.figures["AP50"]), dict(predictions.by_image), float(evaluation.best.score or 1.0)


def row_of(training: Training, arguments: argparse.Namespace) -> dict[str, float] | None:
    """AP50 on the steady and on the shaken pairs, and false detections a frame, aligned and not."""
    import torch

    from trainers.training.runs import load_run

    torch.set_num_threads(1)
    out = arguments.out
    path = out / "runs" / training.name
    if not (path / "model.safetensors").is_file():
        return None
    run = load_run(path)
    steady = pairs_of(arguments.sequence, out / "data", training.targets)
    named = training.targets.replace("-", "_")
    sets: dict[str, Change] = {
        "shaken": lambda pair, rng: shaken(pair, rng, carried=False, still=False),
        "carried": lambda pair, rng: shaken(pair, rng, carried=True, still=False),
        "still": lambda pair, rng: shaken(pair, rng, carried=True, still=True),
        "steady_still": lambda pair, rng: shaken(pair, rng, carried=True, still=True, moves=False),
    }
    data = {name: changed_pairs(steady, out / "data", f"{name}_{named}", change) for name, change in sets.items()}
    found: dict[str, float] = {}
    found["steady"], _, score = figures(run, steady, "none", out)
    found["shaken"], *_ = figures(run, data["shaken"], "none", out)
    found["aligned"], *_ = figures(run, data["carried"], "features", out)
    for name, dataset, align in (
        ("false steady", data["steady_still"], "none"),
        ("false shaken", data["still"], "none"),
        ("false aligned", data["still"], "features"),
    ):
        _, predictions, _ = figures(run, dataset, align, out)
        found[name] = statistics.mean(int((p.scores >= score).sum()) for p in predictions.values())
    return found


def rows(results: dict[tuple[str, str], list[dict[str, float]]]) -> Iterator[str]:
    """The table in Markdown: means of the seeds."""
    columns = ("steady", "shaken", "aligned", "false steady", "false shaken", "false aligned")
    yield "| shown | targets | " + " | ".join(columns) + " | largest drop |"
    yield "|---|---|" + "---|" * (len(columns) + 1)
    for (targets, view), found in results.items():
        means = [f"{statistics.mean(row[column] for row in found):.3f}" for column in columns]
        drop = max(row["steady"] - row["aligned"] for row in found)
        yield f"| {view} | `{targets}` | {' | '.join(means)} | {drop:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequence", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="directory of benchmarks/changes.py")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--shortest-edge", type=int, default=240)
    arguments = parser.parse_args()
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for targets, view in ROWS:
        for seed in SEEDS:
            training = Training(targets, view, seed, arguments.steps, arguments.shortest_edge)
            found = row_of(training, arguments)
            if found is not None:
                results.setdefault((targets, view), []).append(found)
                print(json.dumps({"training": training.name, **found}), file=sys.stderr)
    for line in rows(results):
        print(line)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
