"""Types of errors, findings and saved views in FiftyOne."""

from dataclasses import replace

import numpy as np
import pytest

from dataflow.boxes import fiftyone_to_xyxy
from dataflow.records import Objects, Predictions
from dataflow.splits import parse_splits
from tests.factories import Picture, Thing, write_coco
from tests.trainers.fiftyone_sets import make, run_of
from tfds_builders.builders import SourceBuilder
from tfds_builders.formats.coco import open_coco
from tfds_builders.ingest_options import IngestOptions
from tfds_builders.planning import PlanOptions
from trainers.evaluation.evaluation import evaluate
from trainers.prediction.predictions import collect_predictions


@pytest.mark.parametrize("kind", ["images", "differences"])
def test_types_of_errors_are_those_of_the_evaluation(samples, stores, fo, into, kind):
    dataset = make(samples, 41, images=8, crowd=0.2, kind=kind)
    run = run_of(samples, dataset, 4, "r")
    stores.store(dataset, [run], split="validation", **into)
    evaluation = evaluate(dataset, run, "validation")
    stored = fo.load_dataset(into["name"])
    costs, kinds = dict(evaluation.error_types.ranked), set()
    for sample in stored:
        errors = evaluation.error_types.by_image[sample["image_id"]]
        found, objects = (
            tuple(label.get_attribute_value("eval_r_error", None) for label in sample[field].detections)
            for field in ("pred_r", "ground_truth")
        )
        assert (found, objects) == (errors.detections, errors.objects)
        assert sample["eval_r_cost"] == pytest.approx(costs.get(sample["image_id"], 0.0))
        kinds |= set(found)
    assert {"background", None} < kinds and max(costs.values()) > 0


def test_causes_are_stored(samples, stores, fo, into, monkeypatch):
    from trainers.app import store as fiftyone_store

    def suspicious(dataset, predictions, split):
        evaluation = evaluate(dataset, predictions, split)
        types = evaluation.error_types
        by_image = {
            image: replace(errors, causes=tuple("camera-motion" if error else None for error in errors.detections))
            for image, errors in types.by_image.items()
        }
        return replace(evaluation, error_types=replace(types, by_image=by_image))

    monkeypatch.setattr(fiftyone_store, "evaluate", suspicious)
    dataset = make(samples, 42, images=4, kind="differences")
    stores.store(dataset, [run_of(samples, dataset, 4, "r")], split="validation", **into)
    stored = fo.load_dataset(into["name"])
    view = stored.load_saved_view("r: camera motion")
    shown = [label for sample in view for label in sample["pred_r"].detections]
    wrong = stored.filter_labels("pred_r", fo.ViewField("eval_r_error").exists())
    assert len(shown) == wrong.count("pred_r.detections") > 0
    assert {label["eval_r_cause"] for label in shown} == {"camera-motion"}


def _scene(samples):
    """One of each thing that a view is to find, and its predictions."""
    size = (256, 256)
    small, medium, large = [[0, 0, 20, 20]], [[100, 0, 150, 50]], [[0, 100, 120, 220]]
    truth = {
        "right": Objects(medium, [0]), "small": Objects(small, [0]), "medium": Objects(medium, [0]),
        "large": Objects(large, [0]), "other class": Objects(medium, [0]), "nowhere": Objects(medium, [0]),
        "both fine": Objects(medium + large, [0, 1]),
    }  # fmt: skip
    found = {
        "right": (medium, [0.8], [0]), "small": ([], [], []), "medium": ([], [], []), "large": ([], [], []),
        "other class": (medium, [0.85], [1]), "nowhere": ([*medium, [200, 200, 250, 250]], [0.8, 0.95], [0, 0]),
        "both fine": (medium + large, [0.9, 0.7], [0, 1]),
    }  # fmt: skip
    dataset = samples.dataset({"validation": [samples.record(name, objects, size) for name, objects in truth.items()]})
    made = [
        Predictions(name, np.reshape(boxes, (-1, 4)).astype(np.float32), scores, kinds, "r")
        for name, (boxes, scores, kinds) in found.items()
    ]
    return dataset, collect_predictions(made, run_id="r", dataset=dataset, split="validation")


def test_saved_views_show_what_they_say(samples, stores, fo, into):
    dataset, run = _scene(samples)
    stores.store(dataset, [run], split="validation", **into)
    stored = fo.load_dataset(into["name"])

    def shown(name):
        return stored.load_saved_view(name).values("image_id") if stored.has_saved_view(name) else []

    assert shown("r: missed, small") == ["small"]
    assert shown("r: missed, medium") == ["medium"]  # The object under a wrong class is explained by that error.
    assert shown("r: missed, large") == ["large"]
    assert shown("r: confident false positives") == ["nowhere", "other class"]
    assert sorted(shown("label suspects")) == ["nowhere", "other class"]
    assert shown("r: camera motion") == shown("quarantined") == []
    costs = dict(evaluate(dataset, run, "validation").error_types.ranked)
    assert shown("r: worst images")[0] == max(costs, key=costs.get)
    assert set(shown("r: worst images")) == set(costs)
    assert "right" not in costs and sorted(shown("confident")) == sorted(record for record in run.by_image)


@pytest.fixture
def flawed(tmp_path):
    """A prepared dataset of which one image was kept out, and another has a finding."""
    pictures = (
        Picture("good", 48, 64, (Thing(0, (1, 2, 30, 40)),)),
        Picture("odd", 48, 64, (Thing(0, (1, 2, 2.5, 3.5)),)),
        Picture("bad", 48, 64, (Thing(0, (50, 2, 90, 40)),)),
    )
    source = write_coco(tmp_path / "coco", pictures, ("car",))
    options = IngestOptions(plan=PlanOptions(parse_splits("validation=1")))
    origin = {"source": str(source), "options": {}}
    return SourceBuilder(
        open_coco(source), name="flawed", out=tmp_path / "out", options=options, origin=origin
    ).prepare()


@pytest.mark.parametrize("source_is_there", [True, False])
def test_findings_and_quarantined_images(stores, into, flawed, tmp_path, source_is_there):
    fo = stores.fo
    if not source_is_there:
        (tmp_path / "coco").rename(tmp_path / "elsewhere")
    for _ in range(2):  # Storing again adds nothing.
        stores.store(flawed, [], split="validation", **into)
    stored = fo.load_dataset(into["name"])
    assert len(stored) == 3 and stored.count_sample_tags() == {"validation": 2, "quarantined": 1}
    bad = stored.load_saved_view("quarantined").first()
    (finding,) = bad["findings"].classifications
    assert (finding.label, finding["severity"]) == ("box-outside-image", "error")
    assert "instances" in finding["place"] and "leaves the image" in finding["value"] and finding["remedy"]
    assert (bad.metadata.width == 64) == source_is_there
    if source_is_there:
        (box,) = bad["finding_boxes"].detections
        (drawn,) = fiftyone_to_xyxy([box.bounding_box], (48, 64))
        np.testing.assert_allclose(drawn, (50, 2, 90, 40), atol=1e-4)
        assert "bad" in bad.filepath
    else:
        assert bad["finding_boxes"] is None and "no_picture" in bad.filepath
    odd = stored.match(fo.ViewField("image_id").contains_str("odd")).first()
    assert [label.label for label in odd["findings"].classifications] == ["box-absurd"]
    assert stored.match_tags("validation").count("findings.classifications") == 1
