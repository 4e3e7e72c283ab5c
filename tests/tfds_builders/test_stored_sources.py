"""Sources in object stores: read where they lie, they give what the same files on a disk give, findings and all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataflow.stores.cloud_paths import listed
from dataflow.stores.paths import location, upload_files
from tests.object_stores import object_store
from tests.tfds_builders.broken_cases import Case, Files, write_files
from tests.tfds_builders.test_policies import CASES, MODULES
from tfds_builders.sources.source import Checks, Loader, Source

# Links, and a folder named as a file: what only a file system has.
NO_OBJECTS = frozenset(
    {
        "yolo, an image that is not there",
        "yolo, an image outside",
        "yolo, a link to itself",
        "yolo, a folder for a label file",
        "yolo, a label file outside",
        "yolo, a link to a folder",
    }
)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with object_store("gs") as url:
        yield location(url)


def what_it_gives(source: Source, case: Case) -> list[Any]:
    """References without their times, findings, and what becomes of each image; as text, for NaN is no other NaN."""
    listing = source.scan()
    outcomes = Loader(source, Checks(exif=case.exif))([reference.to_line() for reference in listing.references])
    references = [replace(reference, stamp="") for reference in listing.references]
    return [*map(repr, references), *listing.findings, *(repr(replace(o, seconds=None)) for o in outcomes)]


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in NO_OBJECTS], ids=lambda case: case.name)
def test_broken_sources(case: Case, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = what_it_gives(case.make(tmp_path / "source"), case)
    there = root / case.name / "source"

    def write_there(folder: Path, *layers: Files) -> Path:
        upload_files(write_files(folder, *layers), there)
        return listed(there)

    for module in MODULES:
        monkeypatch.setattr(module, "write_files", write_there, raising=False)
    source = case.make(tmp_path / "again")
    assert str(source.root) == str(there)
    assert what_it_gives(source, case) == here


def test_what_is_left_out_could_not_be_there(tmp_path: Path) -> None:
    for number, case in enumerate(case for case in CASES if case.name in NO_OBJECTS):
        root = tmp_path / str(number)
        case.make(root)
        assert any(path.is_symlink() or (path.is_dir() and path.suffix) for path in root.rglob("*")), case.name
