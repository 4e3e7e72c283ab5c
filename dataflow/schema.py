"""How records lie in shards: the TFDS features, and records to examples and back.

The names follow TFDS's own detection datasets (`image`, `image/id`, `objects/{bbox,label,area,is_crowd,id}`), so
that tools for those read ours. `find_layout` finds the same parts in datasets that are not ours.

A pair dataset keeps the after frame as `image` and the before frame as `before`; a dataset of differences keeps the
difference as `image`, with `before` and `after` beside it, the mask of its `valid` pixels, and what alignment found.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.features.bounding_boxes_utils import BBoxFormat

from dataflow import boxes
from dataflow.errors import ShardboxError, UsageError
from dataflow.images import read_header
from dataflow.pairs.valid_pixels import whole_mask
from dataflow.records import Categories, Change, FramePair, ImageRecord, Objects, no_objects

SCHEMA_VERSION = 3
Kind = Literal["images", "pairs", "differences"]
NO_TRACK = -1
_UNMARKED = np.zeros(0, np.bool_)  # `Objects` takes nothing for all false.
_log = logging.getLogger("shardbox")


def build_features(categories: Categories, kind: Kind) -> tfds.features.FeaturesDict:
    """The TFDS features of a dataset of images, of before/after pairs or of their differences."""
    objects: dict[str, Any] = {
        "bbox": tfds.features.BBoxFeature(),
        "label": tfds.features.ClassLabel(names=list(categories.names)),
        "area": np.float32,
        "is_crowd": np.bool_,
        "is_truncated": np.bool_,
        "segmentation": tfds.features.Text(),
        "id": np.int64,
    }
    features: dict[str, Any] = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "image/filename": tfds.features.Text(),
        "image/id": tfds.features.Text(),
        "image/source_id": tfds.features.Text(),
        "image/height": np.int64,
        "image/width": np.int64,
        # What TFDS's readers do not do by themselves: the pixels are upright when turned so (EXIF 2.32, 4.6.4).
        "image/orientation": np.int64,
        "scene": tfds.features.Text(),
        "provenance": tfds.features.Text(),
    }
    if kind != "images":
        objects["change"] = tfds.features.ClassLabel(names=[change.name.lower() for change in Change])
        objects["in_before"] = np.bool_
        features |= {
            "before": tfds.features.Image(shape=(None, None, 3)),
            "before/filename": tfds.features.Text(),
            "before/id": tfds.features.Text(),
            "before/height": np.int64,
            "before/width": np.int64,
            "before/orientation": np.int64,
            # As bytes, because a list of floats in a tf.train.Example holds float32 only.
            "homography": tfds.features.Tensor(shape=(3, 3), dtype=np.float64, encoding="bytes"),
            "alignment_score": np.float32,
        }
    if kind == "differences":
        features["after"] = tfds.features.Image(shape=(None, None, 3))
        features["after/orientation"] = np.int64
        # 255 where a pixel of the after frame has a counterpart in the before frame.
        features["valid"] = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        features["alignment_model"] = tfds.features.Text()
        features["alignment_residual"] = np.float32
    features["objects"] = tfds.features.Sequence(objects)
    return tfds.features.FeaturesDict(features)


def _objects_to_columns(objects: Objects, size: boxes.Size, with_changes: bool) -> dict[str, Any]:
    """Columns by feature name, a value (for `bbox` four) for each object."""
    n = len(objects)
    columns: dict[str, Any] = {
        "bbox": boxes.xyxy_to_tfds(objects.boxes, size),
        "label": objects.category_ids,
        "area": objects.areas,
        "is_crowd": objects.is_crowd,
        "is_truncated": objects.is_truncated,
        "segmentation": objects.segmentations,
        "id": objects.track_ids if objects.track_ids is not None else np.full(n, NO_TRACK),
    }
    if with_changes:
        columns["change"] = objects.changes if objects.changes is not None else np.full(n, Change.NONE)
        columns["in_before"] = objects.in_before
    return columns


def _orientation(record: ImageRecord) -> int:
    return read_header(record.image).orientation if record.orientation is None else record.orientation


def _frame_orientation(example: Mapping[str, Any], frame: str) -> int | None:
    """That of a pair's other frame; None in a dataset of schema version 1, which has none written down."""
    key = f"{frame}/orientation"
    return int(example[key]) if key in example else None


def record_to_example(record: ImageRecord, with_changes: bool = False) -> dict[str, Any]:
    """An image record as a dictionary by feature; `objects` are columns, a value for each object."""
    return {
        "image": record.image,
        "image/filename": record.filename,
        "image/id": record.image_id,
        "image/source_id": record.source_id,
        "image/height": record.height,
        "image/width": record.width,
        "image/orientation": _orientation(record),
        "scene": record.group_id,
        "provenance": record.provenance,
        "objects": _objects_to_columns(record.objects, record.size, with_changes),
    }


def pair_to_example(pair: FramePair, difference: bytes | None = None) -> dict[str, Any]:
    """A before/after pair as a dictionary by feature, with its difference image where there is one."""
    target = replace(pair.after, image_id=pair.pair_id, objects=pair.objects)
    example = record_to_example(target, with_changes=True) | {
        "before": pair.before.image,
        "before/filename": pair.before.filename,
        "before/id": pair.before.image_id,
        "before/height": pair.before.height,
        "before/width": pair.before.width,
        "before/orientation": _orientation(pair.before),
        "homography": pair.homography,
        "alignment_score": pair.alignment_score,
    }
    if difference is not None:
        example |= {"image": difference, "after": pair.after.image}
        example |= {"image/orientation": 1, "after/orientation": _orientation(pair.after)}
        example |= {
            "valid": pair.valid or whole_mask(pair.after.size),
            "alignment_model": pair.alignment_model,
            "alignment_residual": pair.alignment_residual,
        }
    return example


@dataclass(frozen=True)
class Layout:
    """Where the parts of an example are, by feature name; None or "" where a dataset has no such part."""

    objects: str
    kind: Kind
    is_ours: bool
    image_id: str = ""
    filename: str = ""
    crowd: str = ""
    area: str = ""
    truncated: str = ""
    segmentation: str = ""
    orientation: str = ""
    knows_frames: bool = False
    """Whether it says of each box of a pair which frame it is of (from schema version 2 on)."""
    valid: str = ""
    """The mask of a difference, of whose alignment all is known then (from schema version 3 on)."""


def find_layout(features: Mapping[str, Any], name: str) -> Layout:
    """The layout of any TFDS detection dataset.

    Raises:
        UsageError: no `image`, or no sequence of objects with `bbox` and a class label.
    """
    remedy = "use a TFDS detection dataset: an `image`, and a Sequence with `bbox` and `label`"
    if "image" not in features:
        raise UsageError(f"{name} has no feature `image`, only {', '.join(sorted(features))}", remedy)
    groups = [key for key in sorted(features) if {"bbox", "label"} <= set(_inner(features[key]))]
    if not groups:
        raise UsageError(f"{name} has no objects with boxes and labels", remedy)
    group = "objects" if "objects" in groups else groups[0]
    inner = _inner(features[group])
    if not getattr(inner["label"], "names", None):
        raise UsageError(f"{name}: `{group}/label` is no ClassLabel with names", remedy)
    convention = getattr(inner["bbox"], "bbox_format", None) or BBoxFormat.REL_YXYX
    if convention is not BBoxFormat.REL_YXYX:
        raise UsageError(f"{name}: its boxes are {convention.value}", "prepare it with TFDS's usual REL_YXYX")
    is_ours = {"image/source_id", "provenance"} <= set(features)
    paired = is_ours and "before" in features
    return Layout(
        objects=group,
        kind="images" if not paired else "differences" if "after" in features else "pairs",
        is_ours=is_ours,
        image_id="image/id" if "image/id" in features else "",
        filename="image/filename" if "image/filename" in features else "",
        crowd=next((key for key in ("is_crowd", "is_difficult") if key in inner), ""),
        area="area" if "area" in inner else "",
        truncated="is_truncated" if "is_truncated" in inner else "",
        segmentation="segmentation" if is_ours and "segmentation" in inner else "",
        knows_frames=is_ours and "in_before" in inner,
        orientation="image/orientation" if is_ours and "image/orientation" in features else "",
        valid="valid" if paired and {"valid", "alignment_model", "alignment_residual"} <= set(features) else "",
    )


def _inner(feature: Any) -> Mapping[str, Any]:
    """The features inside a Sequence of dictionaries, or nothing."""
    inner = getattr(feature, "feature", None)
    return dict(inner.items()) if inner is not None and hasattr(inner, "items") else {}


def image_features(layout: Layout) -> tuple[str, ...]:
    """Names of the features that hold encoded images."""
    frames = {"images": (), "pairs": ("before",), "differences": ("before", "after")}[layout.kind]
    return ("image", *frames, *((layout.valid,) if layout.valid else ()))


def _text(value: Any) -> str:
    """A text or number feature as str."""
    return value.decode() if isinstance(value, bytes) else str(value)


def example_to_objects(columns: Mapping[str, Any], size: boxes.Size, layout: Layout, name: str) -> Objects:
    """The objects of a parsed example. Empty boxes, which other writers let through, are left out and logged."""
    xyxy = boxes.tfds_to_xyxy(columns["bbox"], size)
    keep = (xyxy[:, :2] < xyxy[:, 2:]).all(axis=1)
    if not keep.all():
        _log.warning("image %s: %d boxes without area left out", name, int((~keep).sum()))
        xyxy = xyxy[keep]
        columns = {key: np.asarray(values)[keep] for key, values in columns.items()}
    tracks = np.asarray(columns["id"]) if layout.is_ours and "id" in columns else None
    return Objects(
        boxes=xyxy,
        category_ids=columns["label"],
        areas=columns[layout.area] if layout.area else boxes.box_areas(xyxy),
        is_crowd=columns[layout.crowd] if layout.crowd else _UNMARKED,
        is_truncated=columns[layout.truncated] if layout.truncated else _UNMARKED,
        segmentations=tuple(map(_text, columns[layout.segmentation])) if layout.segmentation else (),
        track_ids=tracks if tracks is not None and (tracks != NO_TRACK).any() else None,
        changes=columns["change"] if layout.is_ours and layout.kind != "images" else None,
        in_before=columns.get("in_before", _UNMARKED),
    )


def examples_to_objects(
    columns: Sequence[Mapping[str, Any]], sizes: Sequence[boxes.Size], layout: Layout, n_categories: int
) -> Objects | None:
    """The objects of several parsed examples of single images, laid end to end, made and checked at once.

    None where something is wrong with one of them, or odd: to find out what, look at each by `example_to_objects`.

    Args:
        columns: of each example boxes, classes and regions to ignore (where there are any), and nothing else.
        sizes: (height, width) px of each.
        layout: where these are.
        n_categories: to which all classes have to belong.
    """
    counts = [len(one["label"]) for one in columns]
    for one, count in zip(columns, counts, strict=True):
        if not all(isinstance(values, np.ndarray) and len(values) == count for values in one.values()):
            return None
    joined = {name: np.concatenate([one[name] for one in columns]) for name in columns[0]}
    of_each = np.repeat(np.array(sizes, np.int64), counts, axis=0).T
    try:
        objects = Objects(
            boxes=boxes.tfds_to_xyxy(joined["bbox"], (of_each[0], of_each[1])),
            category_ids=joined["label"],
            is_crowd=joined[layout.crowd] if layout.crowd else _UNMARKED,
        )
        objects.check_inside((of_each[0], of_each[1]), n_categories)
    except ShardboxError:
        return None
    return objects


def example_image_id(example: Mapping[str, Any], layout: Layout, position: str) -> str:
    """The id of an example: its own, else its file name, else its position in the shards."""
    own = example[layout.image_id] if layout.image_id else b""
    name = example[layout.filename] if layout.filename else b""
    return _text(own) or _text(name) or position


def example_size(example: Mapping[str, Any], layout: Layout) -> boxes.Size:
    """(height, width) px of the frame the boxes are in: upright for ours, as stored for others (TFDS ignores EXIF)."""
    if layout.is_ours:
        return int(example["image/height"]), int(example["image/width"])
    return read_header(example["image"]).stored_size


def example_orientation(example: Mapping[str, Any], layout: Layout) -> int | None:
    """The EXIF orientation by which `image` becomes upright; None: its own. Boxes of others know of none."""
    if not layout.is_ours:
        return 1
    return int(example[layout.orientation]) if layout.orientation else None


def example_to_record(example: Mapping[str, Any], layout: Layout, position: str) -> ImageRecord:
    """A parsed example (images still encoded) as a record. `position` names it where it has no id of its own."""
    image_id = example_image_id(example, layout, position)
    size = example_size(example, layout)
    return ImageRecord(
        image_id=image_id,
        image=example["image"],
        height=size[0],
        width=size[1],
        objects=example_to_objects(example[layout.objects], size, layout, image_id),
        group_id=_text(example["scene"]) if layout.is_ours else image_id,
        provenance=_text(example["provenance"]) if layout.is_ours else position,
        filename=_text(example[layout.filename]) if layout.filename else "",
        source_id=_text(example["image/source_id"]) if layout.is_ours else "",
        orientation=example_orientation(example, layout),
    )


def example_to_pair(example: Mapping[str, Any], layout: Layout, position: str) -> FramePair:
    """A parsed example of a pair or difference dataset as a pair."""
    target = example_to_record(example, layout, position)
    after = replace(target, image=example.get("after", target.image), objects=no_objects())
    if "after" in example:
        after = replace(after, orientation=_frame_orientation(example, "after"))
    before = replace(
        after,
        image_id=_text(example["before/id"]),
        filename=_text(example["before/filename"]),
        image=example["before"],
        height=int(example["before/height"]),
        width=int(example["before/width"]),
        orientation=_frame_orientation(example, "before"),
    )
    found: dict[str, Any] = {}
    if layout.valid:
        found = {
            "valid": example[layout.valid],
            "alignment_model": _text(example["alignment_model"]),
            "alignment_residual": float(example["alignment_residual"]),
        }
    return FramePair(
        pair_id=target.image_id,
        before=before,
        after=after,
        objects=target.objects,
        homography=np.asarray(example["homography"]),
        alignment_score=float(example["alignment_score"]),
        **found,
    )
