"""Prepared datasets: ours read by TFDS alone, those of TFDS read by us, and what is none."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from dataflow.boxes import xyxy_to_tfds
from dataflow.errors import UsageError
from dataflow.images import decode_rgb
from dataflow.pairs.image_diff import signed_difference
from dataflow.prepared import PreparedDataset
from dataflow.records import Change, ImageRecord
from dataflow.tfrecord import CorruptRecordError, read_records, write_record
from tests.factories import (
    Picture,
    Thing,
    assert_same_image,
    logical_dataset,
    prepare,
    write_coco,
    write_mot,
)
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.running import Running
from tfds_builders.sources.pairing import PairOptions

# Reads datasets with TFDS alone: importing anything of ours is an error. Arguments: the result, then the datasets.
READ_WITH_TFDS = """
import sys

class NothingOfOurs:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("dataflow", "tfds_builders", "trainers"):
            raise ImportError(f"{name} is hidden")

sys.meta_path.insert(0, NothingOfOurs())
import pickle
import tensorflow_datasets as tfds
import xxhash

found = {}
for path in sys.argv[2:]:
    builder = tfds.builder_from_directory(path)
    found[path] = {
        "names": builder.info.features["objects"]["label"].names,
        "splits": {split: info.num_examples for split, info in builder.info.splits.items()},
        "examples": {split: list(tfds.as_numpy(builder.as_dataset(split))) for split in builder.info.splits},
    }
assert not {"dataflow", "tfds_builders", "trainers"} & set(sys.modules)
with open(sys.argv[1], "wb") as file:
    pickle.dump(found, file)
"""


@pytest.fixture(scope="module")
def monkeymodule() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


PICTURES = logical_dataset(9, classes=2, crowd=True)
NAMES = ("person", "feu rouge é")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, monkeymodule: pytest.MonkeyPatch) -> PreparedDataset:
    """Images in so many shards that some are empty."""
    root = tmp_path_factory.mktemp("images")
    monkeymodule.setattr("dataflow.shards.LARGEST_SHARD_BYTES", 3000)
    dataset = prepare(open_coco(write_coco(root / "source", PICTURES, NAMES)), root / "out", "images")
    monkeymodule.undo()
    assert any(shard.count == 0 for split in dataset.splits for shard in dataset.shards(split))
    assert len(dataset.shards("train")) > 3
    return dataset


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    root = tmp_path_factory.mktemp("pairs")
    box = (5.0, 5.0, 20.0, 25.0)
    frames = [
        Picture("walk/000001", things=(Thing(0, box, 1), Thing(0, (30, 5, 40, 20), 2))),
        Picture("walk/000002", things=(Thing(0, (25, 8, 40, 28), 1), Thing(0, (30, 5, 40, 20), 2))),
        Picture("walk/000003", things=(Thing(0, (25, 8, 40, 28), 1), Thing(0, (1, 1, 9, 9), 3))),
    ]
    return prepare(open_mot(write_mot(root / "source", frames), PairOptions(1)), root / "out", "pairs")


@pytest.fixture(scope="module")
def differences(pairs: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    out = tmp_path_factory.mktemp("differences")
    builder = DifferencesBuilder(
        pairs, name="differences", out=out, mode="signed", image_format="png", running=Running()
    )
    return builder.prepare()


@pytest.fixture(scope="module")
def read_by_tfds(
    images: PreparedDataset,
    pairs: PreparedDataset,
    differences: PreparedDataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What TFDS makes of our datasets in a process that cannot import anything of ours."""
    folder = tmp_path_factory.mktemp("tfds")
    paths = [str(dataset.path) for dataset in (images, pairs, differences)]
    command = [sys.executable, "-I", "-c", READ_WITH_TFDS, str(folder / "found"), *paths]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = pickle.loads((folder / "found").read_bytes())
    return found


def assert_same_objects(theirs: dict[str, Any], record: ImageRecord) -> None:
    ours = record.objects
    np.testing.assert_allclose(theirs["bbox"], xyxy_to_tfds(ours.boxes, record.size), rtol=0, atol=2e-7)
    assert theirs["label"].tolist() == ours.category_ids.tolist()
    assert theirs["is_crowd"].tolist() == ours.is_crowd.tolist()
    assert theirs["area"].tolist() == ours.areas.tolist()
    assert (theirs["id"].tolist() if ours.track_ids is not None else []) == (
        ours.track_ids.tolist() if ours.track_ids is not None else []
    )


def test_tfds_alone_reads_our_images(images: PreparedDataset, read_by_tfds: dict[str, Any]) -> None:
    found = read_by_tfds[str(images.path)]
    assert found["names"] == list(images.categories.names) == list(NAMES)
    assert found["splits"] == images.splits
    assert sum(images.splits.values()) == len(PICTURES)
    for split in images.splits:
        theirs = {example["image/id"].decode(): example for example in found["examples"][split]}
        ours = {record.image_id: record for record in images.records(split)}
        assert theirs.keys() == ours.keys() and len(theirs) == images.splits[split]
        for image_id, record in ours.items():
            example = theirs[image_id]
            assert_same_image(example["image"], record.image)
            assert_same_objects(example["objects"], record)
            assert example["image/filename"].decode() == record.filename
            assert (example["image/height"], example["image/width"]) == record.size


def test_what_we_read_is_what_was_written(images: PreparedDataset) -> None:
    records = {record.image_id: record for split in images.splits for record in images.records(split)}
    for number, picture in enumerate(PICTURES, 101):
        record = records[picture.name]
        assert record.image == picture.encoded()
        assert (record.size, record.source_id) == ((picture.height, picture.width), str(number))
        np.testing.assert_allclose(record.objects.boxes, [t.box for t in picture.things] or np.zeros((0, 4)), atol=1e-3)
        assert record.objects.category_ids.tolist() == [thing.category for thing in picture.things]
        assert record.objects.is_crowd.tolist() == [thing.ignore for thing in picture.things]
    assert images.categories.source_ids == (3, 13)


def test_ids_alone(images: PreparedDataset, pairs: PreparedDataset) -> None:
    for dataset in (images, pairs):
        for shard in (shard for split in dataset.splits for shard in dataset.shards(split)):
            expected = [(record.image_id, record.source_id) for record in dataset.shard_records(shard)]
            assert list(dataset.shard_ids(shard)) == expected


def test_tfds_alone_reads_our_pairs(pairs: PreparedDataset, read_by_tfds: dict[str, Any]) -> None:
    found = read_by_tfds[str(pairs.path)]
    theirs = {example["image/id"].decode(): example for example in found["examples"]["train"]}
    assert set(theirs) == {"walk/000001-000002", "walk/000002-000003"}
    for pair in pairs.pairs("train"):
        example = theirs[pair.pair_id]
        assert_same_image(example["image"], pair.after.image)
        assert_same_image(example["before"], pair.before.image)
        np.testing.assert_array_equal(example["homography"], np.eye(3))
        assert example["homography"].dtype == np.float64
        assert pair.objects.changes is not None
        assert example["objects"]["change"].tolist() == pair.objects.changes.tolist()
    assert set(theirs["walk/000001-000002"]["objects"]["change"]) == {Change.MOVED}
    assert set(theirs["walk/000002-000003"]["objects"]["change"]) == {Change.APPEARED, Change.VANISHED}


def test_tfds_alone_reads_our_differences(
    pairs: PreparedDataset, differences: PreparedDataset, read_by_tfds: dict[str, Any]
) -> None:
    found = read_by_tfds[str(differences.path)]
    theirs = {example["image/id"].decode(): example for example in found["examples"]["train"]}
    before = {pair.pair_id: pair for pair in pairs.pairs("train")}
    assert theirs.keys() == before.keys()
    for pair_id, pair in before.items():
        expected = signed_difference(decode_rgb(pair.before.image), decode_rgb(pair.after.image))
        np.testing.assert_array_equal(theirs[pair_id]["image"], expected)
        assert_same_image(theirs[pair_id]["before"], pair.before.image)
        assert_same_image(theirs[pair_id]["after"], pair.after.image)
    for pair, example in zip(differences.pairs("train"), differences.examples("train"), strict=True):
        source = before[pair.pair_id]
        assert (pair.before.image, pair.after.image) == (source.before.image, source.after.image)
        assert example[1]["image"] not in (pair.before.image, pair.after.image)
        np.testing.assert_array_equal(pair.objects.boxes, source.objects.boxes)


def test_differences_know_where_they_come_from(pairs: PreparedDataset, differences: PreparedDataset) -> None:
    assert differences.manifest["source"] == {"dataset": "pairs", "fingerprint": pairs.fingerprint}
    assert differences.manifest["options"]["mode"] == "signed"
    assert differences.categories == pairs.categories
    assert differences.splits == pairs.splits


def test_reading_needs_no_tensorflow(images: PreparedDataset, pairs: PreparedDataset) -> None:
    code = (
        "import sys; from dataflow.prepared import PreparedDataset\n"
        "assert len(list(PreparedDataset(sys.argv[1]).records('train')))\n"
        "assert len(list(PreparedDataset(sys.argv[2]).pairs('train')))\n"
        "assert not {'tensorflow', 'torch', 'apache_beam', 'fiftyone'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(images.path), str(pairs.path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("made", ["nothing", "file", "empty"])
def test_what_is_no_dataset(made: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if made == "file":
        path.write_text("x")
    elif made == "empty":
        path.mkdir()
    with pytest.raises(UsageError, match=re.escape(f"{path} is no prepared dataset")) as caught:
        PreparedDataset(path)
    assert "shardbox ingest" in caught.value.remedy


def test_the_nearest_dataset_is_proposed(images: PreparedDataset) -> None:
    for path in (images.path.parent, images.path.parent.parent):
        with pytest.raises(UsageError) as caught:
            PreparedDataset(path)
        assert str(images.path) in caught.value.remedy


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"a": 1}'])
def test_damaged_descriptions(name: str, content: str, images: PreparedDataset, tmp_path: Path) -> None:
    copy = tmp_path / "1.0.0"
    shutil.copytree(images.path, copy)
    (copy / name).write_text(content)
    with pytest.raises(UsageError) as caught:
        PreparedDataset(copy)
    assert str(copy) in caught.value.message


def test_unknown_split(images: PreparedDataset) -> None:
    with pytest.raises(UsageError, match="has no split 'test'; choose with --split among train, validation"):
        images.shards("test")


def test_images_hold_no_pairs(images: PreparedDataset) -> None:
    with pytest.raises(UsageError, match="holds single images, no pairs; ingest with --pair-gap"):
        list(images.pairs("train"))


def copy_with_damaged_shard(dataset: PreparedDataset, folder: Path, keep_whole_records: bool) -> PreparedDataset:
    """A copy whose first shard of `train` with records has lost its last record, or its last byte."""
    copy = PreparedDataset(shutil.copytree(dataset.path, folder / "1.0.0"))
    path = next(shard.path for shard in copy.shards("train") if shard.count)
    with path.open("rb") as file:
        payloads = list(read_records(file))
    with path.open("wb") as file:
        for payload in payloads[:-1]:
            write_record(file, payload)
        if not keep_whole_records:
            write_record(file, payloads[-1])
            file.truncate(file.tell() - 1)
    return copy


@pytest.mark.parametrize("keep_whole_records", [True, False])
def test_missing_records_are_noticed(images: PreparedDataset, keep_whole_records: bool, tmp_path: Path) -> None:
    copy = copy_with_damaged_shard(images, tmp_path, keep_whole_records)
    with pytest.raises(CorruptRecordError, match="prepare the dataset again"):
        list(copy.records("train"))


def test_differences_of_a_damaged_dataset_keep_count(pairs: PreparedDataset, tmp_path: Path) -> None:
    copy = copy_with_damaged_shard(pairs, tmp_path / "copy", keep_whole_records=False)
    made = DifferencesBuilder(copy, name="d", out=tmp_path / "out", policy="quarantine", running=Running()).prepare()
    audit = json.loads((made.path / "audit.json").read_text())
    assert (audit["images_in"], audit["images_prepared"], audit["images_quarantined"]) == (2, 1, 1)
    assert [finding["code"] for finding in audit["findings"]] == ["image-unreadable"]
    assert "damaged record" in audit["findings"][0]["value"]


def test_shards_are_those_of_the_manifest(images: PreparedDataset) -> None:
    for split, described in images.manifest["splits"].items():
        assert described["count"] == images.splits[split]
        for shard, entry in zip(images.shards(split), described["shards"], strict=True):
            with shard.path.open("rb") as file:
                payloads = list(read_records(file))
            assert (shard.path.name, len(payloads)) == (entry["file"], entry["count"])
            assert xxhash.xxh3_128_hexdigest(b"".join(payloads)) == entry["digest"]
