"""Looking at one image file: its bytes, its size, and what is wrong with it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dataflow.beam.step_times import reading
from dataflow.boxes import Size
from dataflow.errors import UsageError
from dataflow.findings import Code, Severity
from dataflow.images import (
    DamagedImageError,
    ImageError,
    ImageHeader,
    content_hash,
    is_complete,
    look_hash,
    read_header,
)
from dataflow.shards import Sight
from dataflow.stores.cloud_paths import is_cloud
from tfds_builders.sources.source import Checks

# Every file with one of these counts as an image, also where it cannot be prepared: none is passed over in silence.
_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
    "JPEG2000": (".jp2",),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in _FORMATS.values() for suffix in suffixes)


@dataclass(frozen=True)
class Problem:
    """What is wrong with an image file."""

    code: Code
    value: str
    remedy: str
    severity: Severity = "error"


@dataclass(frozen=True)
class Photo:
    """An image file that was read. `size` is (height, width) of the frame that boxes are in."""

    data: bytes
    size: Size
    stored_size: Size
    orientation: int
    """The EXIF orientation that is applied; 1 where the policy ignores it."""
    sight: Sight

    @property
    def is_turned(self) -> bool:
        """Whether height and width change places when the image is made upright."""
        return self.orientation >= 5


def inside_root(root: Path, path: Path) -> bool:
    """Whether `path`, links followed, lies within `root`: annotations must not reach files outside their source."""
    if is_cloud(root):
        return path.is_relative_to(root) and path.resolve().is_relative_to(root.resolve())
    if path.is_symlink() or path.name in ("", ".."):
        return _is_within(_real(path), _real(root))
    # Most files share a folder, which need not be looked up again.
    return _is_within(f"{_real_folder(path.parent)}{os.sep}{path.name}", _real_folder(root))


def _is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root if root.endswith(os.sep) else root + os.sep)


def _real(path: Path) -> str:
    # Not Path.resolve, which raises on links that go round in a circle.
    return os.path.realpath(path)


_real_folder = lru_cache(maxsize=1024)(_real)


def files_below(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Files below a folder with one of these suffixes, hidden ones aside; links that lead nowhere are files too."""
    for path in folder.rglob("*"):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and not path.is_dir():
            yield path


def file_size(path: Path) -> int:
    """Size in bytes; 0 where there is no such file: reading it will say why."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # ValueError: a name that no file can have.
        return 0


def read_photo(root: Path, file: str, checks: Checks) -> tuple[Photo | None, tuple[Problem, ...]]:
    """The image `file` below `root`, or None; and what is wrong with it."""
    path = root / file
    try:
        if not inside_root(root, path):
            remedy = "keep images below the source"
            return None, (Problem(Code.IMAGE_OUTSIDE_ROOT, "the path leaves the source", remedy),)
        with reading():
            data = path.read_bytes()
    except UsageError:  # Of a store that cannot be used. What else it holds would not be found either.
        raise
    except (OSError, ValueError) as error:
        code = Code.IMAGE_MISSING if isinstance(error, FileNotFoundError) else Code.IMAGE_UNREADABLE
        value = getattr(error, "strerror", None) or str(error)
        return None, (Problem(code, value, "restore the file or drop its annotations"),)
    if not data:
        return None, (Problem(Code.IMAGE_EMPTY, "a file of 0 bytes", "replace the file"),)
    try:
        header = read_header(data)
    except ImageError as error:
        return None, (Problem(Code.IMAGE_UNREADABLE, error.message, error.remedy),)
    return _looked_at(data, header, path.suffix.lower(), checks)


def _looked_at(
    data: bytes, header: ImageHeader, suffix: str, checks: Checks
) -> tuple[Photo | None, tuple[Problem, ...]]:
    problems: list[Problem] = []
    if suffix in IMAGE_SUFFIXES and suffix not in _FORMATS.get(header.format, ()):
        value, remedy = f"a {header.format} image is named {suffix}", "rename the file"
        problems.append(Problem(Code.IMAGE_TYPE, value, remedy, "warning"))
    if not _tfds_decodes(data, header):
        value = f"readers of TFDS datasets do not decode this kind of {header.format}"
        return None, (*problems, Problem(Code.IMAGE_UNSUPPORTED, value, "convert it to JPEG or PNG"))
    if unlike := _unlike_by_numpy(data, header):
        problems.append(Problem(Code.IMAGE_UNSUPPORTED, unlike, "convert it to 8 bits without alpha", "warning"))
    if not is_complete(data, header):
        value = f"the {header.format} ends before its pixels do"
        return None, (*problems, Problem(Code.IMAGE_TRUNCATED, value, "replace the file"))
    look = None
    if checks.level == "decode":
        try:
            look = look_hash(data, header)
        except DamagedImageError as error:
            return None, (*problems, Problem(Code.IMAGE_UNREADABLE, error.message, error.remedy))
    if header.orientation != 1:
        problems.append(_turned(header, checks))
    orientation = header.orientation if checks.exif != "ignore" else 1
    size = header.size if checks.exif != "ignore" else header.stored_size
    return Photo(data, size, header.stored_size, orientation, Sight(content_hash(data), look)), tuple(problems)


def _turned(header: ImageHeader, checks: Checks) -> Problem:
    value = f"EXIF orientation {header.orientation}"
    if checks.exif == "apply":
        remedy = "nothing to do: boxes are on the upright image; other readers must turn it by image/orientation"
        return Problem(Code.EXIF_ORIENTATION, value, remedy, "info")
    if checks.exif == "ignore":
        remedy = "nothing to do if the boxes were drawn on the pixels as stored; else ingest with --exif apply"
        return Problem(Code.EXIF_ORIENTATION, value, remedy, "info")
    return Problem(Code.EXIF_ORIENTATION, value, "turn the pixels, or ingest with --exif apply")


def _unlike_by_numpy(data: bytes, header: ImageHeader) -> str:
    """What `tfds.data_source` makes of a PNG of which other readers make height x width x 3 of 8 bits; "" if the same.

    Depth and colour type are at fixed places of the file (W3C PNG, section 11.2.2).
    """
    if header.format != "PNG":
        return ""
    bits, colour = data[24], data[25]
    if bits == 16:
        return "16 bits a channel, of which tfds.data_source gives the lower 8"
    clear = colour in (2, 3) and 0 <= data.find(b"tRNS") < data.find(b"IDAT")
    return "transparency, of which tfds.data_source makes a fourth channel" if colour in (4, 6) or clear else ""


def _tfds_decodes(data: bytes, header: ImageHeader) -> bool:
    """Whether TFDS's readers (`tf.io.decode_image`) make height x width x 3 of it.

    They know no TIFF, AVIF or JPEG 2000, make four dimensions of GIF and WebP, and read BMP of 8, 24 or 32 bits only.
    """
    if header.format == "BMP":
        bits, compression = data[28], data[30]
        return bits in (8, 24, 32) and compression in (0, 3)
    return header.format in ("JPEG", "PNG")
