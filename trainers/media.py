"""Images out of shards as files, for tools that open files: bytes untouched, names safe whatever an id contains."""

import hashlib
import os
import re
from pathlib import Path

from dataflow.images import decode_rgb, encode_png, read_header

_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}
_MIME_TYPES = {".jpg": "image/jpeg", ".tif": "image/tiff"}
_READABLE = 60


def safe_name(text: str, length: int = _READABLE) -> str:
    """`text` with everything but ASCII letters, digits, `_`, `.` and `-` made `_`, at most `length` characters.

    Never empty, never hidden, never a step upwards.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[:length].strip("._-")
    return name or "_"


def media_name(image_id: str, data: bytes) -> str:
    """The file name of an image: readable, unique by a hash of its id, and with the suffix of its format.

    Raises:
        ImageError: `data` is no image.
    """
    image_format = read_header(data).format
    digest = hashlib.sha256(image_id.encode()).hexdigest()[:12]
    return f"{safe_name(image_id)}-{digest}{_SUFFIXES.get(image_format, f'.{image_format.lower()}')}"


def mime_type(path: Path) -> str:
    """The MIME type of a file that `write_media` wrote."""
    return _MIME_TYPES.get(path.suffix, f"image/{path.suffix[1:]}")


def write_media(directory: Path, image_id: str, data: bytes, orientation: int | None = None) -> Path:
    """Write an encoded image below `directory` and return its absolute path; one that is there already is kept.

    Browsers turn an image as its EXIF says. Where boxes are on another `orientation` (None: on that one), its pixels
    are written so, without loss and without EXIF.

    The file appears whole or not at all, so that one of the right length is the right one: directories are named
    after a dataset's fingerprint.

    Raises:
        ImageError: `data` is no image.
    """
    if orientation is not None and orientation != read_header(data).orientation:
        data = encode_png(decode_rgb(data, orientation))
    path = (directory / media_name(image_id, data)).absolute()
    if not path.is_file() or path.stat().st_size != len(data):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_bytes(data)
        partial.replace(path)
    return path
