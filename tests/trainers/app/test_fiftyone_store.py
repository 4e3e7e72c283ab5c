"""The FiftyOne store against a real MongoDB, and against FiftyOne's own evaluation."""

import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataflow.boxes import fiftyone_to_xyxy
from dataflow.errors import ShardboxError, UsageError
from dataflow.records import Objects, Predictions
from tests.trainers.fiftyone_sets import SIZE, labels_of, make, run_of
from trainers.prediction.predictions import collect_predictions


def test_samples_hold_what_the_dataset_holds(samples, stores, fo, name, tmp_path):
    dataset = make(samples, crowd=0.3)
    summary = stores.store(dataset, [], split="validation", name=name, media_dir=tmp_path / "media")
    assert (summary.name, summary.images, summary.samples, summary.added, summary.fields) == (name, 5, 5, 5, {})
    stored = fo.load_dataset(name)
    assert stored.persistent and stored.media_type == "image"
    assert stored.default_classes == list(dataset.categories.names)
    assert stored.info["shardbox"]["fingerprint"] == dataset.fingerprint
    for record in dataset.records("validation"):
        sample = stored.match(fo.ViewField("image_id") == record.image_id).one(fo.ViewField("split") == "validation")
        path = Path(sample.filepath)
        assert path.read_bytes() == record.image and path.suffix == ".jpg"
        assert path.is_relative_to(tmp_path / "media" / dataset.fingerprint)
        assert (sample.tags, sample["split"], sample["scene"]) == (["validation"], "validation", record.group_id)
        assert (sample.metadata.height, sample.metadata.width) == record.size
        assert sample.metadata.mime_type == "image/jpeg"
        labels = sample["ground_truth"].detections
        boxes = fiftyone_to_xyxy([label.bounding_box for label in labels], record.size)
        np.testing.assert_allclose(boxes, record.objects.boxes, atol=1e-4)
        names = dataset.categories.names
        assert [label.label for label in labels] == [names[i] for i in record.objects.category_ids]
        assert [label.iscrowd for label in labels] == record.objects.is_crowd.tolist()
        np.testing.assert_allclose([label.area for label in labels], record.objects.areas)
        assert [label.index for label in labels] == (record.objects.track_ids.tolist() if len(labels) else [])
    assert {"ground_truth.detections.iscrowd", "ground_truth.detections.area"} <= set(
        stored.get_field_schema(flat=True)
    )


def test_pairs_are_groups(samples, stores, fo, name, tmp_path):
    shift = np.array([[1, 0, 6], [0, 1, -4], [0, 0, 1]], float)  # Before to after.
    objects = Objects([[20, 20, 40, 40]], [0], changes=np.array([1]), track_ids=np.array([5]))
    pair = samples.pair("p", objects, SIZE, homography=shift, alignment_score=0.5)
    dataset = samples.dataset({"validation": [pair]}, kind="differences")
    run = collect_predictions(
        [Predictions("p", [[21, 20, 40, 40], [100, 10, 110, 20]], [0.9, 0.8], [0, 1], "r")],
        run_id="r", dataset=dataset, split="validation",
    )  # fmt: skip
    summary = stores.store(dataset, [run], split="validation", name=name, media_dir=tmp_path)
    assert (summary.images, summary.samples) == (1, 3)
    stored = fo.load_dataset(name)
    assert stored.media_type == "group"
    assert stored.default_group_slice == "diff"
    assert sorted(stored.group_slices) == ["after", "before", "diff"]
    assert len(stored) == 1 and len(stored.select_group_slices()) == 3
    example = next(dataset.examples("validation"))[1]
    group = stored.get_group(stored.first()["group"].id)
    for role, image in (("before", "before"), ("after", "after"), ("diff", "image")):
        sample = group[role]
        assert Path(sample.filepath).read_bytes() == example[image]
        assert Path(sample.filepath).suffix == (".png" if role == "diff" else ".jpg")
        moved = np.array([6, -4, 6, -4]) if role == "before" else 0
        for field, xyxy in (("ground_truth", objects.boxes), ("pred_r", run.by_image["p"].boxes)):
            boxes = fiftyone_to_xyxy([label.bounding_box for label in sample[field].detections], SIZE)
            np.testing.assert_allclose(boxes, xyxy - moved, atol=1e-4)
        assert [label["eval_r"] for label in sample["pred_r"].detections] == ["tp", "fp"]
        (truth,) = sample["ground_truth"].detections
        assert (truth["eval_r"], truth["eval_r_id"]) == ("tp", sample["pred_r"].detections[0].id)
        assert (truth["change"], truth.index, sample["alignment_score"]) == ("moved", 5, 0.5)
    assert stored.load_evaluation_results("eval_r").metrics()["support"] == 1
    assert stored.to_evaluation_patches("eval_r").count_values("type") == {"tp": 1, "fp": 1}


def test_pairs_without_differences_show_the_after_frame_first(samples, stores, fo, name, tmp_path):
    dataset = make(samples, 5, images=2, kind="pairs")
    stores.store(dataset, [], split="validation", name=name, media_dir=tmp_path)
    stored = fo.load_dataset(name)
    assert stored.default_group_slice == "after"
    assert sorted(stored.group_slices) == ["after", "before"]


def test_another_run_extends_the_dataset_and_edits_stay(samples, stores, fo, name, tmp_path):
    dataset = make(samples, 6, images=4, splits=("train", "validation"))
    first, second = run_of(samples, dataset, 1, "first"), run_of(samples, dataset, 2, "second")
    options = {"split": "validation", "name": name, "media_dir": tmp_path}
    stores.store(dataset, [first], **options)
    stored = fo.load_dataset(name)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}
    edited = next(sample for sample in stored if sample["ground_truth"].detections)
    edited.tags.append("look again")
    edited["ground_truth"].detections.pop(0)
    edited.save()
    times = dict(zip(*stored.values(["id", "last_modified_at"]), strict=True))

    again = stores.store(dataset, [first], **options)
    stored.reload()
    assert again.added == 0
    assert dict(zip(*stored.values(["id", "last_modified_at"]), strict=True)) == times

    both = stores.store(dataset, [first, second], **options)
    stored.reload()
    assert both.fields == {"first": "pred_first", "second": "pred_second"}
    assert len(stored) == 4 and set(stored.list_evaluations()) == {"eval_first", "eval_second"}
    sample = stored[edited.id]
    assert "look again" in sample.tags
    assert len(sample["ground_truth"].detections) == len(edited["ground_truth"].detections)
    assert all(label["eval_second"] in ("tp", "fn") for label in sample["ground_truth"].detections)
    assert {run["run_id"] for run in stored.info["shardbox"]["runs"].values()} == {"first", "second"}

    other = stores.store(dataset, [run_of(samples, dataset, 3, "first", "train")], **(options | {"split": "train"}))
    stored.reload()
    assert (other.added, other.samples, len(stored)) == (4, 4, 8)
    assert stored.count_sample_tags() == {"train": 4, "validation": 4, "look again": 1}
    assert len(stored.exists("pred_first")) == 8 and len(stored.exists("pred_second")) == 4
    results = stored.load_evaluation_results("eval_first", cache=False)
    found, objects = (stored.count_values(f"{side}.detections.eval_first") for side in ("pred_first", "ground_truth"))
    assert len(results.ytrue) == found["tp"] + found["fp"] + objects["fn"]  # Of both splits.
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_new_detections_of_a_run_replace_its_old_ones(samples, stores, fo, name, tmp_path):
    dataset = make(samples, 7, images=2)
    for seed in (1, 2):
        run = run_of(samples, dataset, seed, "r")
        stores.store(dataset, [run], split="validation", name=name, media_dir=tmp_path)
    stored = fo.load_dataset(name)
    scores = [label.confidence for label in labels_of(stored, "pred_r").values()]
    np.testing.assert_allclose(scores, np.concatenate([p.scores for p in run.by_image.values()]))
    assert list(stored.info["shardbox"]["runs"]) == ["pred_r"]


def test_run_ids_that_look_alike_get_fields_of_their_own(samples, stores, fo, name, tmp_path):
    dataset = make(samples, 8, images=1)
    runs = [run_of(samples, dataset, i, run_id) for i, run_id in enumerate(("a/b", "A b", "…", "0" * 99))]
    summary = stores.store(dataset, runs, split="validation", name=name, media_dir=tmp_path)
    assert list(summary.fields.values()) == ["pred_a_b", "pred_a_b_2", "pred_run", "pred_" + "0" * 48]


@pytest.mark.parametrize("when", ["first split", "second split", "run"])
def test_an_interrupted_store_is_finished_by_the_next(samples, stores, into, monkeypatch, when):
    from trainers.app import documents as fiftyone_documents
    from trainers.app import runs as fiftyone_runs
    from trainers.app import truth as fiftyone_truth

    dataset = make(samples, 9, images=4, kind="pairs", splits=("train", "validation"))
    fo, name = stores.fo, into["name"]
    run = run_of(samples, dataset, 1, "r")
    if when != "first split":
        stores.store(dataset, [], split="train", **into)
    module, hindered = (fiftyone_runs, "_run_fields") if when == "run" else (fiftyone_truth, "write_media")
    usual, calls = getattr(module, hindered), []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return usual(*args, **kwargs)

    monkeypatch.setattr(module, hindered, interrupted)
    # Small batches, so that some samples are in the database when the store is interrupted.
    monkeypatch.setattr(fiftyone_documents, "_BATCH", 2)
    with pytest.raises(KeyboardInterrupt):
        stores.store(dataset, [run], split="validation", **into)
    assert fo.load_dataset(name).persistent == (when != "first split")
    monkeypatch.undo()

    summary = stores.store(dataset, [run], split="validation", **into)
    stored = fo.load_dataset(name)
    assert stored.persistent and summary.fields == {"r": "pred_r"}
    flat = stored.select_group_slices().match_tags("validation")
    assert len(flat) == len(flat.exists("pred_r")) == 8
    assert len(stored) == (4 if when == "first split" else 8)
    assert not list(into["media_dir"].rglob(".*"))


def test_what_does_not_fit_is_refused(samples, stores, fo, name, tmp_path):
    dataset = make(samples, 10, images=1)
    options = {"split": "validation", "media_dir": tmp_path}
    fo.Dataset(name + "-other").add_sample(fo.Sample(filepath="/nowhere.jpg"))
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="is not Shardbox's"):
            stores.store(dataset, [], name=name + "-other", overwrite=overwrite, **options)
    stores.store(dataset, [], name=name, **options)
    other = make(samples, 11, images=2)
    with pytest.raises(UsageError, match="holds other data"):
        stores.store(other, [], name=name, **options)
    assert stores.store(other, [], name=name, overwrite=True, **options).added == 2
    run = run_of(samples, dataset, 1)
    with pytest.raises(UsageError, match="of one run"):
        stores.store(dataset, [run, run], **options)
    with pytest.raises(UsageError, match="fingerprint"):
        stores.store(dataset, [replace(run, fingerprint="x")], name=name + "-new", **options)
    assert not fo.dataset_exists(name + "-new")
    with pytest.raises(UsageError, match="no split"):
        stores.store(dataset, [], name=name, split="test")
    with pytest.raises(UsageError, match="takes no dataset named"):
        stores.store(dataset, [], name="…", **options)
    with pytest.raises(UsageError, match="no FiftyOne dataset"):
        stores.launch(name + "-new")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match=r"cannot listen on 127\.0\.0\.1:\d+ .*choose another --port"):
            stores.launch(name, port=taken.getsockname()[1])


def test_a_server_that_starts_too_slowly(stores, fo, name, monkeypatch):
    from fiftyone.core.service import ServiceListenTimeout

    def slow(*_, **__):
        raise ServiceListenTimeout("Server", 5151)

    fo.Dataset(name)
    monkeypatch.setattr(fo, "launch_app", slow)
    with pytest.raises(ShardboxError, match=r"server did not listen on .* in time; open the App again"):
        stores.launch(name)


def test_default_name_and_place(samples, stores, fo, tmp_path, monkeypatch):
    dataset = make(samples, 12, images=1)
    monkeypatch.setattr(fo.config, "default_dataset_dir", str(tmp_path))
    summary = stores.store(dataset, [], split="validation")
    try:
        assert summary.name == f"tiny12-{dataset.fingerprint[:8]}"
        assert summary.media == tmp_path / "shardbox" / dataset.fingerprint
    finally:
        fo.delete_dataset(summary.name)


def test_colours_tell_right_from_wrong_and_keep_what_a_user_chose(samples, stores, fo, name, tmp_path):
    dataset = make(samples, 13, images=1)
    stores.store(dataset, [run_of(samples, dataset, 1, "a")], split="validation", name=name, media_dir=tmp_path)
    stored = fo.load_dataset(name)
    stored.app_config.color_scheme.fields.append({"path": "scene", "fieldColor": "#123456"})
    stored.save()
    stores.store(dataset, [run_of(samples, dataset, 2, "b")], split="validation", name=name, media_dir=tmp_path)
    stored.reload()
    scheme = {entry["path"]: entry.get("colorByAttribute") for entry in stored.app_config.color_scheme.fields}
    assert scheme == {"pred_a": "eval_a", "scene": None, "pred_b": "eval_b", "ground_truth": "eval_b"}


@pytest.mark.parametrize("kind", ["images", "differences"])
def test_the_view_the_app_opens_on_leaves_out_what_does_not_count(samples, stores, fo, into, kind):
    """Detections below the score of the best F1, and nothing else: no object and no image."""
    from trainers.app.views import CONFIDENT
    from trainers.evaluation.evaluation import evaluate

    dataset = make(samples, kind=kind)
    run = run_of(samples, dataset, 1)
    field = stores.store(dataset, [run], split="validation", **into).fields["My run-1"]
    score = evaluate(dataset, run, "validation").errors.score
    stored = fo.load_dataset(into["name"])
    view = stored.load_saved_view(CONFIDENT)
    assert len(view) == len(stored)
    for sample in view:
        left = [detection.confidence for detection in sample[field].detections]
        scores = run.by_image[sample["image_id"]].scores
        assert sorted(left) == pytest.approx(sorted(scores[scores >= np.float32(score)].tolist()))
        assert len(sample["ground_truth"].detections) == len(stored[sample.id]["ground_truth"].detections)
