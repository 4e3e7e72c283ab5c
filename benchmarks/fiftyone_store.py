"""FiftyOne: samples and an evaluation written in bulk, beside `add_samples` and `evaluate_detections`.

    python benchmarks/fiftyone_store.py [--samples 2000] [--rounds 3] [--json]

Samples of 7 objects and 20 detections of 10 classes. Every contender runs in a process of its own, against one MongoDB
that is running already. Ratios are of CPU seconds, the database's included (`server_cpu_s`, a part of `cpu_s`); wall
seconds stand beside them. Image files are written in none of them.

`evaluate_detections` matches what is stored, works out average precision and stores what came of it. "bulk evaluation"
is all that `shardbox browse` does for a run of a dataset that is stored already: it reads the truth from the shards,
matches, draws intervals, types the errors, works out what each image costs, and stores detections, verdicts and
results. `match_cpu_s` is the matching in it, average precision included, and `store_cpu_s` the storing: these two
together are what FiftyOne does.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import in_turns, parser, report

_HEIGHT, _WIDTH, _OBJECTS, _DETECTIONS, _CLASSES = 480, 640, 7, 20, 10
_SPLIT = "validation"
_CONTENDERS = ("add_samples", "bulk samples", "evaluate_detections", "bulk evaluation")


def _boxes(rng: Any, n: int) -> Any:
    """(n, 4) xyxy px inside of the image."""
    import numpy as np

    corner = rng.random((n, 2)) * (_WIDTH * 0.8, _HEIGHT * 0.8)
    side = rng.uniform(20, 0.2 * _HEIGHT - 1, (n, 2))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def _prepare(root: Path, count: int) -> Path:
    """A prepared dataset of `count` grey photographs with random objects."""
    import numpy as np

    from dataflow.images import encode_jpeg
    from dataflow.splits import parse_splits
    from tfds_builders.builders import SourceBuilder
    from tfds_builders.formats.coco import open_coco
    from tfds_builders.ingest_options import IngestOptions
    from tfds_builders.planning import PlanOptions

    (root / "images").mkdir()
    picture = encode_jpeg(np.full((_HEIGHT, _WIDTH, 3), 128, np.uint8))
    images, annotations = [], []
    for i in range(count):
        rng = np.random.default_rng(i)
        (root / "images" / f"{i:06d}.jpg").write_bytes(picture)
        images.append({"id": i, "file_name": f"{i:06d}.jpg", "height": _HEIGHT, "width": _WIDTH})
        for x0, y0, x1, y1 in _boxes(rng, _OBJECTS).tolist():
            box, kind = [x0, y0, x1 - x0, y1 - y0], int(rng.integers(_CLASSES)) + 1
            area = box[2] * box[3]
            entry = {"id": len(annotations) + 1, "image_id": i, "category_id": kind, "bbox": box, "area": area}
            annotations.append(entry | {"iscrowd": 0})
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(_CLASSES)]
    labels = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances_validation.json").write_text(json.dumps(labels))
    source = open_coco(root / "instances_validation.json", images=root / "images")
    options = IngestOptions(plan=PlanOptions(parse_splits(f"{_SPLIT}=1")), level="header")
    return SourceBuilder(source, name="benchmark", out=root / "out", options=options).prepare().path


def _predictions(dataset: Any) -> Any:
    """Detections near the objects, and as many others as make twenty."""
    import numpy as np

    from dataflow.records import Predictions
    from trainers.prediction.predictions import collect_predictions

    made = []
    for i, record in enumerate(dataset.records(_SPLIT)):
        rng = np.random.default_rng(i)
        boxes = _boxes(rng, _DETECTIONS)
        boxes[:_OBJECTS] = record.objects.boxes + rng.normal(0, 3, (_OBJECTS, 4))
        boxes = np.clip(boxes, 0, (_WIDTH, _HEIGHT, _WIDTH, _HEIGHT)).astype(np.float32)
        others = rng.integers(0, _CLASSES, _DETECTIONS - _OBJECTS)
        kinds = np.concatenate([record.objects.category_ids, others])
        made.append(Predictions(record.image_id, boxes, rng.random(_DETECTIONS), kinds, "run"))
    return collect_predictions(made, run_id="run", dataset=dataset, split=_SPLIT)


def _fiftyone_samples(records: list[Any], predictions: Any, names: Any) -> Iterator[Any]:
    """The samples as FiftyOne's documentation makes them."""
    import fiftyone as fo

    def boxes(values: Any) -> Iterator[list[float]]:
        for x0, y0, x1, y1 in values.tolist():
            yield [x0 / _WIDTH, y0 / _HEIGHT, (x1 - x0) / _WIDTH, (y1 - y0) / _HEIGHT]

    for record in records:
        objects, found = record.objects, predictions.by_image[record.image_id]
        sample = fo.Sample(filepath=f"/media/{record.filename}", tags=[_SPLIT], split=_SPLIT)
        sample["image_id"], sample["scene"], sample["provenance"] = record.image_id, record.group_id, record.provenance
        sample.metadata = fo.ImageMetadata(
            size_bytes=1, mime_type="image/jpeg", width=_WIDTH, height=_HEIGHT, num_channels=3
        )
        columns = zip(objects.category_ids.tolist(), boxes(objects.boxes), objects.areas.tolist(), strict=True)
        sample["ground_truth"] = fo.Detections(
            detections=[
                fo.Detection(label=names[kind], bounding_box=box, area=area, iscrowd=False, object=i)
                for i, (kind, box, area) in enumerate(columns)
            ]
        )
        columns = zip(found.category_ids.tolist(), boxes(found.boxes), found.scores.tolist(), strict=True)
        sample["pred_run"] = fo.Detections(
            detections=[
                fo.Detection(label=names[kind], bounding_box=box, confidence=score) for kind, box, score in columns
            ]
        )
        yield sample


def _bulk_samples(stored: Any, dataset: Any, records: list[Any], predictions: Any) -> None:
    """The same samples as Shardbox writes them, objects and detections at once."""
    from trainers.app import documents
    from trainers.app.truth import declare, relative_boxes, truth
    from trainers.evaluation.frames import Frame

    def samples() -> Iterator[Any]:
        for record in records:
            frame, found = Frame("image", record), predictions.by_image[record.image_id]
            columns = zip(
                found.category_ids.tolist(), relative_boxes(found.boxes, frame), found.scores.tolist(), strict=True
            )
            labels = [
                documents.detection({"label": names[kind], "bounding_box": box, "confidence": score})
                for kind, box, score in columns
            ]
            fields = {
                "image_id": record.image_id,
                "split": _SPLIT,
                "scene": record.group_id,
                "provenance": record.provenance,
                "ground_truth": documents.detections(list(truth(record, frame, names))),
                "pred_run": documents.detections(labels),
            }
            yield documents.sample(f"/media/{record.filename}", [_SPLIT], metadata, fields)

    import fiftyone as fo

    names = dataset.categories.names
    metadata = {
        "size_bytes": 1, "mime_type": "image/jpeg", "width": _WIDTH, "height": _HEIGHT, "num_channels": 3
    }  # fmt: skip
    declare(stored, dataset)
    documents.declare(stored, {"pred_run": fo.Detections})
    documents.insert(stored, samples())


class _Clock:
    """Wall seconds, and CPU seconds of this process and of the database, since it was made."""

    def __init__(self, server: int) -> None:
        import psutil

        self._server = psutil.Process(server)
        self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        times = self._server.cpu_times()
        return time.perf_counter(), time.process_time(), times.user + times.system

    def read(self) -> dict[str, float]:
        wall, own, server = (now - start for now, start in zip(self._now(), self._start, strict=True))
        return {"wall_s": wall, "cpu_s": own + server, "server_cpu_s": server}


def _one(contender: str, root: Path, server: int) -> dict[str, Any]:
    """Wall and CPU seconds of one contender, without what all need: imports, the server, the data."""
    from dataclasses import replace

    from dataflow.prepared import PreparedDataset
    from trainers.app.runs import add_run
    from trainers.app.store import fo, store
    from trainers.evaluation.evaluation import evaluate
    from trainers.evaluation.matching import match

    dataset = PreparedDataset(root / "out" / "benchmark" / "1.0.0")
    records = [replace(record, image=b"") for record in dataset.records(_SPLIT)]
    predictions = _predictions(dataset)
    names, options = dataset.categories.names, {"split": _SPLIT, "name": "stored", "media_dir": root / "media"}
    stored = fo.Dataset()
    if contender == "evaluate_detections":
        _bulk_samples(stored, dataset, records, predictions)
    if contender == "bulk evaluation":
        stored.delete()
        store(dataset, [], **options, overwrite=True)
        stored = fo.load_dataset("stored")
    clock = _Clock(server)
    if contender == "add_samples":
        stored.add_samples(list(_fiftyone_samples(records, predictions, names)), dynamic=True, progress=False)
    elif contender == "bulk samples":
        _bulk_samples(stored, dataset, records, predictions)
    elif contender == "evaluate_detections":
        stored.evaluate_detections("pred_run", eval_key="eval_run", compute_mAP=True, progress=False, classes=names)
    else:
        evaluation = evaluate(dataset, predictions, _SPLIT)
        evaluated = clock.read()
        add_run(stored, dataset, predictions, evaluation)
    figures = clock.read()
    if contender == "bulk evaluation":
        figures |= {f"store_{key}": figures[key] - evaluated[key] for key in ("wall_s", "cpu_s")}
        matching = _Clock(server)
        match(list(evaluation.truths.values()), predictions.by_image, len(names))
        figures |= {f"match_{key}": matching.read()[key] for key in ("wall_s", "cpu_s")}
    stored.reload()
    assert stored.count("pred_run.detections") == len(records) * _DETECTIONS
    assert stored.count("ground_truth.detections") == len(records) * _OBJECTS
    if stored.has_evaluation("eval_run"):
        figures["mAP"] = float(stored.load_evaluation_results("eval_run", cache=False).mAP())
        figures["true_positives"] = stored.sum("eval_run_tp")
    stored.delete()
    return figures


def _start_server(root: Path) -> tuple[Any, str]:
    """A MongoDB for all contenders, so that none of them pays for its start."""
    import socket

    from fiftyone.core.service import DatabaseService

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (root / "db").mkdir()
    command = [DatabaseService.find_mongod(), "--dbpath", str(root / "db"), "--port", str(port), "--nounixsocket"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL), f"mongodb://127.0.0.1:{port}"


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--samples", type=int, default=2000, help="samples (default 2000)")
    made.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--server", type=int, help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.one:
        print(json.dumps(_one(options.one, options.root, options.server)))
        return
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        _prepare(root, options.samples)
        server, uri = _start_server(root)
        os.environ |= {"FIFTYONE_DATABASE_URI": uri, "FIFTYONE_DO_NOT_TRACK": "true"}
        try:
            given = ["--root", str(root), "--server", str(server.pid)]
            rows = in_turns(Path(__file__), list(_CONTENDERS), options.rounds, given)
        finally:
            server.terminate()
            server.wait()
    theirs, ours = (rows[name] for name in _CONTENDERS[2:])
    assert abs(theirs["mAP"] - ours["mAP"]) < 1e-6 and theirs["true_positives"] == ours["true_positives"]
    ratios = {
        "bulk_samples_vs_add_samples": rows["add_samples"]["cpu_s"] / rows["bulk samples"]["cpu_s"],
        "bulk_match_and_store_vs_evaluate_detections": theirs["cpu_s"] / (ours["match_cpu_s"] + ours["store_cpu_s"]),
        "bulk_evaluation_vs_evaluate_detections": theirs["cpu_s"] / ours["cpu_s"],
        "wall_bulk_samples_vs_add_samples": rows["add_samples"]["wall_s"] / rows["bulk samples"]["wall_s"],
        "wall_bulk_match_and_store_vs_evaluate_detections": theirs["wall_s"]
        / (ours["match_wall_s"] + ours["store_wall_s"]),
        "wall_bulk_evaluation_vs_evaluate_detections": theirs["wall_s"] / ours["wall_s"],
    }
    report("fiftyone_store", rows, ratios, options.json, samples=options.samples)


if __name__ == "__main__":
    main()
