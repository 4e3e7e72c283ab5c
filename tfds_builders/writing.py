"""What writers of annotation formats share: names of files and classes, and numbers of images."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from dataflow.images import read_header
from dataflow.records import ImageRecord

Record_contra = TypeVar("Record_contra", contravariant=True)
_SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "BMP": (".bmp",)}
# Line ends break lists of files, and XML 1.0 can hold none of the others in any spelling (section 2.2).
_CONTROL = re.compile("[\x00-\x1f\x7f\ufffe\uffff]")


class Writer(Protocol[Record_contra]):
    """Writes records (image records, or frame pairs), one at a time, in one annotation format.

    A class of each format that can be written: `XWriter(out, categories, splits)` with the empty directory `out`, the
    `Categories`, and the names of the splits that will come. What the format cannot hold is counted in `losses` (see
    `tfds_builders.losses`), never passed over in silence. The counts are complete once the writer is closed.
    """

    losses: Counter[str]

    def add(self, record: Record_contra, split: str) -> None:
        """Write one image (or pair) and its objects."""
        ...

    def close(self) -> None:
        """Write what describes the whole."""
        ...


class DistinctNames:
    """Names that differ, also where file systems take upper and lower case for the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, wanted: str) -> str:
        """`wanted`, or `wanted-2` and so on where that is taken."""
        name, number = wanted, 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{wanted}-{number}"
        self._taken.add(name.casefold())
        return name


class ImageNames:
    """File names for images: their ids with a suffix, below one folder, never outside it and never the same twice."""

    def __init__(self) -> None:
        self._stems = DistinctNames()

    def name(self, image_id: str, record: ImageRecord) -> str:
        """A relative posix path for the image of `record`, such as "scene/000001.jpg"."""
        suffixes = _SUFFIXES.get(read_header(record.image).format, (".jpg",))
        own = PurePosixPath(record.filename).suffix
        suffix = own if own.lower() in suffixes else suffixes[0]
        # Labels are named after images: two images that differ in their suffix alone would share one.
        return self._stems.name(safe_path(image_id)) + suffix


class ImageNumbers:
    """Numbers for images: those that their source gave them where they are free, else the least free ones."""

    def __init__(self, first: int, limit: int) -> None:
        self._next, self._limit = first, limit
        self._taken: set[int] = set()

    def __len__(self) -> int:
        return len(self._taken)

    def number(self, source_id: str) -> int:
        """The number of the next image; those of sources are from 0 to below `limit`."""
        is_number = source_id.isascii() and source_id.isdecimal() and len(source_id) <= len(str(self._limit))
        own = int(source_id) if is_number else -1
        if str(own) != source_id or own >= self._limit or own in self._taken:
            while self._next in self._taken:
                self._next += 1
            own = self._next
        self._taken.add(own)
        return own


def safe_path(text: str) -> str:
    """`text` as a relative posix path that stays where it is put: no empty, hidden or upward steps, one line."""
    steps = (without_controls(step).replace("\\", "_") for step in text.split("/"))
    kept = [f"_{step}" if step.startswith(".") else step for step in steps if step]
    return "/".join(kept) or "_"


def without_controls(name: str) -> str:
    """`name` with "_" for what XML cannot hold."""
    return _CONTROL.sub("_", name)


def legal_names(names: Sequence[str], legal: Callable[[str], str]) -> tuple[str, ...]:
    """Class names as `legal` makes them where they are not as it wants them, all different."""
    taken = set(names)
    written = []
    for name in names:
        new, number = legal(name), 1
        while new != name and new in taken:
            number += 1
            new = f"{legal(name)}-{number}"
        taken.add(new)
        written.append(new)
    return tuple(written)


def write_image(folder: Path, name: str, record: ImageRecord) -> None:
    """The image's bytes as they are, as `folder/name`."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record.image)
