"""Samples as FiftyOne stores them, read and written in bulk.

FiftyOne makes a Python object of every label and writes samples one after the other. Here a sample is a plain
dictionary, modelled on one that FiftyOne itself has stored, and thousands go to MongoDB at once. What comes out is
what FiftyOne would have written, which the tests compare field by field.

All that FiftyOne keeps private is used here and nowhere else: the collection of a dataset's samples, the reloading of
samples that a caller holds, and the declaration of several fields at once.
"""

import gc
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeVar

import fiftyone as fo
from bson import ObjectId
from fiftyone.core.odm import create_field
from pymongo import UpdateOne

from dataflow.errors import ShardboxError

Document = dict[str, Any]
FieldType = type[fo.Field] | type[fo.Label]
_T = TypeVar("_T")
_BATCH = 1000
# What FiftyOne draws for every sample, to shuffle by.
_LEAST_RAND, _RAND_RANGE = 0.999, 0.001
_OWN_KEYS = {"_id", "_rand", "_dataset_id", "created_at", "last_modified_at"}
_FILEPATH, _MIME = "/nowhere.png", "image/png"
_METADATA = {"size_bytes": 1, "mime_type": _MIME, "width": 1, "height": 1, "num_channels": 3}
_LABEL = {"label": "any", "bounding_box": [0.0, 0.0, 1.0, 1.0], "confidence": 0.5, "index": 1}


@dataclass(frozen=True, eq=False)
class _Templates:
    """Documents as the installed FiftyOne stores them."""

    sample: Document
    detection: Document
    classification: Document


def detection(values: Mapping[str, Any]) -> Document:
    """A new `fo.Detection` with these attributes; those that are None are left out, as FiftyOne does."""
    return _label(_templates().detection, values)


def classification(values: Mapping[str, Any]) -> Document:
    """A new `fo.Classification` with these attributes."""
    return _label(_templates().classification, values)


def detections(labels: Sequence[Document]) -> Document:
    """A `fo.Detections` of labels."""
    return {"_cls": "Detections", "detections": list(labels)}


def classifications(labels: Sequence[Document]) -> Document:
    """A `fo.Classifications` of labels."""
    return {"_cls": "Classifications", "classifications": list(labels)}


def group_element(group_id: ObjectId, slice_name: str) -> Document:
    """The place of a sample in a group."""
    return {"_cls": "Group", "_id": group_id, "name": slice_name}


def sample(
    filepath: str, tags: Sequence[str], metadata: Mapping[str, Any] | None, fields: Mapping[str, Any]
) -> Document:
    """A new sample of an image.

    Args:
        filepath: absolute path of the image.
        tags: of the sample.
        metadata: what `fo.ImageMetadata` takes; None where nothing is known.
        fields: values by field, labels as documents; None for what it has not.
    """
    template = _templates().sample
    return {
        **template,
        "filepath": filepath,
        "tags": list(tags),
        "metadata": None if metadata is None else {**template["metadata"], **metadata},
        "_rand": _LEAST_RAND + _RAND_RANGE * random.random(),
        **{name: value for name, value in fields.items() if value is not None},
    }


def declare(
    stored: Any, fields: Mapping[str, FieldType], descriptions: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Have samples fields (paths with dots lead into labels), unless they have them; `descriptions` are by path, too.

    At once, because `add_sample_field` writes and reads all that is known of a dataset for each.
    """
    for inner in (False, True):  # Labels come before what is in them.
        stored._merge_sample_field_schema(
            {
                path: _field(path, kind, descriptions.get(path))
                for path, kind in fields.items()
                if ("." in path) == inner
            }
        )


def _field(path: str, kind: FieldType, description: str | None) -> fo.Field:
    name = path.rpartition(".")[2]
    if issubclass(kind, fo.Label):
        return create_field(name, fo.EmbeddedDocumentField, embedded_doc_type=kind, description=description)
    return create_field(name, kind, description=description)


def insert(stored: Any, samples: Iterable[Document]) -> int:
    """Add new samples to a FiftyOne dataset whose fields have been declared; returns how many."""
    added = 0
    for batch in _batches(samples):
        now = datetime.now(UTC)
        own = {"_dataset_id": stored._doc.id, "created_at": now, "last_modified_at": now}
        stored._sample_collection.insert_many([{**document, **own} for document in batch], ordered=False)
        added += len(batch)
    return added


def read(stored: Any, query: Mapping[str, Any], fields: Sequence[str]) -> Iterator[Document]:
    """Those samples that match a MongoDB query, with some of their fields, in the order in which they were added."""
    found: Iterator[Document] = stored._sample_collection.find(query, dict.fromkeys(fields, 1)).sort("_id", 1)
    return found


def update(stored: Any, changes: Iterable[tuple[ObjectId, Mapping[str, Any]]]) -> None:
    """Set fields (paths with dots lead into labels) of samples by id."""
    for batch in _batches(changes):
        now = datetime.now(UTC)
        stored._bulk_write(
            [UpdateOne({"_id": key}, {"$set": {**values, "last_modified_at": now}}) for key, values in batch],
            ids=[str(key) for key, _ in batch],
        )


def _batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    """Items in lists of a thousand.

    Dictionaries by the hundred thousand set Python's search for cycles off again and again; here there are none.
    """
    remaining = iter(items)
    searching = gc.isenabled()
    gc.disable()
    try:
        while batch := list(islice(remaining, _BATCH)):
            yield batch
    finally:
        if searching:
            gc.enable()


def _label(template: Mapping[str, Any], values: Mapping[str, Any]) -> Document:
    given = {name: value for name, value in values.items() if value is not None}
    return {"_id": ObjectId(), **template, "tags": [], **given}


@cache
def _templates() -> _Templates:
    """What FiftyOne stores of a sample with one label of each kind.

    Raises:
        ShardboxError: it is not what Shardbox would write of the same.
    """
    scratch = fo.Dataset()
    try:
        made = fo.Sample(filepath=_FILEPATH, tags=["any"], metadata=fo.ImageMetadata(**_METADATA))
        made["boxes"] = fo.Detections(detections=[fo.Detection(**_LABEL)])
        made["classes"] = fo.Classifications(classifications=[fo.Classification(label="any")])
        scratch.add_samples([made], progress=False)
        (written,) = scratch._sample_collection.find()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unknown_layout(str(error)) from error
    finally:
        fo.delete_dataset(scratch.name)
    return _checked(written)


def _checked(written: Document) -> _Templates:
    """Templates out of a stored sample, tried on what it was made of."""
    try:
        (box,), (kind,) = written["boxes"]["detections"], written["classes"]["classifications"]
        templates = _Templates(
            sample={key: value for key, value in written.items() if key not in {*_OWN_KEYS, "boxes", "classes"}},
            detection={key: value for key, value in box.items() if key not in {"_id", *_LABEL}},
            classification={key: value for key, value in kind.items() if key not in {"_id", "label"}},
        )
        again = {
            **templates.sample,
            "boxes": detections([_label(templates.detection, _LABEL)]),
            "classes": classifications([_label(templates.classification, {"label": "any"})]),
        }
        again["boxes"]["detections"][0]["_id"] = box["_id"]
        again["classes"]["classifications"][0]["_id"] = kind["_id"]
        missing = [name for name in ("filepath", "tags", "_media_type") if name not in templates.sample]
        missing += [name for name in _METADATA if name not in templates.sample["metadata"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _unknown_layout(repr(error)) from error
    stored = {key: value for key, value in written.items() if key not in _OWN_KEYS}
    different = [*missing, *sorted(key for key in stored | again if stored.get(key) != again.get(key))]
    if different or written["_dataset_id"] is None:
        raise _unknown_layout(", ".join(different))
    return templates


def _unknown_layout(what: str) -> ShardboxError:
    return ShardboxError(
        f"FiftyOne {fo.__version__} stores samples in a way that Shardbox does not know ({what})",
        "install the release of fiftyone that requirements.lock names",
    )
