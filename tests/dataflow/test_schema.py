"""Records to TFDS examples and back, and the layouts of datasets that are not ours."""

import logging
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from dataflow.errors import UsageError
from dataflow.example_bytes import ExampleBytes
from dataflow.pairs.valid_pixels import encode_mask, whole_mask
from dataflow.records import Categories, Change, FramePair, ImageRecord, Objects, no_objects
from dataflow.schema import (
    Kind,
    Layout,
    build_features,
    example_to_pair,
    example_to_record,
    find_layout,
    image_features,
    pair_to_example,
    record_to_example,
)
from tests.factories import photograph

NAMES = ("person", "véhicule", "犬")
JPEG = photograph(40, 60)


def through_bytes(example: dict[str, Any], features: tfds.features.FeaturesDict, kind: Kind) -> dict[str, Any]:
    """What a reader parses from the bytes of an example, images still encoded."""
    layout = find_layout(features, "test")
    assert layout.kind == kind
    skip = {name: tfds.decode.SkipDecoding() for name in image_features(layout)}
    data = ExampleBytes(features)(example) if layout.is_ours else features.serialize_example(example)
    parsed: dict[str, Any] = features.deserialize_example_np(data, decoders=skip)
    return parsed


SEGMENTATIONS = ("", "[[1.0,2.0,3.5,2.0,3.0,4.0]]", '{"size":[4,5],"counts":"0d3"}')


@st.composite
def records(draw: st.DrawFn) -> ImageRecord:
    height, width = draw(st.integers(1, 20_000)), draw(st.integers(1, 20_000))
    n = draw(st.integers(0, 4))
    boxes = []
    for _ in range(n):
        x0, y0 = draw(st.floats(0, width - 0.02)), draw(st.floats(0, height - 0.02))
        boxes.append((x0, y0, draw(st.floats(x0 + 0.01, width)), draw(st.floats(y0 + 0.01, height))))
    ids = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    tracks = draw(st.one_of(st.none(), st.lists(st.integers(0, 2**40), min_size=n, max_size=n)))
    return ImageRecord(
        image_id=draw(st.text(min_size=1, max_size=20)),
        image=JPEG,
        height=height,
        width=width,
        objects=Objects(
            boxes=np.array(boxes, np.float32),
            category_ids=np.array(draw(ids), np.int64),
            is_crowd=np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_),
            is_truncated=np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_),
            segmentations=tuple(draw(st.lists(st.sampled_from(SEGMENTATIONS), min_size=n, max_size=n))),
            track_ids=None if tracks is None else np.array(tracks, np.int64),
        ),
        group_id=draw(st.text(max_size=10)),
        provenance="labels/a.txt:1",
        filename=draw(st.text(max_size=10)),
        source_id=draw(st.text(max_size=10)),
        orientation=draw(st.integers(1, 8)),
    )


def assert_same_objects(again: Objects, before: Objects, size: tuple[int, int]) -> None:
    atol = 4 * float(np.spacing(np.float32(max(size))))
    np.testing.assert_allclose(again.boxes, before.boxes, rtol=0, atol=atol)
    assert again.category_ids.tolist() == before.category_ids.tolist()
    assert again.is_crowd.tolist() == before.is_crowd.tolist()
    assert again.areas.tolist() == before.areas.tolist()
    assert again.is_truncated.tolist() == before.is_truncated.tolist()
    assert again.segmentations == before.segmentations
    tracked = before.track_ids is not None and len(before)
    assert (again.track_ids.tolist() if again.track_ids is not None else None) == (
        before.track_ids.tolist() if tracked and before.track_ids is not None else None
    )


@given(record=records())
def test_records_return_from_their_bytes(record: ImageRecord) -> None:
    features = build_features(Categories(NAMES), "images")
    parsed = through_bytes(record_to_example(record), features, "images")
    again = example_to_record(parsed, find_layout(features, "test"), "somewhere")
    whole = ("image_id", "image", "height", "width", "group_id", "provenance", "filename", "source_id", "orientation")
    for name in whole:
        assert getattr(again, name) == getattr(record, name), name
    assert_same_objects(again.objects, record.objects, record.size)


@pytest.mark.parametrize("with_difference", [False, True])
@given(record=records())
def test_pairs_return_from_their_bytes(record: ImageRecord, with_difference: bool) -> None:
    objects = Objects(
        record.objects.boxes,
        record.objects.category_ids,
        is_crowd=record.objects.is_crowd,
        track_ids=np.arange(len(record.objects)),
        changes=np.array([Change(1 + i % 3) for i in range(len(record.objects))], np.int64),
    )
    before = ImageRecord("b", b"other", 7, 9, no_objects(), record.group_id, "x:1", "b.jpg", orientation=6)
    homography = np.array([[1, 0.5, -3], [0, 1, 1e-9], [0, 0, 1]])
    pair = FramePair("pair", before, record, objects, homography, 0.75, "affine", 0.25)
    kind: Kind = "differences" if with_difference else "pairs"
    features = build_features(Categories(NAMES), kind)
    parsed = through_bytes(pair_to_example(pair, b"difference" if with_difference else None), features, kind)
    assert parsed["image"] == (b"difference" if with_difference else record.image)
    again = example_to_pair(parsed, find_layout(features, "test"), "somewhere")
    assert (again.pair_id, again.alignment_score) == ("pair", 0.75)
    if with_difference:
        assert (again.alignment_model, again.alignment_residual) == ("affine", 0.25)
        assert again.valid == whole_mask(record.size), "all pixels are valid, and a mask says so to any reader"
    else:
        assert (again.alignment_model, again.alignment_residual, again.valid) == ("identity", 0, b"")
    np.testing.assert_array_equal(again.homography, homography)
    assert (again.after.image, again.after.size) == (record.image, record.size)
    assert again.after.filename == record.filename
    assert (again.before.image, again.before.size) == (b"other", (7, 9))
    assert (again.before.image_id, again.before.filename) == ("b", "b.jpg")
    assert (again.before.orientation, again.after.orientation) == (6, record.orientation)
    assert parsed["image/orientation"] == (1 if with_difference else record.orientation), "a difference is upright"
    assert_same_objects(again.objects, objects, record.size)
    assert again.objects.changes is not None
    assert again.objects.changes.tolist() == pair.objects.changes.tolist()  # type: ignore[union-attr]


def test_a_mask_returns_from_its_bytes() -> None:
    valid = np.random.default_rng(0).random((40, 60)) < 0.5
    record = ImageRecord("a", JPEG, 40, 60, no_objects(), "s", "x:1")
    pair = FramePair("pair", record, record, no_objects(), valid=encode_mask(valid))
    features = build_features(Categories(NAMES), "differences")
    again = example_to_pair(through_bytes(pair_to_example(pair, JPEG), features, "differences"), _layout(features), "x")
    assert again.valid == pair.valid
    decoded = features.deserialize_example_np(ExampleBytes(features)(pair_to_example(pair, JPEG)))["valid"]
    np.testing.assert_array_equal(decoded[:, :, 0], np.where(valid, 255, 0))


def test_differences_of_schema_version_2_are_read() -> None:
    """They have neither a mask, nor a model, nor a residual."""
    features = build_features(Categories(NAMES), "differences")
    new = {"valid", "alignment_model", "alignment_residual"}
    earlier = tfds.features.FeaturesDict({name: feature for name, feature in features.items() if name not in new})
    record = ImageRecord("a", JPEG, 40, 60, no_objects(), "s", "x:1")
    homography = np.array([[1, 0, 3], [0, 1, 2], [0, 0, 1.0]])
    pair = FramePair("pair", record, record, no_objects(), homography, 0.75)
    example = {name: value for name, value in pair_to_example(pair, JPEG).items() if name not in new}
    assert image_features(_layout(earlier)) == ("image", "before", "after")
    again = example_to_pair(through_bytes(example, earlier, "differences"), _layout(earlier), "x")
    assert (again.alignment_score, again.alignment_model, again.alignment_residual) == (0.75, "identity", 0.0)
    assert again.valid == b""
    np.testing.assert_array_equal(again.homography, homography)


def _layout(features: tfds.features.FeaturesDict) -> Layout:
    return find_layout(features, "test")


def test_features_are_those_of_tfds_detection_datasets() -> None:
    features = build_features(Categories(NAMES), "images")
    assert {"image", "image/filename", "image/id", "objects"} <= set(features)
    inner = features["objects"].feature
    assert {"bbox", "label", "area", "is_crowd", "is_truncated", "segmentation", "id"} == set(inner)
    assert isinstance(inner["bbox"], tfds.features.BBoxFeature)
    assert inner["label"].names == list(NAMES)
    changes = build_features(Categories(NAMES), "pairs")["objects"].feature["change"]
    assert changes.names == [change.name.lower() for change in sorted(Change)]
    assert changes.str2int("vanished") == Change.VANISHED


def foreign(**objects: Any) -> dict[str, Any]:
    """Features of a detection dataset as TFDS's own builders declare them."""
    return {
        "image": tfds.features.Image(),
        "objects": tfds.features.Sequence(
            {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=["a", "b"]), **objects}
        ),
    }


def test_layout_of_coco_and_voc() -> None:
    coco = foreign(id=np.int64, area=np.int64, is_crowd=np.bool_) | {
        "image/filename": tfds.features.Text(),
        "image/id": np.int64,
    }
    layout = find_layout(tfds.features.FeaturesDict(coco), "coco")
    assert (layout.kind, layout.is_ours, layout.crowd, layout.area) == ("images", False, "is_crowd", "area")
    assert (layout.image_id, layout.filename) == ("image/id", "image/filename")
    voc = foreign(is_truncated=np.bool_, is_difficult=np.bool_) | {"image/filename": tfds.features.Text()}
    layout = find_layout(tfds.features.FeaturesDict(voc), "voc")
    assert (layout.image_id, layout.filename, layout.crowd, layout.area) == ("", "image/filename", "is_difficult", "")


def test_objects_may_have_another_name() -> None:
    features = foreign()
    features["faces"] = features.pop("objects")
    assert find_layout(tfds.features.FeaturesDict(features), "x").objects == "faces"


def test_a_foreign_feature_called_before_makes_no_pairs() -> None:
    features = foreign() | {"before": tfds.features.Text()}
    assert find_layout(tfds.features.FeaturesDict(features), "x").kind == "images"


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"picture": tfds.features.Image()}, "has no feature `image`, only picture"),
        ({"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=3)}, "has no objects"),
        (
            {"image": tfds.features.Image(), "faces": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature()})},
            "has no objects with boxes and labels",
        ),
        (foreign(label=np.int64), "no ClassLabel"),
        (foreign(bbox=tfds.features.BBoxFeature(bbox_format="XYXY")), "boxes are XYXY"),
    ],
)
def test_what_is_no_detection_dataset(features: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_layout(tfds.features.FeaturesDict(features), "some dataset")


def foreign_record(
    objects: list[dict[str, Any]], extra: dict[str, Any], features: dict[str, Any], image: bytes = JPEG
) -> ImageRecord:
    declared = tfds.features.FeaturesDict(features)
    parsed = through_bytes({"image": image, "objects": objects, **extra}, declared, "images")
    return example_to_record(parsed, find_layout(declared, "x"), "x-train.tfrecord__3")


def test_ids_of_foreign_examples() -> None:
    number = foreign() | {"image/id": np.int64, "image/filename": tfds.features.Text()}
    record = foreign_record([], {"image/id": 139, "image/filename": "a.jpg"}, number)
    assert (record.image_id, record.filename, record.group_id) == ("139", "a.jpg", "139")
    named = foreign() | {"image/filename": tfds.features.Text()}
    assert foreign_record([], {"image/filename": "a.jpg"}, named).image_id == "a.jpg"
    assert foreign_record([], {}, foreign()).image_id == "x-train.tfrecord__3"
    assert foreign_record([], {"image/filename": ""}, named).image_id == "x-train.tfrecord__3"


def test_foreign_boxes_are_of_the_image_as_stored() -> None:
    """TFDS decodes without EXIF, so its builders' boxes are relative to the stored pixels."""
    turned = photograph(40, 60, orientation=6)
    row = {"bbox": tfds.features.BBox(0.25, 0.5, 0.75, 1.0), "label": 1}
    record = foreign_record([row], {}, foreign(), turned)
    assert record.size == (40, 60)
    assert record.objects.boxes.tolist() == [[30, 10, 60, 30]]
    assert record.objects.areas.tolist() == [600]
    assert record.objects.category_ids.tolist() == [1]


def test_foreign_boxes_without_area_are_left_out_aloud(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"bbox": tfds.features.BBox(0.2, 0.2, 0.2, 0.4), "label": 0},
        {"bbox": tfds.features.BBox(0.2, 0.2, 0.4, 0.4), "label": 1},
    ]
    with caplog.at_level(logging.WARNING, "shardbox"):
        record = foreign_record(rows, {}, foreign())
    assert record.objects.category_ids.tolist() == [1]
    assert "1 boxes without area left out" in caplog.text
