"""A COCO instances JSON in memory: what is needed of it, each annotation as a short text while the file is parsed.

Parsed as it stands, a file of a million annotations takes gigabytes: every number and every list is an object. Texts
take a tenth of it, and are what travels to workers anyway.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dataflow.errors import UsageError
from dataflow.records import RecordError
from tfds_builders.sources.classes import Classes, numbered_classes
from tfds_builders.sources.source import file_stamp

_WHOLE = re.compile(r"-?[0-9]+")
_LISTS = ("images", "categories", "annotations")
_OF_IMAGE = ("id", "file_name", "height", "width")
_OF_ANNOTATION = ("category_id", "bbox", "area", "iscrowd")

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Annotation(NamedTuple):
    """An annotation: the id of its image as it stands there, and the rest that is read of it.

    `row` is JSON without its brackets: category_id, bbox, area, iscrowd, track id, null where absent, and the
    segmentation as a text that is JSON in turn ("" where there is none), so that a polygon is parsed only where it is
    looked at.
    """

    image_id: Any
    row: str


@dataclass(frozen=True)
class CocoContent:
    """The three lists of a COCO instances JSON."""

    images: list[Mapping[str, Any]]
    categories: list[Mapping[str, Any]]
    annotations: list[Annotation]


_opened: dict[Path, tuple[str, CocoContent]] = {}


def open_content(path: Path) -> CocoContent:
    """What a JSON file holds, kept for the one `take_content` that follows.

    Raises:
        UsageError: not JSON, or no COCO instances.
    """
    content = _read(path)
    _opened[path] = file_stamp(path), content
    return content


def take_content(path: Path) -> CocoContent:
    """What a JSON file holds, parsed again only where it was not opened before, or has changed since.

    Raises:
        UsageError: not JSON, or no COCO instances.
    """
    stamp, content = _opened.pop(path, ("", None))
    return content if content is not None and stamp == file_stamp(path) else _read(path)


def _read(path: Path) -> CocoContent:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_hook=_shorten)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not JSON ({error.msg})", "export the file again") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}", "export the file again") from error
    except (ValueError, RecursionError) as error:  # A number of thousands of digits, lists in lists without end.
        raise UsageError(f"{path}: JSON that cannot be read ({error})", "export the file again") from error
    is_coco = (
        isinstance(content, dict)
        and all(isinstance(content.get(key), list) for key in _LISTS)
        and _all_are(dict, content["images"])
        and _all_are(dict, content["categories"])
        and _all_are(dict | Annotation, content["annotations"])
    )
    if not is_coco:
        raise UsageError(f"{path} has no lists `images`, `categories` and `annotations`", "give a COCO instances JSON")
    if not content["images"]:
        raise UsageError(f"{path} lists no images", "give a COCO instances JSON with images")
    annotations = [item if isinstance(item, Annotation) else _annotation(item) for item in content["annotations"]]
    return CocoContent(content["images"], content["categories"], annotations)


def _all_are(kind: Any, entries: Iterable[Any]) -> bool:
    return all(isinstance(entry, kind) for entry in entries)


def _shorten(entry: dict[str, Any]) -> Any:
    """What is kept of a JSON object, as soon as it is parsed, so that the whole is never in memory."""
    if "image_id" in entry and ("bbox" in entry or "category_id" in entry):
        return _annotation(entry)
    if "file_name" in entry:
        return {key: entry[key] for key in _OF_IMAGE if key in entry}
    return entry


def _annotation(entry: Mapping[str, Any]) -> Annotation:
    shape = entry.get("segmentation")
    # An empty list is how masks are left out.
    segmentation = "" if shape is None or shape == [] else _encode(shape)
    values = [*map(entry.get, _OF_ANNOTATION), _track(entry), segmentation]
    return Annotation(entry.get("image_id"), _encode(values)[1:-1])


def _track(entry: Mapping[str, Any]) -> Any:
    """The track of an annotation, where TAO, MMTracking (CocoVID) or CVAT write it; None where there is none."""
    for key in ("track_id", "instance_id"):
        if key in entry:
            return entry[key]
    attributes = entry.get("attributes")
    return attributes.get("track_id") if isinstance(attributes, dict) else None


def id_text(value: Any) -> str:
    """An id as text, so that 7, 7.0 and "7" are one; "" for what is none."""
    if type(value) is int:  # As nearly all are; true and false are none.
        return str(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def whole_number(value: Any) -> int | None:
    """A whole number, which may be written as 3.0 or "3"; None for anything else."""
    if type(value) is int or value is None:
        return value
    text = id_text(value)
    return int(text) if _WHOLE.fullmatch(text) else None


def read_classes(content: CocoContent, path: Path) -> Classes:
    """The categories of a file, ordered by their numbers.

    Raises:
        UsageError: there are none, or one has no number or name of its own.
    """
    names: dict[int, str] = {}
    for index, entry in enumerate(content.categories):
        number, name = whole_number(entry.get("id")), entry.get("name")
        if number is None or not isinstance(name, str):
            raise UsageError(f"{path}#/categories/{index}: {dict(entry)!r}", "give every category a number and a name")
        if number in names:
            value = f"{path}#/categories/{index}: the id {number} is taken by {names[number]!r}"
            raise UsageError(value, "give every category a number of its own")
        names[number] = name.strip()
    try:
        return numbered_classes(list(names.items()), path.name, "/categories")
    except RecordError as error:
        raise UsageError(f"{path}#/categories: {error.message}", error.remedy) from error
