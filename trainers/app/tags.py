"""What people did in the App, as a list of corrections that `shardbox ingest --relabel` applies.

| in the App | in the list |
|---|---|
| an object's class edited | change its class |
| its box edited | change its box |
| an object deleted | delete it |
| an object drawn | add it |
| a detection of a run tagged `adopt` | add it |
| an object tagged `mislabelled` and not edited | suspect: a finding |
| an image tagged `relabel` | suspect, without an object: a finding |
| an image tagged `exclude` | exclude the image |

Any other tag is exported as a finding where it is asked for by name.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dataflow.boxes import Boxes, fiftyone_to_xyxy
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import ImageRecord
from trainers.app.database import GROUND_TRUTH, all_slices, connect, default_name, open_stored, stored_info
from trainers.app.views import QUARANTINED

MISLABELLED, ADOPT, RELABEL, EXCLUDE = "mislabelled", "adopt", "relabel", "exclude"
# What is drawn by hand is no nearer; what is stored is.
_MOVED_PX = 0.5

Entry = dict[str, Any]


def export_tags(dataset: PreparedDataset, out: Path, *, name: str | None = None, tag: str | None = None) -> list[Entry]:
    """Write what was tagged and edited in the App as corrections, and return them.

    Args:
        dataset: the prepared dataset that was stored; its truth is what edits are compared with.
        out: the file, JSON lines; one that is there is replaced.
        name: of the FiftyOne dataset; see `store`.
        tag: only of images that have this tag, or a label with it.

    Raises:
        UsageError: there is no such FiftyOne dataset, or it is of another prepared dataset.
        ShardboxError: there is no MongoDB.
    """
    connect()
    name = name or default_name(dataset)
    stored = open_stored(dataset, name)
    if stored is None:
        raise UsageError(f"there is no FiftyOne dataset {name!r}", "store it first with `shardbox browse`")
    by_image: dict[str, list[Any]] = {}
    for sample in all_slices(stored).match_tags(QUARANTINED, bool=False).iter_samples(progress=False):
        by_image.setdefault(sample["image_id"], []).append(sample)
    fields = list(stored_info(stored)["runs"])
    truths = (record for split in stored_info(stored)["splits"] for record in dataset.records(split))
    entries = [
        {**entry, "dataset": dataset.fingerprint}
        for record in truths
        if (samples := by_image.get(record.image_id)) and (tag is None or _has_tag(samples, fields, tag))
        for entry in _entries(record, samples, fields, dataset.categories.names, tag)
    ]
    out.write_text("".join(json.dumps(entry, ensure_ascii=False, sort_keys=True) + "\n" for entry in entries), "utf-8")
    return entries


def _labels(sample: Any, field: str) -> list[Any]:
    value = sample[field]
    return [] if value is None else list(value.detections)


def _has_tag(samples: Sequence[Any], fields: Sequence[str], tag: str) -> bool:
    labels = (label for sample in samples for field in (GROUND_TRUTH, *fields) for label in _labels(sample, field))
    return any(tag in sample.tags for sample in samples) or any(tag in label.tags for label in labels)


def _entries(
    record: ImageRecord, samples: Sequence[Any], fields: Sequence[str], names: Sequence[str], tag: str | None
) -> Iterator[Entry]:
    """The corrections of one image, from all its slices."""
    image = {"image_id": record.image_id}
    tags = sorted({text for sample in samples for text in sample.tags})
    if EXCLUDE in tags:
        yield {**image, "action": "exclude", "tags": [EXCLUDE]}
        return
    wanted = [text for text in tags if text in (RELABEL, tag)]
    if wanted:
        yield {**image, "action": "suspect", "tags": wanted}
    for place in range(len(record.objects)):
        for entry in _object_entries(record, place, samples, names, tag):
            yield {**image, **entry}
    added = []
    for sample in samples:
        drawn = [label for label in _labels(sample, GROUND_TRUTH) if label.get_attribute_value("object", None) is None]
        adopted = [label for field in fields for label in _labels(sample, field) if ADOPT in label.tags]
        added += [(label.label, _box(label, record.size)) for label in [*drawn, *adopted]]
    for kind, box in dict.fromkeys((kind, tuple(box)) for kind, box in added):
        yield {**image, "action": "add", "class": kind, "box": list(box)}


def _object_entries(
    record: ImageRecord, place: int, samples: Sequence[Any], names: Sequence[str], tag: str | None
) -> Iterator[Entry]:
    """The corrections of one object: in whichever slice it was edited."""
    objects = record.objects
    kind, box = names[objects.category_ids[place]], objects.boxes[place].tolist()
    known = {"object": {"class": kind, "box": box}}
    found = [_numbered(sample, place) for sample in samples]
    labels = [label for label in found if label is not None]
    if len(labels) < len(found):
        yield {**known, "action": "delete"}
        return
    change: Entry = {}
    edited = next((label.label for label in labels if label.label != kind), None)
    if edited is not None:
        change["class"] = edited
    moved = next((box for box in _moved_boxes(record, place, samples, labels)), None)
    if moved is not None:
        change["box"] = moved
    if change:
        yield {**known, "action": "change", **change}
        return
    tags = sorted({text for label in labels for text in label.tags if text in (MISLABELLED, tag)})
    if tags:
        yield {**known, "action": "suspect", "tags": tags}


def _numbered(sample: Any, place: int) -> Any:
    """The label of an object in a sample, or None where it was deleted."""
    for label in _labels(sample, GROUND_TRUTH):
        if label.get_attribute_value("object", None) == place:
            return label
    return None


def _moved_boxes(
    record: ImageRecord, place: int, samples: Sequence[Any], labels: Sequence[Any]
) -> Iterator[list[float]]:
    """Boxes of an object that were edited, px; only of slices that show boxes where the record has them."""
    box: Boxes = record.objects.boxes[place : place + 1]
    for sample, label in zip(samples, labels, strict=True):
        if (sample.metadata.height, sample.metadata.width) != record.size or not _same_pixels(sample, samples):
            continue
        drawn = _box(label, record.size)
        if np.abs(np.asarray(drawn) - box[0]).max() > _MOVED_PX:
            yield drawn


def _same_pixels(sample: Any, samples: Sequence[Any]) -> bool:
    """Whether a slice is in the pixels of the record: not a before frame that the camera saw from elsewhere."""
    return len(samples) == 1 or sample["group"].name != "before"


def _box(label: Any, size: tuple[int, int]) -> list[float]:
    """A label's box, xyxy px to a hundredth."""
    found: npt.NDArray[np.float32] = fiftyone_to_xyxy([label.bounding_box], size)[0]
    return [round(value, 2) for value in found.tolist()]
