"""The commands with everything in an object store but the run that trains: the same results as on a disk."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from dataflow.errors import UsageError
from dataflow.prepared import METRICS, PreparedDataset
from dataflow.stores.cloud_paths import CloudPath
from dataflow.stores.paths import cache_directory, location, objects_below, upload_files
from tests.factories import logical_dataset, write_yolo
from tests.object_stores import STORES, object_store
from tests.trainers.small_runs import write_run
from tests.trainers.tiny_recipes import TINY
from trainers.cli import main
from trainers.outputs import made_here
from trainers.prediction.predictions import DESCRIPTION, read_predictions


@pytest.fixture(scope="module", params=sorted(STORES))
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    cache = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    with object_store(request.param) as url, patch.dict(os.environ, cache):
        yield location(url)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yolo(tmp_path_factory.mktemp("source"), logical_dataset(8))


@pytest.fixture(scope="module")
def ingested(root: Path, source: Path) -> Path:
    """A dataset in the store, made by the command of a source in the store."""
    upload_files(source, root / "source")
    assert main(["ingest", str(root / "source"), "--name", "set", "--out", str(root / "data"), "--shards", "2"]) == 0
    return root / "data/set/1.0.0"


def contents(path: Path) -> dict[str, bytes]:
    names = objects_below(path) if isinstance(path, CloudPath) else [p.relative_to(path) for p in path.rglob("*")]
    return {str(name): (path / name).read_bytes() for name in names if (path / name).is_file()}


def test_a_source_in_a_store_gives_the_shards_of_one_on_a_disk(ingested: Path, source: Path, tmp_path: Path) -> None:
    assert main(["ingest", str(source), "--name", "set", "--out", str(tmp_path), "--shards", "2"]) == 0
    there, here = contents(ingested), contents(tmp_path / "set/1.0.0")
    assert there.keys() == here.keys()
    shards = [name for name in here if "tfrecord" in name]
    assert shards and all(there[name] == here[name] for name in shards)
    origin = json.loads(there["manifest.json"])
    assert str(ingested.parents[2] / "source") in json.dumps(origin) and METRICS in there


def test_a_source_that_is_not_in_the_store_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", str(root / "nothing"), "--out", str(root / "other")]) != 0
    assert f"{root}/nothing does not exist" in capsys.readouterr().err
    assert not objects_below(root / "other")


def test_predictions_and_report_in_a_store_are_those_of_a_disk(ingested: Path, root: Path, tmp_path: Path) -> None:
    dataset = PreparedDataset(ingested)
    run = write_run(tmp_path / "run", dataset)
    upload_files(run, root / "run")
    split = next(iter(dataset.splits))
    found = {}
    for place, given in ((root / "results", root / "run"), (tmp_path, run)):
        predictions, report = place / "predictions", place / "report"
        words = ["predict", str(ingested), "--run", str(given), "--out", str(predictions), "--split", split]
        assert main(words) == 0
        assert main(["evaluate", str(ingested), "--predictions", str(predictions), "--out", str(report)]) == 0
        found[place] = (read_predictions(predictions).digest, contents(predictions), contents(report))
    there, here = found.values()
    assert there == here
    assert not [path for path in cache_directory().rglob("*") if path.name == DESCRIPTION]


def test_training_by_the_command_reads_the_store(ingested: Path, tmp_path: Path) -> None:
    for name in objects_below(ingested):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes((ingested / name).read_bytes())
    weights = []
    with patch("trainers.recipes.catalogue.find_recipe", return_value=replace(TINY, steps=2)):
        for dataset, run in ((ingested, tmp_path / "there"), (tmp_path / "data", tmp_path / "here")):
            assert main(["train", str(dataset), "--recipe", "tiny", "--out", str(run)]) == 0
            weights.append((run / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_what_is_there_is_not_replaced(ingested: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "taken/some.txt").write_text("mine")
    words = ["predict", str(ingested), "--run", str(root / "run"), "--out", str(root / "taken")]
    assert main(words) != 0
    assert "taken exists already" in capsys.readouterr().err
    assert contents(root / "taken") == {"some.txt": b"mine"}


def test_the_marker_comes_last_and_what_cannot_be_put_there_is_kept(root: Path) -> None:
    order: list[str] = []
    real = CloudPath.upload

    def upload(self: CloudPath, file: Path) -> None:
        order.append(self.name)
        real(self, file)

    def make(out: Path) -> Path:
        with made_here(out, "a.json") as here:
            here.mkdir(parents=True)
            for name in ("a.json", "b", "c"):
                (here / name).write_text(name)
        return here

    with patch.object(CloudPath, "upload", upload):
        assert not make(root / "made").exists()
    assert order[-1] == "a.json" and sorted(order) == ["a.json", "b", "c"]
    assert contents(root / "made") == {"a.json": b"a.json", "b": b"b", "c": b"c"}

    failing = patch.object(CloudPath, "upload", side_effect=UsageError("no right to write", "ask for it"))
    with failing, pytest.raises(UsageError, match="no right to write") as refused:
        make(root / "unwritable")
    [kept] = cache_directory().rglob("a.json")
    assert str(kept.parent) in str(refused.value) and contents(kept.parent).keys() == {"a.json", "b", "c"}
    assert not objects_below(root / "unwritable")
