"""What goes wrong half-way ends as promised: said in a line, nothing that loads is left, and running it again works.

`tests/engines/test_faults.py` has the same on Flink.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataflow.beam.worker_failures import WorkerFailedError
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.shards import FILE_FORMATS, FileFormat
from tests.factories import Picture, logical_dataset, write, write_yolo
from tests.tfds_builders.faulty_sources import Poisoned, Vanishing
from tests.tfds_builders.portable import ROOT, external, time_limit
from tests.tfds_builders.small_disk import small_disk
from tfds_builders.builders import IngestOptions, RefusedError, Running, SourceBuilder
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.planning import PlanOptions
from tfds_builders.sources.source import Source
from trainers.cli import main

LIMIT_S = 120.0
MULTI = Running("FnApiRunner", ("--direct_running_mode=multi_processing", "--direct_num_workers=2"))


def build(source: Source, out: Path, running: Running, file_format: FileFormat = "tfrecord") -> PreparedDataset:
    options = IngestOptions(PlanOptions(shards=2), file_format=file_format)
    with time_limit(LIMIT_S):
        return SourceBuilder(source, name="dataset", out=out, options=options, running=running).prepare()


@pytest.fixture(params=["in memory", *(pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "pool"))])
def running(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if request.param == "pool":
        with external(tmp_path / "services") as arguments:
            yield Running("PortableRunner", arguments)
    else:
        yield MULTI if request.param == "processes" else Running()


def test_a_mistake_of_the_program(running: Running, tmp_path: Path) -> None:
    source = open_yolo(write_yolo(tmp_path / "source", logical_dataset(8)))
    image_id = source.scan().references[5].image_id
    with pytest.raises(
        WorkerFailedError, match=rf"shard \w+ \d could not be written: ZeroDivisionError: .*{image_id}"
    ) as told:
        build(Poisoned(source, image_id), tmp_path / "out", running)
    assert "(faulty_sources.py:" in told.value.message and told.value.message.endswith("nothing was kept")
    assert "raise ZeroDivisionError" in told.value.__notes__[0], "the worker's own traceback"
    assert not any((tmp_path / "out").rglob("*"))
    assert sum(build(source, tmp_path / "out", running).splits.values()) == 8


def test_a_source_that_vanishes(running: Running, tmp_path: Path) -> None:
    pictures = [Picture(f"{folder}/{number}") for folder in ("stays", "goes") for number in range(4)]
    source = open_yolo(write_yolo(tmp_path / "source", pictures))
    dataset = build(Vanishing(source, "stays"), tmp_path / "out", running)
    audit = json.loads((dataset.path / "audit.json").read_text())
    assert (audit["images_in"], audit["images_quarantined"]) == (8, audit["images_quarantined"])
    # The image that was wanted first may have been in memory already.
    assert 3 <= audit["images_quarantined"] <= 4 and sum(dataset.splits.values()) == audit["images_prepared"]
    assert audit["images_in"] == audit["images_prepared"] + audit["images_quarantined"]
    gone = {finding["file"] for finding in audit["findings"] if finding["severity"] == "error"}
    assert gone and all(name.startswith("images/goes/") for name in gone)


def test_a_source_that_vanishes_whole(running: Running, tmp_path: Path) -> None:
    source = open_yolo(write_yolo(tmp_path / "source", logical_dataset(8)))
    with pytest.raises(RefusedError, match="nothing could be prepared"):
        build(Vanishing(source, "no such"), tmp_path / "out", running)
    assert not any((tmp_path / "out").rglob("*"))


def test_an_image_that_is_damaged(running: Running, tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "source", logical_dataset(8))
    write(root / "images" / "scene" / "damaged.jpg", b"no image")
    write(root / "labels" / "scene" / "damaged.txt", "")
    dataset = build(open_yolo(root), tmp_path / "out", running)
    audit = json.loads((dataset.path / "audit.json").read_text())
    assert (audit["images_in"], audit["images_prepared"], audit["images_quarantined"]) == (9, 8, 1)
    assert audit["quarantined"] == ["scene/damaged"]


@pytest.mark.parametrize("file_format", FILE_FORMATS)
@pytest.mark.parametrize("workers", [[], pytest.param(list(MULTI.arguments), marks=pytest.mark.slow)])
def test_a_full_disk(file_format: FileFormat, workers: list[str], tmp_path: Path) -> None:
    """No file may become larger than what a shard takes."""
    root = write_yolo(tmp_path / "source", logical_dataset(40))
    words = [
        "ingest",
        str(root),
        "--out",
        "out",
        "--shards",
        "1",
        "--file-format",
        file_format,
        *(["--", *workers] if workers else []),
    ]
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    code = f"{limited}; from trainers.cli import main; sys.exit(main({words!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    said = done.stderr.splitlines()[-1]  # Before it, Beam tells what its worker processes logged.
    assert said.startswith("shardbox ingest: error: shard train 0 could not be written: ")
    assert "File too large" in said and "make room or choose another --out" in said
    assert workers or "Traceback" not in done.stderr
    assert not any(path.is_file() for path in (tmp_path / "out").rglob("*"))
    with pytest.raises(UsageError):
        PreparedDataset(tmp_path / "out" / "source" / "1.0.0")


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (8_192, "disk: No space left on device"),  # The plan.
        (100_000, "shard train 0 could not be written: OSError: [Errno 28] No space left on device; nothing was kept"),
        (780_000, "disk: No space left on device"),  # The audit.
    ],
)
def test_a_disk_that_is_full(size: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_yolo(tmp_path / "source", logical_dataset(200))
    with small_disk(tmp_path / "disk", size) as disk:
        assert main(["ingest", str(root), "--out", str(disk), "--shards", "1"]) == 1
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("shardbox ingest: error: ") and said in told
        assert told.endswith("; make room or choose another --out, and run it again")
        assert not any(path.is_file() for path in disk.rglob("*"))
