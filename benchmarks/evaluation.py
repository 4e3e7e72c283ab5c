"""Evaluation of detections in memory: COCO's twelve figures, and precision, recall and F1 over overlap and score.

    python benchmarks/evaluation.py [--images 1000] [--classes 80] [--objects 7] [--detections 100]

- pycocotools, faster-coco-eval: as their users call them, from lists of annotations in memory: index, evaluate,
  accumulate, summarize.
- shardbox: our matching and the same figures, from records and predictions in memory.
- grid in one pass: all 10 x 20 cells, of all classes together and of each, from a finished matching.
- grid with its matching: the same, with the matching that it comes from.
- grid cell by cell: for each cell the detections from its score on are matched again, by our own matching at this one
  overlap, and counted.

A fiftieth of the objects are crowd regions, and objects are of all of COCO's sizes. The run fails if a figure of one of
the three differs from pycocotools' by more than 1e-9, or a cell from the one pass.

Ratios are of CPU time. One thread each, every contender in a process of its own, in turns; making the input is not
counted. The figures in the README are those of --images 5000.
"""

import argparse
import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_turns, parser, report, run_here

from dataflow.boxes import xyxy_to_coco
from dataflow.records import ImageRecord, Objects, Predictions
from trainers.evaluation.coco_figures import FIGURES, THRESHOLDS
from trainers.evaluation.curves import SWEEP_SCORES, tally
from trainers.evaluation.greedy import Boxes, claim
from trainers.evaluation.matching import Matching, match
from trainers.evaluation.overlaps import rank_in_group

SIDE = 640
CROWD = 0.02
TOLERANCE = 1e-9


def make_input(arguments: argparse.Namespace) -> tuple[list[ImageRecord], dict[str, Predictions]]:
    """Objects of all sizes; a third of the detections is near one of them, the others are anywhere and score less."""
    rng = np.random.default_rng(0)
    records, predictions = [], {}
    n, m, classes = arguments.objects, arguments.detections, arguments.classes
    for number in range(arguments.images):
        boxes, category_ids = _boxes(rng, n), rng.integers(0, classes, n)
        name = f"{number:06d}"
        objects = Objects(boxes, category_ids, is_crowd=rng.random(n) < CROWD)
        records.append(ImageRecord(name, b"", SIDE, SIDE, objects, name, "made"))
        source, near = rng.integers(0, n, m), rng.random(m) < 1 / 3
        sides = np.tile(boxes[source, 2:] - boxes[source, :2], 2)
        moved = boxes[source] + rng.normal(0, 0.1, (m, 4)) * sides
        moved[:, :2] = np.minimum(moved[:, :2], moved[:, 2:] - 1)
        same = near & (rng.random(m) < 0.8)
        predictions[name] = Predictions(
            name,
            np.where(near[:, None], moved, _boxes(rng, m)),
            np.where(near, rng.beta(3, 3, m), rng.beta(1, 6, m)),
            np.where(same, category_ids[source], rng.integers(0, classes, m)),
            "run",
        )
    return records, predictions


def _boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (n, 2)))
    start = rng.uniform(0, SIDE - sides)
    return np.concatenate([start, start + sides], axis=1).astype(np.float32)


def annotations(
    records: list[ImageRecord], predictions: Mapping[str, Predictions], classes: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same as COCO's instances and results."""
    truths, found = [], []
    for number, record in enumerate(records, 1):
        objects, item = record.objects, predictions[record.image_id]
        columns: tuple[Any, ...] = (xyxy_to_coco(objects.boxes), objects.category_ids, objects.areas, objects.is_crowd)
        for box, category, area, crowd in zip(*(column.tolist() for column in columns), strict=True):
            names = {"id": len(truths) + 1, "image_id": number, "category_id": category}
            truths.append({**names, "bbox": box, "area": area, "iscrowd": int(crowd)})
        columns = (xyxy_to_coco(item.boxes), item.category_ids, item.scores)
        for box, category, score in zip(*(column.tolist() for column in columns), strict=True):
            found.append({"image_id": number, "category_id": category, "bbox": box, "score": score})
    images = [{"id": number} for number in range(1, len(records) + 1)]
    return {"images": images, "categories": [{"id": k} for k in range(classes)], "annotations": truths}, found


def with_tool(name: str, instances: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    """The twelve figures by one of the two tools of this interface."""
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = instances
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(FIGURES, map(float, evaluation.stats[: len(FIGURES)]), strict=True))


def cell_by_cell(matching: Matching, classes: int) -> np.ndarray:
    """(T, S, 2) right and wrong detections, each cell matched for itself."""
    counts = np.zeros((len(THRESHOLDS), len(SWEEP_SCORES), 2), np.int64)
    objects = matching.objects
    for s, score in enumerate(SWEEP_SCORES.astype(np.float32)):
        kept = np.flatnonzero(matching.scores >= score)
        boxes = matching.detections
        cut = Boxes(boxes.image[kept], boxes.category[kept], boxes.coco[kept])
        groups = (part.image * classes + part.category for part in (cut, objects))
        crowd = matching.crowd
        options = {"crowd": crowd, "ignored": crowd[None]}
        cut_group, object_group = groups
        for t, threshold in enumerate(THRESHOLDS):
            claims = claim(
                cut,
                cut_group,
                rank_in_group(cut_group, matching.scores[kept])[1],
                objects,
                object_group,
                thresholds=np.array([threshold]),
                **options,
            )
            right, ignored = ((claims.outcome == value).sum() for value in (1, 2))
            counts[t, s] = right, len(kept) - right - ignored
    return counts


def contender(name: str, arguments: argparse.Namespace) -> Callable[[], Mapping[str, Any]]:
    """What one contender does; its input is made here."""
    records, predictions = make_input(arguments)
    if name in ("pycocotools", "faster-coco-eval"):
        instances, results = annotations(records, predictions, arguments.classes)
        return lambda: with_tool(name, instances, results)
    if name == "shardbox":
        return lambda: {
            figure: -1.0 if value is None else value
            for figure, value in match(records, predictions, arguments.classes).figures.items()
        }
    finished = match(records, predictions, arguments.classes)
    if name == "grid in one pass":
        return lambda: _grid(finished)
    if name == "grid with its matching":
        return lambda: _grid(match(records, predictions, arguments.classes))

    def cells() -> Mapping[str, Any]:
        counts = cell_by_cell(finished, arguments.classes)
        return {"right": int(counts[..., 0].sum()), "wrong": int(counts[..., 1].sum())}

    return cells


def _grid(matching: Matching) -> Mapping[str, Any]:
    counted = tally(matching)
    grid = counted.of_all()
    assert grid.f1.shape == (10, 20)
    return {"right": int(counted.tp.sum()), "wrong": int(counted.fp.sum())}


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--images", type=int, default=1000)
    options.add_argument("--classes", type=int, default=80)
    options.add_argument("--objects", type=int, default=7, help="objects in each image (default 7)")
    options.add_argument("--detections", type=int, default=100, help="detections in each image (default 100)")
    arguments = options.parse_args()
    if arguments.one:
        run_here(contender(arguments.one, arguments))
        return
    peer = importlib.util.find_spec("faster_coco_eval") is not None
    if not peer:
        print("without faster-coco-eval: pip install 'shardbox[bench]'", file=sys.stderr)
    tools = ["pycocotools", *["faster-coco-eval"] * peer, "shardbox"]
    grids = ["grid in one pass", "grid with its matching", "grid cell by cell"]
    sizes = {name: getattr(arguments, name) for name in ("images", "classes", "objects", "detections")}
    given = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    rows = in_turns(Path(__file__), tools + grids, arguments.rounds, given)
    furthest = max(abs(rows[name][figure] - rows["pycocotools"][figure]) for name in tools for figure in FIGURES)
    if furthest > TOLERANCE:
        sys.exit(f"the twelve figures differ by {furthest}")
    if any(rows[name][side] != rows[grids[0]][side] for name in grids for side in ("right", "wrong")):
        sys.exit("the grids differ")
    cpu = {name: row["cpu_s"] for name, row in rows.items()}
    ratios = {f"{name}_vs_shardbox": cpu[name] / cpu["shardbox"] for name in tools[:-1]}
    ratios["cell_by_cell_vs_one_pass"] = cpu[grids[2]] / cpu[grids[0]]
    ratios["cell_by_cell_vs_with_its_matching"] = cpu[grids[2]] / cpu[grids[1]]
    columns = ("cpu_s", "wall_s", "peak_mb")
    shown = {name: {column: row[column] for column in columns} for name, row in rows.items()}
    report(
        "evaluation",
        shown,
        ratios,
        arguments.json,
        sizes=sizes,
        figures={figure: rows["shardbox"][figure] for figure in FIGURES},
        furthest_figure=furthest,
    )


if __name__ == "__main__":
    main()
