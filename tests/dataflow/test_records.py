"""Records are frozen and refuse to be made wrong."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from dataflow.errors import ShardboxError
from dataflow.pairs.valid_pixels import whole_mask
from dataflow.records import (
    Categories,
    Change,
    FramePair,
    ImageRecord,
    Objects,
    Predictions,
    RecordError,
    no_objects,
)
from tests.factories import photograph

BOX = [1.0, 2.0, 5.0, 8.0]


def objects(n: int = 1, **fields: Any) -> Objects:
    return Objects(**{"boxes": [BOX] * n, "category_ids": [0] * n, **fields})


def record(**fields: Any) -> ImageRecord:
    defaults = {
        "image_id": "a",
        "image": b"x",
        "height": 8,
        "width": 6,
        "objects": objects(),
        "group_id": "scene",
        "provenance": "a.txt:1",
    }
    return ImageRecord(**{**defaults, **fields})


def test_objects_have_the_promised_types_and_defaults() -> None:
    made = objects(2)
    assert (made.boxes.dtype, made.boxes.shape) == (np.float32, (2, 4))
    assert (made.category_ids.dtype, made.is_crowd.dtype) == (np.int64, np.bool_)
    assert made.areas.tolist() == [24, 24] and made.areas.dtype == np.float32
    assert made.is_crowd.tolist() == [False, False]
    assert made.track_ids is None and made.changes is None
    assert len(made) == 2


def test_no_objects() -> None:
    empty = no_objects()
    assert len(empty) == 0 and empty.boxes.shape == (0, 4)
    empty.check_inside((1, 1), n_categories=1)


def test_nothing_can_be_written_to() -> None:
    boxes = np.array([BOX], np.float32)
    made = objects(boxes=boxes, track_ids=[7], changes=[Change.MOVED])
    for name in ("boxes", "category_ids", "areas", "is_crowd", "track_ids", "changes"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(made, name)[0] = 0
    boxes[0] = 0  # The caller's own array was copied.
    assert made.boxes.tolist() == [BOX]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.boxes = boxes  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        record().height = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", ["category_ids", "areas", "is_crowd", "track_ids", "changes"])
def test_one_of_each_per_box(name: str) -> None:
    with pytest.raises(RecordError, match=f"2 boxes but 3 {name}"):
        objects(2, **{name: np.array([1, 1, 1])})


@pytest.mark.parametrize("bad", [[5, 2, 1, 8], [1, 8, 5, 2], [1, 2, 1, 8], [1, 2, 5, 2]])
def test_empty_and_reversed_boxes(bad: list[float]) -> None:
    with pytest.raises(RecordError, match="empty or reversed"):
        objects(boxes=[bad])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_boxes_are_finite(number: float) -> None:
    for column in range(4):
        with pytest.raises(RecordError, match=r"not finite|reversed"):
            objects(boxes=[[number if i == column else BOX[i] for i in range(4)]])


def test_boxes_stay_inside_their_image() -> None:
    record(objects=objects(boxes=[[0, 0, 6, 8]]))
    for bad in ([0, 0, 6.001, 8], [0, 0, 6, 8.001], [-0.001, 0, 6, 8], [0, -0.001, 6, 8]):
        with pytest.raises(RecordError, match="leave the image of 6x8 px"):
            record(objects=objects(boxes=[bad]))


@pytest.mark.parametrize("category", [-1, 3])
def test_category_ids_name_a_class(category: int) -> None:
    with pytest.raises(RecordError, match="is not among 3 classes"):
        objects(category_ids=[category]).check_inside((8, 6), n_categories=3)


def test_images_have_an_id_and_pixels() -> None:
    with pytest.raises(RecordError, match=r"a\.txt:1 has no id"):
        record(image_id="")
    with pytest.raises(RecordError, match="is 0x8 px"):
        record(width=0, objects=no_objects())
    assert record().size == (8, 6)


def test_categories() -> None:
    assert Categories(("a", "b")).source_ids == (0, 1)
    assert len(Categories(["a", "b"], [3, 90])) == 2  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="no class names"):
        Categories(())
    with pytest.raises(RecordError, match="occur twice: a"):
        Categories(("a", "b", "a"))
    with pytest.raises(RecordError, match="source ids"):
        Categories(("a", "b"), (1, 1))
    with pytest.raises(RecordError, match="source ids"):
        Categories(("a", "b"), (1, 2, 3))


@pytest.mark.parametrize("name", ["", " ", " cat", "cat\n", "cat\ndog", "cat\r", "\tcat"])
def test_class_names_survive_a_file_of_one_name_a_line(name: str) -> None:
    """TFDS stores class names so, stripped, and drops blank lines: others would load under another number."""
    with pytest.raises(RecordError, match="class name"):
        Categories(("a", name))


def test_pairs_are_of_one_scene() -> None:
    FramePair("p", record(), record(image_id="b"), objects())
    with pytest.raises(RecordError, match="spans the scenes"):
        FramePair("p", record(), record(group_id="other"), objects())


def test_pairs_check_their_parts() -> None:
    with pytest.raises(RecordError, match="homography of shape"):
        FramePair("p", record(), record(), objects(), homography=np.eye(2))
    for score in (-0.1, 1.1, float("nan")):
        with pytest.raises(RecordError, match="alignment score"):
            FramePair("p", record(), record(), objects(), alignment_score=score)
    for residual in (-0.1, float("inf"), float("nan")):
        with pytest.raises(RecordError, match="alignment residual"):
            FramePair("p", record(), record(), objects(), alignment_residual=residual)
    with pytest.raises(RecordError, match="alignment model 'rigid'; use one of identity, translation"):
        FramePair("p", record(), record(), objects(), alignment_model="rigid")  # type: ignore[arg-type]
    FramePair("p", record(), record(), objects(), valid=whole_mask((8, 6)))
    for mask in (whole_mask((6, 8)), b"no PNG", photograph(8, 6, encoding="PNG")):
        with pytest.raises(RecordError, match="mask of valid pixels that is no grey PNG of the after frame's size"):
            FramePair("p", record(), record(), objects(), valid=mask)
    with pytest.raises(RecordError, match="leave the image"):
        FramePair("p", record(), record(), objects(boxes=[[0, 0, 7, 8]]))
    with pytest.raises(ValueError, match="read-only"):
        FramePair("p", record(), record(), objects()).homography[0, 0] = 2


def test_predictions() -> None:
    made = Predictions("a", [BOX], [0.5], [1], "run")  # type: ignore[arg-type]
    assert len(made) == 1 and made.boxes.dtype == made.scores.dtype == np.float32
    assert len(Predictions("a", [], [], [], "run")) == 0  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="1 boxes, 2 scores"):
        Predictions("a", [BOX], [0.5, 0.5], [1], "run")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="outside 0 to 1"):
        Predictions("a", [BOX], [1.5], [1], "run")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="not finite"):
        Predictions("a", [BOX], [np.nan], [1], "run")  # type: ignore[arg-type]


def test_errors_name_the_remedy() -> None:
    with pytest.raises(ShardboxError) as caught:
        record(width=-1)
    assert caught.value.remedy and str(caught.value).endswith(f"; {caught.value.remedy}")


def test_only_some_objects_keep_all_that_is_theirs() -> None:
    objects = Objects(
        [[0, 0, 2, 2], [1, 1, 5, 4], [2, 2, 4, 9]],
        [3, 1, 2],
        areas=[1, 2, 3],
        is_crowd=[False, True, False],
        is_truncated=[True, False, False],
        in_before=[False, False, True],
        segmentations=("", "[]", "[1]"),
        track_ids=[7, 8, 9],
        changes=[1, 2, 3],
    )
    kept = objects.only(np.array([False, True, True]))
    for name in ("boxes", "category_ids", "areas", "is_crowd", "is_truncated", "in_before", "track_ids", "changes"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(objects, name)[1:])
    assert kept.segmentations == ("[]", "[1]")
    assert not len(objects.only(np.zeros(3, np.bool_)))
    bare = Objects([[0, 0, 2, 2], [1, 1, 5, 4]], [0, 0]).only(np.array([True, False]))
    assert (len(bare), bare.track_ids, bare.changes) == (1, None, None)
