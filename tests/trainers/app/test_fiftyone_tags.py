"""The closed loop: tagged and edited in FiftyOne, exported, corrected by ingest, predicted and compared again."""

import json

import numpy as np
import pytest

from dataflow.boxes import xyxy_to_fiftyone
from dataflow.prepared import PreparedDataset
from dataflow.records import Predictions
from tests.factories import Picture, Thing, write_yolo
from tests.trainers.fiftyone_sets import SIZE, make, run_of
from trainers.cli import main
from trainers.prediction.predictions import write_predictions

NAMES = ("cat", "dog")


@pytest.fixture
def shardbox(tmp_path, monkeypatch, capsys, fo):
    """Runs a command here with --json; returns what it printed, or what it said against it where it is refused."""
    monkeypatch.chdir(tmp_path)

    def run(*words, refused=False):
        status = main([*map(str, words), "--json"])
        printed = capsys.readouterr()
        assert status == (2 if refused else 0), printed.err
        return printed.err if refused else json.loads(printed.out.splitlines()[-1])

    return run


@pytest.fixture
def source(tmp_path):
    pictures = [
        Picture(f"p{i:02d}", 64, 128, (Thing(0, (4, 4, 24, 34)), Thing(1, (40, 10, 70, 50)))) for i in range(16)
    ]
    return write_yolo(tmp_path / "photos", pictures, NAMES)


def _truth(dataset):
    return {
        record.image_id: (record.objects.category_ids.tolist(), np.round(record.objects.boxes, 1).tolist())
        for split in dataset.splits
        for record in dataset.records(split)
    }


def _shards(dataset):
    return {path.name: path.read_bytes() for path in dataset.path.glob("*.tfrecord*")}


def _shard_of(dataset, image_id):
    """The name of the file that holds an image."""
    (held,) = [name for name, content in _shards(dataset).items() if f"{image_id}.jpg".encode() in content]
    return held


def _predict(path, run_id, out):
    """What a detector finds that learnt the labels of a dataset by heart, a pixel aside."""
    dataset = PreparedDataset(path)
    found = [
        Predictions(r.image_id, r.objects.boxes + 1, [0.9, 0.8], r.objects.category_ids, run_id)
        for r in dataset.records("validation")
    ]
    write_predictions(out / run_id, found, run_id=run_id, dataset=dataset, split="validation")


def test_the_closed_loop(shardbox, fo, source, name, tmp_path):
    """A label that is wrong is tagged and mended in FiftyOne, and comes back by way of ingestion to the next run."""
    made = ("ingest", source, "--splits", "validation=1", "--shards", 4, "--out", "data")
    dataset = PreparedDataset(shardbox(*made)["dataset"])
    _predict(dataset.path, "before", tmp_path)
    first = shardbox("evaluate", dataset.path, "--predictions", "before", "--out", "report before")
    shardbox("browse", dataset.path, "--predictions", "before", "--no-app", "--name", name)

    stored = fo.load_dataset(name)
    mended, doubtful = (stored.match(fo.ViewField("image_id") == image).first() for image in ("p03", "p05"))
    mended.tags.append("look")
    mended["ground_truth"].detections[0].tags.append("mislabelled")
    mended["ground_truth"].detections[0].label = "dog"  # As the App's editor does.
    doubtful["ground_truth"].detections[0].tags.append("mislabelled")
    for sample in (mended, doubtful):
        sample.save()
    exported = shardbox("browse", dataset.path, "--name", name, "--export-tags", "found.jsonl")
    assert exported["counts"] == {"change": 1, "suspect": 1} and exported["images"] == 2
    entry = json.loads((tmp_path / "found.jsonl").read_text().splitlines()[0])
    assert (entry["image_id"], entry["action"], entry["class"]) == ("p03", "change", "dog")
    assert entry["object"]["class"] == "cat" and entry["dataset"] == dataset.fingerprint

    truth, shards, changed = _truth(dataset), _shards(dataset), _shard_of(dataset, "p03")
    files = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    corrected = shardbox(*made, "--relabel", "found.jsonl", "--update")
    assert corrected["counts"]["label-corrected"] == corrected["counts"]["label-suspect"] == 1
    after = PreparedDataset(dataset.path)
    assert [file for file, content in _shards(after).items() if content != shards[file]] == [changed]
    assert len(shards) == 4 and {path: path.read_bytes() for path in files} == files
    known = _truth(after)
    assert known.pop("p03")[0] == [1, 1] and truth.pop("p03")[0] == [0, 1] and known == truth
    assert after.manifest["corrections"] == {"change": 1, "suspect": 1}

    # The first run is of other labels now; the second is as good by the new ones as the first was by the old.
    refused = shardbox("evaluate", after.path, "--predictions", "before", "--out", "x", refused=True)
    assert "fingerprint" in refused
    _predict(after.path, "after", tmp_path)
    second = shardbox("evaluate", after.path, "--predictions", "after", "--out", "report after")
    assert first["figures"]["AP50"] == second["figures"]["AP50"] == 1
    compare = ("compare", after.path, "--predictions", "before", "after", "--out", "compared")
    assert "--across-datasets" in shardbox(*compare, refused=True)
    shardbox(*compare, "--across-datasets")
    (changes,) = json.loads((tmp_path / "compared" / "compare.json").read_text())["changes"]
    assert changes["found_by_to_only"] == [{"image_id": "p03", "object": 0}] and not changes["found_by_from_only"]
    assert changes["AP50"]["from"] < changes["AP50"]["to"] == 1
    # What is corrected is stored anew, and has nothing to export.
    shardbox("browse", after.path, "--no-app", "--name", f"{name}-again")
    again = shardbox("browse", after.path, "--name", f"{name}-again", "--export-tags", "none.jsonl")
    assert again["counts"] == {}


def test_everything_done_in_the_app_is_exported(shardbox, fo, source, name, tmp_path):
    made = ("ingest", source, "--splits", "validation=1", "--out", "data")
    dataset = PreparedDataset(shardbox(*made)["dataset"])
    records = list(dataset.records("validation"))
    found = [Predictions(r.image_id, [[80, 5, 110, 45]], [0.9], [1], "run") for r in records]
    write_predictions(tmp_path / "pred", found, run_id="run", dataset=dataset, split="validation")
    shardbox("browse", dataset.path, "--predictions", "pred", "--no-app", "--name", name)
    stored = fo.load_dataset(name)

    def edit(image_id):
        return stored.match(fo.ViewField("image_id") == image_id).first()

    def box(*corners):
        return xyxy_to_fiftyone([corners], SIZE)[0].tolist()

    samples = {image: edit(image) for image in ("p00", "p01", "p02", "p03", "p04", "p05", "p06", "p07")}
    samples["p00"].tags.append("exclude")
    samples["p01"]["ground_truth"].detections.pop(1)
    samples["p02"]["ground_truth"].detections[1].bounding_box = box(44, 8, 72, 48)
    samples["p03"]["ground_truth"].detections.append(fo.Detection(label="cat", bounding_box=box(90, 5, 99, 20)))
    samples["p04"]["pred_pred"].detections[0].tags.append("adopt")
    samples["p05"]["ground_truth"].detections[0].tags.append("mislabelled")
    samples["p06"].tags.append("relabel")
    samples["p07"].tags.append("night")
    for sample in samples.values():
        sample.save()

    shardbox("browse", dataset.path, "--name", name, "--export-tags", "all.jsonl")
    entries = {e["image_id"]: e for e in map(json.loads, (tmp_path / "all.jsonl").read_text().splitlines())}
    assert {image: entry["action"] for image, entry in entries.items()} == {
        "p00": "exclude", "p01": "delete", "p02": "change", "p03": "add", "p04": "add", "p05": "suspect",
        "p06": "suspect",
    }  # fmt: skip
    assert entries["p02"]["box"] == [44, 8, 72, 48] and "class" not in entries["p02"]
    assert (entries["p03"]["class"], entries["p03"]["box"]) == ("cat", [90, 5, 99, 20])
    assert (entries["p04"]["class"], entries["p04"]["box"]) == ("dog", [80, 5, 110, 45])
    assert entries["p05"]["tags"] == ["mislabelled"] and "object" in entries["p05"]
    assert entries["p06"]["tags"] == ["relabel"] and "object" not in entries["p06"]
    night = shardbox("browse", dataset.path, "--name", name, "--export-tags", "night.jsonl", "--tag", "night")
    assert (night["counts"], night["images"]) == ({"suspect": 1}, 1)

    result = shardbox(*made, "--relabel", "all.jsonl", "night.jsonl", "--update")
    assert (result["images_in"], result["images_prepared"], result["images_quarantined"]) == (16, 15, 1)
    told = {key: count for key, count in result["counts"].items() if key.startswith(("label-c", "label-s", "image-e"))}
    assert told == {"image-excluded": 1, "label-corrected": 4, "label-suspect": 3}
    after = _truth(PreparedDataset(dataset.path))
    assert [len(after[image][0]) for image in ("p01", "p02", "p03", "p04")] == [1, 2, 3, 3]
    assert after["p02"][1][1] == [44, 8, 72, 48] and after["p04"][1][2] == [80, 5, 110, 45]


def test_slices_of_a_pair_are_one_image(samples, stores, fo, into, tmp_path):
    from trainers.app.tags import export_tags

    dataset = make(samples, 51, images=4, kind="differences")
    run = run_of(samples, dataset, 1, "r")
    stores.store(dataset, [run], split="validation", **into)
    stored = fo.load_dataset(into["name"])
    for slice_name in ("before", "after", "diff"):
        stored.group_slice = slice_name
        sample = next(sample for sample in stored if len(sample["ground_truth"].detections) > 1)
        if slice_name == "before":
            sample["ground_truth"].detections.pop(0)
        elif slice_name == "after":
            kind = sample["ground_truth"].detections[1].label
            sample["ground_truth"].detections[1].label = next(n for n in stored.default_classes if n != kind)
        sample.save()
    entries = export_tags(dataset, tmp_path / "out.jsonl", name=into["name"])
    assert [entry["action"] for entry in entries] == ["delete", "change"]
    assert len({entry["image_id"] for entry in entries}) == 1


def test_what_cannot_be_exported_is_refused(samples, fo, name, tmp_path, capsys):
    dataset = make(samples, 52, images=1)
    assert main(["browse", str(dataset.path), "--name", name, "--export-tags", str(tmp_path / "x.jsonl")]) == 2
    assert "no FiftyOne dataset" in capsys.readouterr().err
    assert main(["browse", str(dataset.path), "--tag", "x"]) == 2
    assert "add --export-tags FILE" in capsys.readouterr().err
