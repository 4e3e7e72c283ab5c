"""What goes wrong half-way on a Flink cluster ends as it does on one machine (`tests/tfds_builders/test_faults.py`)."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dataflow.beam.worker_failures import WorkerFailedError
from dataflow.errors import NO_ROOM
from dataflow.prepared import METRICS, PreparedDataset
from tests.engines.flink import Cluster, flink_cluster
from tests.engines.spark import SparkCluster, spark_cluster
from tests.factories import Picture, logical_dataset, write, write_yolo
from tests.tfds_builders.faulty_sources import Poisoned, Slow, Vanishing
from tests.tfds_builders.portable import time_limit, wait_until
from tests.tfds_builders.small_disk import small_disk
from tfds_builders.builders import IngestOptions, SourceBuilder
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.planning import PlanOptions
from tfds_builders.running import Running
from tfds_builders.sources.source import Source

pytestmark = [pytest.mark.engines, pytest.mark.slow]

LIMIT_S = 900.0


def build(source: Source, out: Path, running: Running = Running()) -> PreparedDataset:
    options = IngestOptions(PlanOptions(shards=8))
    with time_limit(LIMIT_S):
        return SourceBuilder(source, name="dataset", out=out, options=options, running=running).prepare()


def half_way(out: Path) -> bool:
    """Whether two shards are done."""
    return len(list(out.glob("dataset/incomplete.*/.results/*.json"))) >= 2


def files(path: Path) -> dict[str, bytes]:
    """Every file of a dataset, hidden ones too."""
    found = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != METRICS)
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


def test_a_mistake_of_the_program(flink: Cluster, tmp_path: Path) -> None:
    source = open_yolo(write_yolo(tmp_path / "source", logical_dataset(8)))
    image_id = source.scan().references[5].image_id
    told = pytest.raises(WorkerFailedError, match=f"ZeroDivisionError: poison in {image_id}")
    with flink.running(tmp_path / "pool") as running, told:
        build(Poisoned(source, image_id), tmp_path / "out", running)
    assert not any((tmp_path / "out").rglob("*"))


def test_damaged_and_vanishing_images(flink: Cluster, tmp_path: Path) -> None:
    root = write_yolo(tmp_path / "source", [Picture(f"{folder}/{n}") for folder in ("stays", "goes") for n in range(4)])
    write(root / "images" / "stays" / "damaged.jpg", b"no image")
    write(root / "labels" / "stays" / "damaged.txt", "")
    with flink.running(tmp_path / "pool") as running:
        dataset = build(Vanishing(open_yolo(root), "stays"), tmp_path / "out", running)
    audit = json.loads((dataset.path / "audit.json").read_text())
    assert audit["images_in"] == 9 == audit["images_prepared"] + audit["images_quarantined"]
    assert "stays/damaged" in audit["quarantined"] and 4 <= audit["images_prepared"] <= 6
    assert {f"stays/{number}" for number in range(4)}.isdisjoint(audit["quarantined"])


def test_a_full_disk(flink: Cluster, tmp_path: Path) -> None:
    source = open_yolo(write_yolo(tmp_path / "source", logical_dataset(200)))
    with small_disk(tmp_path / "disk", 300_000) as disk, flink.running(tmp_path / "pool") as running:
        with pytest.raises(WorkerFailedError, match="No space left on device; nothing was kept") as told:
            build(source, disk, running)
        assert told.value.remedy == NO_ROOM
        assert not any(path.is_file() for path in disk.rglob("*"))


def check_a_kill(tmp_path: Path, engine: Cluster | SparkCluster, kill: Callable[[], None]) -> None:
    """What `kill` ends half-way is done again by others; what was written twice is the same."""
    source = Slow(open_yolo(write_yolo(tmp_path / "source", logical_dataset(60))), 0.5)
    expected = files(build(source, tmp_path / "alone").path)
    killed = threading.Event()

    def kill_half_way() -> None:
        wait_until(lambda: half_way(tmp_path / "out"), LIMIT_S, "the job is half-way")
        kill()
        killed.set()

    with engine.running(tmp_path / "pool") as running:
        threading.Thread(target=kill_half_way, daemon=True).start()
        dataset = build(source, tmp_path / "out", running)
    assert killed.is_set() and files(dataset.path) == expected
    assert [path.name for path in (tmp_path / "out" / "dataset").iterdir()] == ["1.0.0"]


def test_a_task_manager_that_is_killed(tmp_path: Path) -> None:
    with flink_cluster(tmp_path / "flink") as flink:
        check_a_kill(tmp_path, flink, lambda: flink.kill(0))
        [job] = flink.ask("jobs/overview")["jobs"]
        assert job["state"] == "FINISHED"
        assert flink.ask(f"jobs/{job['jid']}/exceptions")["exceptionHistory"]["entries"], "it was run again"
        wait_until(lambda: len(flink.ask("taskmanagers")["taskmanagers"]) == 1, 60, "the dead one is missed")


def test_an_executor_of_spark_that_is_killed(tmp_path: Path) -> None:
    with spark_cluster(tmp_path / "spark") as spark:
        check_a_kill(tmp_path, spark, lambda: spark.kill_executor(0))
