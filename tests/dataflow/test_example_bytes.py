"""The bytes of examples, against TFDS's own serialiser and reader."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.proto import tf_example_pb2

from dataflow.example_bytes import ExampleBytes
from dataflow.records import Categories, FramePair, ImageRecord, Objects, no_objects
from dataflow.schema import Kind, build_features, pair_to_example, record_to_example
from tests.factories import for_tfds

CATEGORIES = Categories(tuple(f"class {i}" for i in range(200)))
# TFDS makes numpy texts of columns, which lose what ends in NUL; no JSON does.
TEXTS = st.text(st.characters(codec="utf-8", min_codepoint=1), max_size=300)


@st.composite
def objects(draw: st.DrawFn) -> Objects:
    n = draw(st.integers(0, 5))
    low = np.array(draw(st.lists(st.floats(0, 30, width=32), min_size=2 * n, max_size=2 * n)), np.float32)
    boxes = np.hstack([low.reshape(-1, 2), low.reshape(-1, 2) + 1.5])
    many = {"min_size": n, "max_size": n}
    return Objects(
        boxes,
        np.array(draw(st.lists(st.integers(0, 199), **many)), np.int64),
        np.array(draw(st.lists(st.floats(0, 1e9, width=32), **many)), np.float32),
        is_crowd=np.array(draw(st.lists(st.booleans(), **many)), np.bool_),
        is_truncated=np.array(draw(st.lists(st.booleans(), **many)), np.bool_),
        segmentations=tuple(draw(st.lists(TEXTS, **many))),
        track_ids=np.array(draw(st.lists(st.integers(-(2**63), 2**63 - 1), **many)), np.int64),
        changes=np.array(draw(st.lists(st.integers(0, 3), **many)), np.int64),
    )


@st.composite
def image_records(draw: st.DrawFn) -> ImageRecord:
    name = draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
    image = draw(st.binary(max_size=400))
    turned = draw(st.integers(1, 8))
    return ImageRecord(
        name, image, 40, 50, draw(objects()), draw(TEXTS), draw(TEXTS), draw(TEXTS), draw(TEXTS), orientation=turned
    )


def theirs(example: dict[str, object], features: tfds.features.FeaturesDict) -> tf_example_pb2.Example:
    """The message that TFDS makes of it."""
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    return serializer.get_tf_example(features.encode_example(for_tfds(example)))


def check(example: dict[str, object], kind: Kind) -> None:
    features = build_features(CATEGORIES, kind)
    data = ExampleBytes(features)(example)
    ours = tf_example_pb2.Example()
    ours.ParseFromString(data)
    assert ours == theirs(example, features)
    assert len(data) == len(ours.SerializeToString()), "the wire format has no other way to say it in fewer bytes"
    keys = [key for key, *_ in sorted(ours.features.feature.items())]
    places = [data.index(b"\x0a" + bytes([len(key)]) + key.encode() + b"\x12") for key in keys]
    assert places == sorted(places), "keys are in order"


@given(record=image_records())
def test_images(record: ImageRecord) -> None:
    check(record_to_example(record), "images")


@pytest.mark.parametrize("kind", ["pairs", "differences"])
@given(record=image_records(), values=st.lists(st.floats(-1e30, 1e30), min_size=9, max_size=9), score=st.floats(0, 1))
def test_pairs(kind: Kind, record: ImageRecord, values: list[float], score: float) -> None:
    before = ImageRecord("b", b"other", 7, 9, no_objects(), record.group_id, "x:1", "b.jpg", orientation=6)
    homography = np.array(values).reshape(3, 3)
    pair = FramePair("pair", before, record, record.objects, homography, score, "homography", abs(values[0]))
    check(pair_to_example(pair, b"difference" if kind == "differences" else None), kind)


def test_a_large_image() -> None:
    """Lengths of three bytes and more."""
    for size in (127, 128, 16_383, 16_384, 3_000_000):
        record = ImageRecord("a", bytes(size), 4, 5, no_objects(), "a", "x:1", orientation=1)
        check(record_to_example(record), "images")
