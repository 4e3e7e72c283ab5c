"""What alignment found, as a dataset of differences keeps it: for each pair, and counted."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dataflow.dataset_changes import dataset_changes
from dataflow.images import decode_rgb, encode_png
from dataflow.pairs.aligned_pair import carry_objects
from dataflow.pairs.camera_motion import Movement
from dataflow.pairs.image_diff import NO_CHANGE
from dataflow.pairs.registration import Alignment, Method, warp_to_after
from dataflow.pairs.valid_pixels import decode_mask, whole_mask
from dataflow.prepared import PreparedDataset
from dataflow.shards import FileFormat
from dataflow.tensorflow_runtime import load_tensorflow
from tests.factories import prepare, write
from tests.tfds_builders.broken_sources import load_json
from tests.tfds_builders.shaken_frames import PETS, SIZE, STILL, scene, write_scenes, write_shaken_pets
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.differences import mean_change
from tfds_builders.formats.mot import open_mot
from tfds_builders.planning import PlanOptions
from tfds_builders.sources.pairing import PairOptions
from trainers.cli import main

SHIFTED = Movement(6.4, -3.2)
TURNED = Movement(-4.0, 5.5, rotation=1.5, zoom=1.015)
# Frames 1-2 stand still, 2-3 shift, 3-4 turn, the fifth shows another scene: 4-5 and 5-6 are refused.
MOVEMENTS = (STILL, STILL, SHIFTED, TURNED, STILL, STILL)
REFUSED = ("walk/000004-000005", "walk/000005-000006")


def pairs(root: Path, file_format: FileFormat = "tfrecord", plan: PlanOptions = PlanOptions()) -> PreparedDataset:
    source = write_scenes(root / "source", MOVEMENTS, {5: 1})
    return prepare(open_mot(source, PairOptions(1)), root / "out", "pairs", file_format=file_format, plan=plan)


def differences(dataset: PreparedDataset, align: Method, update: bool = False, out: str = "out") -> PreparedDataset:
    root = dataset.path.parents[2]
    builder = DifferencesBuilder(
        dataset, name=f"d_{align}", out=root / out, align=align, image_format="png", update=update
    )
    return builder.prepare()


def test_what_alignment_found_is_stored(tmp_path: Path) -> None:
    made = differences(pairs(tmp_path), "features")
    found = {pair.pair_id: pair for pair in made.pairs("train")}
    assert [found[f"walk/00000{i}-00000{i + 1}"].alignment_model for i in (1, 2, 3)] == [
        "identity",
        "translation",
        "affine",
    ]
    still, moved = found["walk/000001-000002"], found["walk/000003-000004"]
    assert still.valid == whole_mask(SIZE) and still.alignment_residual == 0
    assert 0 < moved.alignment_residual < 1.5
    for pair in found.values():
        # As the warp has it, computed anew from what is stored.
        alignment = Alignment(np.asarray(pair.homography), "affine", 1.0, 0.0)
        _, valid = warp_to_after(decode_rgb(pair.before.image), alignment, SIZE)
        np.testing.assert_array_equal(decode_mask(pair.valid, SIZE), valid)
    assert not decode_mask(moved.valid, SIZE).all()


def test_pixels_that_are_not_valid_show_no_change(tmp_path: Path) -> None:
    made = differences(pairs(tmp_path), "features")
    for record, pair in zip(made.records("train"), made.pairs("train"), strict=True):
        hidden = ~decode_mask(pair.valid, SIZE)
        assert (decode_rgb(record.image)[hidden] == NO_CHANGE["absolute"]).all()


def test_pairs_are_counted(tmp_path: Path) -> None:
    made = differences(pairs(tmp_path), "features")
    told = made.manifest["alignment"]
    assert (told["method"], told["aligned"], told["refused"]) == ("features", 3, 2)
    assert told["models"] == {"affine": 1, "identity": 1, "translation": 1}
    stored = list(made.pairs("train"))
    changes = [mean_change(decode_rgb(record.image), "absolute") for record in made.records("train")]
    means = {
        "mean_residual_px": [pair.alignment_residual for pair in stored],
        "mean_score": [pair.alignment_score for pair in stored],
        "mean_change": changes,
    }
    for name, values in means.items():
        assert told[name] == pytest.approx(np.mean(values), abs=1e-4), name
    assert load_json(made.path / "audit.json")["quarantined"] == list(REFUSED)


def test_unaligned_pairs_are_counted_by_their_change_alone(tmp_path: Path) -> None:
    made = differences(pairs(tmp_path), "none")
    told = made.manifest["alignment"]
    changes = [mean_change(decode_rgb(record.image), "absolute") for record in made.records("train")]
    assert told.pop("mean_change") == pytest.approx(np.mean(changes), abs=1e-4)
    assert told == {
        "method": "none",
        "aligned": 0,
        "refused": 0,
        "models": {},
        "mean_residual_px": None,
        "mean_score": None,
    }
    for pair in made.pairs("train"):
        assert (pair.valid, pair.alignment_model, pair.alignment_residual) == (whole_mask(SIZE), "identity", 0)
    shards = load_json(made.path / "inputs.json")["shards"]
    worst = [pair["pair_id"] for shard in shards for pair in shard["result"]["alignment"]["worst"]]
    # Where the scene or the camera is another, the picture lights up.
    assert set(worst[:2]) == set(REFUSED) and worst[-1] == "walk/000001-000002"


def test_mean_change() -> None:
    image = np.full((4, 5, 3), 128, np.uint8)
    image[0, 0] = (118, 128, 158)
    assert mean_change(image, "signed") == pytest.approx(40 / 60)
    assert mean_change(image - 128, "absolute") == pytest.approx((246 + 0 + 30) / 60)


def test_an_update_keeps_the_counts(tmp_path: Path) -> None:
    plan = PlanOptions(seed=0, shards=4)
    first = differences(pairs(tmp_path, plan=plan), "features")
    before = {path.name: path.stat().st_ino for path in first.path.glob("*.tfrecord*")}
    write(tmp_path / "source" / "walk" / "img1" / "000001.png", encode_png(scene(7)))
    dataset = prepare(open_mot(tmp_path / "source", PairOptions(1)), tmp_path / "out", "pairs", plan=plan, update=True)
    second = differences(dataset, "features", update=True)
    kept = sum(path.stat().st_ino == before[path.name] for path in second.path.glob("*.tfrecord*"))
    assert kept == len(before) - 1, "only the first pair's shard is written"
    fresh = differences(dataset, "features", out="fresh")
    told = second.manifest["alignment"]
    assert (told["aligned"], told["refused"]) == (2, 3)
    for name in ("manifest.json", "diff.html"):
        assert (second.path / name).read_bytes() == (fresh.path / name).read_bytes()


@pytest.mark.parametrize("align", ["none", "features"])
def test_the_command_tells(align: Method, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = pairs(tmp_path)
    words = ["diff", str(dataset.path), "--out", str(tmp_path / "out"), "--name", "d", "--align", align]
    assert main(words) == 0
    *_, line, _, last = capsys.readouterr().out.splitlines()
    expected = {
        "none": "nothing was aligned; the frames of a pair differ by ",
        "features": "aligned by features: 3 pairs (1 affine, 1 identity, 1 translation), 2 refused; residual ",
    }
    assert line.startswith(expected[align]) and line.endswith(" grey levels on average")
    path = tmp_path / "out" / "d" / "1.0.0" / "diff.html"
    assert path.is_file() and last.endswith(f" and {path}")
    assert main([*words, "--update", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["alignment"] == PreparedDataset(path.parent).manifest["alignment"]


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_tfds_reads_differences(file_format: FileFormat, tmp_path: Path) -> None:
    load_tensorflow()
    made = differences(pairs(tmp_path, file_format), "features")
    builder = tfds.builder_from_directory(made.path)
    if file_format == "array_record":
        examples = list(builder.as_data_source()["train"])
    else:
        examples = list(tfds.as_numpy(builder.as_dataset(split="train")))
    assert len(examples) == 3
    for example, pair in zip(examples, made.pairs("train"), strict=True):
        assert example["valid"].shape == (*SIZE, 1) and example["valid"].dtype == np.uint8
        np.testing.assert_array_equal(example["valid"][:, :, 0] == 255, decode_mask(pair.valid, SIZE))
        assert set(np.unique(example["valid"]).tolist()) <= {0, 255}
        assert example["alignment_model"].decode() == pair.alignment_model
        assert example["alignment_residual"] == np.float32(pair.alignment_residual)


def test_another_alignment_is_another_dataset(tmp_path: Path) -> None:
    dataset = pairs(tmp_path)
    changes = dataset_changes(differences(dataset, "none"), differences(dataset, "features"))
    assert changes.images_removed == REFUSED
    assert changes.pixels_changed == ("walk/000002-000003", "walk/000003-000004")


@pytest.mark.skipif(not PETS.is_dir(), reason="shared/data/pets09_s2l1 is not beside the checkout")
def test_boxes_follow_the_movement_of_real_frames(tmp_path: Path) -> None:
    movements = write_shaken_pets(tmp_path / "source", range(1, 60, 6))
    dataset = prepare(open_mot(tmp_path / "source", PairOptions(1)), tmp_path / "out", "pairs")
    made = differences(dataset, "features")
    stored = {pair.pair_id: pair for split in made.splits for pair in made.pairs(split)}
    errors = []
    for split in dataset.splits:
        for pair in dataset.pairs(split):
            before, after = map(int, pair.pair_id.removeprefix("walk/").split("-"))
            truth = movements[after] @ np.linalg.inv(movements[before])
            expected = carry_objects(pair.objects, truth, pair.after.size)
            found = stored[pair.pair_id].objects
            assert found.track_ids is not None and expected.track_ids is not None
            assert found.track_ids.tolist() == expected.track_ids.tolist()
            errors += np.abs(found.boxes - expected.boxes)[found.in_before].max(axis=1).tolist()
    assert len(stored) == 9 and len(errors) > 15
    assert np.percentile(errors, 95) < 1
