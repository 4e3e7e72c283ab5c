"""`shardbox export` as a user meets it."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dataflow.images import read_header
from dataflow.prepared import PreparedDataset
from tests.factories import logical_dataset, photograph, prepare, write_coco, write_mot
from tfds_builders.choices import FORMATS, PAIR_FORMATS, open_source
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.sources.pairing import PairOptions
from trainers.cli import main

NAMES = ("voiture à cheval", "犬")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `shardbox export`: its exit status, what it printed on standard output, and on standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["export", *map(str, words)])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Ten images of two classes, some with regions to ignore."""
    root = tmp_path_factory.mktemp("images")
    source = write_coco(root / "coco", logical_dataset(10, classes=2, crowd=True), NAMES)
    return prepare(open_coco(source), root / "out", "pictures")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Pairs of neighbouring frames."""
    root = tmp_path_factory.mktemp("pairs")
    pictures = [type(p)(p.name, 48, 64) for p in logical_dataset(4)]
    return prepare(open_mot(write_mot(root / "mot", pictures), PairOptions(1)), root / "out", "walk")


def crowds(dataset: PreparedDataset, split: str) -> int:
    return sum(int(record.objects.is_crowd.sum()) for record in dataset.records(split))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in PAIR_FORMATS])
def test_every_format_says_what_it_did(name: Any, images: PreparedDataset, run: Run, tmp_path: Path) -> None:
    status, out, err = run(images.path, "--format", name, "--out", tmp_path / "out")
    assert (status, err) == (0, "")
    said = json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))
    assert (said["dataset"], said["fingerprint"]) == ("pictures", images.fingerprint)
    assert (said["format"], said["splits"], said["examples"]) == (name, images.splits, 10)
    lines = out.splitlines()
    counts = ", ".join(f"{split} {count}" for split, count in images.splits.items())
    assert lines[0] == f"pictures: 10 examples as {name} ({counts})"
    assert lines[-1] == f"written: {tmp_path / 'out'}"
    lost = [line.removeprefix(f"  {name} cannot hold ") for line in lines[1:-1]]
    told = {what: int(rest.split()[0]) for what, _, rest in (line.partition(": ") for line in lost)}
    assert told == said["not_held"], "one line for each"
    assert all(
        line.split(": ")[1].split()[1] in ("image", "images", "object", "objects", "class", "classes") for line in lost
    )
    assert len(open_source(name, tmp_path / "out").scan().references) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_losses_are_counted_and_what_brings_them_back_is_said(
    images: PreparedDataset, run: Run, tmp_path: Path
) -> None:
    _, out, _ = run(images.path, "--format", "yolo", "--out", tmp_path / "out")
    expected = sum(crowds(images, split) for split in images.splits)
    assert expected and f"  yolo cannot hold regions to ignore: {expected} objects (left out)\n" in out
    assert "  yolo cannot hold class ids of the source: 2 classes\n" in out
    assert "  yolo cannot hold ids of the source: 10 images\n" in out


def test_one_split(images: PreparedDataset, run: Run, tmp_path: Path) -> None:
    status, out, _ = run(images.path, "--format", "voc", "--out", tmp_path / "out", "--split", "validation", "--json")
    answer = json.loads(out)
    count = images.splits["validation"]
    assert status == 0 and answer["splits"] == {"validation": count} and answer["examples"] == count
    assert answer["out"] == str(tmp_path / "out") and answer["not_held"]["ids of the source"] == count
    found = {
        reference.image_id: reference.split for reference in open_source("voc", tmp_path / "out").scan().references
    }
    assert found == {record.image_id: "validation" for record in images.records("validation")}


def test_json_is_all_there_is_on_standard_output(images: PreparedDataset, tmp_path: Path) -> None:
    """In a process of its own, from another directory, with a path relative to it."""
    words = ("export", images.path, "--format", "coco", "--out", "a/b", "--json")
    command = [sys.executable, "-m", "trainers.cli", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    on_disk = json.loads((tmp_path / "a" / "b" / "export.json").read_text(encoding="utf-8"))
    assert answer == {"out": "a/b", **on_disk}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--format", "yolo", "--split", "night"), ("no split 'night'", "choose with --split among train, validation")),
        (("--format", "pairs"), ("holds single images", "use --format yolo, coco, voc, mot, virat, labelme, cvat")),
    ],
)
def test_what_cannot_be_exported(
    words: tuple[str, ...], told: tuple[str, str], images: PreparedDataset, run: Run, tmp_path: Path
) -> None:
    status, out, err = run(images.path, *words, "--out", tmp_path / "out")
    assert (status, out) == (2, "")
    assert all(text in err for text in told) and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    status, out, _ = run(images.path, *words, "--out", tmp_path / "out", "--json")
    answer = json.loads(out)
    assert (status, answer["error"]) == (2, "usage")
    assert told[0] in answer["message"] and told[1] in answer["remedy"]


def test_pairs(pairs: PreparedDataset, run: Run, tmp_path: Path) -> None:
    status, _, err = run(pairs.path, "--format", "coco", "--out", tmp_path / "out")
    assert status == 2 and "holds before/after pairs" in err and "use --format pairs" in err
    assert not list(tmp_path.iterdir())
    status, out, _ = run(pairs.path, "--format", "pairs", "--out", tmp_path / "out")
    assert status == 0 and out.startswith("walk: 3 examples as pairs (train 3)\nwritten: ")
    assert len(open_source("pairs", tmp_path / "out").scan().references) == 3


def test_what_is_there_is_not_written_over(images: PreparedDataset, run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    status, out, err = run(images.path, "--format", "yolo", "--out", tmp_path / "taken")
    assert (status, out) == (2, "") and "exists already; choose another --out" in err
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "mine.txt"]
    assert run(images.path, "--format", "yolo", "--out", tmp_path / "out")[0] == 0
    assert run(images.path, "--format", "yolo", "--out", tmp_path / "out")[0] == 2, "its own work, too"
    (tmp_path / "empty").mkdir()
    assert run(images.path, "--format", "yolo", "--out", tmp_path / "empty")[0] == 0


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_left_when_it_fails_half_way(
    name: Any, images: PreparedDataset, pairs: PreparedDataset, run: Run, tmp_path: Path
) -> None:
    """The last shard is damaged: by then images have been written."""
    given = pairs if name in PAIR_FORMATS else images
    broken = tmp_path / "walk" / "1.0.0"
    broken.mkdir(parents=True)
    for path in given.path.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    shard = max(broken.glob("*.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-7])
    status, out, err = run(broken, "--format", name, "--out", tmp_path / "out")
    assert status != 0 and not out and shard.name in err and len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["walk"]


class Foreign(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """A detection dataset as anyone may have made one with TFDS: no ids, no areas, `is_difficult`."""

    VERSION = tfds.core.Version("2.1.0")
    images: ClassVar[dict[str, bytes]] = {
        "000005.jpg": photograph(40, 80),
        "b/turned.jpg": photograph(40, 80, seed=1, orientation=6),
        "empty.png": photograph(seed=2, encoding="PNG"),
    }

    def _info(self) -> Any:
        objects = {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=list(NAMES)),
            "is_difficult": np.bool_,
        }
        features = {
            "image": tfds.features.Image(),
            "image/filename": tfds.features.Text(),
            "objects": tfds.features.Sequence(objects),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        boxes = (tfds.features.BBox(0.1, 0.125, 0.5, 0.5), tfds.features.BBox(0.0, 0.0, 1.0, 1.0))
        for name, data in self.images.items():
            objects = [{"bbox": box, "label": i, "is_difficult": bool(i)} for i, box in enumerate(boxes)]
            yield (
                name,
                {"image": io.BytesIO(data), "image/filename": name, "objects": [] if "empty" in name else objects},
            )


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = Foreign(data_dir=tmp_path_factory.mktemp("foreign"), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in PAIR_FORMATS])
def test_a_dataset_that_is_not_ours(name: Any, foreign: Path, run: Run, tmp_path: Path) -> None:
    status, out, _ = run(foreign, "--format", name, "--out", tmp_path / "out")
    assert status == 0 and out.startswith(f"foreign: 3 examples as {name} (train 3)\n")
    advice = "EXIF orientations that were ignored: 1 image (ingest it with --exif ignore)"
    assert f"  {name} cannot hold {advice}\n" in out, "boxes of TFDS are on the pixels as stored"
    again = prepare(open_source(name, tmp_path / "out"), tmp_path / "prepared", exif="ignore")
    records = {record.image: record for split in again.splits for record in again.records(split)}
    assert records.keys() == set(Foreign.images.values())
    is_left_out = name in ("yolo", "virat")
    for file, data in Foreign.images.items():
        record = records[data]
        assert record.size == read_header(data).stored_size
        expected = [] if "empty" in file else [[10, 4, 40, 20], [0, 0, 80, 40]][: 1 if is_left_out else 2]
        np.testing.assert_allclose(record.objects.boxes, np.reshape(expected, (-1, 4)), rtol=0, atol=1e-2)
        assert record.objects.is_crowd.tolist() == [False, True][: len(expected)]
        if name in ("yolo", "coco", "voc", "labelme", "cvat"):
            shown = [again.categories.names[i] for i in record.objects.category_ids]
            assert (record.image_id, shown) == (file, list(NAMES[: len(expected)]))
