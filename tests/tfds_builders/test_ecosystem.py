"""What we prepare opens without us: `tfds build`, `tfds.load`, `builder_from_directory`, `as_data_source`."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dataflow.boxes import tfds_to_xyxy
from dataflow.prepared import PreparedDataset
from dataflow.records import ImageRecord
from dataflow.tensorflow_runtime import load_tensorflow
from tests.factories import Picture, assert_same_image, logical_dataset, prepare, write, write_coco, write_mot
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.sources.pairing import PairOptions

REPOSITORY = Path(__file__).parents[2]
NAMES = ("car", "Straßenbahn")
PICTURES = logical_dataset(8, classes=2, crowd=True)
DECLARED = """
from tfds_builders.declared import DeclaredBuilder

class Builder(DeclaredBuilder):
    FORMAT = "coco"
    SOURCE = "../source"
    SPLITS = "train=0.5,validation=0.5"
"""
# A user's own program: TFDS and TensorFlow, nothing of ours.
LOAD = """
import json, sys
import numpy as np
import tensorflow_datasets as tfds

name, data_dir, out = sys.argv[1:]
arrays = {}
for split, examples in tfds.load(name, data_dir=data_dir).items():
    for example in tfds.as_numpy(examples):
        image_id = example["image/id"].decode()
        arrays[f"{split} {image_id} image"] = example["image"]
        for key in ("bbox", "label", "is_crowd"):
            arrays[f"{split} {image_id} {key}"] = example["objects"][key]
np.savez(out, **arrays)
print(json.dumps(sorted(module for module in sys.modules if module.partition(".")[0] in ("dataflow", "tfds_builders"))))
"""


def _run(words: list[str], folder: Path) -> str:
    """Run a command as a user would, in his folder; its standard output."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _tfds(*words: str, folder: Path) -> str:
    return _run([str(Path(sys.executable).with_name("tfds")), *words], folder)


def _assert_same(arrays: Mapping[str, Any], prefix: str, record: ImageRecord) -> None:
    """What TensorFlow made of an example is what our reader makes of it."""
    assert_same_image(arrays[f"{prefix} image"], record.image)
    objects = record.objects
    boxes = tfds_to_xyxy(arrays[f"{prefix} bbox"], record.size)
    np.testing.assert_array_equal(boxes, objects.boxes)
    np.testing.assert_array_equal(arrays[f"{prefix} label"], objects.category_ids)
    np.testing.assert_array_equal(arrays[f"{prefix} is_crowd"], objects.is_crowd)


def test_tfds_build_then_tfds_load_in_other_processes(tmp_path: Path) -> None:
    write_coco(tmp_path / "source", PICTURES, NAMES)
    folder = tmp_path / "my_things"
    write(folder / "my_things_dataset_builder.py", DECLARED)
    write(folder / "README.md", "Cars and trams.")
    said = _tfds("build", "--data_dir", "../out", folder=folder)
    assert "'validation': <SplitInfo num_examples=" in said
    path = tmp_path / "out" / "my_things" / "1.0.0"
    assert tfds.builder_from_directory(path).info.description == "Cars and trams."
    assert json.loads((path / "audit.json").read_text())["images_prepared"] == 8
    # Again: nothing to do. Then opened without the source, without the class, without our packages.
    before = sorted((entry.name, entry.stat().st_mtime_ns) for entry in path.iterdir())
    _tfds("build", "--data_dir", "../out", folder=folder)
    assert sorted((entry.name, entry.stat().st_mtime_ns) for entry in path.iterdir()) == before
    (tmp_path / "source").rename(tmp_path / "gone")
    words = [sys.executable, "-c", LOAD, "my_things", str(tmp_path / "out"), str(tmp_path / "loaded.npz")]
    ours = json.loads(_run(words, tmp_path).splitlines()[-1])
    assert ours == []
    loaded = np.load(tmp_path / "loaded.npz")
    dataset = PreparedDataset(path)
    assert dataset.splits.keys() == {"train", "validation"}
    seen = 0
    for split in dataset.splits:
        for record in dataset.records(split):
            _assert_same(loaded, f"{split} {record.image_id}", record)
            seen += 1
    assert seen == 8 and len(loaded.files) == 4 * 8


def test_tfds_build_of_the_ready_made_builder(tmp_path: Path) -> None:
    source = write_coco(tmp_path / "source", PICTURES, NAMES)
    words = ["--imports", "tfds_builders.declared", "--manual_dir", str(source), "--data_dir", str(tmp_path / "out")]
    _tfds("build", "annotated_images", *words, folder=tmp_path)
    dataset = PreparedDataset(tmp_path / "out" / "annotated_images" / "1.0.0")
    reference = prepare(open_coco(source), tmp_path / "reference", "annotated_images")
    assert dataset.fingerprint == reference.fingerprint
    assert dataset.categories.names == NAMES


def test_builder_from_directory_as_dataset(tmp_path: Path) -> None:
    load_tensorflow()
    dataset = prepare(open_coco(write_coco(tmp_path / "source", PICTURES, NAMES)), tmp_path / "out")
    builder = tfds.builder_from_directory(dataset.path)
    for split in dataset.splits:
        examples = list(tfds.as_numpy(builder.as_dataset(split=split)))
        records = {record.image_id: record for record in dataset.records(split)}
        assert [example["image/id"].decode() for example in examples] == list(records)
        for example in examples:
            arrays = {"image": example["image"], **example["objects"]}
            record = records[example["image/id"].decode()]
            _assert_same({f"_ {key}": value for key, value in arrays.items()}, "_", record)
    # TFDS's own slices and its decoders.
    part = builder.as_dataset(split="train[:50%]", decoders={"image": tfds.decode.SkipDecoding()})
    assert 0 < len(part) < dataset.splits["train"]


def test_pairs_as_dataset(tmp_path: Path) -> None:
    load_tensorflow()
    frames = [Picture(f"scene/{i:06d}", things=PICTURES[0].things) for i in range(1, 6)]
    source = open_mot(write_mot(tmp_path / "source", frames), PairOptions(1))
    dataset = prepare(source, tmp_path / "out")
    (split,) = dataset.splits
    examples = list(tfds.as_numpy(tfds.builder_from_directory(dataset.path).as_dataset(split=split)))
    assert len(examples) == 4
    for example, pair in zip(examples, dataset.pairs(split), strict=True):
        assert_same_image(example["before"], pair.before.image)
        assert_same_image(example["image"], pair.after.image)
        np.testing.assert_array_equal(example["homography"], np.eye(3))
        np.testing.assert_array_equal(example["objects"]["change"], pair.objects.changes)


@pytest.fixture(scope="module")
def random_access(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedDataset, PreparedDataset]:
    """One source as ArrayRecord and as TFRecord."""
    folder = tmp_path_factory.mktemp("random_access")
    source = open_coco(write_coco(folder / "source", PICTURES, NAMES))
    return prepare(source, folder / "random", file_format="array_record"), prepare(source, folder / "stream")


def test_as_data_source(random_access: tuple[PreparedDataset, PreparedDataset]) -> None:
    dataset, stream = random_access
    assert dataset.splits == stream.splits
    sources = tfds.builder_from_directory(dataset.path).as_data_source()
    for split in dataset.splits:
        source, records = sources[split], list(stream.records(split))
        assert len(source) == len(records)
        for index in reversed(range(len(source))):  # Random access, without TensorFlow.
            example, record = source[index], records[index]
            assert example["image/id"].decode() == record.image_id
            objects = {key: np.asarray(value) for key, value in example["objects"].items()}
            arrays = {"image": example["image"], **objects}
            _assert_same({f"_ {key}": value for key, value in arrays.items()}, "_", record)


def test_array_record_holds_what_tfrecord_holds(random_access: tuple[PreparedDataset, PreparedDataset]) -> None:
    dataset, stream = random_access
    assert not list(dataset.path.glob("*.tfrecord*"))
    for split in dataset.splits:
        for ours, theirs in zip(dataset.records(split), stream.records(split), strict=True):
            assert (ours.image_id, ours.image) == (theirs.image_id, theirs.image)
            np.testing.assert_array_equal(ours.objects.boxes, theirs.objects.boxes)
