"""Records written as MOTChallenge sequences: read back equal, and as a strict reader wants them."""

import configparser
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.records import Categories, ImageRecord, Objects, no_objects
from tests.factories import Loaded, load, photograph
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.mot_writer import MotWriter

PERSON = Categories(("person",))
NAMELESS = Categories(("object",))
UNNAMED = "the name of the one class"
Item = tuple[ImageRecord, str]


def image(image_id: str, objects: Objects | None = None, group: str | None = None, **fields: object) -> ImageRecord:
    """A frame of 64 x 48 px, of the scene that its id begins with unless `group` says another."""
    return ImageRecord(
        image_id=image_id,
        image=fields.pop("image", photograph(seed=sum(image_id.encode()))),  # type: ignore[arg-type]
        height=48,
        width=64,
        objects=no_objects() if objects is None else objects,
        group_id=image_id.rpartition("/")[0] if group is None else group,
        provenance="test",
        **fields,  # type: ignore[arg-type]
    )


def things(*boxes: tuple[float, float, float, float], tracks: tuple[int, ...] | None, crowd: int = -1) -> Objects:
    """Boxes of class 0 with tracks; the one at place `crowd` is to be ignored."""
    return Objects(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        category_ids=np.zeros(len(boxes), np.int64),
        is_crowd=np.arange(len(boxes)) == crowd,
        track_ids=None if tracks is None else np.array(tracks),
    )


def export(out: Path, items: Iterable[Item], categories: Categories = NAMELESS) -> Counter[str]:
    """Write records; what was lost beside the splits, which no sequence says."""
    listed = list(items)
    writer = MotWriter(out, categories, tuple(dict.fromkeys(split for _, split in listed)))
    for record, split in listed:
        writer.add(record, split)
    writer.close()
    assert writer.losses.pop("splits") == len(listed)
    return writer.losses


def read(out: Path, name: str = "object") -> Loaded:
    """What our reader makes of it, which must be without findings."""
    loaded = load(open_mot(out, name=name))
    assert not [finding for finding in loaded.findings if finding.severity == "error"], loaded.findings
    return loaded


def assert_equal(loaded: Loaded, record: ImageRecord) -> None:
    example, objects = loaded.example(record.image_id), record.objects
    assert example["image"] == record.image
    assert (example["image/height"], example["image/width"], example["scene"]) == (*record.size, record.group_id)
    np.testing.assert_allclose(loaded.boxes(record.image_id), objects.boxes, rtol=0, atol=1e-2)
    assert loaded.column(record.image_id, "is_crowd") == objects.is_crowd.tolist()
    tracks = [-1] * len(objects) if objects.track_ids is None else objects.track_ids.tolist()
    assert loaded.column(record.image_id, "id") == tracks


BOXES = ((0.0, 0.0, 64.0, 48.0), (63.0, 47.0, 64.0, 48.0), (1.25, 2.5, 9.125, 20.0))


def test_everything_it_holds(tmp_path: Path) -> None:
    """In any order: shards know of no sequence."""
    records = [
        image("wälk/000010", things(*BOXES, tracks=(3, 0, 7), crowd=2)),
        image("wälk/000002", things(*BOXES, tracks=(7, 3, -1))),
        image("犬 2/000001"),
        image("wälk/000003"),
        image("detections/000001", things(*BOXES, tracks=None), filename="x/000001.JPG"),
        image("detections/1234567", image=photograph(encoding="PNG")),
    ]
    assert export(tmp_path, [(record, "train") for record in records]) == {}
    loaded = read(tmp_path)
    assert loaded.outcomes.keys() == {record.image_id for record in records}
    for record in records:
        assert_equal(loaded, record)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        *(f"wälk/img1/{number:06d}.jpg" for number in (2, 3, 10)),
        "犬 2/img1/000001.jpg",
        "detections/img1/000001.JPG",
        "detections/img1/1234567.png",
        *(f"{name}/{file}" for name in ("wälk", "犬 2", "detections") for file in ("gt/gt.txt", "seqinfo.ini")),
    }


def test_files(tmp_path: Path) -> None:
    """Rows are by frame, of nine columns; pixels begin at 1."""
    items = [
        image("walk/000010", things((0, 0, 10.5, 20), (1.25, 2, 3, 4), tracks=(3, 4), crowd=1)),
        image("walk/000002", things((0.1, 0, 10, 20), tracks=None)),
    ]
    export(tmp_path, [(record, "train") for record in items])
    assert (tmp_path / "walk" / "gt" / "gt.txt").read_text() == (
        "2,-1,1.1,1,9.9,20,1,1,1\n10,3,1,1,10.5,20,1,1,1\n10,4,2.25,3,1.75,2,0,1,1\n"
    )
    info = configparser.ConfigParser()
    info.read(tmp_path / "walk" / "seqinfo.ini")
    assert dict(info["Sequence"]) == {
        "name": "walk",
        "imdir": "img1",
        "framerate": "1",
        "seqlength": "10",
        "imwidth": "64",
        "imheight": "48",
        "imext": ".jpg",
    }


def test_tracks_are_unique_within_frames(tmp_path: Path) -> None:
    """Evaluation of tracks refuses a frame with one track twice; what has none is not given any."""
    objects = things(*BOXES, (5, 5, 8, 8), tracks=(1, 1, 2**60, -1))
    assert export(tmp_path, [(image("walk/000001", objects), "train")]) == {"track ids": 2}
    assert read(tmp_path).column("walk/000001", "id") == [1, -1, -1, -1]


def test_images_that_are_no_frames_are_numbered_by_their_ids(tmp_path: Path) -> None:
    ids = ["walk/frame_10", "walk/frame_9", "walk/000002", "walk/cover", "walk/3", "walk/sub/000001"]
    records = {name: image(name, things(BOXES[i % 3], tracks=(i,)), group="walk") for i, name in enumerate(ids)}
    losses = export(tmp_path, [(record, "train") for record in records.values()])
    assert losses == {"image ids": 5}
    loaded = read(tmp_path)
    order = ["walk/3", "walk/000002", "walk/cover", "walk/frame_9", "walk/frame_10", "walk/sub/000001"]
    for number, name in enumerate(order, 1):
        assert loaded.example(f"walk/{number:06d}")["image"] == records[name].image
        assert loaded.column(f"walk/{number:06d}", "id") == [ids.index(name)]
    assert len(loaded.outcomes) == 6


def test_images_that_are_scenes_of_their_own(tmp_path: Path) -> None:
    """As from COCO. Without tracks nothing is mixed up where ids make them frames of one sequence."""
    plain = things(BOXES[0], tracks=None)
    tracked = things(BOXES[0], tracks=(1,))
    items = [
        image("photos/000001", plain, group="photos/000001"),
        image("photos/000002", plain, group="photos/000002"),
        image("films/000001", tracked, group="film 1"),
        image("000000000009", plain, group="000000000009"),
        image("a/b", plain, group="a/b"),
    ]
    losses = export(tmp_path, [(record, "train") for record in items])
    assert losses == {"scenes": 3, "image ids": 3}
    loaded = read(tmp_path)
    assert loaded.outcomes.keys() == {
        "photos/000001",
        "photos/000002",
        "film 1/000001",
        "000000000009/000001",
        "a_b/000001",
    }


def test_scenes_whose_names_collide(tmp_path: Path) -> None:
    scenes = ["a/b", "a_b", "A_B", "../x", ".", "a\\b"]
    items = [image(f"{scene}/{i}", group=scene) for i, scene in enumerate(scenes)]
    losses = export(tmp_path / "out", [(record, "train") for record in items])
    assert losses["image ids"] == 6 and len(read(tmp_path / "out").outcomes) == 6
    assert len(list((tmp_path / "out").iterdir())) == 6 and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_it_cannot_hold(tmp_path: Path) -> None:
    objects = Objects(
        boxes=np.array(BOXES, np.float32),
        category_ids=np.array([0, 1, 1]),
        areas=np.array([10, 1, 17.5 * 7.875], np.float32),
        is_truncated=np.array([True, False, False]),
        segmentations=("[[1,2,3,4,5,6]]", "", ""),
        changes=np.array([0, 1, 2]),
    )
    turned = photograph(48, 64, orientation=6)
    items = [
        (image("walk/000001", objects, source_id="7"), "train"),
        (image("walk/000002", image=turned, orientation=1), "validation"),
    ]
    losses = export(tmp_path, items, Categories(("cat", "dog")))
    exif = next(phrase for phrase in losses if phrase.startswith("EXIF"))
    assert losses == {
        "classes of objects": 3,
        "truncated marks": 1,
        "masks": 1,
        "areas other than the shape's": 1,
        "changes": 2,
        "ids of the source": 1,
        exif: 1,
    }


@pytest.mark.parametrize(("names", "lost"), [(("person",), {UNNAMED: 3}), (("object",), {})])
def test_the_name_of_the_one_class(names: tuple[str, ...], lost: dict[str, int], tmp_path: Path) -> None:
    item = image("walk/000001", things(*BOXES, tracks=None))
    assert export(tmp_path, [(item, "train")], Categories(names)) == lost
    assert_equal(read(tmp_path, name=names[0]), item)


numbers = st.floats(0, 40, width=32)
# Boxes within the first pixel alone are taken for relative ones.
objects_of_frames = st.lists(
    st.tuples(numbers, numbers, st.floats(1.25, 24, width=32), st.floats(1.25, 8, width=32), st.booleans()),
    max_size=5,
)
frames = st.dictionaries(
    st.tuples(st.sampled_from(["a", "é b", "c.d"]), st.integers(0, 10**8)),
    st.tuples(objects_of_frames, st.none() | st.permutations(range(5))),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(data=frames)
def test_any_frames(data: dict[tuple[str, int], tuple[list[tuple[float, ...]], list[int] | None]]) -> None:
    records = []
    for (scene, number), (rows, tracks) in data.items():
        boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in rows], np.float32).reshape(-1, 4)
        objects = Objects(
            boxes=boxes,
            category_ids=np.zeros(len(rows), np.int64),
            is_crowd=np.array([bool(row[4]) for row in rows], np.bool_),
            track_ids=None if tracks is None else np.array(tracks[: len(rows)], np.int64),
        )
        records.append(image(f"{scene}/{number:06d}", objects))
    with tempfile.TemporaryDirectory() as folder:
        assert export(Path(folder), [(record, "train") for record in records]) == {}
        loaded = read(Path(folder))
        assert len(loaded.outcomes) == len(records)
        for record in records:
            assert_equal(loaded, record)
