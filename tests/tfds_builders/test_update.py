"""Updates: only what changed is written again, and the result is what a new build would give."""

import os
import shutil
from pathlib import Path

import pytest

from dataflow.errors import UsageError
from dataflow.prepared import METRICS, PreparedDataset
from tests.factories import Picture, logical_dataset, photograph, prepare, write, write_coco, write_mot, write_yolo
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.planning import PlanOptions
from tfds_builders.sources.pairing import PairOptions

PLAN = PlanOptions(seed=0, shards=8)
NOT_COMPARED = {"inputs.json", METRICS}  # They hold times of files, and of the work.


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_yolo(tmp_path / "source", logical_dataset(40))


def build(source: Path, out: Path, update: bool = False, plan: PlanOptions = PLAN) -> PreparedDataset:
    return prepare(open_yolo(source), out, update=update, plan=plan, policy="repair")


def files(dataset: PreparedDataset) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in dataset.path.iterdir() if path.name not in NOT_COMPARED}


def shard_files(dataset: PreparedDataset) -> dict[str, int]:
    """Which file on the disk each shard is: a shard that is kept is the same file."""
    return {path.name: path.stat().st_ino for path in dataset.path.glob("*.tfrecord*")}


def updated(source: Path, tmp_path: Path, plan: PlanOptions = PLAN) -> tuple[set[str], set[str]]:
    """Update the dataset in `a`, compare it with a new one, and return (shards written, shards kept)."""
    before = PreparedDataset(tmp_path / "a" / "dataset" / "1.0.0")
    old = shard_files(before)
    after = build(source, tmp_path / "a", update=True, plan=plan)
    assert [path.name for path in after.path.parent.iterdir()] == ["1.0.0"], "nothing is left behind"
    assert files(after) == files(build(source, tmp_path / "b", plan=plan)), "it is as if made anew"
    new = shard_files(after)
    kept = {name for name, inode in new.items() if old.get(name) == inode}
    return new.keys() - kept, kept


def test_nothing_changed_nothing_is_written(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "a")
    written, kept = updated(source, tmp_path)
    assert not written and len(kept) == 16


def test_an_image_more_touches_one_shard(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "a")
    write_yolo(source, [Picture("scene/new")])
    written, kept = updated(source, tmp_path)
    assert len(written) == 1 and len(kept) == 15


def test_an_image_less_touches_one_shard(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "a")
    (source / "images" / "scene" / "000007.jpg").unlink()
    (source / "labels" / "scene" / "000007.txt").unlink()
    written, _ = updated(source, tmp_path)
    assert len(written) == 1


@pytest.mark.parametrize("file", ["images/scene/000005.jpg", "labels/scene/000005.txt"])
def test_a_changed_file_touches_one_shard(file: str, source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "a")
    write(source / file, photograph(60, 70, seed=99) if file.endswith("jpg") else "0 0.5 0.5 0.25 0.5\n")
    written, kept = updated(source, tmp_path)
    assert len(written) == 1 and len(kept) == 15


def test_a_label_that_went_missing_is_found_again(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "a")
    (source / "labels" / "scene" / "000005.txt").unlink()
    written, _ = updated(source, tmp_path)
    assert len(written) == 1
    audit = (tmp_path / "a" / "dataset" / "1.0.0" / "audit.json").read_text()
    assert "label-missing" in audit


def test_findings_of_kept_shards_stay(source: Path, tmp_path: Path) -> None:
    write(source / "images" / "bad.jpg", b"no photograph")
    write(source / "labels" / "bad.txt", "")
    build(source, tmp_path / "a")
    write_yolo(source, [Picture("scene/new")])
    written, _ = updated(source, tmp_path)
    assert len(written) == 1
    assert "image-unreadable" in (tmp_path / "a" / "dataset" / "1.0.0" / "audit.json").read_text()


def test_duplicates_are_seen_across_old_and_new(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "a")
    shutil.copy(source / "images" / "scene" / "000003.jpg", source / "images" / "copy.jpg")
    write(source / "labels" / "copy.txt", "0 0.5 0.5 0.25 0.5\n")
    updated(source, tmp_path)
    audit = (tmp_path / "a" / "dataset" / "1.0.0" / "audit.json").read_text()
    assert "duplicate-content" in audit


@pytest.mark.parametrize("change", ["names", "policy", "exif", "shards", "file_format", "seed"])
def test_another_option_writes_all_that_it_changes(change: str, source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "a")
    before = shard_files(PreparedDataset(tmp_path / "a" / "dataset" / "1.0.0"))
    if change == "names":
        write(source / "classes.txt", "something else\n")
    plan = {"shards": PlanOptions(seed=0, shards=4), "seed": PlanOptions(seed=1, shards=8)}.get(change, PLAN)
    options: dict[str, str] = {"exif": {"exif": "ignore"}, "file_format": {"file_format": "array_record"}}.get(
        change, {}
    )
    policy = "quarantine" if change == "policy" else "repair"
    made = [
        prepare(open_yolo(source), tmp_path / out, update=True, plan=plan, policy=policy, **options)  # type: ignore[arg-type]
        for out in "ab"
    ]
    assert files(made[0]) == files(made[1])
    kept = {name for name, inode in shard_files(made[0]).items() if before.get(name) == inode}
    assert not kept or change == "seed"


def test_the_seed_of_the_first_build_stays(tmp_path: Path) -> None:
    """Data that is added must not let the search for a balanced seed move the scenes that were there."""
    names = ("a", "b", "c", "d")
    source = write_yolo(tmp_path / "s", logical_dataset(8, classes=4, seed=5), names)
    first = prepare(open_yolo(source), tmp_path / "out")
    where = {record.image_id: split for split in first.splits for record in first.records(split)}
    write_yolo(source, logical_dataset(60, classes=4, seed=6)[8:], names)
    second = prepare(open_yolo(source), tmp_path / "out", update=True)
    assert second.manifest["options"]["seed"] == first.manifest["options"]["seed"]
    now = {record.image_id: split for split in second.splits for record in second.records(split)}
    assert len(now) == 60 and {name: now[name] for name in where} == where


def test_a_source_that_became_bad_leaves_the_old_dataset(source: Path, tmp_path: Path) -> None:
    before = files(build(source, tmp_path / "a"))
    shutil.rmtree(source / "images")
    (source / "images").mkdir()
    write(source / "images" / "x.jpg", b"")
    with pytest.raises(Exception, match="nothing could be prepared"):
        build(source, tmp_path / "a", update=True)
    assert files(PreparedDataset(tmp_path / "a" / "dataset" / "1.0.0")) == before
    assert [path.name for path in (tmp_path / "a" / "dataset").iterdir()] == ["1.0.0"]


def test_without_update_it_is_refused(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "a")
    with pytest.raises(UsageError, match="--update"):
        build(source, tmp_path / "a")


def test_update_of_nothing_is_a_build(source: Path, tmp_path: Path) -> None:
    assert sum(build(source, tmp_path / "new", update=True).splits.values()) == 40


def test_a_shard_that_is_gone_is_written_again(source: Path, tmp_path: Path) -> None:
    dataset = build(source, tmp_path / "a")
    before = files(dataset)
    dataset.shards("train")[3].path.unlink()
    assert files(build(source, tmp_path / "a", update=True)) == before


def test_a_touched_file_gives_the_same_again(source: Path, tmp_path: Path) -> None:
    before = files(build(source, tmp_path / "a"))
    os.utime(source / "images" / "scene" / "000001.jpg", (1, 1))
    written, _ = updated(source, tmp_path)
    assert len(written) == 1
    assert files(PreparedDataset(tmp_path / "a" / "dataset" / "1.0.0")) == before


def test_differences_follow_their_pairs(tmp_path: Path) -> None:
    pictures = [Picture(f"walk/{i:06d}") for i in range(1, 9)]
    source = write_mot(tmp_path / "s", pictures)
    plan = PlanOptions(seed=0, shards=4)
    pairs = prepare(open_mot(source, PairOptions(1)), tmp_path / "out", "pairs", plan=plan)
    first = DifferencesBuilder(pairs, name="d", out=tmp_path / "out").prepare()
    old = shard_files(first)
    write(source / "walk" / "img1" / "000008.jpg", photograph(seed=77))
    pairs = prepare(open_mot(source, PairOptions(1)), tmp_path / "out", "pairs", plan=plan, update=True)
    second = DifferencesBuilder(pairs, name="d", out=tmp_path / "out", update=True).prepare()
    new = shard_files(second)
    assert sum(new[name] != old[name] for name in new) == 1
    assert files(second) == files(DifferencesBuilder(pairs, name="d", out=tmp_path / "fresh").prepare())


def test_a_photograph_added_to_coco_touches_one_shard(tmp_path: Path) -> None:
    """Behind the others: what is put before them moves their places in the file, which their provenance names."""
    pictures = logical_dataset(40)
    made = []
    for n in (39, 40):
        source = write_coco(tmp_path / "s", pictures[:n])
        for photo in source.rglob("*.jpg"):
            os.utime(photo, (1, 1))  # They were written again, but are the same.
        made.append(shard_files(prepare(open_coco(source), tmp_path / "out", plan=PLAN, update=True)))
    assert sum(made[1][name] != made[0][name] for name in made[1]) == 1
