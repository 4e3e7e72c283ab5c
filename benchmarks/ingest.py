"""Ingestion: photographs with YOLO labels to TFDS shards, beside the floor and TFDS's own Beam writer.

    python benchmarks/ingest.py [--images 10000]

- floor: in one process, each photograph is read, its example serialised by TFDS and appended; nothing is checked, and
  the labels are known beforehand. Another row has it with the serialiser of Shardbox.
- shardbox: what `shardbox ingest` does, images checked by their headers; with every pixel decoded in another row.
- tfds: a TFDS builder with a Beam pipeline over the same photographs and labels, on the same runner, in memory.

All make the same examples. Ratios are of wall time; CPU time and peak memory stand beside. Every contender runs in a
process of its own, its imports not counted, in turns.
"""

import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_turns, parser, report, run_here

CLASSES = [f"class {index}" for index in range(80)]
OBJECTS = 7
SIZE = (480, 640)


def make_source(root: Path, count: int) -> None:
    """`count` photographs of about 100 kB and their labels. The pixels repeat; no two files are the same."""
    from dataflow.images import encode_jpeg
    from trainers.commands.scenes import load_photographs

    rng = np.random.default_rng(0)
    height, width = SIZE
    large = [p for p in load_photographs() if p.shape[0] > 300 and p.shape[1] > 400]
    pictures = []
    for index in range(64):
        source = large[index % len(large)]
        ys = np.linspace(rng.integers(0, 60), source.shape[0] - 1 - rng.integers(0, 60), height).astype(int)
        xs = np.linspace(rng.integers(0, 80), source.shape[1] - 1 - rng.integers(0, 80), width).astype(int)
        pictures.append(encode_jpeg(np.ascontiguousarray(source[ys][:, xs]), quality=88))
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True)
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"train: images/train\nnames:\n{names}")
    for index in range(count):
        data = pictures[index % len(pictures)]
        # A comment makes each file's content its own.
        comment = b"\xff\xfe" + struct.pack(">H", 10) + struct.pack(">Q", index)
        (root / "images/train" / f"{index:08d}.jpg").write_bytes(data[:2] + comment + data[2:])
        rows = [_row(rng) for _ in range(OBJECTS)]
        (root / "labels/train" / f"{index:08d}.txt").write_text("".join(rows))


def _row(rng: np.random.Generator) -> str:
    width, height = rng.uniform(0.05, 0.4, 2)
    cx, cy = rng.uniform(width / 2, 1 - width / 2), rng.uniform(height / 2, 1 - height / 2)
    return f"{rng.integers(80)} {cx:.6f} {cy:.6f} {width:.6f} {height:.6f}\n"


def _records(root: Path) -> Iterator[tuple[str, Any]]:
    """(image file, record without its bytes) of every image, from its label file alone."""
    from dataflow.boxes import cxcywh_to_xyxy
    from dataflow.records import ImageRecord, Objects

    for path in sorted((root / "labels/train").iterdir()):
        rows = np.loadtxt(path, ndmin=2)
        objects = Objects(cxcywh_to_xyxy(rows[:, 1:], SIZE), rows[:, 0].astype(int))
        file = f"images/train/{path.stem}.jpg"
        yield (
            file,
            ImageRecord(path.stem, b"-", *SIZE, objects, path.stem, f"labels/train/{path.name}:1", file, orientation=1),
        )


def floor(root: Path, out: Path, own_serialiser: bool) -> None:
    """Read, serialise and append; nothing else."""
    from tensorflow_datasets.core import example_serializer

    from dataflow.example_bytes import ExampleBytes
    from dataflow.records import Categories
    from dataflow.schema import build_features, record_to_example
    from dataflow.tfrecord import write_record

    features = build_features(Categories(tuple(CLASSES)), "images")
    examples = [(file, record_to_example(record)) for file, record in _records(root)]
    if own_serialiser:
        serialise = ExampleBytes(features)
    else:
        theirs = example_serializer.ExampleSerializer(features.get_serialized_info())
        examples = [(file, _for_tfds(example)) for file, example in examples]

        def serialise(example: Any) -> bytes:
            return bytes(theirs.get_tf_example(features.encode_example(example)).SerializeToString(deterministic=True))

    def work() -> dict[str, Any]:
        with (out / "floor.tfrecord").open("wb") as file:
            for name, example in examples:
                write_record(file, serialise(example | {"image": (root / name).read_bytes()}))
        return {}

    run_here(work)


def _for_tfds(example: dict[str, Any]) -> dict[str, Any]:
    """An example as TFDS encodes it."""
    import tensorflow_datasets as tfds

    columns = {name: np.asarray(values).tolist() for name, values in example["objects"].items()}
    columns["bbox"] = [tfds.features.BBox(*box) for box in columns["bbox"]]
    return {**example, "objects": columns}


def shardbox(root: Path, out: Path, level: str) -> None:
    """`shardbox ingest`."""
    from tfds_builders.builders import SourceBuilder
    from tfds_builders.formats.yolo import open_yolo
    from tfds_builders.ingest_options import IngestOptions

    def work() -> dict[str, Any]:
        builder = SourceBuilder(open_yolo(root), name="bench", out=out, options=IngestOptions(level=level))
        dataset = builder.prepare()
        return {"examples": dataset.splits["train"]}

    run_here(work)


def tfds_beam(root: Path, out: Path) -> None:
    """TFDS's Beam writer: the same examples by a builder as TFDS's guide writes it."""
    import apache_beam as beam
    import tensorflow_datasets as tfds

    from dataflow.records import Categories
    from dataflow.schema import build_features, record_to_example

    examples = [(file, _for_tfds(record_to_example(record))) for file, record in _records(root)]

    class Bench(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "bench"

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self, features=build_features(Categories(tuple(CLASSES)), "images"), disable_shuffling=False
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            return beam.Create(examples) | "read" >> beam.Map(read)

    folder = str(root)

    def read(item: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        name, example = item
        return name, example | {"image": Path(folder, name).read_bytes()}

    def work() -> dict[str, Any]:
        config = tfds.download.DownloadConfig(beam_runner="FnApiRunner")
        builder = Bench(data_dir=out)
        builder.download_and_prepare(download_config=config)
        return {"examples": builder.info.splits["train"].num_examples}

    run_here(work)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--images", type=int, default=10_000, help="photographs (default 10000, 1 GB)")
    options.add_argument("--source", type=Path, help="a source that an earlier run made, to use it again")
    chosen = options.parse_args()
    if chosen.one == "make":
        make_source(chosen.source, chosen.images)
        return
    if chosen.one:
        with tempfile.TemporaryDirectory(dir=chosen.source.parent) as out:
            {
                "floor": lambda: floor(chosen.source, Path(out), own_serialiser=False),
                "floor, our serialiser": lambda: floor(chosen.source, Path(out), own_serialiser=True),
                "shardbox": lambda: shardbox(chosen.source, Path(out), "header"),
                "shardbox, every pixel": lambda: shardbox(chosen.source, Path(out), "decode"),
                "tfds": lambda: tfds_beam(chosen.source, Path(out)),
            }[chosen.one]()
        return
    folder = Path(tempfile.mkdtemp(prefix="shardbox-bench-"))
    try:
        source = chosen.source or folder / "source"
        if not source.exists():
            # In a process of its own: a child's peak memory begins with what its parent has.
            script = [
                sys.executable,
                __file__,
                "--one",
                "make",
                "--source",
                str(source),
                "--images",
                str(chosen.images),
            ]
            subprocess.run(script, check=True)
        contenders = ["floor", "floor, our serialiser", "shardbox", "shardbox, every pixel", "tfds"]
        rows = in_turns(Path(__file__), contenders, chosen.rounds, ["--source", str(source)])
    finally:
        shutil.rmtree(folder)
    ours, checked = rows["shardbox"], rows["shardbox, every pixel"]
    ratios = {
        "tfds_vs_shardbox": rows["tfds"]["wall_s"] / ours["wall_s"],
        "shardbox_vs_floor_speed": rows["floor"]["wall_s"] / ours["wall_s"],
        "shardbox_vs_floor_with_our_serialiser_speed": rows["floor, our serialiser"]["wall_s"] / ours["wall_s"],
        "decode_vs_header": checked["wall_s"] / ours["wall_s"],
        "tfds_memory_vs_shardbox_memory": (rows["tfds"]["peak_mb"] - rows["tfds"]["before_mb"])
        / max(1.0, ours["peak_mb"] - ours["before_mb"]),
        "shardbox_added_mb": ours["peak_mb"] - ours["before_mb"],
    }
    report("ingest", rows, ratios, chosen.json, images=chosen.images)


if __name__ == "__main__":
    main()
