"""Datasets in object stores: the same bytes as on a disk, whole or not at all, read from there by every reader."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.resize import ResizePolicy
from dataflow.errors import UsageError
from dataflow.prepared import METRICS, PreparedDataset
from dataflow.shards import FileFormat
from dataflow.stores import paths
from dataflow.stores.cloud_paths import CloudPath, is_cloud
from dataflow.stores.paths import location, objects_below
from tests.factories import Picture, logical_dataset, write_yolo
from tests.object_stores import STORES, object_store
from tfds_builders import builders, directory
from tfds_builders.builders import RefusedError, SourceBuilder
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.ingest_options import IngestOptions
from tfds_builders.sources.pairing import PairOptions

PETS = Path(__file__).parents[3] / "shared" / "data" / "pets09_s2l1"


@pytest.fixture(scope="module", params=sorted(STORES))
def root(request: pytest.FixtureRequest) -> Iterator[Path]:
    with object_store(request.param) as url:
        yield location(url)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yolo(tmp_path_factory.mktemp("source"), logical_dataset(8))


@pytest.fixture
def place(root: Path, request: pytest.FixtureRequest) -> Path:
    return root / request.node.originalname


def build(source: Path, out: Path, update: bool = False, file_format: FileFormat = "tfrecord") -> PreparedDataset:
    options = IngestOptions(file_format=file_format)
    return SourceBuilder(open_yolo(source), name="set", out=out, options=options, update=update).prepare()


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a dataset, in a store or here."""
    files = [path / name for name in objects_below(path)] if is_cloud(path) else sorted(path.iterdir())
    return {file.name: file.read_bytes() for file in files if file.name != METRICS}


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_the_files_are_those_of_a_disk(source: Path, place: Path, tmp_path: Path, file_format: FileFormat) -> None:
    there = build(source, place / file_format, file_format=file_format)
    here = build(source, tmp_path, file_format=file_format)
    assert contents(there.path) == contents(here.path)
    assert str(there.path) == f"{place}/{file_format}/set/1.0.0"
    assert set(objects_below(place / file_format)) == {f"set/1.0.0/{name}" for name in [*contents(here.path), METRICS]}
    assert [id for id, _ in there.examples("train")] == [id for id, _ in here.examples("train")]
    assert there.fingerprint == here.fingerprint and there.splits == here.splits


def test_training_reads_a_store_as_it_reads_a_disk(source: Path, place: Path, tmp_path: Path) -> None:
    there = build(source, place, file_format="array_record")
    here = build(source, tmp_path / "here", file_format="array_record")
    with patch.dict(os.environ, {"XDG_CACHE_HOME": str(tmp_path / "cache")}):
        for dataset in (there, here):
            loader = BatchLoader(dataset, "train", ResizePolicy(64, 96), batch_size=3, training=False)
            batches = [(batch.image_ids, batch.pixel_values.numpy().copy()) for batch in loader]
            if dataset is there:
                found = batches
    assert [ids for ids, _ in found] == [ids for ids, _ in batches]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, batches, strict=True))


def test_an_update_in_a_store_is_a_new_build(tmp_path: Path, place: Path) -> None:
    root = write_yolo(tmp_path / "source", logical_dataset(8))
    build(root, place)
    with pytest.raises(UsageError, match="is already there"):
        build(root, place)
    write_yolo(root, [Picture("scene/one more")])
    updated = build(root, place, update=True)
    assert contents(updated.path) == contents(build(root, tmp_path / "new").path)


def test_a_copy_in_plain_tfds(source: Path, place: Path, tmp_path: Path) -> None:
    dataset = build(source, place)
    with paths.local_directory(dataset.path) as copied:
        loaded = tfds.builder_from_directory(copied)
        assert {name: split.num_examples for name, split in loaded.info.splits.items()} == dataset.splits


class Killed(BaseException):
    """As if the process had ended there: nothing is tidied up."""


@pytest.mark.parametrize("killed_at", ["upload_files", "publish", "copy_object"])
def test_a_killed_build_leaves_nothing_that_loads(
    source: Path, place: Path, tmp_path: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = place / killed_at
    here = contents(build(source, tmp_path).path)

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as broken:
        broken.setattr(directory if killed_at == "copy_object" else builders, killed_at, die)
        broken.setattr(builders, "discard", lambda _: None)
        with pytest.raises(Killed):
            build(source, out)
    left = objects_below(out)
    assert left and not (out / "set/1.0.0/dataset_info.json").exists()
    with pytest.raises(UsageError, match="no prepared dataset"):
        PreparedDataset(out / "set/1.0.0")
    if killed_at == "copy_object":
        # All was ready: the next build finds it in its place.
        with pytest.raises(UsageError, match="is already there"):
            build(source, out)
    else:
        build(source, out)
    assert contents(out / "set/1.0.0") == here
    assert all(name.startswith("set/1.0.0/") for name in objects_below(out))


def test_the_build_of_a_living_process_is_left_alone(source: Path, place: Path) -> None:
    living = place / "set" / "incomplete.abc_1.0.0"
    owner = {
        "host": socket.gethostname(),
        "pid": os.getppid(),
        "started": directory._started(os.getppid()),
    }
    (living / ".owner.json").write_text(json.dumps(owner))
    elsewhere = place / "set" / "incomplete.def_1.0.0"
    (elsewhere / ".owner.json").write_text(json.dumps({"host": "another", "pid": 1, "started": "1"}))
    build(source, place)
    assert (living / ".owner.json").exists() and (elsewhere / ".owner.json").exists()


def test_a_refused_source_leaves_nothing(tmp_path: Path, place: Path) -> None:
    source = write_yolo(tmp_path / "source", logical_dataset(2))
    (source / "labels").rename(source / "elsewhere")
    (source / "labels").mkdir()
    with pytest.raises(RefusedError):
        SourceBuilder(open_yolo(source), name="set", out=place, options=IngestOptions(policy="fail")).prepare()
    assert objects_below(place) == {}


def test_a_bucket_that_is_not_there_is_refused_first(source: Path, root: Path) -> None:
    scheme = str(root).partition(":")[0]
    with pytest.raises((UsageError, OSError), match="nobody-has-this"):
        build(source, location(f"{scheme}://nobody-has-this/data"))


@pytest.mark.skipif(not PETS.is_dir(), reason="../shared/data/pets09_s2l1 is not beside the checkout")
def test_differences_from_a_store_into_a_store(place: Path, tmp_path: Path) -> None:
    pairs = IngestOptions(level="header")
    opened = open_mot(PETS, pairing=PairOptions(190))
    made = {}
    for out in (place, tmp_path):
        dataset = SourceBuilder(opened, name="pairs", out=out, options=pairs).prepare()
        made[out] = DifferencesBuilder(dataset, name="differences", out=out).prepare()
    there, here = contents(made[place].path), contents(made[tmp_path].path)
    assert there.pop("inputs.json") != here.pop("inputs.json")  # It names the place of the pairs.
    assert there == here
    assert isinstance(made[place].path, CloudPath)
