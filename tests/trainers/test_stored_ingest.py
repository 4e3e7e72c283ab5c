"""`shardbox ingest` of a source in an object store, on every runner that runs here: the files of the same on a disk."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataflow.beam.jobs import LostElementsError
from dataflow.stores.cloud_paths import CloudPath
from dataflow.stores.paths import location, objects_below, upload_files
from tests.factories import logical_dataset, photograph, write_coco
from tests.object_stores import STORES, object_store
from tests.store_proxy import before_the_store
from tests.tfds_builders.dataflow_service import IMAGE, dataflow_service, do_fns
from tests.tfds_builders.portable import external, time_limit
from tests.tfds_builders.test_runners import write_images
from tests.trainers.stored_ingests import contents, ingested, ingested_here
from tfds_builders import builders
from tfds_builders.choices import open_source
from tfds_builders.running import Running
from trainers.cli import main


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with findings of many kinds, on a disk."""
    return write_images(tmp_path_factory.mktemp("here") / "photos")


@pytest.fixture(scope="module")
def expected(here: Path) -> dict[str, bytes]:
    """What it gives, on a disk."""
    return ingested_here(here)


@pytest.fixture(scope="module")
def bucket(here: Path) -> Iterator[Path]:
    with object_store("gs") as url:
        upload_files(here, location(url) / "photos")
        yield location(url)


@pytest.mark.parametrize("scheme", sorted(STORES))
def test_in_this_process(scheme: str, here: Path, expected: dict[str, bytes]) -> None:
    with object_store(scheme) as url:
        upload_files(here, location(url) / "photos")
        found = ingested(location(url) / "photos", location(url) / "data")
        assert found == expected
    audit = json.loads(expected["audit.json"])
    assert audit["images_quarantined"] >= 4 and sum(name.startswith("photos-") for name in expected) == 8


@pytest.mark.slow
def test_in_several_processes(bucket: Path, expected: dict[str, bytes]) -> None:
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert ingested(bucket / "photos", bucket / "several", "--", *options) == expected


def test_by_workers_of_a_pool(
    bucket: Path, expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command that `shardbox doctor` prints, once a worker of the pool has seen the source."""
    with external(tmp_path) as arguments, time_limit(240):
        places = ["--source", str(bucket / "photos"), "--out", str(bucket / "pool")]
        assert main(["doctor", "--runner", "PortableRunner", *places, "--", *arguments]) == 0
        told = capsys.readouterr().out
        assert f"good: source: a worker of the pool sees {bucket}/photos\n" in told
        program, *words = shlex.split(told.partition("submit it with:\n")[2])
        at = words.index("--runner")
        assert program == "shardbox" and main([*words[:at], "--shards", "4", *words[at:]]) == 0
    assert contents(bucket / "pool/photos/1.0.0", bucket / "photos") == expected


def test_by_dataflow(bucket: Path, expected: dict[str, bytes]) -> None:
    pytest.importorskip("google.cloud.dataflow", reason="submitting to Dataflow needs apache-beam[gcp]")
    with dataflow_service() as service:
        found = ingested(
            bucket / "photos", bucket / "there", "--runner", "DataflowRunner", "--", *service.options(bucket)
        )
        graph = service.graph
    assert found == expected
    [job] = service.jobs
    [pool] = job["environment"]["workerPools"]
    assert pool["machineType"] == "e2-standard-4" and pool["numThreadsPerWorker"] == 2
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    staged = {package["name"] for package in pool["packages"]}
    assert staged <= {"submission_environment_dependencies.txt", "pickled_main_session"}
    assert len(graph.SerializeToString()) + len(service.bodies[-1]) < 100_000, "Dataflow takes 10 MB"
    loader = do_fns(graph)["write shards"]._outcomes
    assert type(loader.source.root) is CloudPath and loader.source.root == bucket / "photos", "read by workers, there"


@pytest.mark.slow
def test_a_million_images_by_dataflow(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of a million, planned, staged and submitted: the job is as small as that of 24."""
    pytest.importorskip("google.cloud.dataflow", reason="submitting to Dataflow needs apache-beam[gcp]")

    def a_million(_: str, name: str, folder: str) -> Iterator[tuple[str, int, int]]:
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            for number in range(1_000_000):
                yield f"{name}/{folder}/{kind}/{number // 1000:04d}/{number:07d}.{suffix}", 100_000, number
        yield f"{name}/{folder}/classes.txt", 4, 0

    (bucket / "million/classes.txt").write_text("cat\n")
    with dataflow_service(runs=False) as service:
        monkeypatch.setattr("dataflow.stores.cloud_paths.list_objects", a_million)
        source = open_source("yolo", bucket / "million")
        monkeypatch.undo()  # What is planned is looked for in the store itself.
        running = Running("DataflowRunner", service.options(bucket))
        builder = builders.SourceBuilder(source, name="million", out=bucket / "huge", running=running)
        with pytest.raises(LostElementsError, match="0 of 1280 shards and 0 of 1000000 images"):
            builder.prepare()
        assert len(service.graph.SerializeToString()) + len(service.bodies[-1]) < 100_000, "Dataflow takes 10 MB"


def test_one_listing_and_a_request_for_what_is_read(bucket: Path, here: Path) -> None:
    """Planning asks the store for its listing, not for images; workers ask once for each image and label file."""
    with before_the_store() as proxy:
        source = open_source("yolo", bucket / "photos")
        listing = source.scan()
        read = [request for request in proxy.asked if "alt=media" in request]
        assert [request for request in read if "classes.txt" not in request] == []
        assert len(proxy.asked) - len(read) <= 3, proxy.asked
    assert len(listing.references) == len([path for path in (here / "images").rglob("*") if path.is_file()])


def test_a_busy_store_is_asked_again(bucket: Path, expected: dict[str, bytes]) -> None:
    with before_the_store() as proxy:
        proxy.busy = {"000005.jpg": 1, "000006.txt": 1, "classes.txt": 1}
        assert ingested(bucket / "photos", bucket / "busy") == expected
        assert not any(proxy.busy.values())


def test_a_store_that_stays_busy_ends_the_job(
    bucket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no finding: all images might be."""
    monkeypatch.setattr("asyncio.sleep", _at_once)
    with before_the_store() as proxy:
        proxy.busy = {"000005.jpg?alt=media": 100, "000005.jpg": 100}
        assert main(["ingest", str(bucket / "photos"), "--out", str(bucket / "lost"), "--seed", "0"]) == 1
    told = capsys.readouterr().err
    assert "000005.jpg" in told and "busy" in told
    assert objects_below(bucket / "lost") == {}


async def _at_once(_: float, result: object = None) -> object:
    return result


def test_an_object_that_vanishes_is_kept_out(bucket: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After planning, before it is read: as a file that vanishes."""
    real, audits = builders.run_shard_job, []
    for source, out in ((bucket / "vanishing", bucket / "out"), (here.parent / "vanishing", here.parent / "other")):
        for path in here.rglob("*"):
            if path.is_file():
                (source / path.relative_to(here)).parent.mkdir(parents=True, exist_ok=True)
                (source / path.relative_to(here)).write_bytes(path.read_bytes())

        def lose(job: Any, *more: Any, source: Path = source) -> Any:
            (source / "images/scene/000007.jpg").unlink()
            (source / "labels/scene/000009.txt").unlink()
            return real(job, *more)

        monkeypatch.setattr(builders, "run_shard_job", lose)
        assert main(["ingest", str(source), "--out", str(out)]) == 0
        audits.append(json.loads((out / "vanishing/1.0.0/audit.json").read_text()))
    assert audits[0] == audits[1]
    assert {"scene/000007", "scene/000009"} <= set(audits[0]["quarantined"])


def test_annotations_do_not_leave_the_source(bucket: Path, tmp_path: Path) -> None:
    """Objects beside it are there, and are not read."""
    for name in ("secret.jpg", "source-too/secret.jpg"):
        (bucket / name).write_bytes(photograph())
    beside = ["../../secret.jpg", "../../source-too/secret.jpg", "/bucket/secret.jpg"]
    entries = [*beside, "gs://bucket/secret.jpg", "a\0b"]
    content = {
        "images": [{"id": n, "file_name": name, "height": 48, "width": 64} for n, name in enumerate(entries, 1)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [],
    }
    pictures = logical_dataset(3)
    written = write_coco(tmp_path / "source", pictures)
    known = json.loads((written / "annotations/instances.json").read_text())
    known["images"] += content["images"]
    (written / "annotations/instances.json").write_text(json.dumps(known))
    upload_files(written, bucket / "source")
    assert main(["ingest", str(bucket / "source"), "--out", str(bucket / "inside"), "--splits", "train=1"]) == 0
    audit = json.loads((bucket / "inside/source/1.0.0/audit.json").read_text())
    assert (audit["images_prepared"], audit["images_quarantined"]) == (3, len(entries))
    codes = {finding["file"]: finding["code"] for finding in audit["findings"] if finding["severity"] == "error"}
    assert {codes[file] for file in beside} == {"image-outside-root"}
    assert codes["gs://bucket/secret.jpg"] == "image-missing", "below the source, there is none of this name"


def test_annotations_here_and_images_there(bucket: Path, tmp_path: Path) -> None:
    written = write_coco(tmp_path / "coco", logical_dataset(6))
    assert main(["ingest", str(written), "--out", str(tmp_path)]) == 0
    upload_files(written / "images", bucket / "only-images")
    (tmp_path / "alone").mkdir()
    (written / "annotations/instances.json").rename(tmp_path / "alone/instances.json")
    words = ["--images", str(bucket / "only-images"), "--name", "coco"]
    assert main(["ingest", str(tmp_path / "alone/instances.json"), "--out", str(bucket / "apart"), *words]) == 0
    for name, data in contents(tmp_path / "coco/1.0.0", written).items():
        if "tfrecord" in name:
            assert (bucket / "apart/coco/1.0.0" / name).read_bytes() == data
