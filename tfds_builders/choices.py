"""The source formats to choose from: a new format adds its line here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from dataflow.errors import UsageError
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.voc import open_voc
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.source import Source

FormatName = Literal["yolo", "coco", "voc", "mot"]

_OPEN: dict[FormatName, Callable[..., Source]] = {
    "yolo": open_yolo,
    "coco": open_coco,
    "voc": open_voc,
    "mot": open_mot,
}


# What tells a format from the others, as files or folders of the source; one of each tuple's patterns is enough.
_SIGNS: dict[FormatName, tuple[str, ...]] = {
    "yolo": ("data.yaml", "data.yml", "dataset.yaml", "labels/**/*.txt"),
    "coco": ("annotations/*.json", "*instances*.json"),
    "voc": ("Annotations/**/*.xml",),
    "mot": ("gt/gt.txt", "*/gt/gt.txt"),
}
_SUFFIXES: dict[str, FormatName] = {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}


def recognise(path: Path) -> FormatName:
    """The format of the source at `path`, by what it holds.

    Raises:
        UsageError: none is recognised, or several are.
    """
    if path.is_file():
        found = [_SUFFIXES[path.suffix.lower()]] if path.suffix.lower() in _SUFFIXES else []
    else:
        found = [name for name, signs in _SIGNS.items() if any(_holds(path, sign) for sign in signs)]
    names = ", ".join(_OPEN)
    if not found:
        raise UsageError(f"{path} is in no format that is recognised", f"give its format: --format one of {names}")
    if len(found) > 1:
        raise UsageError(f"{path} can be read as {' and as '.join(found)}", "say which with --format")
    return found[0]


def _holds(path: Path, sign: str) -> bool:
    return next(path.glob(sign), None) is not None


def open_source(name: FormatName, path: Path, /, **options: Any) -> Source:
    """The source at `path` in format `name`; see the format's own `open_` function for its options.

    Raises:
        UsageError: there is no such source at `path`.
    """
    return _OPEN[name](path, **options)
