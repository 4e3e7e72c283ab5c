"""The source formats to choose from: a new format adds its line here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

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


def open_source(name: FormatName, path: Path, /, **options: Any) -> Source:
    """The source at `path` in format `name`; see the format's own `open_` function for its options.

    Raises:
        UsageError: there is no such source at `path`.
    """
    return _OPEN[name](path, **options)
