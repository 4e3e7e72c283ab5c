"""Helpers for tests of sources; the broken ones are in `broken_yolo`, `broken_coco` and so on."""

import json
from pathlib import Path
from typing import Any

from tests.factories import photograph, write


def sequence(root: Path, rows: str | bytes, frames: int = 3, name: str = "walk", folder: str = "img1") -> Path:
    """A MOT sequence with frames 1 to `frames` of 64 x 48 px."""
    for number in range(1, frames + 1):
        write(root / name / folder / f"{number:06d}.jpg", photograph(seed=number))
    write(root / name / "gt" / "gt.txt", rows)
    return root


def contents(root: Path) -> dict[str, bytes | str]:
    """All that is below a folder, by path: bytes of files, targets of links."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = path.read_bytes()
    return found


def load_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
