"""Predictions and counts by Dataflow: submitted to a stand-in on loopback, and run as they were submitted."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("google.cloud.dataflow", reason="submitting to Dataflow needs apache-beam[gcp]")

from dataflow.beam.shard_tasks import TaskRunner
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.stores.paths import location, objects_below, upload_files
from tests.factories import logical_dataset, prepare, write_yolo
from tests.object_stores import object_store
from tests.tfds_builders.dataflow_service import Service, dataflow_service
from tests.trainers.small_runs import write_run
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.planning import PlanOptions
from trainers.prediction.prediction import predict
from trainers.statistics.dataset_statistics import count_dataset


@pytest.fixture(scope="module")
def bucket() -> Iterator[Path]:
    with object_store("gs") as url:
        yield location(url)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/dataset/1.0.0`, a dataset of two shards a split, and `run`, a run."""
    folder = tmp_path_factory.mktemp("here")
    source = open_yolo(write_yolo(folder / "source", logical_dataset(12)))
    dataset = prepare(source, folder / "data", plan=PlanOptions(shards=2))
    write_run(folder / "run", dataset)
    return folder


@pytest.fixture(scope="module")
def dataset(bucket: Path, here: Path) -> PreparedDataset:
    for name in ("data", "run"):
        upload_files(here / name, bucket / name)
    return PreparedDataset(bucket / "data/dataset/1.0.0")


def running(bucket: Path, service: Service) -> TaskRunner:
    return TaskRunner("DataflowRunner", service.options(bucket))


def contents(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in objects_below(path)}


def test_predictions(bucket: Path, dataset: PreparedDataset, here: Path, tmp_path: Path) -> None:
    with dataflow_service() as service:
        predict(dataset, bucket / "run", bucket / "a/out", split="train", running=running(bucket, service))
        assert len(service.jobs) == 1
    predict(dataset, here / "run", tmp_path / "out", split="train")
    made = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert contents(bucket / "a/out") == {name: path.read_bytes() for name, path in made.items()}
    assert all(name.startswith("out/") for name in objects_below(bucket / "a")), "nothing unfinished is left"


@pytest.mark.slow
def test_counts(bucket: Path, dataset: PreparedDataset) -> None:
    with dataflow_service() as service:
        count_dataset(dataset, bucket / "b/out", running(bucket, service))
        assert len(service.jobs) == 1
    count_dataset(dataset, bucket / "c/out")
    assert contents(bucket / "b/out") == contents(bucket / "c/out")


def test_a_run_of_this_machine_is_refused(bucket: Path, dataset: PreparedDataset, here: Path) -> None:
    with dataflow_service() as service:
        with pytest.raises(UsageError, match="--run"):
            predict(dataset, here / "run", bucket / "d/out", split="train", running=running(bucket, service))
        assert not service.jobs
    assert not objects_below(bucket / "d")
