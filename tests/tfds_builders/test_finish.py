"""`shardbox finish`: builds whose launcher was killed, completed, refused or removed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dataflow.prepared import METRICS
from dataflow.stores.paths import location, objects_below
from tests.factories import Picture, logical_dataset, write_yolo
from tests.object_stores import object_store
from trainers.cli import main

ROOT = Path(__file__).parents[2]
# The launcher dies: after all shards and results are there, or when the first shard has no result yet.
DEATHS = {"late": ("load_results", 1), "half": ("save_result", 2)}
_DYING = """
import os, signal, sys
from dataflow.beam import jobs as beam_jobs
name, calls = sys.argv[1], int(sys.argv[2])
real, left = getattr(beam_jobs, name), [calls]
def dying(*arguments):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
setattr(beam_jobs, name, dying)
from trainers.cli import main
sys.exit(main(sys.argv[3:]))
"""


def words(source: Path, out: Path | str) -> list[str]:
    options = ["--name", "set", "--shards", "2", "--splits", "train=1"]
    return ["ingest", str(source), "--format", "yolo", "--out", str(out), *options]


def killed(source: Path, out: Path | str, death: str, cwd: Path = ROOT) -> Path:
    """What is left of a build whose launcher died."""
    code = subprocess.run(
        [sys.executable, "-c", _DYING, *map(str, DEATHS[death]), *words(source, out)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    ).returncode
    assert code == -signal.SIGKILL
    [left] = location(cwd / out if isinstance(out, str) and "://" not in out else out).glob("set/incomplete.*")
    return left


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_yolo(tmp_path / "source", logical_dataset(8))


@pytest.fixture
def finish(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def call(*arguments: object) -> dict[str, Any]:
        monkeypatch.chdir(ROOT)
        status = main(["finish", *map(str, arguments), "--json"])
        return {"status": status, **json.loads(capsys.readouterr().out)}

    return call


def contents(path: Path) -> dict[str, bytes]:
    names = objects_below(path) if "://" in str(path) else [file.name for file in path.iterdir()]
    return {name: (path / name).read_bytes() for name in names if name != METRICS}


@pytest.fixture
def whole(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, bytes]:
    assert main(words(source, tmp_path / "whole")) == 0
    capsys.readouterr()
    return contents(tmp_path / "whole/set/1.0.0")


def test_a_build_is_finished_without_being_run(
    source: Path, whole: dict[str, bytes], tmp_path: Path, finish: Callable[..., dict[str, Any]]
) -> None:
    # Given relative to a folder that `finish` is not called in.
    left = killed(source.relative_to(tmp_path), "out", "late", cwd=tmp_path)
    shards = {path.name: path.stat().st_ino for path in left.glob("*.tfrecord*")}
    made = finish(left)
    assert made["status"] == 0 and made["images_in"] == 8
    path = tmp_path / "out/set/1.0.0"
    found, expected = contents(path), dict(whole)
    for name in ("manifest.json", "croissant.json"):  # The source was given by another name.
        found.pop(name), expected.pop(name)
    assert found == expected
    assert {path.name: path.stat().st_ino for path in path.glob("*.tfrecord*")} == shards, "the very files"
    assert [entry.name for entry in path.parent.iterdir()] == ["1.0.0"]
    assert made["metrics"]["images_prepared"] == 8 and made["metrics"]["seconds"] is None


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_in_an_object_store_too(
    source: Path, whole: dict[str, bytes], finish: Callable[..., dict[str, Any]], scheme: str
) -> None:
    with object_store(scheme) as root:
        left = killed(source, f"{root}/out", "late")
        made = finish(left)
        assert made["status"] == 0
        assert contents(location(f"{root}/out/set/1.0.0")) == whole
        assert all(name.startswith("set/1.0.0/") for name in objects_below(location(f"{root}/out")))


def test_what_is_missing_is_named(source: Path, tmp_path: Path, finish: Callable[..., dict[str, Any]]) -> None:
    left = killed(source, tmp_path / "out", "half")
    made = finish(left)
    assert made["status"] == 1 and "1 of 2 shards are missing, such as set-train.tfrecord-0000" in made["message"]
    assert left.is_dir() and [path.name for path in left.parent.iterdir()] == [left.name]
    assert finish(left, "--discard")["status"] == 0
    assert not left.exists()


def test_shards_of_another_source_do_not_count(
    source: Path, tmp_path: Path, finish: Callable[..., dict[str, Any]]
) -> None:
    left = killed(source, tmp_path / "out", "late")
    write_yolo(source, [Picture("scene/one more")])
    made = finish(left)
    assert made["status"] == 1 and "are missing" in made["message"]


def test_a_living_launcher_is_left_to_it(source: Path, tmp_path: Path, finish: Callable[..., dict[str, Any]]) -> None:
    left = killed(source, tmp_path / "out", "late")
    owner = json.loads((left / ".owner.json").read_text())
    from tfds_builders.directory import _started

    alive = owner | {"pid": os.getppid(), "started": _started(os.getppid())}
    (left / ".owner.json").write_text(json.dumps(alive))
    for arguments in ((), ("--launcher-is-gone",), ("--discard",)):
        made = finish(left, *arguments)
        assert made["status"] == 2 and "still runs" in made["message"]
    (left / ".owner.json").write_text(json.dumps(owner | {"host": "another"}))
    assert "--launcher-is-gone" in finish(left)["remedy"]
    assert finish(left, "--launcher-is-gone")["status"] == 0


def test_what_workers_elsewhere_still_write_is_not_swept(source: Path, tmp_path: Path) -> None:
    left = killed(source, tmp_path / "out", "late")
    owner = json.loads((left / ".owner.json").read_text())
    (left / ".owner.json").write_text(json.dumps(owner | {"outlived": True}))
    assert main(words(source, tmp_path / "out")) == 0
    assert sorted(path.name for path in left.parent.iterdir()) == ["1.0.0", left.name]


@pytest.mark.parametrize("what", ["nothing", "a dataset", "another's"])
def test_other_directories_are_refused(
    source: Path, whole: dict[str, bytes], tmp_path: Path, finish: Callable[..., dict[str, Any]], what: str
) -> None:
    path = {"nothing": tmp_path / "incomplete.x", "a dataset": tmp_path / "whole/set/1.0.0"}.get(what)
    if path is None:
        path = tmp_path / "incomplete.tfds"
        path.mkdir()
        (path / ".owner.json").write_text(json.dumps({"host": "x", "pid": 1}))
    made = finish(path)
    assert made["status"] == 2 and ("is no unfinished dataset" in made["message"] or "not begun" in made["message"])


@pytest.fixture(autouse=True)
def _here() -> Iterator[None]:
    """`finish` goes to the folder of the command that it finishes."""
    here = Path.cwd()
    yield
    os.chdir(here)
