"""VIRAT object files: what is written."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.images import read_header
from dataflow.records import Categories, ImageRecord, Objects, no_objects
from tests.factories import load, photograph
from tests.tfds_builders.record_strategies import datasets
from tfds_builders.formats.virat import open_virat
from tfds_builders.formats.virat_writer import ViratWriter

CLIP = "VIRAT_S_000001"
TXT = f"annotations/{CLIP}.viratdata.objects.txt"
NAMES = ("person", "car", "vehicle", "object", "bike")
ROW = "7 3 1 24 12 16 24 2\n"  # Object 7 for 3 frames: in frame 1 a car at 24, 12 of 16 x 24 px.


def record(name: str, objects: Objects, image: bytes = photograph(), group: str | None = None) -> ImageRecord:
    scene = name.rpartition("/")[0] if group is None else group
    return ImageRecord(name, image, *read_header(image).size, objects, scene, "somewhere")


def written(
    out: Path, names: Sequence[str], *records: ImageRecord, splits: tuple[str, ...] = ("train",)
) -> ViratWriter:
    writer = ViratWriter(out, Categories(tuple(names)), splits)
    for each in records:
        writer.add(each, splits[0])
    writer.close()
    assert writer.losses.pop("splits") == len(records)
    return writer


def things(*boxes: Sequence[float], kinds: Sequence[int] = (), tracks: Sequence[int] | None = None) -> Objects:
    kinds = kinds or [0] * len(boxes)
    return Objects(
        np.reshape(boxes, (-1, 4)), np.array(kinds, int), track_ids=None if tracks is None else np.array(tracks)
    )


class TestWriter:
    def test_the_files(self, tmp_path: Path) -> None:
        """In any order, since shards know of no clip."""
        boxes = ((0, 0, 10.5, 20), (1.25, 2, 3, 4))
        records = [
            record("walk/000010", things(*boxes, kinds=(1, 0), tracks=(3, 0))),
            record("walk/000002", things(boxes[0], kinds=(1,), tracks=(3,))),
            record("walk/000003", no_objects()),
            record("still/000000", things(boxes[1], boxes[0])),
        ]
        assert written(tmp_path, ["person", "bike"], *records).losses == {"class ids of the source": 2}
        assert (tmp_path / "annotations" / "walk.viratdata.objects.txt").read_text() == (
            "3 9 2 0 0 10.5 20 5\n3 9 10 0 0 10.5 20 5\n0 1 10 1.25 2 1.75 2 1\n"
        )
        assert (tmp_path / "annotations" / "still.viratdata.objects.txt").read_text() == (
            "-1 1 0 1.25 2 1.75 2 1\n-1 1 0 0 0 10.5 20 1\n"
        )
        files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        assert files == {
            *(f"annotations/{name}.viratdata.objects.txt" for name in ("walk", "still")),
            *(f"frames/{name}.jpg" for name in ("walk/000010", "walk/000002", "walk/000003", "still/000000")),
        }

    def test_numpy_reads_it(self, tmp_path: Path) -> None:
        """As most who use VIRAT read it."""
        written(tmp_path, ["person"], record("walk/000010", things((0, 0, 10.5, 20), (1, 2, 3, 4), tracks=(3, 0))))
        rows = np.loadtxt(tmp_path / "annotations" / "walk.viratdata.objects.txt")
        assert rows.tolist() == [[3, 1, 10, 0, 0, 10.5, 20, 1], [0, 1, 10, 1, 2, 2, 2, 1]]

    def test_losses(self, tmp_path: Path) -> None:
        objects = Objects(
            boxes=np.array([[1, 2, 30, 40]] * 5) + np.arange(5)[:, None],
            category_ids=np.array([0, 1, 0, 0, 0]),
            areas=np.array([29 * 38, 29 * 38, 29 * 38, 29 * 38, 7]),
            is_crowd=np.array([True, False, False, False, False]),
            is_truncated=np.array([True, True, False, False, False]),
            track_ids=np.array([1, 2, 2, -1, 2**60]),
        )
        writer = written(tmp_path, ["car", "cat"], record("a", objects, group="a"), splits=("train", "test"))
        assert writer.losses == {
            "regions to ignore": 1,
            "truncated marks": 1,
            "classes of objects": 1,
            "track ids": 2,
            "areas other than the shape's": 1,
            "image ids": 1,
            "class ids of the source": 1,
        }
        loaded = load(open_virat(tmp_path))
        assert loaded.column("a/000000", "id") == [2, -1, -1, -1]
        assert loaded.column("a/000000", "label") == [3, 1, 1, 1]

    def test_clips_that_differ_in_case_alone(self, tmp_path: Path) -> None:
        writer = written(tmp_path, ["car"], record("a/000001", no_objects()), record("A/000001", no_objects()))
        assert writer.losses == {"image ids": 1, "scenes": 1, "class ids of the source": 1}
        assert sorted(load(open_virat(tmp_path)).outcomes) == ["A-2/000001", "a/000001"]

    @settings(max_examples=60)
    @given(made=datasets(), are_frames=st.booleans())
    def test_any_records(self, made: tuple[Categories, list[tuple[str, ImageRecord]]], are_frames: bool) -> None:
        """Of VIRAT's classes and of others, of ids that are frames and of others."""
        names = NAMES if are_frames else made[0].names
        records = [each for _, each in made[1]]
        if are_frames:
            records = [_as_frame(each, number) for number, each in enumerate(records)]
        with tempfile.TemporaryDirectory() as folder:
            losses = written(Path(folder), names, *records).losses
            loaded = load(open_virat(Path(folder)))
        assert len(loaded.outcomes) == len(records) and not loaded.quarantined
        kept_ids = [each for each in records if each.image_id in loaded.outcomes]
        assert losses["image ids"] == len(records) - len(kept_ids) and (not are_frames or kept_ids == records)
        for each in kept_ids:
            keep, objects = ~each.objects.is_crowd, each.objects
            tracks = np.full(len(keep), -1) if objects.track_ids is None else objects.track_ids
            assert loaded.example(each.image_id)["image"] == each.image
            assert np.abs(loaded.boxes(each.image_id) - objects.boxes[keep]).max(initial=0) < 1e-2
            assert loaded.column(each.image_id, "id") == tracks[keep].tolist()
            kinds = objects.category_ids[keep] if are_frames else np.full(keep.sum(), 3)
            assert loaded.column(each.image_id, "label") == kinds.tolist()
        count = sum(int((~each.objects.is_crowd).sum()) for each in records)
        assert losses["classes of objects"] == (0 if are_frames else count)
        assert losses["regions to ignore"] == sum(len(each.objects) for each in records) - count


def _as_frame(each: ImageRecord, number: int) -> ImageRecord:
    """The same as a frame of a clip, of VIRAT's classes."""
    objects = replace(each.objects, category_ids=each.objects.category_ids % len(NAMES))
    return replace(each, image_id=f"{each.image_id}/{number:06d}", group_id=each.image_id, objects=objects)
