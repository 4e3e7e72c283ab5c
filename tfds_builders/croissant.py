"""Croissant metadata (mlcommons.org/croissant, version 1.1): what a prepared dataset holds, for catalogues and search.

It describes files, splits, classes and every feature, in JSON-LD that schema.org's Dataset knows. Boxes are in TFDS's
convention, which their field names. Nothing here needs `mlcroissant`, which the tests validate it with.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

CROISSANT = "croissant.json"
_VERSION = "http://mlcommons.org/croissant/1.1"
# Formats without a media type are named by the page that defines them, as the specification asks.
_FORMATS = {
    "tfrecord": "https://www.tensorflow.org/tutorials/load_data/tfrecord",
    "array_record": "https://github.com/google/array_record",
}
_SPLITS = {"train": "cr:TrainingSplit", "validation": "cr:ValidationSplit", "test": "cr:TestSplit"}
# The vocabulary: which names of the JSON are Croissant's own; all others are schema.org's.
_OWN = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty fileSet format "
    "includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace "
    "samplingRate separator source subField transform"
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{name: f"cr:{name}" for name in _OWN.split()},
}
_SHARDS = "shards"
_EXAMPLES = "examples"


def croissant(
    info: tfds.core.DatasetInfo, manifest: Mapping[str, Any], digests: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The JSON-LD description of a prepared dataset, the same for the same dataset.

    Args:
        info: what TFDS knows of it; its features must be set. A licence, homepage or citation is passed on.
        manifest: content of `manifest.json`: the shards of each split, and the source's class ids.
        digests: SHA-256 (hex) of shard files by name, where known (the manifest's are of the records, not the files).
            Those files are listed one by one.
    """
    suffix = info.file_format.value
    homepage = next(iter(info.as_proto.location.urls), None)
    described = {
        "@context": copy.deepcopy(_CONTEXT),  # Whoever reads it may write into it; mlcroissant does.
        "@type": "sc:Dataset",
        "name": info.name,
        "description": info.description,
        "conformsTo": _VERSION,
        "version": str(info.version),
        "license": info.redistribution_info.license or None,
        "url": homepage,
        "citeAs": info.citation or None,
        "distribution": _distribution(info.name, suffix, digests or {}),
        "recordSet": [
            _split_records(manifest["splits"]),
            *_class_records(info.features, manifest.get("categories", [])),
            _example_records(info.features, suffix),
        ],
    }
    return {name: value for name, value in described.items() if value is not None}


def _distribution(name: str, suffix: str, digests: Mapping[str, str]) -> list[dict[str, Any]]:
    encoding = _FORMATS.get(suffix, suffix)
    files = [
        {
            "@type": "cr:FileObject",
            "@id": file,
            "name": file,
            "contentUrl": file,
            "encodingFormat": encoding,
            "sha256": digest,
        }
        for file, digest in sorted(digests.items())
    ]
    shards = {
        "@type": "cr:FileSet",
        "@id": _SHARDS,
        "name": _SHARDS,
        "description": "All shards; each record is a serialised tf.train.Example.",
        "encodingFormat": encoding,
        "includes": f"{name}-*.{suffix}-*-of-*",
    }
    return [*files, shards]


def _split_records(splits: Mapping[str, Any]) -> dict[str, Any]:
    rows = [{"splits/name": name, "splits/count": split["count"]} for name, split in sorted(splits.items())]
    fields = [_field("splits/name", "name", "sc:Text"), _field("splits/count", "count", "cr:Int64")]
    if set(splits) <= set(_SPLITS):
        rows = [row | {"splits/url": _SPLITS[row["splits/name"]]} for row in rows]
        fields.append(_field("splits/url", "url", "sc:URL"))
    return _records(
        "splits",
        data_types=["cr:Split"],
        description="Splits and their numbers of examples.",
        key="splits/name",
        fields=fields,
        rows=rows,
    )


def _class_records(features: Mapping[str, Any], categories: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A table of names for each feature that holds class numbers."""
    for path, label in _labels(features):
        table = _table(path)
        rows = [{f"{table}/label": index, f"{table}/name": name} for index, name in enumerate(label.names)]
        fields = [_field(f"{table}/label", "label", "cr:Int64"), _field(f"{table}/name", "name", "sc:Text")]
        if [category["name"] for category in categories] == list(label.names):
            ids = [category["source_id"] for category in categories]
            rows = [row | {f"{table}/source_id": number} for row, number in zip(rows, ids, strict=True)]
            fields.append(_field(f"{table}/source_id", "source_id", "cr:Int64"))
        yield _records(
            table,
            data_types=["sc:Enumeration"],
            description=f"What the numbers in {path} mean.",
            key=f"{table}/label",
            fields=fields,
            rows=rows,
        )


def _example_records(features: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    split = _field(f"{_EXAMPLES}/split", "split", "sc:Text") | {
        "source": {
            "fileSet": {"@id": _SHARDS},
            "extract": {"fileProperty": "filename"},
            "transform": {"regex": rf"-(\w+)\.{suffix}-\d+-of-\d+$"},
        },
        "references": {"field": {"@id": "splits/name"}},
    }
    fields = [split, *(_feature_field(_EXAMPLES, name, feature, "") for name, feature in sorted(features.items()))]
    return {
        "@type": "cr:RecordSet",
        "@id": _EXAMPLES,
        "name": _EXAMPLES,
        "description": "An image (or pair) and its objects a record. Boxes are relative to the upright image.",
        **({"key": {"@id": f"{_EXAMPLES}/image/id"}} if "image/id" in features else {}),
        "field": fields,
    }


def _feature_field(parent: str, name: str, feature: Any, column: str) -> dict[str, Any]:
    """A field for a feature; `column` is the path of the feature that it lies in."""
    identity, path = f"{parent}/{name}", f"{column}/{name}" if column else name
    inner = getattr(feature, "feature", None)  # That of a Sequence.
    array = {} if inner is None else {"isArray": True, "arrayShape": "-1"}
    members = feature if inner is None else inner
    if hasattr(members, "items"):
        nested = [_feature_field(identity, key, value, path) for key, value in sorted(members.items())]
        return _field(identity, name) | array | {"subField": nested}
    if inner is not None:
        return _feature_field(parent, name, inner, column) | array
    source: dict[str, Any] = {"fileSet": {"@id": _SHARDS}, "extract": {"column": path}}
    if isinstance(feature, tfds.features.BBoxFeature):
        convention = getattr(feature, "bbox_format", None)
        source["format"] = convention.value if convention else "REL_YXYX"
    described = _field(identity, name, _data_type(feature)) | {"source": source} | _shape(feature)
    if isinstance(feature, tfds.features.ClassLabel) and feature.names:
        described["references"] = {"field": {"@id": f"{_table(path)}/label"}}
    return described


def _data_type(feature: Any) -> str:
    if isinstance(feature, tfds.features.Image):
        return "sc:ImageObject"
    if isinstance(feature, tfds.features.BBoxFeature):
        return "cr:BoundingBox"
    if isinstance(feature, tfds.features.Text):
        return "sc:Text"
    dtype = np.dtype(feature.np_dtype)
    if dtype.kind == "b":
        return "sc:Boolean"
    if dtype.kind not in "iuf":
        return "sc:Text"
    return f"cr:{dtype.name.replace('uint', 'UInt').replace('int', 'Int').replace('float', 'Float')}"


def _shape(feature: Any) -> dict[str, Any]:
    """The shape of a tensor that is neither a scalar nor has a data type of its own."""
    if not feature.shape or isinstance(feature, tfds.features.Image | tfds.features.BBoxFeature):
        return {}
    return {"isArray": True, "arrayShape": ",".join(str(-1 if size is None else size) for size in feature.shape)}


def _labels(features: Mapping[str, Any], column: str = "") -> Iterator[tuple[str, Any]]:
    """Every feature of class numbers whose names are known, with its path."""
    for name, feature in sorted(features.items()):
        path = f"{column}/{name}" if column else name
        inner = getattr(feature, "feature", feature)
        if hasattr(inner, "items"):
            yield from _labels(inner, path)
        elif isinstance(inner, tfds.features.ClassLabel) and inner.names:
            yield path, inner


def _table(path: str) -> str:
    return f"classes_of_{path.replace('/', '_')}"


def _field(identity: str, name: str, data_type: str | None = None) -> dict[str, Any]:
    field = {"@type": "cr:Field", "@id": identity, "name": name}
    return field | ({"dataType": data_type} if data_type else {})


def _records(
    identity: str, *, data_types: list[str], description: str, key: str, fields: list[Any], rows: list[Any]
) -> dict[str, Any]:
    """A record set whose records are given right here."""
    return {
        "@type": "cr:RecordSet",
        "@id": identity,
        "name": identity,
        "description": description,
        "dataType": data_types,
        "key": {"@id": key},
        "field": fields,
        "data": rows,
    }
