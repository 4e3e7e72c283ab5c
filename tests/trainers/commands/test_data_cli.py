"""`shardbox ingest`, `diff` and `diff-datasets` as a user meets them: options, what they print and what they leave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dataflow.images import decode_rgb
from dataflow.pairs.image_diff import DiffMode, difference
from dataflow.prepared import PreparedDataset
from tests.factories import Picture, Thing, logical_dataset, photograph, write, write_mot, write_voc, write_yolo
from trainers.cli import main

Shardbox = Callable[..., dict[str, Any]]


@pytest.fixture
def shardbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shardbox:
    """Runs a command here with --json; returns what it printed, with its exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> dict[str, Any]:
        at = words.index("--") if "--" in words else len(words)
        status = main([*map(str, words[:at]), "--json", *map(str, words[at:])])
        out = capsys.readouterr().out
        return {"status": status, **json.loads(out.splitlines()[-1])}

    return run


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    return write_yolo(tmp_path / "photos", logical_dataset(20, classes=2), ("cat", "dog"))


def manifest(made: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(made["dataset"]) / "manifest.json").read_text())
    return content


def test_what_is_written(shardbox: Shardbox, yolo: Path, tmp_path: Path) -> None:
    made = shardbox("ingest", yolo, "--out", "data")
    assert made["status"] == 0 and made["images_prepared"] == 20
    names = {path.name for path in (tmp_path / "data" / "photos" / "1.0.0").iterdir()}
    assert {"audit.json", "audit.html", "audit.sarif", "croissant.json", "manifest.json"} <= names


def test_update(shardbox: Shardbox, yolo: Path) -> None:
    first = shardbox("ingest", yolo, "--out", "data", "--shards", 4)
    again = shardbox("ingest", yolo, "--out", "data", "--shards", 4)
    assert again["status"] == 2 and "--update" in again["remedy"]
    write_yolo(yolo, [Picture("scene/new", things=(Thing(0, (1, 1, 9, 9)),))], ("cat", "dog"))
    second = shardbox("ingest", yolo, "--out", "data", "--shards", 4, "--update")
    assert (second["status"], second["images_in"]) == (0, 21)
    old, new = first["fingerprint"], second["fingerprint"]
    assert old != new
    fresh = shardbox("ingest", yolo, "--out", "other", "--shards", 4, "--seed", manifest(second)["options"]["seed"])
    assert fresh["fingerprint"] == new


def test_what_changed(shardbox: Shardbox, yolo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = shardbox("ingest", yolo, "--out", "data", "--name", "a")["dataset"]
    (yolo / "images" / "scene" / "000004.jpg").unlink()
    (yolo / "labels" / "scene" / "000004.txt").unlink()
    write(yolo / "labels" / "scene" / "000002.txt", "1 0.5 0.5 0.5 0.5\n")  # It was background.
    b = shardbox("ingest", yolo, "--out", "data", "--name", "b", "--seed", 0)["dataset"]
    found = shardbox("diff-datasets", a, b)
    assert found["images_removed"] == ["scene/000004"] and found["images_added"] == []
    assert found["objects_changed"] == ["scene/000002"] and found["objects"]["added"] == 1
    assert main(["diff-datasets", a, b]) == 0
    printed = capsys.readouterr().out
    assert "images removed: 1: scene/000004" in printed
    assert "objects: 1 added, 0 removed, 0 moved, 0 renamed, 0 with another mark" in printed
    assert main(["diff-datasets", a, a]) == 0
    assert "the same images, objects, classes and splits" in capsys.readouterr().out
    assert shardbox("diff-datasets", a, tmp_path)["status"] == 2


def test_scenes(shardbox: Shardbox, tmp_path: Path) -> None:
    pictures = [Picture(f"walk{i % 5}/{i:06d}") for i in range(30)]
    source = write_yolo(tmp_path / "s", pictures)
    made = shardbox("ingest", source, "--out", "data", "--scenes", "folder")
    data = tfds.builder_from_directory(made["dataset"])
    assert manifest(made)["options"]["scenes"] == "folder" and sum(made["splits"].values()) == 30
    assert all(count % 6 == 0 for count in made["splits"].values()), "folders stay whole"
    assert set(data.info.splits) == set(made["splits"])
    by_expression = shardbox("ingest", source, "--out", "data", "--name", "x", "--scenes", "^walk([0-9])")
    assert all(count % 6 == 0 for count in by_expression["splits"].values())
    wrong = shardbox("ingest", source, "--out", "data", "--name", "y", "--scenes", "run")
    assert wrong["status"] == 2 and "matches nothing" in wrong["message"]


@pytest.mark.parametrize(
    ("policy", "prepared", "size"), [("apply", 2, (64, 48)), ("ignore", 2, (48, 64)), ("refuse", 1, None)]
)
def test_exif(shardbox: Shardbox, tmp_path: Path, policy: str, prepared: int, size: tuple[int, int] | None) -> None:
    write_voc(tmp_path / "s", [Picture("straight", things=(Thing(0, (1, 1, 9, 9)),))])
    write(tmp_path / "s" / "JPEGImages" / "turned.jpg", photograph(48, 64, orientation=6))
    write(tmp_path / "s" / "Annotations" / "turned.xml", "<annotation></annotation>")
    made = shardbox("ingest", "s", "--out", "data", "--exif", policy, "--splits", "train=1")
    assert made["images_prepared"] == prepared and made["counts"]["exif-orientation"] == 1
    if size is not None:
        source = tfds.builder_from_directory(made["dataset"]).as_dataset(split="train")
        [turned] = [e for e in source.as_numpy_iterator() if e["image/id"] == b"turned"]
        assert (turned["image/height"], turned["image/width"]) == size
        assert turned["image/orientation"] == (6 if policy == "apply" else 1)


def test_file_format_and_check(shardbox: Shardbox, yolo: Path) -> None:
    made = shardbox("ingest", yolo, "--out", "data", "--file-format", "array_record", "--check", "header")
    source = tfds.builder_from_directory(made["dataset"]).as_data_source(split="train")
    assert len(source) == made["splits"]["train"]
    plain = shardbox("ingest", yolo, "--out", "data", "--name", "plain")
    assert plain["fingerprint"] == made["fingerprint"], "the same examples"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--shards", "0"), "--shards 0"),
        (("--pair-gap", "3"), "--pair-gap with --format yolo"),
        (("--images", "x"), "--images with --format yolo"),
        (("--format", "pairs"), ""),
    ],
)
def test_options_that_make_no_sense(shardbox: Shardbox, yolo: Path, words: tuple[str, ...], reason: str) -> None:
    refused = shardbox("ingest", yolo, "--out", "data", *words)
    assert refused["status"] == 2 and reason in refused["message"] and refused["remedy"]


def test_pairs_from_a_list(shardbox: Shardbox, tmp_path: Path) -> None:
    """Two annotated frames without tracks, to moved objects, to differences."""
    before = (Thing(0, (4, 4, 16, 20)), Thing(0, (40, 20, 56, 40)))
    after = (Thing(0, (24, 4, 36, 20)), Thing(0, (40, 20, 56, 40)))
    write_yolo(tmp_path / "s", [Picture("walk/1", things=before), Picture("walk/2", things=after)], ("person",))
    row = "images/walk/1.jpg,images/walk/2.jpg,labels/walk/1.txt,labels/walk/2.txt\n"
    write(tmp_path / "s" / "pairs.csv", f"before,after,before_labels,after_labels\n{row}")
    made = shardbox("ingest", "s", "--out", "data")
    assert (made["status"], made["images_prepared"]) == (0, 1)
    assert manifest(made)["kind"] == "pairs" and manifest(made)["options"]["format"] == "pairs"
    differences = shardbox("diff", made["dataset"], "--out", "data")
    assert (differences["status"], differences["images_prepared"]) == (0, 1)
    updated = shardbox("diff", made["dataset"], "--out", "data", "--update")
    assert updated["fingerprint"] == differences["fingerprint"]
    exported = shardbox("export", made["dataset"], "--format", "pairs", "--out", "list")
    assert (exported["status"], exported["examples"]) == (0, 1)


def test_frames_to_pairs(shardbox: Shardbox, tmp_path: Path) -> None:
    frames = [Picture(f"walk/{i:06d}", things=(Thing(0, (i, 2, i + 12, 30)),)) for i in range(1, 9)]
    write_mot(tmp_path / "s", frames)
    made = shardbox(
        "ingest", "s", "--out", "data", "--pair-gap", 2, "--targets", "after", "--splits", "train=1-5,test=6-8"
    )
    assert made["splits"] == {"test": 1, "train": 3}
    options = manifest(made)["options"]
    assert (options["pair_gap"], options["targets"], options["splits"]) == (2, "after", "train=1-5,test=6-8")
    assert made["counts"]["scene-in-two-splits"] == 1


@pytest.mark.parametrize("mode", ["absolute", "signed", "grey", "threshold", "ssim"])
def test_modes_of_differences(shardbox: Shardbox, tmp_path: Path, mode: DiffMode) -> None:
    """What lies in the shards is what the function makes of the frames that lie beside it."""
    frames = [Picture(f"walk/{i:06d}", things=(Thing(0, (i, 2, i + 12, 30)),)) for i in (1, 9)]
    write_mot(tmp_path / "s", frames)
    pairs = shardbox("ingest", "s", "--out", "data", "--pair-gap", 8)
    made = shardbox("diff", pairs["dataset"], "--out", "data", "--mode", mode, "--format", "png")
    assert manifest(made)["options"]["mode"] == mode
    [example] = PreparedDataset(made["dataset"]).examples("train")
    before, after, change = (decode_rgb(example[1][name]) for name in ("before", "after", "image"))
    np.testing.assert_array_equal(change, difference(before, after, mode))


@pytest.mark.parametrize(
    ("targets", "mode"), [("both", "absolute"), ("after", "signed"), ("arrived-and-left", "signed")]
)
def test_the_mode_follows_from_the_targets(shardbox: Shardbox, tmp_path: Path, targets: str, mode: str) -> None:
    """An absolute difference shows old and new places alike."""
    frames = [Picture(f"walk/{i:06d}", things=(Thing(0, (i, 2, i + 12, 30)),)) for i in (1, 9)]
    write_mot(tmp_path / "s", frames)
    pairs = shardbox("ingest", "s", "--out", "data", "--pair-gap", 8, "--targets", targets)
    made = shardbox("diff", pairs["dataset"], "--out", "data")
    assert manifest(made)["options"]["mode"] == mode
    assert Path(made["dataset"]).parent.name == f"s_{mode}"
