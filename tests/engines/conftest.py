"""The engines that the tests of a module share."""

from collections.abc import Iterator

import psutil
import pytest

from tests.engines.flink import Cluster, flink_cluster
from tests.engines.parts import prism
from tests.engines.spark import SparkCluster, spark_cluster
from tfds_builders.running import Running


@pytest.fixture(scope="module")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with flink_cluster(tmp_path_factory.mktemp("flink")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkCluster]:
    with spark_cluster(tmp_path_factory.mktemp("spark")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def on_prism() -> Iterator[Running]:
    """Prism; Beam starts one server for all jobs of this process, which ends with the last test."""
    yield Running("PrismRunner", (f"--prism_location={prism()}",))
    for process in psutil.Process().children(recursive=True):
        if process.name() == "prism":
            process.kill()
