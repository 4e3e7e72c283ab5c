"""Every job on real photographs and frames by real engines: the files of this process alone, byte for byte."""

from pathlib import Path

import pytest

from dataflow.beam.shard_tasks import TaskRunner
from dataflow.prepared import METRICS, PreparedDataset
from tests.engines.flink import Cluster
from tests.engines.spark import SparkCluster
from tests.tfds_builders.light_environment import make_light_environment
from tests.tfds_builders.portable import ROOT, external, time_limit
from tests.trainers.small_runs import write_run
from tfds_builders.builders import SourceBuilder
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.ingest_options import IngestOptions
from tfds_builders.planning import PlanOptions
from tfds_builders.running import Running
from tfds_builders.sources.pairing import PairOptions
from trainers.prediction.prediction import predict
from trainers.statistics.dataset_statistics import count_dataset

pytestmark = [pytest.mark.engines, pytest.mark.slow]

LIMIT_S = 900.0
DATA = ROOT.parent / "shared" / "data"
PETS = DATA / "pets09_s2l1"
OPTIONS = IngestOptions(PlanOptions(shards=4))
BUILDS = ("photographs", "pairs", "differences")
CASES = (*BUILDS, "statistics", "predictions")


def made(case: str, out: Path, before: dict[str, Path], running: Running | None = None) -> Path:
    """coco128 ingested, PETS09-S2L1 ingested as pairs, their differences, coco128 counted, or predictions for it.

    Args:
        case: of `CASES`.
        out: where it is made.
        before: what is built on, by case, and the `run`.
        running: the engine; None for this process.
    """
    tasks = TaskRunner() if running is None else TaskRunner(running.runner, running.arguments)
    running = running or Running()
    with time_limit(LIMIT_S):
        match case:
            case "differences":
                pairs = PreparedDataset(before["pairs"])
                return DifferencesBuilder(pairs, name=case, out=out, running=running).prepare().path
            case "statistics":
                count_dataset(PreparedDataset(before["photographs"]), out / case, tasks)
                return out / case
            case "predictions":
                photographs = PreparedDataset(before["photographs"])
                predict(photographs, before["run"], out / case, split="train", running=tasks)
                return out / case
        source = open_yolo(DATA / "coco128") if case == "photographs" else open_mot(PETS, PairOptions(10))
        return SourceBuilder(source, name=case, out=out, options=OPTIONS, running=running).prepare().path


def files(path: Path) -> dict[str, bytes]:
    """Every file of a dataset, hidden ones too."""
    found = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != METRICS)
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What this process makes alone."""
    if not DATA.is_dir():
        pytest.skip("there is no ../shared/data beside the checkout")
    out = tmp_path_factory.mktemp("local")
    paths: dict[str, Path] = {}
    for case in CASES:
        paths[case] = made(case, out, paths)
        if case == "photographs":
            paths["run"] = write_run(out / "run", PreparedDataset(paths[case]))
    return paths


@pytest.mark.parametrize("case", CASES)
def test_flink(case: str, flink: Cluster, local: dict[str, Path], tmp_path: Path) -> None:
    with flink.running(tmp_path / "pool") as running:
        check(case, running, local, tmp_path)
    jobs = flink.ask("jobs/overview")["jobs"]
    assert {job["state"] for job in jobs} == {"FINISHED"} and len(flink.ask("taskmanagers")["taskmanagers"]) == 2


@pytest.mark.parametrize("case", CASES)
def test_prism(case: str, on_prism: Running, local: dict[str, Path], tmp_path: Path) -> None:
    check(case, on_prism, local, tmp_path)


@pytest.fixture(scope="module")
def light_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_light_environment(tmp_path_factory.mktemp("light"))


@pytest.mark.parametrize("case", (*BUILDS, "statistics"))
def test_workers_without_tensorflow_and_torch(
    case: str, light_python: Path, local: dict[str, Path], tmp_path: Path
) -> None:
    with external(tmp_path / "pool", light_python, path=None) as arguments:
        check(case, Running("PortableRunner", arguments), local, tmp_path)


def test_a_pool_with_torch(local: dict[str, Path], tmp_path: Path) -> None:
    with external(tmp_path / "pool") as arguments:
        check("predictions", Running("PortableRunner", arguments), local, tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_spark(case: str, spark: SparkCluster, local: dict[str, Path], tmp_path: Path) -> None:
    with spark.running(tmp_path / "pool") as running:
        check(case, running, local, tmp_path)
    [application] = spark.ask()["completedapps"][:1]
    assert application["state"] == "FINISHED" and application["cores"] == 2


def check(case: str, running: Running, local: dict[str, Path], tmp_path: Path) -> None:
    """The engine makes the files that this process makes."""
    expected = files(local[case])
    assert len(expected) >= {"statistics": 2, "predictions": 3}.get(case, 8)
    assert files(made(case, tmp_path / "out", local, running)) == expected
