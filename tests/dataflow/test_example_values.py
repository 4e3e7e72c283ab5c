"""Values out of examples, against TFDS's own parser."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from dataflow.errors import ShardboxError
from dataflow.example_bytes import ExampleBytes
from dataflow.example_values import ExampleValues
from dataflow.images import encode_png
from dataflow.records import FramePair
from dataflow.schema import Kind, build_features, pair_to_example, record_to_example
from tests.dataflow.detection_sets import CATEGORIES, make_record, make_records, random_objects
from tests.factories import photograph, pixels


def assert_equal(ours: Any, theirs: Any) -> None:
    """Texts of a sequence are a list of bytes here and an array of objects there; empty columns are an array here."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_equal(ours[name], theirs[name])
    elif isinstance(ours, np.ndarray) and not ours.size:
        assert not len(theirs)
    elif isinstance(ours, np.ndarray):
        # TFDS gives a list of boxes, each an array.
        assert ours.dtype == np.asarray(theirs).dtype
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(ours, list):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    else:
        assert ours == theirs


def by_tfds(features: tfds.features.FeaturesDict, payload: bytes) -> dict[str, Any]:
    images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    return features.deserialize_example_np(payload, decoders={name: tfds.decode.SkipDecoding() for name in images})


@pytest.mark.parametrize("kind", ["images", "pairs", "differences"])
def test_ours(kind: Kind) -> None:
    features = build_features(CATEGORIES, kind)
    for record in make_records(8):
        example = record_to_example(record)
        if kind != "images":
            before = replace(make_record("b", *record.size), group_id=record.group_id)
            pair = FramePair("pair", before, record, record.objects, np.arange(9.0).reshape(3, 3))
            example = pair_to_example(pair, encode_png(pixels(*record.size)) if kind == "differences" else None)
        payload = ExampleBytes(features)(example)
        assert_equal(ExampleValues(features, list(features))(payload), by_tfds(features, payload))


def theirs(inner: dict[str, Any], **more: Any) -> tuple[tfds.features.FeaturesDict, bytes]:
    """Features and an example of theirs, with all kinds of columns."""
    objects = random_objects((40, 60), 3, seed=1)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "objects": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature(), **inner}),
            **{name: feature for name, (feature, _) in more.items()},
        }
    )
    values = {"label": objects.category_ids.tolist(), "occluded": [True, False, True], "depth": [0.5, 1.5, 2.5]}
    values |= {"pose": ["Left", "Right", "Left"], "points": np.arange(18).reshape(3, 3, 2)}
    boxes = [tfds.features.BBox(*box) for box in (objects.boxes[:, [1, 0, 3, 2]] / 60).tolist()]
    example = {
        "image": photograph(40, 60),
        "objects": {"bbox": boxes, **{name: values[name] for name in inner}},
        **{name: value for name, (_, value) in more.items()},
    }
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    return features, serializer.serialize_example(features.encode_example(example))


@pytest.mark.parametrize(
    "inner",
    [
        {"label": tfds.features.ClassLabel(num_classes=3)},
        {"label": tfds.features.ClassLabel(num_classes=3), "occluded": np.bool_, "depth": np.float32},
        {"label": np.int32, "pose": tfds.features.ClassLabel(names=["Left", "Right"])},
        {"label": np.int64, "points": tfds.features.Tensor(shape=(3, 2), dtype=np.int64)},
    ],
    ids="-".join,
)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"name": (tfds.features.Text(), "über"), "number": (np.int64, -3), "share": (np.float32, 0.25)},
        {"matrix": (tfds.features.Tensor(shape=(2, 2), dtype=np.float32), np.eye(2, dtype=np.float32))},
        {"wide": (tfds.features.Scalar(np.float64), 0.1)},
        {"words": (tfds.features.Sequence(tfds.features.Text()), ["a", "b"])},
    ],
    ids=lambda more: "-".join(more) or "no more",
)
def test_any_feature_of_theirs(inner: dict[str, Any], more: dict[str, Any]) -> None:
    """What is not read here is read by TFDS: a difference would be one of kind, not of value."""
    features, payload = theirs(inner, **more)
    assert_equal(ExampleValues(features, list(features))(payload), by_tfds(features, payload))


def test_only_what_is_asked_for() -> None:
    features = build_features(CATEGORIES, "images")
    payload = ExampleBytes(features)(record_to_example(make_records(3)[2]))
    read = ExampleValues(features, ["image/id", "objects", "no such feature", ""], {"bbox", "label", ""})
    values = read(payload)
    assert values.keys() == {"image/id", "objects"}
    assert values["objects"].keys() == {"bbox", "label"}


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: b"", lambda data: b"\xff" * 20])
def test_what_is_no_example_is_an_error(damage: Any) -> None:
    features = build_features(CATEGORIES, "images")
    payload = ExampleBytes(features)(record_to_example(make_records(3)[2]))
    with pytest.raises(ShardboxError, match="lacks what its dataset says; prepare the dataset again"):
        ExampleValues(features, list(features))(damage(payload))


def test_damage_names_the_example(tmp_path: Path) -> None:
    from dataflow.bridge.drafts import Augmentation, ExampleError
    from dataflow.bridge.example_reader import ExampleReader
    from dataflow.bridge.resize import KeepSize
    from dataflow.bridge.view import View
    from tests.dataflow.detection_sets import write_ours

    dataset = write_ours(tmp_path / "small" / "1.0.0", make_records(3), [3])
    reader = ExampleReader(dataset, "train", KeepSize(), Augmentation(), View("image", None, "none"))
    with pytest.raises(ExampleError, match=r"example 1.*lacks what its dataset says"):
        reader.drafts([(0, 1, b"")])
