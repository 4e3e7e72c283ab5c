"""A job for Dataflow: submitted to a stand-in on loopback, looked at, and run as it was submitted."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("google.cloud.dataflow", reason="submitting to Dataflow needs apache-beam[gcp]")

from apache_beam.internal.cloudpickle import cloudpickle

from dataflow.beam.jobs import LostElementsError
from dataflow.prepared import METRICS, PreparedDataset
from dataflow.stores.paths import location, objects_below
from tests.factories import Picture, Thing, write_mot
from tests.object_stores import object_store
from tests.tfds_builders.dataflow_service import IMAGE, Service, dataflow_service, do_fns
from tfds_builders.builders import SourceBuilder
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.mot import open_mot
from tfds_builders.running import Running
from tfds_builders.sources.pairing import PairOptions


def frames(count: int) -> list[Picture]:
    """A sequence in which a thing moves to the right."""
    moving = (Thing(0, (number, 5, number + 9, 19), track=1) for number in range(1, count + 1))
    return [Picture(f"scene/{number:06d}", things=(thing,)) for number, thing in enumerate(moving, 1)]


@pytest.fixture(scope="module")
def bucket() -> Iterator[Path]:
    with object_store("gs") as url:
        yield location(url)


@pytest.fixture(scope="module")
def pairs(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    source = write_mot(tmp_path_factory.mktemp("source"), frames(6))
    return SourceBuilder(open_mot(source, pairing=PairOptions(1)), name="pairs", out=bucket / "data").prepare()


def running(bucket: Path, service: Service, *more: str) -> Running:
    return Running("DataflowRunner", (*service.options(bucket), *more))


def contents(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in objects_below(path) if name != METRICS}


def test_a_submitted_job_makes_the_same_shards(bucket: Path, pairs: PreparedDataset) -> None:
    with dataflow_service() as service:
        made = DifferencesBuilder(pairs, name="there", out=bucket / "a", running=running(bucket, service)).prepare()
    here = DifferencesBuilder(pairs, name="there", out=bucket / "b").prepare()
    assert contents(made.path) == contents(here.path)
    assert all(name.startswith("there/1.0.0/") for name in objects_below(bucket / "a")), "nothing unfinished is left"
    metrics = json.loads((made.path / METRICS).read_text())
    assert metrics["runner"] == "DataflowRunner" and metrics["images_prepared"] == sum(pairs.splits.values())


def test_the_job_is_what_was_asked_for(bucket: Path, pairs: PreparedDataset) -> None:
    with dataflow_service() as service:
        wanted = running(bucket, service, "--machine_type=n2-standard-8", "--max_num_workers=7")
        DifferencesBuilder(pairs, name="job", out=bucket / "c", running=wanted).prepare()
        graph = service.graph
    [job] = service.jobs
    [pool] = job["environment"]["workerPools"]
    # What the user wrote, and beside it what suits image work.
    assert pool["machineType"] == "n2-standard-8" and pool["autoscalingSettings"]["maxNumWorkers"] == 7
    assert pool["diskSizeGb"] == 50 and pool["numThreadsPerWorker"] == 2
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert "use_runner_v2" in job["environment"]["experiments"]
    assert job["environment"]["tempStoragePrefix"].startswith(f"storage.googleapis.com/{bucket.name}/temp/")
    # The packages are in the container: nothing of ours is staged but the graph and Beam's own list.
    staged = {package["name"] for package in pool["packages"]}
    assert staged <= {"submission_environment_dependencies.txt", "pickled_main_session"}
    names = {step.unique_name for step in graph.components.transforms.values()}
    assert {"plan", "shards", "to all workers", "write shards"} <= names
    environments = [environment.payload for environment in graph.components.environments.values()]
    assert any(IMAGE.encode() in payload for payload in environments)


def test_the_size_of_a_job_does_not_grow_with_its_images(bucket: Path, pairs: PreparedDataset, tmp_path: Path) -> None:
    source = write_mot(tmp_path / "source", frames(40))
    many = SourceBuilder(open_mot(source, pairing=PairOptions(1)), name="many", out=bucket / "data").prepare()
    sizes = []
    with dataflow_service() as service:
        for number, dataset in enumerate((pairs, many)):
            out = bucket / "size" / str(number)
            DifferencesBuilder(dataset, name="x", out=out, running=running(bucket, service)).prepare()
            called = cloudpickle.dumps(do_fns(service.graph))
            assert str(out).encode() in called and b"000001" not in called, "it names the directory, and no image"
            sizes.append(len(service.graph.SerializeToString()) + len(service.bodies[-1]))
    assert abs(sizes[1] - sizes[0]) < 200 and max(sizes) < 100_000, "Dataflow takes 10 MB"


def test_a_job_that_wrote_nothing_is_not_believed(bucket: Path, pairs: PreparedDataset) -> None:
    with dataflow_service(runs=False) as service, pytest.raises(LostElementsError, match="0 of"):
        DifferencesBuilder(pairs, name="lost", out=bucket / "d", running=running(bucket, service)).prepare()
    assert objects_below(bucket / "d") == {}
