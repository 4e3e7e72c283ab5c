from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataflow.boxes import shown_to_xyxy, xyxy_to_tfds
from dataflow.bridge.batches import Target
from dataflow.bridge.drafts import Augmentation, Draft, Encoded, ExampleError, Shown, targets_of
from dataflow.bridge.drawing import ByteCanvas, Place, draw, resize
from dataflow.bridge.example_reader import ExampleReader
from dataflow.bridge.image_augmentation import Region, whole
from dataflow.bridge.resize import ResizePolicy
from dataflow.bridge.view import View, sight_of
from dataflow.images import decode_rgb, encode_png
from dataflow.prepared import PreparedDataset, Shard
from dataflow.records import Objects
from dataflow.schema import Layout, example_to_objects, examples_to_objects
from dataflow.tfrecord import read_records
from tests.dataflow.detection_sets import make_record, random_objects, write_ours
from tests.factories import photograph, pixels

POLICY = ResizePolicy(40, 60)


def make_draft(size: tuple[int, int], to: tuple[int, int], n: int = 3, **changes: Any) -> Draft:
    frame = Encoded(changes.pop("image", photograph(*size, encoding="PNG")), changes.pop("orientation", None))
    draft = Draft(
        image_id="a",
        shard=Shard("train", 0, Path("shard"), 1),
        position=0,
        frames=(frame,),
        show=sight_of(View("image", None, "none"), "images").show,
        objects=random_objects(size, n, seed=1),
        original_size=size,
        shown=Shown(whole(size), to),
    )
    return draft._replace(**changes)


def drawn(draft: Draft, canvas_size: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The canvas and the mask, which were full of something else before."""
    place = Place(np.full((*canvas_size, 3), 99, np.uint8), np.ones(canvas_size, np.bool_))
    draw(draft.seen().images, place, ByteCanvas())
    return place.pixels, place.mask


def test_an_image_is_drawn_at_the_top_left_and_the_rest_is_padding() -> None:
    draft = make_draft((50, 70), (40, 56))
    canvas, mask = drawn(draft, (64, 60))
    np.testing.assert_array_equal(canvas[:40, :56], resize(decode_rgb(draft.frames[0].image), (40, 56)))
    assert mask[:40, :56].all()
    assert mask.sum() == 40 * 56
    assert not canvas[~mask].any()


@pytest.mark.parametrize("to", [(50, 70), (40, 56)], ids=["same size", "smaller"])
def test_mirroring_turns_pixels_and_boxes_alike(to: tuple[int, int]) -> None:
    plain = make_draft((50, 70), to)
    mirrored = plain._replace(shown=replace(plain.shown, mirrored=True))
    np.testing.assert_array_equal(drawn(mirrored, (64, 72))[0][: to[0], : to[1]], drawn(plain, to)[0][:, ::-1])
    np.testing.assert_array_equal(drawn(mirrored, (64, 72))[1], drawn(plain, (64, 72))[1])
    before, after = targets_of([plain.shown, mirrored.shown], [(50, 70)] * 2, [plain.objects] * 2)
    assert torch.allclose(after.boxes[:, 0], 1 - before.boxes[:, 0])
    assert torch.equal(after.boxes[:, 1:], before.boxes[:, 1:])
    assert torch.equal(after.category_ids, before.category_ids)


def test_targets_are_relative_and_without_ignore_regions() -> None:
    objects = random_objects((50, 70), 3, seed=1, crowd=True)
    (target,) = targets_of([Shown(whole((50, 70)), (40, 56))], [(50, 70)], [objects])
    assert len(target) == 2
    x0, y0, x1, y1 = objects.boxes[0].tolist()
    expected = [(x0 + x1) / 140, (y0 + y1) / 100, (x1 - x0) / 70, (y1 - y0) / 50]
    np.testing.assert_allclose(target.boxes[0], expected, rtol=1e-6)
    assert target.category_ids.tolist() == objects.category_ids[:2].tolist()


def test_an_image_without_objects_has_an_empty_target() -> None:
    (target,) = targets_of([Shown(whole((50, 70)), (40, 56))], [(50, 70)], [random_objects((50, 70), 0, seed=1)])
    assert isinstance(target, Target)
    assert target.boxes.shape == (0, 4)


def test_a_grey_image_gets_three_equal_channels() -> None:
    canvas, _ = drawn(make_draft((50, 70), (40, 56), image=photograph(50, 70, mode="L")), (40, 56))
    assert canvas.std() > 1
    assert (canvas == canvas[:, :, :1]).all()


@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("to", [(50, 70), (40, 56)], ids=["same size", "smaller"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("region", [(0, 0, 70, 50), (0, 8, 70, 48), (8, 0, 64, 50)], ids=["whole", "rows", "columns"])
def test_what_is_made_in_its_place_is_what_is_drawn_there(
    encoding: Any, orientation: int, to: tuple[int, int], mirrored: bool, region: Region
) -> None:
    stored = (70, 50) if orientation >= 5 else (50, 70)
    image = photograph(*stored, orientation=orientation, encoding=encoding)
    draft = make_draft((50, 70), to, image=image)
    draft = draft._replace(shown=Shown(region, to, mirrored))
    canvas = np.full((to[0] + 2, to[1], 3), 99, np.uint8)
    place = Place(canvas, np.ones(canvas.shape[:2], np.bool_))
    draw(draft.seen(ByteCanvas().room(to, canvas)).images, place, ByteCanvas())
    np.testing.assert_array_equal(canvas, drawn(draft, canvas.shape[:2])[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_where_it_is_asked_for(orientation: int) -> None:
    image = photograph(50, 70, orientation=orientation, encoding="PNG")
    upright = (70, 50) if orientation >= 5 else (50, 70)
    canvas, _ = drawn(make_draft(upright, upright, image=image), upright)
    np.testing.assert_array_equal(canvas, decode_rgb(image))
    as_stored, _ = drawn(make_draft((50, 70), (50, 70), image=image, orientation=1), (50, 70))
    np.testing.assert_array_equal(as_stored, pixels(50, 70))


@pytest.mark.parametrize("broken", [b"", b"no image", photograph(50, 70)[:900]], ids=["empty", "text", "cut short"])
def test_a_corrupt_image_is_named_with_its_place(broken: bytes) -> None:
    with pytest.raises(ExampleError, match=r"image 'a' \(shard, example 0\): .*"):
        drawn(make_draft((50, 70), (40, 56), image=broken), (40, 56))


def test_an_image_of_another_size_than_its_example_says_is_refused() -> None:
    draft = make_draft((50, 70), (40, 56), image=encode_png(pixels(50, 71)))
    with pytest.raises(ExampleError, match=r"\(50, 71\) px, its example says \(50, 70\)"):
        drawn(draft, (40, 56))


def test_flips_follow_their_probability_and_change_with_the_epoch() -> None:
    ids = [f"image{i}" for i in range(2000)]
    first = [Augmentation(0.3, seed=1).mirrors(0, name) for name in ids]
    assert np.mean(first) == pytest.approx(0.3, abs=0.04)
    assert first == [Augmentation(0.3, seed=1).mirrors(0, name) for name in ids]
    assert first != [Augmentation(0.3, seed=1).mirrors(1, name) for name in ids]
    assert first != [Augmentation(0.3, seed=2).mirrors(0, name) for name in ids]
    assert not any(Augmentation(0.0).mirrors(0, name) for name in ids)
    assert all(Augmentation(1.0).mirrors(0, name) for name in ids)


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    records = [make_record(f"image{i}", 30 + i, 40, n=2, seed=i) for i in range(5)]
    return write_ours(tmp_path / "small" / "1.0.0", records, [2, 0, 3])


def payloads(dataset: PreparedDataset) -> list[bytes]:
    found = []
    for shard in dataset.shards("train"):
        with shard.path.open("rb") as file:
            found += list(read_records(file))
    return found


def test_drafts_hold_what_the_records_say(dataset: PreparedDataset) -> None:
    reader = ExampleReader(dataset, "train", POLICY, Augmentation(), View("image", None, "none"))
    records = list(dataset.records("train"))
    drafts = reader.drafts([(0, index, payload) for index, payload in enumerate(payloads(dataset))])
    for draft, record in zip(drafts, records, strict=True):
        assert (draft.image_id, draft.frames[0].image, draft.original_size) == (
            record.image_id,
            record.image,
            record.size,
        )
        assert draft.size == POLICY.target_size(record.size)
        assert draft.target is not None
        height, width = record.size
        found = shown_to_xyxy(draft.target.boxes.numpy(), (0, 0, width, height))
        np.testing.assert_allclose(found, record.objects.boxes, atol=1e-4)
    last = dataset.shards("train")[2].path
    assert [draft.place for draft in drafts[2:4]] == [f"{last}, example 0", f"{last}, example 1"]


def test_a_class_id_that_names_no_class_is_refused(tmp_path: Path) -> None:
    record = make_record("a", 30, 40, n=0)
    third = Objects(boxes=np.array([[1, 2, 3, 4]], np.float32), category_ids=np.array([2]))
    dataset = write_ours(tmp_path / "small" / "1.0.0", [replace(record, objects=third)], [1])
    (payload,) = payloads(dataset)
    (dataset.path / "objects-label.labels.txt").write_text("first\nsecond\n")
    reader = ExampleReader(PreparedDataset(dataset.path), "train", POLICY, Augmentation(), View("image", None, "none"))
    with pytest.raises(ExampleError, match=r"image 'a' \(.*example 0\): class id 2 is not among 2 classes"):
        reader.drafts([(0, 0, payload)])


LAYOUT = Layout("objects", "images", is_ours=True, crowd="is_crowd")


def columns_of(objects: Objects, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "bbox": xyxy_to_tfds(objects.boxes, size),
        "label": objects.category_ids,
        "is_crowd": objects.is_crowd,
    }


@given(st.lists(st.tuples(st.integers(2, 90), st.integers(2, 90), st.integers(0, 4), st.booleans()), min_size=1))
def test_objects_and_targets_of_many_are_those_of_each(images: list[tuple[int, int, int, bool]]) -> None:
    sizes = [(height, width) for height, width, _, _ in images]
    columns = [
        columns_of(random_objects((height, width), n, seed=i, crowd=crowd and n > 0), (height, width))
        for i, (height, width, n, crowd) in enumerate(images)
    ]
    together = examples_to_objects(columns, sizes, LAYOUT, 3)
    assert together is not None
    alone = [example_to_objects(*one, LAYOUT, "a") for one in zip(columns, sizes, strict=True)]
    each = together.cut([len(one["label"]) for one in columns])
    for got, expected in zip(each, alone, strict=True):
        for name, values in vars(expected).items():
            np.testing.assert_array_equal(getattr(got, name), values)
        assert not got.boxes.flags.writeable
    shown = [Shown(whole(size), size, mirrored=i % 2 == 1) for i, size in enumerate(sizes)]
    for i, got in enumerate(targets_of(shown, sizes, each)):
        (expected,) = targets_of([shown[i]], [sizes[i]], [alone[i]])
        assert torch.equal(got.boxes, expected.boxes)
        assert torch.equal(got.category_ids, expected.category_ids)


@pytest.mark.parametrize(
    "odd",
    [
        {"bbox": np.array([[0.5, 0.5, 0.5, 0.7]], np.float32)},
        {"bbox": np.array([[0.1, 0.1, 1.5, 0.7]], np.float32)},
        {"bbox": np.array([[0.1, 0.1, np.nan, 0.7]], np.float32)},
        {"label": np.array([3])},
        {"label": np.array([-1])},
        {"label": np.array([0, 0])},
        {"is_crowd": np.zeros(0, np.bool_)},
        {"bbox": [[0.1, 0.1, 0.5, 0.7]]},
    ],
    ids=["no area", "outside", "not finite", "no class", "negative", "two classes", "no crowd", "a list"],
)
def test_what_is_odd_is_left_to_a_look_at_each(odd: dict[str, Any]) -> None:
    """Even where another image makes up for it, with a class too few beside one too many."""
    good = columns_of(Objects(np.array([[1, 2, 3, 4]], np.float32), np.array([2])), (30, 40))
    assert examples_to_objects([good, good], [(30, 40)] * 2, LAYOUT, 3) is not None
    other = good | {"label": np.zeros(0, np.int64)} if len(odd.get("label", "a")) == 2 else good
    assert examples_to_objects([good | odd, other], [(30, 40)] * 2, LAYOUT, 3) is None
