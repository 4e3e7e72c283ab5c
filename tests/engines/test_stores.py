"""Source and dataset in an object store, on real clusters: the files of the same on a disk, byte for byte."""

from pathlib import Path

import pytest

from dataflow.stores.paths import location, upload_files
from tests.engines.flink import Cluster
from tests.engines.spark import SparkCluster
from tests.object_stores import STORES, object_store
from tests.tfds_builders.test_runners import write_images
from tests.trainers.stored_ingests import ingested, ingested_here
from tfds_builders.running import Running

pytestmark = [pytest.mark.engines, pytest.mark.slow]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with findings of many kinds, on a disk."""
    return write_images(tmp_path_factory.mktemp("here") / "photos")


@pytest.fixture(scope="module")
def expected(here: Path) -> dict[str, bytes]:
    """What it gives, on a disk."""
    return ingested_here(here)


def check(url: str, here: Path, expected: dict[str, bytes], running: Running) -> None:
    """The engine makes the same, of a source in the store at `url`, and leaves nothing unfinished there."""
    bucket = location(url)
    upload_files(here, bucket / "photos")
    assert sum(name.startswith("photos-") for name in expected) == 8
    options = ("--runner", running.runner, "--", *running.arguments)
    assert ingested(bucket / "photos", bucket / "data", *options) == expected


@pytest.mark.parametrize("scheme", sorted(STORES))
def test_flink(scheme: str, flink: Cluster, here: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    # The pool is started in the environment that leads to the store, and so are its workers.
    with object_store(scheme) as url, flink.running(tmp_path / "pool") as running:
        check(url, here, expected, running)
    assert {job["state"] for job in flink.ask("jobs/overview")["jobs"]} == {"FINISHED"}


@pytest.mark.parametrize("scheme", sorted(STORES))
def test_spark(scheme: str, spark: SparkCluster, here: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    with object_store(scheme) as url, spark.running(tmp_path / "pool") as running:
        check(url, here, expected, running)
    assert spark.ask()["completedapps"][0]["state"] == "FINISHED"


@pytest.mark.parametrize("scheme", sorted(STORES))
def test_prism(scheme: str, on_prism: Running, here: Path, expected: dict[str, bytes]) -> None:
    with object_store(scheme) as url:
        check(url, here, expected, on_prism)
