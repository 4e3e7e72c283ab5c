"""What is written in bulk is what FiftyOne itself writes of the same, and its public API works with it."""

import uuid
from dataclasses import replace

import numpy as np
import pytest

from dataflow.errors import ShardboxError
from dataflow.records import Change
from dataflow.schema import NO_TRACK
from tests.trainers.fiftyone_sets import SIZE, labels_of, make, run_of
from trainers.evaluation.frames import examples

_OWN = ("_id", "_rand", "_dataset_id", "created_at", "last_modified_at")
NUMBER = {"images": 1, "pairs": 2, "differences": 3}


@pytest.fixture
def theirs(fo):
    """A dataset that only FiftyOne writes to."""
    dataset = fo.Dataset(f"test_{uuid.uuid4().hex}")
    yield dataset
    dataset.delete()


def _by_fiftyone(fo, theirs, dataset, run, paths):
    """The same samples through FiftyOne's objects, field by field as its documentation has it."""
    if dataset.layout.kind != "images":
        theirs.add_group_field("group", default="diff" if dataset.layout.kind == "differences" else "after")
    made = []
    for example in examples(dataset, "validation"):
        record, objects, group = example.record, example.record.objects, fo.Group()
        for frame in example.frames:
            height, width = frame.record.size
            path = paths[record.image_id, frame.role]
            sample = fo.Sample(filepath=path, tags=["validation"], image_id=record.image_id, split="validation")
            kind = "png" if path.endswith("png") else "jpeg"
            sample.metadata = fo.ImageMetadata(
                size_bytes=len(frame.record.image), mime_type=f"image/{kind}", width=width, height=height,
                num_channels=3,
            )  # fmt: skip
            sample["scene"], sample["provenance"] = record.group_id, record.provenance
            if example.alignment_score is not None:
                sample["group"] = group.element(frame.role)
                sample["frame"] = frame.record.filename
                sample["alignment_score"] = example.alignment_score
            labels = []
            for i, (x0, y0, x1, y1) in enumerate(objects.boxes.tolist()):
                label = fo.Detection(label=dataset.categories.names[objects.category_ids[i]], object=i)
                label.bounding_box = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
                label["area"], label["iscrowd"] = float(objects.areas[i]), bool(objects.is_crowd[i])
                if objects.track_ids is not None and objects.track_ids[i] != NO_TRACK:
                    label.index = int(objects.track_ids[i])
                if objects.changes is not None:
                    label["change"] = Change(int(objects.changes[i])).name.lower()
                labels.append(label)
            sample["ground_truth"] = fo.Detections(detections=labels)
            found = run.by_image[record.image_id]
            sample["pred_r"] = fo.Detections(
                detections=[
                    fo.Detection(
                        label=dataset.categories.names[category],
                        bounding_box=[x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height],
                        confidence=score,
                    )
                    for category, score, (x0, y0, x1, y1) in zip(
                        found.category_ids.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
                    )
                ]
            )
            made.append(sample)
    theirs.add_samples(made, dynamic=True, progress=False)


def _documents(dataset, skip=()):
    """Stored samples with ids in place of which numbers of labels in the order of their boxes stand."""
    found = {}
    for document in dataset._sample_collection.find():
        ids = {}
        for field in ("ground_truth", "pred_r"):
            for place, label in enumerate(document[field]["detections"]):
                ids[str(label["_id"])] = f"{field} {place}"
        group = document.get("group", {"name": "image"})
        group.pop("_id", None)
        kept = {key: value for key, value in document.items() if key not in _OWN}
        found[document["image_id"], group["name"]] = _plain(kept, ids, skip)
    return found


def _plain(value, ids, skip):
    if isinstance(value, dict):
        # To FiftyOne None and nothing are the same.
        items = value.items()
        return {k: _plain(v, ids, skip) for k, v in items if v is not None and k not in ("_id", *skip)}
    if isinstance(value, list):
        return [_plain(item, ids, skip) for item in value]
    return ids.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("kind", ["images", "pairs", "differences"])
def test_documents_are_those_that_fiftyone_writes(samples, stores, into, theirs, kind):
    """Samples, verdicts, schema and results, except for what Shardbox adds."""
    fo = stores.fo
    dataset = make(samples, 20, images=6, kind=kind)
    run = run_of(samples, dataset, 3, "r")
    stores.store(dataset, [run], split="validation", **into)
    ours = fo.load_dataset(into["name"])
    stored = [(s["image_id"], s["group"].name if kind != "images" else "image") for s in _all(ours)]
    paths = dict(zip(stored, _all(ours).values("filepath"), strict=True))
    assert len(paths) == 6 * NUMBER[kind]
    _by_fiftyone(fo, theirs, dataset, run, paths)
    options = {"eval_key": "eval_r", "compute_mAP": True, "progress": False}
    _all(theirs).evaluate_detections("pred_r", "ground_truth", **options)
    added = ("eval_r_error", "eval_r_cause", "eval_r_cost")
    assert _documents(ours, added) == _documents(theirs)

    assert set(theirs.count_values("pred_r.detections.eval_r")) == {"tp", "fp"}
    mine, his = (d.get_field_schema(flat=True) for d in (ours, theirs))
    assert {k: type(v) for k, v in mine.items() if k.split(".")[-1] not in added and "finding" not in k} == {
        k: type(v) for k, v in his.items()
    }
    assert ours.media_type == theirs.media_type and ours.default_group_slice == theirs.default_group_slice
    assert ours.group_media_types == theirs.group_media_types


def _all(stored):
    return stored.select_group_slices() if stored.media_type == "group" else stored


@pytest.mark.parametrize("ties", [False, True])
def test_results_are_those_of_fiftyones_own_evaluation(samples, stores, fo, into, ties):
    """Also what its plots and panels are made of: average precision, curves, confusion.

    One difference: where scores are equal, FiftyOne's average precision ranks right detections before wrong ones, and
    COCO's takes them as they come.
    """
    dataset = make(samples, 31, images=9)
    run = run_of(samples, dataset, 31, "r")
    if not ties:
        distinct = np.random.default_rng(1).permutation(run.detections) / run.detections
        starts = np.cumsum([0, *(len(found) for found in run.by_image.values())])
        items = zip(run.by_image.items(), starts, strict=False)
        by_image = {k: replace(found, scores=distinct[at : at + len(found)]) for (k, found), at in items}
        run = replace(run, by_image=by_image)
    stores.store(dataset, [run], split="validation", **into)
    stored = fo.load_dataset(into["name"])
    classes = stored.default_classes
    options = {"eval_key": "theirs", "compute_mAP": True, "classes": classes, "progress": False}
    his = stored.evaluate_detections("pred_r", "ground_truth", **options)
    mine = stored.load_evaluation_results("eval_r", cache=False)
    assert type(mine) is type(his)
    assert mine.metrics() == his.metrics()
    if ties:
        assert 0 < mine.mAP() < his.mAP() < 1
        return
    assert mine.mAP() == pytest.approx(his.mAP(), abs=1e-6) and 0 < mine.mAP() < 1
    assert mine.mAR() == pytest.approx(his.mAR(), abs=1e-6)
    np.testing.assert_allclose(mine.precision, his.precision, atol=1e-6)
    np.testing.assert_array_equal(mine.confusion_matrix(), his.confusion_matrix())
    assert mine.report() == his.report()
    config = stored.get_evaluation_info("eval_r").config
    for name in ("pred_field", "gt_field", "iou", "classwise", "compute_mAP", "iou_threshs", "max_preds"):
        assert getattr(config, name) == getattr(his.config, name)


def test_fiftyones_public_api_works_with_what_was_written(samples, stores, fo, into, tmp_path):
    dataset = make(samples, 33, images=8)
    run = run_of(samples, dataset, 5, "r")
    stores.store(dataset, [run], split="validation", **into)
    stored = fo.load_dataset(into["name"])
    wrong = stored.filter_labels("pred_r", fo.ViewField("eval_r") == "fp")
    count = sum(label["eval_r"] == "fp" for label in labels_of(stored, "pred_r").values())
    assert wrong.count("pred_r.detections") == count > 0
    assert stored.bounds("ground_truth.detections.area")[0] > 0
    assert stored.to_evaluation_patches("eval_r").count_values("type")["fp"] == count
    assert len(stored.to_patches("ground_truth")) == len(labels_of(stored, "ground_truth"))
    assert stored.sort_by("eval_r_fp", reverse=True).first()["eval_r_fp"] == max(stored.values("eval_r_fp"))
    assert len(stored.shuffle(seed=1)) == len(stored.take(8)) == 8

    twin = stored.clone(into["name"] + "-twin")
    assert labels_of(twin, "pred_r").keys() == labels_of(stored, "pred_r").keys()
    assert twin.load_evaluation_results("eval_r").metrics() == stored.load_evaluation_results("eval_r").metrics()
    exported = tmp_path / "exported"
    stored.export(export_dir=str(exported), dataset_type=fo.types.FiftyOneDataset, progress=False)
    again = fo.Dataset.from_dir(str(exported), fo.types.FiftyOneDataset, name=into["name"] + "-again")
    assert again.count_values("pred_r.detections.eval_r") == stored.count_values("pred_r.detections.eval_r")

    sample = next(sample for sample in stored if sample["ground_truth"].detections)
    sample["ground_truth"].detections[0].label = "edited"
    sample.save()
    assert stored.count_values("ground_truth.detections.label")["edited"] == 1
    stored.add_sample(fo.Sample(filepath="/one/more.jpg"))
    stored.delete_evaluation("eval_r")
    assert "eval_r_tp" not in stored.get_field_schema()


@pytest.mark.parametrize("path", ["filepath", "metadata.width", "boxes.detections.0.bounding_box", "classes"])
def test_a_fiftyone_that_stores_otherwise_is_refused(fo, path):
    """Where a future FiftyOne has another place for something, it is said, and nothing is written."""
    from trainers.app import documents as fiftyone_documents

    scratch = fo.Dataset()
    sample = fo.Sample(filepath="/nowhere.png", tags=["any"], boxes=fo.Detections(), classes=fo.Classifications())
    sample.metadata = fo.ImageMetadata(size_bytes=1, mime_type="image/png", width=1, height=1, num_channels=3)
    sample["boxes"].detections = [fo.Detection(**fiftyone_documents._LABEL)]
    sample["classes"].classifications = [fo.Classification(label="any")]
    scratch.add_sample(sample)
    (document,) = scratch._sample_collection.find()
    scratch.delete()
    fiftyone_documents._checked(document)
    *parents, key = path.split(".")
    inner = document
    for parent in parents:
        inner = inner[int(parent) if parent.isdigit() else parent]
    inner["moved"] = inner.pop(key)
    with pytest.raises(ShardboxError, match=rf"FiftyOne {fo.__version__} stores samples in a way .*requirements.lock"):
        fiftyone_documents._checked(document)


def test_private_handles_are_used_in_one_module():
    from tests.test_architecture import ROOT, SOURCES

    handles = ("_sample_collection", "_bulk_write", "._doc", "_merge_sample_field_schema")
    users = {str(path.relative_to(ROOT)) for path in SOURCES if any(name in path.read_text() for name in handles)}
    assert users <= {"trainers/app/documents.py"} and SIZE
