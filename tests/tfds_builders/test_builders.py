"""Builders: every image is prepared or quarantined, and a dataset appears whole or not at all."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from dataflow.errors import UsageError
from dataflow.prepared import METRICS
from dataflow.shards import place_in_shard
from dataflow.splits import parse_splits
from tests.factories import (
    Picture,
    Thing,
    logical_dataset,
    photograph,
    prepare,
    write,
    write_coco,
    write_mot,
    write_yolo,
)
from tfds_builders.builders import SourceBuilder
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.planning import PlanOptions, plan_shards
from tfds_builders.running import Running
from tfds_builders.sources.pairing import PairOptions


def digests(path: Path) -> dict[str, str]:
    """Of all shards of a dataset directory."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(path.glob("*.tfrecord*"))}


def contents(path: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != METRICS)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_twice_the_same_bytes(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "source", logical_dataset(9))
    first, second = (prepare(open_yolo(source), tmp_path / out) for out in ("a", "b"))
    assert digests(first.path) == digests(second.path) and digests(first.path)
    assert first.fingerprint == second.fingerprint
    assert contents(first.path) == contents(second.path)


def test_order_in_a_shard_is_by_hash_whatever_the_order_of_the_source(tmp_path: Path) -> None:
    source = open_yolo(write_yolo(tmp_path / "source", logical_dataset(9)))
    dataset = prepare(source, tmp_path / "out", splits=parse_splits("train=1"))
    names = [record.image_id for record in dataset.records("train")]
    assert names == sorted(names, key=place_in_shard) != sorted(names)
    references, options = source.scan().references, PlanOptions(splits=parse_splits("train=1"), shards=2)
    orders = (references, references[::-1])
    forwards, backwards = (plan_shards(order, options, lambda asked: [[] for _ in asked]) for order in orders)
    assert list(references) == sorted(references, key=lambda reference: reference.image_id)
    assert forwards.inputs == backwards.inputs


def test_a_moved_source_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing of where the source lies, or when it was written, gets into the shards."""
    source = write_coco(tmp_path / "source", logical_dataset(5))
    first = prepare(open_coco(source), tmp_path / "a")
    moved = shutil.copytree(source, tmp_path / "deeper" / "elsewhere")
    assert digests(prepare(open_coco(moved), tmp_path / "b").path) == digests(first.path)


def test_the_directory_holds_what_it_should(tmp_path: Path) -> None:
    dataset = prepare(open_yolo(write_yolo(tmp_path / "s", logical_dataset(5))), tmp_path / "out", "x")
    assert dataset.path == tmp_path / "out" / "x" / "1.0.0"
    names = {path.name for path in dataset.path.iterdir()} - set(digests(dataset.path))
    assert names == {
        "audit.html",
        "audit.json",
        "audit.sarif",
        "croissant.json",
        "inputs.json",
        "manifest.json",
        "metrics.json",
        "features.json",
        "dataset_info.json",
        "objects-label.labels.txt",
    }
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]
    assert [path.name for path in (tmp_path / "out" / "x").iterdir()] == ["1.0.0"]


def test_manifest(tmp_path: Path) -> None:
    source = open_yolo(write_yolo(tmp_path / "s", logical_dataset(5), ("köttur",)))
    builder = SourceBuilder(source, name="x", out=tmp_path, origin={"source": "from\udce9", "options": {"a": 3}})
    manifest = builder.prepare().manifest
    assert manifest["schema_version"] == 3 and manifest["kind"] == "images"
    assert manifest["categories"] == [{"name": "köttur", "source_id": 0}]
    assert (manifest["source"], manifest["options"]["a"]) == ("from\udce9", 3)
    assert isinstance(manifest["options"]["seed"], int), "the seed that was chosen is said"
    assert sum(split["count"] for split in manifest["splits"].values()) == 5
    assert len(manifest["fingerprint"]) == 64


def test_existing_output_is_refused_and_kept(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "source", logical_dataset(3))
    dataset = prepare(open_yolo(source), tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(UsageError, match="is already there; bring it up to date with --update"):
        prepare(open_yolo(source), tmp_path / "out")
    assert contents(tmp_path / "out") == before and dataset.splits
    other = open_yolo(write_yolo(tmp_path / "other", logical_dataset(3), ("another", "class")))
    with pytest.raises(UsageError, match="is already there"):
        prepare(other, tmp_path / "out")
    write(dataset.path / "dataset_info.json", "{")
    with pytest.raises(UsageError, match="is already there, and damaged; delete it"):
        prepare(other, tmp_path / "out")


@pytest.mark.parametrize(
    "running",
    [Running("Nobody"), Running("FnApiRunner", ("--direct_running_mode=multi_threading",))],
)
def test_bad_runners_are_refused_before_anything_is_made(running: Running, tmp_path: Path) -> None:
    source = open_yolo(write_yolo(tmp_path / "s", logical_dataset(3)))
    with pytest.raises(UsageError):
        SourceBuilder(source, name="x", out=tmp_path / "out", running=running).prepare()
    assert not (tmp_path / "out").exists()


def test_frame_ranges_are_for_frames(tmp_path: Path) -> None:
    """Splits of data.yaml may have the very names of the ranges; the ranges must not be passed over."""
    write_yolo(tmp_path / "s", [Picture("train/1"), Picture("val/2")])
    write(tmp_path / "s" / "data.yaml", "train: images/train\nval: images/val\nnames: [thing]\n")
    with pytest.raises(UsageError, match="only sequences of frames"):
        prepare(open_yolo(tmp_path / "s"), tmp_path / "out", splits=parse_splits("train=1-5,validation=6-9"))


def test_output_that_is_a_file(tmp_path: Path) -> None:
    out = write(tmp_path / "out", "not a directory")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        prepare(open_yolo(write_yolo(tmp_path / "s", logical_dataset(2))), out)


def test_differences_of_undecodable_frames_are_quarantined(tmp_path: Path) -> None:
    """A frame whose header is right and whose pixels are not passes ingestion by header, and is found by the diff."""
    pictures = [Picture(f"walk/{i:06d}", things=(Thing(0, (1, 1, 9, 9)),)) for i in (1, 2, 3)]
    write_mot(tmp_path / "s", pictures)
    whole = photograph(seed=5, encoding="PNG", orientation=1)
    at = whole.find(b"IDAT") + 200
    write(tmp_path / "s" / "walk" / "img1" / "000003.jpg", whole[:at] + b"damage" + whole[at + 6 :])
    pairs = prepare(open_mot(tmp_path / "s", PairOptions(1)), tmp_path / "out", "pairs", level="header")
    assert pairs.splits == {"train": 2}
    made = DifferencesBuilder(pairs, name="d", out=tmp_path / "out").prepare()
    audit = json.loads((made.path / "audit.json").read_text())
    assert audit["quarantined"] == ["walk/000002-000003"] and made.splits == {"train": 1}
    assert [finding["code"] for finding in audit["findings"]] == ["image-unreadable"]


def test_differences_are_of_pairs(tmp_path: Path) -> None:
    images = prepare(open_yolo(write_yolo(tmp_path / "s", logical_dataset(2))), tmp_path / "out")
    with pytest.raises(UsageError, match="holds single images, no pairs"):
        DifferencesBuilder(images, name="d", out=tmp_path)
    pictures = [Picture(f"walk/{i:06d}") for i in (1, 2)]
    pairs = prepare(open_mot(write_mot(tmp_path / "m", pictures), PairOptions(1)), tmp_path / "out", "pairs")
    differences = DifferencesBuilder(pairs, name="d", out=tmp_path / "out").prepare()
    with pytest.raises(UsageError, match="already holds differences"):
        DifferencesBuilder(differences, name="e", out=tmp_path / "out")
