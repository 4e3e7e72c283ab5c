"""Builders: every image is prepared or quarantined, and a dataset appears whole or not at all."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_info import DatasetInfoFileError

from dataflow.errors import UsageError
from dataflow.findings import Audit, Code, Finding, Policy, sorted_findings
from dataflow.prepared import PreparedDataset
from dataflow.shards import place_in_shard
from dataflow.splits import parse_splits
from tests.factories import (
    Picture,
    Thing,
    logical_dataset,
    photograph,
    prepare,
    write,
    write_coco,
    write_mot,
    write_yolo,
)
from tests.tfds_builders.broken_sources import MAKE, Broken, contents, load_json
from tfds_builders.builders import DifferencesBuilder, RefusedError, Running, SourceBuilder
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import PairOptions, open_mot
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.source import Loader

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=sorted(MAKE))
def broken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    return MAKE[request.param](tmp_path_factory.mktemp("broken"))


def found(findings: list[dict[str, object]]) -> list[tuple[str, ...]]:
    return sorted((str(f["code"]), str(f["file"]), str(f["line"]), str(bool(f["repaired"]))) for f in findings)


def expected(broken: Broken, repair: bool) -> list[tuple[str, ...]]:
    return sorted(
        (str(defect.code), defect.file, str(defect.line), str(repair and defect.repairable))
        for defect in broken.defects
    )


def test_there_are_many_kinds_of_defects(tmp_path: Path) -> None:
    kinds = [defect for make in MAKE.values() for defect in make(tmp_path).defects]
    assert len(kinds) >= 45
    assert {defect.code for defect in kinds} >= set(Code) - {Code.BOX_CLIPPED, Code.SPLIT_MISSING}


@pytest.mark.parametrize("policy", ["quarantine", "repair"])
def test_every_defect_is_found_and_every_image_counted(broken: Broken, policy: Policy, tmp_path: Path) -> None:
    before = contents(broken.root.parent)
    dataset = prepare(broken.open(), tmp_path, policy=policy)
    audit = load_json(dataset.path / "audit.json")
    repair = policy == "repair"
    assert found(audit["findings"]) == expected(broken, repair)
    # A file listed twice, or one image for two entries, is quarantined besides the one that was prepared.
    again = [d for d in broken.defects if d.code == Code.DUPLICATE_ID and not d.image_id]
    assert audit["images_in"] == len(broken.image_ids) + len(again)
    assert audit["images_in"] == audit["images_prepared"] + audit["images_quarantined"]
    kept_out = broken.quarantined(repair)
    assert audit["quarantined"] == sorted(kept_out + [Path(d.file).stem for d in again])
    prepared = sorted(record.image_id for split in dataset.splits for record in dataset.records(split))
    assert prepared == sorted(set(broken.image_ids) - set(kept_out))
    assert len(prepared) == audit["images_prepared"] == sum(dataset.splits.values())
    findings = [Finding(**finding) for finding in audit["findings"]]
    assert findings == list(sorted_findings(findings)) and all(finding.remedy for finding in findings)
    assert audit["counts"] == {code: audit_codes(audit).count(code) for code in sorted(set(audit_codes(audit)))}
    assert contents(broken.root.parent) == before, "sources are never written to"


def audit_codes(audit: dict[str, list[dict[str, str]]]) -> list[str]:
    return [finding["code"] for finding in audit["findings"]]


def test_fail_refuses_all_and_leaves_nothing(broken: Broken, tmp_path: Path) -> None:
    before = contents(broken.root.parent)
    with pytest.raises(RefusedError) as caught:
        prepare(broken.open(), tmp_path / "out", policy="fail")
    audit = caught.value.audit
    assert isinstance(audit, Audit) and caught.value.exit_status == 1
    assert found([vars(finding) for finding in audit.findings]) == expected(broken, repair=False)
    assert audit.images_in == audit.images_prepared + audit.images_quarantined
    assert str(audit.errors[0]) in caught.value.message and f"{len(audit.errors)} errors" in caught.value.message
    assert not any((tmp_path / "out").rglob("*")), "nothing stays of what was refused"
    assert contents(broken.root.parent) == before


def test_fail_lets_a_clean_source_pass(tmp_path: Path) -> None:
    assert prepare(open_yolo(write_yolo(tmp_path / "s", logical_dataset(4))), tmp_path, policy="fail").splits


def test_nothing_to_prepare_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s" / "images" / "a.jpg", b"")
    write(tmp_path / "s" / "classes.txt", "cat")
    with pytest.raises(RefusedError, match=r"nothing could be prepared: images/a\.jpg: image-unreadable"):
        prepare(open_yolo(tmp_path / "s"), tmp_path / "out")
    assert not any((tmp_path / "out").rglob("*"))


def digests(path: Path) -> dict[str, str]:
    """Of all shards of a dataset directory."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(path.glob("*.tfrecord*"))}


def test_twice_the_same_bytes(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "source", logical_dataset(9))
    first, second = (prepare(open_yolo(source), tmp_path / out) for out in ("a", "b"))
    assert digests(first.path) == digests(second.path) and digests(first.path)
    assert first.fingerprint == second.fingerprint
    for name in ("audit.json", "manifest.json", "features.json", "dataset_info.json"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


def test_order_in_a_shard_is_by_hash_whatever_the_order_of_the_source(tmp_path: Path) -> None:
    source = open_yolo(write_yolo(tmp_path / "source", logical_dataset(9)))
    dataset = prepare(source, tmp_path / "out", splits=parse_splits("train=1"))
    names = [record.image_id for record in dataset.records("train")]
    assert names == sorted(names, key=place_in_shard) != sorted(names)
    references = source.scan().references
    backwards = [outcome.image_id for outcome in Loader(source, repair=False)(references[::-1])]
    assert backwards == names


def test_several_processes_prepare_the_same(tmp_path: Path) -> None:
    """Sources, references and findings travel to other processes and back."""
    broken = MAKE["mot"](tmp_path)
    options = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    here, there = (
        SourceBuilder(broken.open(), name="x", out=tmp_path / name, running=Running("FnApiRunner", arguments)).prepare()
        for name, arguments in (("here", ()), ("there", options))
    )
    assert digests(here.path) == digests(there.path)
    assert (here.path / "audit.json").read_bytes() == (there.path / "audit.json").read_bytes()


def test_a_moved_source_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing of where the source lies, or when it was written, gets into the shards."""
    source = write_coco(tmp_path / "source", logical_dataset(5))
    first = prepare(open_coco(source), tmp_path / "a")
    moved = shutil.copytree(source, tmp_path / "deeper" / "elsewhere")
    assert digests(prepare(open_coco(moved), tmp_path / "b").path) == digests(first.path)


def test_the_directory_holds_what_it_should(tmp_path: Path) -> None:
    dataset = prepare(open_yolo(write_yolo(tmp_path / "s", logical_dataset(5))), tmp_path / "out", "x")
    assert dataset.path == tmp_path / "out" / "x" / "1.0.0"
    names = {path.name for path in dataset.path.iterdir()} - set(digests(dataset.path))
    assert names == {
        "audit.json",
        "manifest.json",
        "features.json",
        "dataset_info.json",
        "objects-label.labels.txt",
    }
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]
    assert [path.name for path in (tmp_path / "out" / "x").iterdir()] == ["1.0.0"]


def test_manifest(tmp_path: Path) -> None:
    source = open_yolo(write_yolo(tmp_path / "s", logical_dataset(5), ("köttur",)))
    builder = SourceBuilder(source, name="x", out=tmp_path, origin={"source": "from\udce9", "options": {"seed": 3}})
    manifest = builder.prepare().manifest
    assert manifest["schema_version"] == 1 and manifest["kind"] == "images"
    assert manifest["categories"] == [{"name": "köttur", "source_id": 0}]
    assert (manifest["source"], manifest["options"]) == ("from\udce9", {"seed": 3})
    assert sum(split["count"] for split in manifest["splits"].values()) == 5
    assert len(manifest["fingerprint"]) == 64


def test_existing_output_is_refused_and_kept(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "source", logical_dataset(3))
    dataset = prepare(open_yolo(source), tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(UsageError, match="is already there; delete it, or choose another --out or --name"):
        prepare(open_yolo(source), tmp_path / "out")
    assert contents(tmp_path / "out") == before and dataset.splits
    other = open_yolo(write_yolo(tmp_path / "other", logical_dataset(3), ("another", "class")))
    with pytest.raises(UsageError, match="is already there"):
        prepare(other, tmp_path / "out")
    write(dataset.path / "dataset_info.json", "{")
    with pytest.raises(UsageError, match="is already there, and damaged; delete it"):
        prepare(other, tmp_path / "out")


@pytest.mark.parametrize(
    "running",
    [Running("Nobody"), Running("FnApiRunner", ("--direct_running_mode=multi_threading",))],
)
def test_bad_runners_are_refused_before_anything_is_made(running: Running, tmp_path: Path) -> None:
    source = open_yolo(write_yolo(tmp_path / "s", logical_dataset(3)))
    with pytest.raises(UsageError):
        SourceBuilder(source, name="x", out=tmp_path / "out", running=running).prepare()
    assert not (tmp_path / "out").exists()


def test_frame_ranges_are_for_frames(tmp_path: Path) -> None:
    """Splits of data.yaml may have the very names of the ranges; the ranges must not be passed over."""
    write_yolo(tmp_path / "s", [Picture("train/1"), Picture("val/2")])
    write(tmp_path / "s" / "data.yaml", "train: images/train\nval: images/val\nnames: [thing]\n")
    with pytest.raises(UsageError, match="only sequences of frames"):
        prepare(open_yolo(tmp_path / "s"), tmp_path / "out", splits=parse_splits("train=1-5,validation=6-9"))


def test_output_that_is_a_file(tmp_path: Path) -> None:
    out = write(tmp_path / "out", "not a directory")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        prepare(open_yolo(write_yolo(tmp_path / "s", logical_dataset(2))), out)


def test_differences_of_undecodable_frames_are_quarantined(tmp_path: Path) -> None:
    """A frame whose header is right and whose pixels are not passes ingestion, and is found by the diff."""
    pictures = [Picture(f"walk/{i:06d}", things=(Thing(0, (1, 1, 9, 9)),)) for i in (1, 2, 3)]
    write_mot(tmp_path / "s", pictures)
    whole = photograph(seed=5, encoding="PNG", orientation=1)
    at = whole.find(b"IDAT") + 200
    write(tmp_path / "s" / "walk" / "img1" / "000003.jpg", whole[:at] + b"damage" + whole[at + 6 :])
    pairs = prepare(open_mot(tmp_path / "s", PairOptions(1)), tmp_path / "out", "pairs")
    assert pairs.splits == {"train": 2}
    made = DifferencesBuilder(pairs, name="d", out=tmp_path / "out").prepare()
    audit = load_json(made.path / "audit.json")
    assert audit["quarantined"] == ["walk/000002-000003"] and made.splits == {"train": 1}
    assert [finding["code"] for finding in audit["findings"]] == ["image-unreadable"]


def test_differences_are_of_pairs(tmp_path: Path) -> None:
    images = prepare(open_yolo(write_yolo(tmp_path / "s", logical_dataset(2))), tmp_path / "out")
    with pytest.raises(UsageError, match="holds single images, no pairs"):
        DifferencesBuilder(images, name="d", out=tmp_path)
    pictures = [Picture(f"walk/{i:06d}") for i in (1, 2)]
    pairs = prepare(open_mot(write_mot(tmp_path / "m", pictures), PairOptions(1)), tmp_path / "out", "pairs")
    differences = DifferencesBuilder(pairs, name="d", out=tmp_path / "out").prepare()
    with pytest.raises(UsageError, match="already holds differences"):
        DifferencesBuilder(differences, name="e", out=tmp_path / "out")


# Runs an ingestion that is killed at a given point: the point, the source, and where to.
KILLED = """
import os, signal, sys
from pathlib import Path
import tensorflow_datasets as tfds
from tests.factories import prepare
from tfds_builders import builders
from tfds_builders.formats.yolo import YoloSource, open_yolo

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def after(function, calls=1):
    left = [calls]
    def wrapped(*arguments, **options):
        result = function(*arguments, **options)
        left[0] -= 1
        if not left[0]:
            die()
        return result
    return wrapped

point = sys.argv[1]
if point == "no name":
    builders._write_json = die
elif point == "half a name":
    Path.replace = die
elif point == "third image":
    YoloSource.load = after(YoloSource.load, 3)
elif point == "job done":
    builders.run_shard_job = after(builders.run_shard_job)
elif point == "description written":
    tfds.core.DatasetInfo.write_to_directory = after(tfds.core.DatasetInfo.write_to_directory)
elif point == "named":
    base = builders.dataset_builder.DatasetBuilder
    base.download_and_prepare = after(base.download_and_prepare)
prepare(open_yolo(Path(sys.argv[2])), Path(sys.argv[3]))
"""
POINTS = ["no name", "half a name", "third image", "job done", "description written"]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A source, and the digests of the shards that it should give."""
    root = tmp_path_factory.mktemp("clean")
    source = write_yolo(root / "source", logical_dataset(8))
    return source, digests(prepare(open_yolo(source), root / "out").path)


def kill(point: str, source: Path, out: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, point, str(source), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_job_leaves_nothing_that_loads(point: str, clean: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    source, shards = clean
    kill(point, source, tmp_path)
    target = tmp_path / "dataset" / "1.0.0"
    leftovers = list((tmp_path / "dataset").iterdir())
    assert len(leftovers) == 1 and leftovers[0].name.startswith("incomplete."), "it was killed half-way"
    assert not target.exists()
    for path in (tmp_path, tmp_path / "dataset", target):
        with pytest.raises(UsageError, match="is no prepared dataset") as caught:
            PreparedDataset(path)
        assert "incomplete." not in caught.value.remedy
        with pytest.raises(DatasetInfoFileError):
            tfds.builder_from_directory(path)
    if point != "description written":  # Complete then, but for its name.
        with pytest.raises(UsageError):
            PreparedDataset(leftovers[0])
    dataset = prepare(open_yolo(source), tmp_path)
    assert dataset.path == target and digests(target) == shards
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["1.0.0"], "the leftover is swept"
    assert not (target / ".owner.json").exists()


def test_a_job_killed_after_its_last_step_is_done(clean: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    source, shards = clean
    kill("named", source, tmp_path)
    dataset = PreparedDataset(tmp_path / "dataset" / "1.0.0")
    assert digests(dataset.path) == shards and sum(dataset.splits.values()) == 8


def test_only_what_the_dead_left_is_swept(clean: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    source, _ = clean
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = socket.gethostname()
    owners = {
        "incomplete.DEAD_1.0.0": {"host": here, "pid": dead.pid},
        "incomplete.SAME_1.0.0": {"host": here, "pid": os.getpid()},
        "incomplete.LIVE_1.0.0": {"host": here, "pid": alive.pid},
        "incomplete.ELSE_1.0.0": {"host": "another machine", "pid": dead.pid},
    }
    for name, owner in owners.items():
        write(tmp_path / "dataset" / name / ".owner.json", json.dumps(owner))
    write(tmp_path / "dataset" / "incomplete.TFDS_1.0.0" / "shard", "of somebody else")
    (tmp_path / "dataset" / "incomplete.VOID_1.0.0").mkdir()
    try:
        prepare(open_yolo(source), tmp_path)
    finally:
        alive.communicate(b"\n")
    assert sorted(path.name for path in (tmp_path / "dataset").iterdir()) == [
        "1.0.0",
        "incomplete.ELSE_1.0.0",
        "incomplete.LIVE_1.0.0",
        "incomplete.TFDS_1.0.0",
    ]
