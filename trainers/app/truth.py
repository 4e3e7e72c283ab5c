"""What a prepared dataset holds, as FiftyOne samples: a sample for every image, or for every frame of a pair."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fiftyone as fo
from bson import ObjectId

from dataflow.boxes import Boxes, xyxy_to_fiftyone
from dataflow.prepared import PreparedDataset
from dataflow.progress import Progress
from dataflow.records import Change, ImageRecord
from dataflow.schema import NO_TRACK
from trainers.app import documents
from trainers.app.database import FIRST_SLICE, GROUND_TRUTH, samples_of, stored_info, update_info
from trainers.app.findings import FINDING_FIELDS, Findings, finding_fields
from trainers.app.sidebar import SAMPLE_DESCRIPTIONS
from trainers.evaluation.frames import Example, Frame, boxes_in_frame, dataset_kind, examples
from trainers.media import mime_type, write_media

_SLICES = {"images": (), "pairs": ("before", "after"), "differences": ("before", "after", "diff")}


def add_split(stored: Any, dataset: PreparedDataset, split: str, findings: Findings, media: Path) -> int:
    """Add the samples of a split with their truth, unless they are there; returns how many images were added."""
    splits = stored_info(stored)["splits"]
    if split in splits:
        return 0
    declare(stored, dataset)
    if len(stored):
        stored.delete_samples(samples_of(stored, split))  # Left by a store that was interrupted.
    progress = Progress("truth into FiftyOne", dataset.splits[split], "images")

    def samples() -> Iterator[documents.Document]:
        for done, example in enumerate(examples(dataset, split)):
            group = ObjectId()
            for frame in example.frames:
                made = _sample(example, frame, group, split=split, names=dataset.categories.names, media=media)
                # Boxes of findings are in the pixels of a single image; those of pairs may be of either frame.
                size = frame.record.size if frame.role == "image" else None
                yield made | _present(finding_fields(findings.by_image.get(example.record.image_id, ()), size))
            progress.update(done + 1)

    documents.insert(stored, samples())
    progress.close(dataset.splits[split])
    update_info(stored, splits=[*splits, split])
    stored.persistent = True
    return dataset.splits[split]


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def declare(stored: Any, dataset: PreparedDataset) -> None:
    """Say which fields samples and their objects have, whether or not the first of them has them."""
    kind = dataset_kind(dataset.layout)
    first = FIRST_SLICE[kind]
    if first is None:
        stored.media_type = "image"
    else:
        for name in (first, *_SLICES[kind]):  # FiftyOne takes the first that is added for the default.
            if name not in stored.group_slices:
                stored.add_group_slice(name, "image")
    fields: dict[str, documents.FieldType] = {GROUND_TRUTH: fo.Detections}
    fields |= dict.fromkeys(("image_id", "split", "scene", "provenance"), fo.StringField)
    fields |= {f"{GROUND_TRUTH}.detections.{name}": field for name, field in _OBJECT_FIELDS.items()}
    if first is not None:
        fields |= {"frame": fo.StringField, "alignment_score": fo.FloatField}
        fields |= {f"metadata.{name}": fo.IntField for name in ("width", "height", "num_channels")}
        fields[f"{GROUND_TRUTH}.detections.change"] = fo.StringField
    documents.declare(stored, {**fields, **FINDING_FIELDS}, SAMPLE_DESCRIPTIONS)


_OBJECT_FIELDS = {"area": fo.FloatField, "iscrowd": fo.BooleanField, "object": fo.IntField}


def _sample(
    example: Example, frame: Frame, group: ObjectId, *, split: str, names: Sequence[str], media: Path
) -> documents.Document:
    """One frame of an example with its truth."""
    record = example.record
    path = write_media(media / split / frame.role, record.image_id, frame.record.image, frame.record.orientation)
    height, width = frame.record.size
    metadata = {
        "size_bytes": len(frame.record.image), "mime_type": mime_type(path),
        "width": width, "height": height, "num_channels": 3,
    }  # fmt: skip
    fields: dict[str, Any] = {
        "image_id": record.image_id,
        "split": split,
        "scene": record.group_id,
        "provenance": record.provenance,
        GROUND_TRUTH: documents.detections(list(truth(record, frame, names))),
    }
    if example.alignment_score is not None:
        fields["group"] = documents.group_element(group, frame.role)
        fields["frame"] = frame.record.filename or frame.record.image_id
        fields["alignment_score"] = example.alignment_score
    return documents.sample(str(path), [split], metadata, fields)


def truth(record: ImageRecord, frame: Frame, names: Sequence[str]) -> Iterator[documents.Document]:
    """The objects of an image as FiftyOne labels in a frame; `object` is the place of each in the record."""
    objects = record.objects
    areas, crowd = objects.areas.tolist(), objects.is_crowd.tolist()
    tracks = None if objects.track_ids is None else objects.track_ids.tolist()
    changes = None if objects.changes is None else objects.changes.tolist()
    for i, box in enumerate(relative_boxes(objects.boxes, frame)):
        label = {"label": names[objects.category_ids[i]], "bounding_box": box}
        label |= {"area": areas[i], "iscrowd": crowd[i], "object": i}
        if tracks is not None and tracks[i] != NO_TRACK:
            label["index"] = tracks[i]
        if changes is not None:
            label["change"] = Change(changes[i]).name.lower()
        yield documents.detection(label)


def relative_boxes(boxes: Boxes, frame: Frame) -> list[list[float]]:
    """Boxes (N, 4) xyxy px of the example as FiftyOne's boxes in one of its frames."""
    relative: list[list[float]] = xyxy_to_fiftyone(boxes_in_frame(boxes, frame), frame.record.size).tolist()
    return relative
