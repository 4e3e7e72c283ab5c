"""SIGKILL at every point of a build and of an update, on every local runner.

What a killed build leaves never loads; the next build makes the same dataset as if nothing had happened, and sweeps.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_info import DatasetInfoFileError

from dataflow.beam import jobs as beam_jobs
from dataflow.beam.engine_failures import WorkerDiedError
from dataflow.errors import UsageError
from dataflow.prepared import METRICS, PreparedDataset
from tests.factories import Picture, logical_dataset, write, write_yolo
from tests.tfds_builders.killed_builds import (
    AT_IMAGES,
    BEFORE_NAMED,
    IN_THE_LAUNCHER,
    UPDATES,
    Dying,
    build,
    open_source,
    run,
)
from tests.tfds_builders.portable import end_session, external, loopback, members, time_limit, wait_until
from tfds_builders.running import Running

MULTI = Running("FnApiRunner", ("--direct_running_mode=multi_processing", "--direct_num_workers=2"))
ORPHANS_S = 30.0
"""Workers live on until they notice that nobody is there."""
AT_REST = ("no name", "half a name", "half a plan", "plan written")
"""Points before a runner is started."""
SHORT = ("plan written", "third image", "a result and not the next", "job done")
"""Points that every runner is tried at; the others take minutes."""


@dataclass(frozen=True)
class Clean:
    """A source, and the files that it should give."""

    root: Path
    files: dict[str, bytes]


@dataclass(frozen=True)
class Changed:
    """A source that was changed, the dataset that was made of it before, and the files that it should give now."""

    root: Path
    old: Path
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    tmp = tmp_path_factory.mktemp("clean")
    root = write_yolo(tmp / "source", logical_dataset(8))
    return Clean(root, files(build(open_source(root), tmp / "out").path))


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Changed:
    tmp = tmp_path_factory.mktemp("changed")
    root = write_yolo(tmp / "source", logical_dataset(8))
    old = build(open_source(root), tmp / "old").path
    write_yolo(root, [Picture("scene/one more")])
    return Changed(root, old, files(build(open_source(root), tmp / "new").path))


@pytest.fixture(scope="module")
def on_loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with loopback(tmp_path_factory.mktemp("loopback")) as arguments:
        yield Running("PortableRunner", arguments)


@pytest.fixture(scope="module")
def on_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with external(tmp_path_factory.mktemp("external")) as arguments:
        yield Running("PortableRunner", arguments)


def files(path: Path) -> dict[str, bytes]:
    """Every file of a dataset, hidden ones too."""
    found = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != METRICS)
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


def nothing_loads(out: Path) -> None:
    """Neither here nor anywhere below is there a dataset, but perhaps one that is complete save for its name."""
    target = out / "dataset" / "1.0.0"
    assert not target.exists()
    for path in (out, out / "dataset", target):
        with pytest.raises(UsageError, match="is no prepared dataset") as caught:
            PreparedDataset(path)
        assert "incomplete." not in caught.value.remedy
        with pytest.raises(DatasetInfoFileError):
            tfds.builder_from_directory(path)
    with pytest.raises(tfds.core.DatasetNotFoundError):
        tfds.builder("dataset", data_dir=out, try_gcs=False)


def killed(point: str, root: Path, tmp: Path, running: Running = Running(), update: bool = False) -> None:
    """Run a build into `tmp`/out that is killed at a point."""
    _, status = run(Dying(point, root, tmp / "out", tmp / "log", running, update))
    assert status == -signal.SIGKILL, (tmp / "log").read_text(errors="replace")[-3000:]


def built_again(clean: Clean, out: Path) -> None:
    """The next build gives what it should, and leaves nothing else."""
    dataset = build(open_source(clean.root), out)
    assert files(dataset.path) == clean.files
    assert [path.name for path in (out / "dataset").iterdir()] == ["1.0.0"], "the leftover is swept"
    assert [path.name for path in out.iterdir()] == ["dataset"]


def killed_and_built_again(point: str, clean: Clean, tmp: Path, running: Running) -> None:
    killed(point, clean.root, tmp, running)
    leftovers = list((tmp / "out" / "dataset").iterdir())
    assert len(leftovers) == 1 and leftovers[0].name.startswith("incomplete."), "it was killed half-way"
    nothing_loads(tmp / "out")
    if point != "description written":  # Complete then, but for its name.
        with pytest.raises(UsageError):
            PreparedDataset(leftovers[0])
    built_again(clean, tmp / "out")


@pytest.mark.parametrize("point", [*BEFORE_NAMED, *IN_THE_LAUNCHER])
def test_in_memory(point: str, clean: Clean, tmp_path: Path) -> None:
    killed_and_built_again(point, clean, tmp_path, Running())


def points(short: tuple[str, ...] = SHORT) -> list[object]:
    """All that come after a runner is started; those that are not `short` marked as slow."""
    after = [point for point in BEFORE_NAMED if point not in AT_REST[:-1]]
    return [point if point in short else pytest.param(point, marks=pytest.mark.slow) for point in after]


@pytest.mark.parametrize("point", points())
def test_several_processes(point: str, clean: Clean, tmp_path: Path) -> None:
    """Workers are processes of their own then, and outlive the launcher."""
    session, status = run(Dying(point, clean.root, tmp_path / "out", tmp_path / "log", MULTI))
    assert status == -signal.SIGKILL, (tmp_path / "log").read_text(errors="replace")[-3000:]
    try:
        orphans = members(session)
        assert point not in AT_IMAGES or orphans, "workers were at work"
        nothing_loads(tmp_path / "out")
        built_again(clean, tmp_path / "out")
        wait_until(lambda: not members(session), ORPHANS_S, f"{orphans} end")
        left = {path.name for path in (tmp_path / "out" / "dataset").iterdir()}
        assert left == {"1.0.0"}, "they left nothing behind"
        assert files(tmp_path / "out" / "dataset" / "1.0.0") == clean.files
    finally:
        end_session(session)


@pytest.mark.parametrize("point", [*points(), pytest.param(*IN_THE_LAUNCHER, marks=pytest.mark.slow)])
def test_portable(point: str, clean: Clean, on_loopback: Running, tmp_path: Path) -> None:
    killed_and_built_again(point, clean, tmp_path, on_loopback)


@pytest.mark.parametrize("point", points(("third image",)))
def test_portable_with_workers_elsewhere(point: str, clean: Clean, on_workers: Running, tmp_path: Path) -> None:
    """Neither the job service nor its workers know that the launcher is dead: they carry on with the job."""
    killed(point, clean.root, tmp_path, on_workers)
    nothing_loads(tmp_path / "out")
    built_again(clean, tmp_path / "out")
    time.sleep(2.0 if point in AT_IMAGES else 0.0)  # The worker takes 0.2 s for each of 8 images.
    assert [path.name for path in (tmp_path / "out" / "dataset").iterdir()] == ["1.0.0"]
    assert files(tmp_path / "out" / "dataset" / "1.0.0") == clean.files


@pytest.mark.slow
@pytest.mark.parametrize("point", [point for point in BEFORE_NAMED if point not in AT_REST[:-1]])
def test_prism(point: str, clean: Clean, tmp_path: Path) -> None:
    """Its server outlives the launcher, without a worker."""
    binary = os.environ.get("PRISM") or shutil.which("prism")
    if not binary:
        pytest.skip("no `prism` on the PATH nor in $PRISM; see test_runners.py")
    running = Running("PrismRunner", (f"--prism_location={binary}", "--environment_type=LOOPBACK"))
    session, status = run(Dying(point, clean.root, tmp_path / "out", tmp_path / "log", running))
    try:
        assert status == -signal.SIGKILL, (tmp_path / "log").read_text(errors="replace")[-3000:]
        nothing_loads(tmp_path / "out")
        built_again(clean, tmp_path / "out")
    finally:
        end_session(session)


@pytest.mark.parametrize("point", ["named", "done"])
def test_killed_after_the_last_step(point: str, clean: Clean, tmp_path: Path) -> None:
    """The dataset is there, complete; the next build finds it, and takes away the owner's name."""
    killed(point, clean.root, tmp_path)
    target = tmp_path / "out" / "dataset" / "1.0.0"
    assert sum(PreparedDataset(target).splits.values()) == 8
    assert {name: data for name, data in files(target).items() if name != ".owner.json"} == clean.files
    with pytest.raises(UsageError, match="is already there"):
        build(open_source(clean.root), tmp_path / "out")
    assert files(target) == clean.files


@pytest.mark.parametrize("point", ["third image", *UPDATES])
def test_killed_update(point: str, changed: Changed, tmp_path: Path) -> None:
    """The old dataset or the new one is there, whole, or (between two renames) none until the next build."""
    old = files(changed.old)
    target = shutil.copytree(changed.old, tmp_path / "out" / "dataset" / "1.0.0")
    killed(point, changed.root, tmp_path, update=True)
    if point == "between the renames":
        nothing_loads(tmp_path / "out")
        with pytest.raises(UsageError, match="is already there"):
            build(open_source(changed.root), tmp_path / "out")
        assert files(target) == old, "what was to be replaced is back"
    else:
        there = {name: data for name, data in files(target).items() if name != ".owner.json"}
        replaced = point in [*UPDATES][[*UPDATES].index("between the renames") :]
        assert there == (changed.files if replaced else old)
        loaded = tfds.builder_from_directory(target).info.splits.values()
        examples = 9 if replaced else 8
        assert sum(PreparedDataset(target).splits.values()) == sum(s.num_examples for s in loaded) == examples
    dataset = build(open_source(changed.root), tmp_path / "out", update=True)
    assert files(dataset.path) == changed.files
    assert [path.name for path in target.parent.iterdir()] == ["1.0.0"], "the leftovers are swept"


def test_a_killed_worker_ends_the_job(clean: Clean, tmp_path: Path) -> None:
    """Its shard is missing; Beam alone would wait for it for ever."""
    session, status = run(Dying("worker", clean.root, tmp_path / "out", tmp_path / "log", MULTI))
    assert status == 1
    assert "WorkerDiedError: a worker process of FnApiRunner died" in (tmp_path / "log").read_text(errors="replace")
    assert not members(session) and not any((tmp_path / "out").rglob("*"))
    built_again(clean, tmp_path / "out")


def test_a_worker_that_dies_before_it_connects(clean: Clean, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, sys\nif any('sdk_worker_main' in word for word in sys.orig_argv):\n    os._exit(3)\n"
    write(tmp_path / "modules" / "sitecustomize.py", code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    with time_limit(60), pytest.raises(WorkerDiedError, match="a worker process of FnApiRunner died, exit status 3"):
        build(open_source(clean.root), tmp_path / "out", MULTI)
    assert not any((tmp_path / "out").rglob("*"))


def test_half_a_shard_of_a_worker_that_died_is_left_out(
    clean: Clean, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some runners give the shard of a dead worker to another, and the job succeeds."""
    add_job = beam_jobs.add_job

    def after_a_death(pipeline: object, job: beam_jobs.ShardJob, directory: Path) -> None:
        for key in job.inputs:
            write(directory / f".{job.shard_format.path(directory, key).name}.999", "half")
            write(directory / ".results" / f".{job.shard_format.path(directory, key).name}.json.999", "half")
        add_job(pipeline, job, directory)

    monkeypatch.setattr(beam_jobs, "add_job", after_a_death)
    assert files(build(open_source(clean.root), tmp_path / "out").path) == clean.files
