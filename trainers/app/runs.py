"""What a run predicted and what became of every box, in a stored dataset, where FiftyOne's evaluation would put it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.utils.eval.coco import COCODetectionResults, COCOEvaluationConfig

from dataflow.prepared import PreparedDataset
from dataflow.progress import Progress
from trainers.app import documents
from trainers.app.database import GROUND_TRUTH, run_label, samples_of, stored_info, update_info
from trainers.app.sidebar import run_descriptions
from trainers.app.truth import relative_boxes
from trainers.app.views import colour
from trainers.evaluation.evaluation import Evaluation
from trainers.evaluation.frames import Frame, dataset_kind, examples, without_bytes
from trainers.evaluation.matching import Verdict
from trainers.prediction.predictions import PredictionSet

_FIELD_LENGTH = 48
_NO_MATCH = ""  # As FiftyOne's own evaluation writes it.
_NAMES: Mapping[int, str] = {verdict: verdict.name.lower() for verdict in Verdict}
_RECALLS = np.linspace(0.0, 1.0, 101)
# True label, predicted label, IoU, score, id of the object, id of the detection; None for what is not there.
_BoxMatch = tuple[str | None, str | None, float | None, float | None, str | None, str | None]


def evaluation_key(field: str) -> str:
    """The evaluation key that belongs to a field of detections."""
    return "eval_" + field.removeprefix("pred_")


def add_run(stored: Any, dataset: PreparedDataset, found: PredictionSet, evaluation: Evaluation, label: str) -> str:
    """Write the detections of a run and what became of every box, unless they are there; returns their field.

    A run that is new here is called `label`.
    """
    runs = stored_info(stored)["runs"]
    field = next((name for name, run in runs.items() if run["run_id"] == found.run_id), None)
    field = field or _free_field(stored, label)
    known = runs.get(field, {})
    label = run_label(known) if known else label
    digests = known.get("splits", {}) if "sure" in known else {}  # Earlier versions stored less of a run.
    if digests.get(found.split) == found.digest:
        return field
    key = evaluation_key(field)
    run = {"run_id": found.run_id, "label": label, "evaluation": key, "splits": digests, **_scores(evaluation)}
    update_info(stored, runs={**runs, field: run})  # The field has its owner even if what follows is interrupted.
    _declare(stored, label, field, key)
    digests = {**digests, found.split: found.digest}
    # Average precision is of a split; what covers several has none.
    method = COCOEvaluationConfig(field, GROUND_TRUTH, iou=0.5, classwise=True, compute_mAP=len(digests) == 1).build()
    method.register_run(stored, key, cleanup=False)
    method.register_samples(stored, key)
    written = _write_split(stored, dataset, field, found, evaluation)
    stored.reload()
    _save_results(stored, method, key, [*_matches_of_others(stored, field, found.split), *written], evaluation)
    colour(stored, field, key)
    update_info(stored, runs={**runs, field: run | {"splits": digests}})
    return field


def _scores(evaluation: Evaluation) -> dict[str, float]:
    """The score that counts, and two that are higher than half and nine tenths of those of right detections."""
    right = evaluation.matching.scores[evaluation.matching.right[0]].astype(np.float64)
    right = np.sort(right[right >= evaluation.errors.score])
    sure, very_sure = (float(np.quantile(right, q)) if len(right) else 0.0 for q in (0.5, 0.9))
    return {"score": evaluation.errors.score, "sure": sure, "very_sure": very_sure}


def _declare(stored: Any, label: str, field: str, key: str) -> None:
    """The fields of a run and its evaluation, and ours: types of errors, suspected causes, what an image costs."""
    fields: dict[str, documents.FieldType] = {field: fo.Detections, f"{key}_cost": fo.FloatField}
    fields |= dict.fromkeys((f"{key}_tp", f"{key}_fp", f"{key}_fn"), fo.IntField)
    for path in (f"{side}.detections.{key}" for side in (GROUND_TRUTH, field)):
        fields |= {path: fo.StringField, f"{path}_id": fo.StringField, f"{path}_iou": fo.FloatField}
        fields[f"{path}_error"] = fo.StringField
    fields[f"{field}.detections.{key}_cause"] = fo.StringField
    documents.declare(stored, fields, run_descriptions(label, field, key))


def _free_field(stored: Any, label: str) -> str:
    """A name for a run's field that no other has."""
    base = "pred_" + (re.sub(r"[^a-z0-9]+", "_", label.lower())[:_FIELD_LENGTH].strip("_") or "run")
    taken = set(stored.get_field_schema())
    names = (base if i == 1 else f"{base}_{i}" for i in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _frames(dataset: PreparedDataset, split: str, evaluation: Evaluation) -> Mapping[tuple[str, str], Frame]:
    """The frames of a split without their pictures, by image id and role."""
    if dataset_kind(dataset.layout) == "images":
        return {(image_id, "image"): Frame("image", record) for image_id, record in evaluation.truths.items()}
    return {
        (example.record.image_id, frame.role): without_bytes(frame)
        for example in examples(dataset, split)
        for frame in example.frames
    }


def _write_split(
    stored: Any, dataset: PreparedDataset, field: str, found: PredictionSet, evaluation: Evaluation
) -> list[_BoxMatch]:
    """Set the detections of a run, and the verdicts on them and on the truth, on all samples of its split.

    Returns what FiftyOne's results want of them, see `_box_matches`.
    """
    frames = _frames(dataset, found.split, evaluation)
    progress = Progress(f"{found.run_id} into FiftyOne", len(samples_of(stored, found.split)), "samples")
    # Labels may have been taken away or added in the App, so objects are known by their number, not their place.
    wanted = ["image_id", "group.name", *(f"{GROUND_TRUTH}.detections.{name}" for name in ("_id", "label", "object"))]
    costs = dict(evaluation.error_types.ranked)
    key, shown = evaluation_key(field), stored.default_group_slice
    matches: list[_BoxMatch] = []
    done = 0

    def changes() -> Iterator[tuple[Any, Mapping[str, Any]]]:
        nonlocal done
        for document in documents.read(stored, {"split": found.split, "image_id": {"$ne": None}}, wanted):
            image_id, role = document["image_id"], document["group"]["name"] if "group" in document else None
            fields = _run_fields(document, field, found, evaluation, frames[image_id, role or "image"])
            if role == shown:
                matches.extend(_box_matches(document[GROUND_TRUTH]["detections"], fields[field]["detections"], key))
            yield document["_id"], fields | {f"{key}_cost": costs.get(image_id, 0.0)}
            done += 1
            progress.update(done)

    documents.update(stored, changes())
    progress.close(done)
    return matches


def _run_fields(
    document: documents.Document, field: str, found: PredictionSet, evaluation: Evaluation, frame: Frame
) -> dict[str, Any]:
    """What to set on a sample: a run's detections, and on both sides what became of each box and which it matched.

    The objects of `document` get their verdicts, too.
    """
    key, image_id = evaluation_key(field), document["image_id"]
    item, matches = found.by_image[image_id], evaluation.matches[image_id]
    errors = evaluation.error_types.by_image[image_id]
    names = found.categories.names
    labels = document[GROUND_TRUTH]["detections"]
    objects = {label["object"]: (place, label["_id"]) for place, label in enumerate(labels) if "object" in label}
    ious, matched = matches.ious.tolist(), matches.found.tolist()
    detections = [
        documents.detection(
            {
                "label": names[category],
                "bounding_box": box,
                "confidence": score,
                key: _NAMES[verdict],
                f"{key}_id": str(objects[of][1]) if of in objects else _NO_MATCH,
                f"{key}_iou": None if of < 0 else iou,
                f"{key}_error": error,
                f"{key}_cause": cause,
            }
        )
        for category, box, score, verdict, of, iou, error, cause in zip(
            item.category_ids.tolist(),
            relative_boxes(item.boxes, frame),
            item.scores.tolist(),
            matches.verdicts.tolist(),
            matched,
            ious,
            errors.detections,
            errors.causes,
            strict=True,
        )
    ]
    fields: dict[str, Any] = {field: documents.detections(detections)}
    verdicts, found_by = matches.object_verdicts.tolist(), matches.found_by.tolist()
    for i, (place, _) in objects.items():
        by = found_by[i]
        path = f"{GROUND_TRUTH}.detections.{place}.{key}"
        labels[place][key] = fields[path] = _NAMES[verdicts[i]]
        fields[f"{path}_id"] = _NO_MATCH if by < 0 else str(detections[by]["_id"])
        fields[f"{path}_iou"] = None if by < 0 else ious[by]
        fields[f"{path}_error"] = errors.objects[i]
    for verdict in (Verdict.TP, Verdict.FP, Verdict.FN):
        fields[f"{key}_{_NAMES[verdict]}"] = matches.count(verdict)
    return fields


def _save_results(stored: Any, method: Any, key: str, matches: list[_BoxMatch], evaluation: Evaluation) -> None:
    """What FiftyOne's panels and plots want of an evaluation, without evaluating again."""
    names = list(evaluation.category_names)
    if method.config.compute_mAP:
        results = COCODetectionResults(
            stored,
            method.config,
            key,
            matches,
            precision=evaluation.matching.precision.transpose(0, 2, 1),
            recall=_RECALLS,
            iou_threshs=method.config.iou_threshs,
            classes=names,
            recall_sweep=evaluation.matching.recall,
            backend=method,
        )
    else:
        results = method.generate_results(stored, matches, eval_key=key, classes=names)
    method.save_run_results(stored, key, results)


def _matches_of_others(stored: Any, field: str, split: str) -> Iterator[_BoxMatch]:
    """What other splits have, read back from the boxes of the slice that is shown first."""
    key = evaluation_key(field)
    query: dict[str, Any] = {field: {"$ne": None}, "split": {"$ne": split}}
    if stored.media_type == "group":
        query["group.name"] = stored.default_group_slice
    columns = [f"{GROUND_TRUTH}.detections.{name}" for name in ("label", "_id", key)]
    columns += [f"{field}.detections.{name}" for name in ("label", "_id", "confidence", key, f"{key}_iou", f"{key}_id")]
    for document in documents.read(stored, query, columns):
        yield from _box_matches(document[GROUND_TRUTH]["detections"], document[field]["detections"], key)


def _box_matches(objects: list[documents.Document], found: list[documents.Document], key: str) -> Iterator[_BoxMatch]:
    """What FiftyOne keeps of an evaluation: the right and wrong detections of an image, and the objects it missed."""
    for label in objects:
        if label.get(key) == "fn":
            yield label["label"], None, None, None, str(label["_id"]), None
    for label in found:
        if label[key] == "tp":
            ids = label[f"{key}_id"] or None, str(label["_id"])
            yield label["label"], label["label"], label[f"{key}_iou"], label["confidence"], *ids
        elif label[key] == "fp":
            yield None, label["label"], None, label["confidence"], None, str(label["_id"])
