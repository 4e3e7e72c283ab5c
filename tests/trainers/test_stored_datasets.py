"""Every command on a dataset in an object store: what it gives for the same dataset on a disk, or a remedy."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from dataflow.prepared import PreparedDataset
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import location, objects_below, upload_files
from tests.factories import logical_dataset, write_yolo
from tests.object_stores import object_store
from tests.tfds_builders.dataflow_service import dataflow_service
from tests.tfds_builders.portable import time_limit
from tests.trainers.small_runs import write_run
from trainers.cli import main

SPLITS = ("--splits", "train=0.5,validation=0.5", "--seed", "1", "--shards", "2")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A folder here and a bucket, with the same dataset and the same run in both."""
    here = tmp_path_factory.mktemp("here")
    source = write_yolo(here / "photos", logical_dataset(12, classes=2), ("cat", "dog"))
    cache = {"XDG_CACHE_HOME": str(here / "cache")}
    with object_store("gs") as url, patch.dict(os.environ, cache):
        for root in (here, location(url)):
            assert main(["ingest", str(source), "--out", str(root / "data"), *SPLITS]) == 0
        run = write_run(here / "run", PreparedDataset(here / "data/photos/1.0.0"))
        upload_files(run, location(url) / "run")
        yield here, location(url)


@pytest.fixture(scope="module")
def predicted(places: tuple[Path, Path]) -> tuple[Path, Path]:
    """The same with predictions."""
    for root in places:
        for name in ("predictions", "again"):
            words = ["--run", str(root / "run"), "--out", str(root / name)]
            assert main(["predict", str(root / "data/photos/1.0.0"), *words]) == 0
    return places


def contents(path: Path) -> dict[str, bytes]:
    """All files below a folder, in a store or here."""
    names = objects_below(path) if is_cloud(path) else [p.relative_to(path) for p in path.rglob("*") if p.is_file()]
    return {str(name): (path / name).read_bytes() for name in names}


# The words of a command, where ROOT is a folder here or a bucket; what it writes there, if anything.
COMMANDS: dict[str, tuple[str, str | None]] = {
    "stats": ("stats ROOT/data/photos/1.0.0", None),
    "stats with pages": ("stats ROOT/data/photos/1.0.0 --out ROOT/stats", "stats"),
    "export": ("export ROOT/data/photos/1.0.0 --format coco --out ROOT/coco", "coco"),
    "diff-datasets": ("diff-datasets ROOT/data/photos/1.0.0 ROOT/data/photos/1.0.0", None),
    "verify-loader": ("verify-loader ROOT/data/photos/1.0.0 --batch-size 2 --limit 4 --world-sizes 1,2", None),
    "evaluate": ("evaluate ROOT/data/photos/1.0.0 --predictions ROOT/predictions --out ROOT/report", "report"),
    "compare": (
        "compare ROOT/data/photos/1.0.0 --predictions ROOT/predictions ROOT/again --out ROOT/compared",
        "compared",
    ),
    "explain-map": ("explain-map ROOT/data/photos/1.0.0 --predictions ROOT/predictions", None),
}


# It takes a minute of threads and processes that start.
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name == "verify-loader" else []) for name in COMMANDS]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_on_a_disk(name: str, predicted: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words, out = COMMANDS[name]
    told, written = [], []
    for root in predicted:
        status = main([*words.replace("ROOT", str(root)).split(), "--json"])
        told.append((status, capsys.readouterr().out.replace(str(root), "ROOT")))
        files = contents(root / out) if out else {}
        written.append({name: data.replace(str(root).encode(), b"ROOT") for name, data in files.items()})
    assert told[0] == told[1] and told[0][0] == 0
    assert written[0] == written[1] and bool(written[0]) == bool(out)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("tune ROOT/data/photos/1.0.0 --recipe tiny --out ROOT/tuned", "name a directory of this machine"),
        ("finish ROOT/data/photos/incomplete.x_1.0.0", "give a directory incomplete.*"),
        ("stats ROOT/data/none/1.0.0", "check the path"),
        ("export ROOT/data/photos/1.0.0 --format coco --out ROOT/data", "choose another --out"),
        ("stats ROOT/data/photos/1.0.0 --runner FnApiRunner", "give --out DIR"),
    ],
)
def test_or_a_remedy(words: str, remedy: str, places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = objects_below(places[1])
    try:
        status = main(words.replace("ROOT", str(places[1])).split())
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr().err
    assert status == 2 and remedy in said and "Traceback" not in said
    assert objects_below(places[1]).keys() == before.keys()


def options(bucket: Path, endpoint: str) -> list[str]:
    service = ("--project=p", "--region=us-central1", "--no_auth", f"--dataflow_endpoint={endpoint}")
    image = "--sdk_container_image=registry/shardbox:0.2.0-predict"
    return ["--runner", "DataflowRunner", "--", *service, f"--temp_location={bucket}/temp", image]


def test_by_dataflow(predicted: tuple[Path, Path]) -> None:
    """Workers see nothing but the store: they take the run and the dataset from there, and leave their parts there."""
    pytest.importorskip("google.cloud.dataflow", reason="submitting to Dataflow needs apache-beam[gcp]")
    here, bucket = predicted
    dataset = str(bucket / "data/photos/1.0.0")
    with dataflow_service() as service, time_limit(240):
        told = options(bucket, service.endpoint)
        assert main(["predict", dataset, "--run", str(bucket / "run"), "--out", str(bucket / "far/pred"), *told]) == 0
        assert main(["stats", dataset, "--out", str(bucket / "far/stats"), *told]) == 0
    assert contents(bucket / "far/pred") == contents(here / "predictions")
    assert main(["stats", str(here / "data/photos/1.0.0"), "--out", str(here / "counted")]) == 0
    assert contents(bucket / "far/stats") == contents(here / "counted")
    assert {name.partition("/")[0] for name in objects_below(bucket / "far")} == {"pred", "stats"}, "no parts are left"
    assert [len(job["environment"]["workerPools"]) for job in service.jobs] == [1, 1]
