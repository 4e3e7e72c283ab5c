"""The canonical record types: frozen, and validated when made.

Sources are turned into these, shards hold these, and everything downstream reads these. Boxes are always xyxy in
absolute pixels of the upright image (see `dataflow.boxes`); `size` is always (height, width).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from dataflow.boxes import Boxes, Size, Sizes, box_areas
from dataflow.errors import ShardboxError
from dataflow.findings import printable
from dataflow.pairs.motion_models import MODELS, MotionModel
from dataflow.pairs.valid_pixels import mask_size


class RecordError(ShardboxError):
    """A record that breaks its own promises."""


class Change(IntEnum):
    """What happened to an object between the before and the after frame."""

    NONE = 0
    MOVED = 1
    APPEARED = 2
    VANISHED = 3


def _freeze(array: npt.ArrayLike, dtype: Any) -> npt.NDArray[Any]:
    """A read-only array of `dtype`, copied where the caller could still write to it."""
    frozen = np.array(array, dtype=dtype)
    frozen.flags.writeable = False
    return frozen


def _require(condition: bool, message: str, remedy: str) -> None:
    if not condition:
        raise RecordError(message, remedy)


@dataclass(frozen=True)
class Categories:
    """Class names by contiguous id, without background; `source_ids[i]` is what the source called class i."""

    names: tuple[str, ...]
    source_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "source_ids", tuple(self.source_ids) or tuple(range(len(self.names))))
        _require(bool(self.names), "there are no class names", "name at least one class")
        for name in self.names:
            # TFDS keeps names in a UTF-8 file, one a line, and strips them when it reads them.
            fits = name == name.strip() == printable(name) and len(name.splitlines()) == 1
            _require(fits, f"the class name {name!r}", "use one line of text without blanks at its ends")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        _require(not twice, f"class names occur twice: {', '.join(twice)}", "give every class its own name")
        _require(
            len(self.source_ids) == len(set(self.source_ids)) == len(self.names),
            f"{len(self.names)} class names but source ids {self.source_ids}",
            "give every class its own source id",
        )

    def __len__(self) -> int:
        return len(self.names)


def _unmarked(boxes: Boxes) -> npt.NDArray[np.bool_]:
    return np.zeros(len(boxes), np.bool_)


# The columns of objects, and what they are where nothing is said.
_COLUMNS = (
    ("category_ids", np.int64),
    ("areas", np.float32),
    ("is_crowd", np.bool_),
    ("is_truncated", np.bool_),
    ("in_before", np.bool_),
    ("track_ids", np.int64),
    ("changes", np.int64),
)
_DEFAULTS: dict[str, Callable[[Boxes], npt.NDArray[Any]]] = {
    "areas": box_areas,
    "is_crowd": _unmarked,
    "is_truncated": _unmarked,
    "in_before": _unmarked,
}


@dataclass(frozen=True, eq=False)
class Objects:
    """The annotated objects of one image.

    `boxes` (N, 4) float32 xyxy px; `category_ids` (N,) int64; `areas` (N,) float32 px2 (of the mask where the
    source has one, of the box otherwise); `is_crowd` (N,) bool: regions to ignore, neither right nor wrong to
    detect; `is_truncated` (N,) bool: what the image's border cut; `track_ids` (N,) int64 or None; `changes` (N,)
    int64 of `Change` or None. `in_before` (N,) bool: of a pair, where an object was in the before frame, not where it
    is in the after frame. `segmentations` are N texts: COCO's `segmentation` (polygons or run lengths, px of the
    upright image) as JSON, "" for an object that has none.
    """

    boxes: npt.NDArray[np.float32]
    category_ids: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    is_crowd: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    is_truncated: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    in_before: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    segmentations: tuple[str, ...] = ()
    track_ids: npt.NDArray[np.int64] | None = None
    changes: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        boxes = _freeze(np.asarray(self.boxes, np.float32).reshape(-1, 4), np.float32)
        n = len(boxes)
        object.__setattr__(self, "boxes", boxes)
        for name, dtype in _COLUMNS:
            value = getattr(self, name)
            if value is None:
                continue
            if len(value) == 0 and name in _DEFAULTS:
                value = _DEFAULTS[name](boxes)
            value = _freeze(np.asarray(value).reshape(-1), dtype)
            if len(value) != n:
                raise RecordError(f"{n} boxes but {len(value)} {name}", "give one per box")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "segmentations", tuple(self.segmentations) or ("",) * n)
        _require(len(self.segmentations) == n, f"{n} boxes but {len(self.segmentations)} segmentations", "give each")
        if not np.isfinite(boxes).all():
            wrong = boxes[~np.isfinite(boxes).all(axis=1)].tolist()
            raise RecordError(f"boxes are not finite: {wrong}", "use finite numbers")
        if not (boxes[:, :2] < boxes[:, 2:]).all():
            wrong = boxes[(boxes[:, :2] >= boxes[:, 2:]).any(axis=1)].tolist()
            remedy = "boxes are x0, y0, x1, y1 with x0 < x1 and y0 < y1"
            raise RecordError(f"boxes are empty or reversed: {wrong}", remedy)

    def __len__(self) -> int:
        return len(self.boxes)

    def only(self, keep: npt.NDArray[np.bool_]) -> "Objects":
        """Those objects for which `keep` (N,) bool is true."""
        return Objects(
            boxes=self.boxes[keep],
            category_ids=self.category_ids[keep],
            areas=self.areas[keep],
            is_crowd=self.is_crowd[keep],
            is_truncated=self.is_truncated[keep],
            in_before=self.in_before[keep],
            segmentations=tuple(self.segmentations[i] for i in np.flatnonzero(keep)),
            track_ids=None if self.track_ids is None else self.track_ids[keep],
            changes=None if self.changes is None else self.changes[keep],
        )

    def cut(self, counts: Sequence[int]) -> "list[Objects]":
        """Those of several images, laid end to end, as those of each: what holds for all of them holds for each."""
        parts, start = [], 0
        for count in counts:
            part = object.__new__(Objects)
            vars(part).update({k: None if v is None else v[start : start + count] for k, v in vars(self).items()})
            parts.append(part)
            start += count
        return parts

    def check_inside(self, size: Size | Sizes, n_categories: int | None = None) -> None:
        """Raise `RecordError` unless all boxes lie within an image of `size` and all ids name a class."""
        height, width = size
        limit = np.array([width, height, width, height], np.float32).T
        outside = ((self.boxes < 0) | (self.boxes > limit)).any(axis=1)
        if outside.any():
            wrong = self.boxes[outside].tolist()
            raise RecordError(f"boxes leave the image of {width}x{height} px: {wrong}", "clip them to the image")
        if n_categories is not None and len(self):
            top = int(self.category_ids.max())
            _require(
                int(self.category_ids.min()) >= 0 and top < n_categories,
                f"class id {top} is not among {n_categories} classes",
                "use contiguous ids from 0",
            )


def no_objects() -> Objects:
    """The objects of an image that shows none (background), which is not the same as an unlabelled image."""
    return Objects(boxes=np.zeros((0, 4), np.float32), category_ids=np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One annotated image. `image` holds the encoded bytes as they came; `height`, `width` are upright pixels.

    `image_id` is unique in its dataset; `source_id` is what the source called the image (COCO's number), or "".
    `group_id` names the scene: images of one scene never straddle splits. `provenance` is file:line or file#pointer.
    `orientation` is the EXIF orientation (1 to 8) that makes the stored pixels upright; None: as the file says.
    """

    image_id: str
    image: bytes
    height: int
    width: int
    objects: Objects
    group_id: str
    provenance: str
    filename: str = ""
    source_id: str = ""
    orientation: int | None = None

    def __post_init__(self) -> None:
        _require(bool(self.image_id), f"an image of {self.provenance} has no id", "give every image an id")
        _require(
            self.height > 0 and self.width > 0,
            f"image {self.image_id!r} is {self.width}x{self.height} px",
            "an image has at least one pixel",
        )
        self.objects.check_inside(self.size)

    @property
    def size(self) -> Size:
        """(height, width) in upright pixels."""
        return self.height, self.width


def _identity() -> npt.NDArray[np.float64]:
    return np.eye(3)


@dataclass(frozen=True, eq=False)
class FramePair:
    """A before and an after image of one scene, and the objects that changed between them.

    `objects` are the targets, in pixels of the after frame (`changes` says what happened to each);
    `homography` (3, 3) float64 maps before px to after px; `alignment_score` in [0, 1] says how far to trust it,
    `alignment_model` what kind of movement it is, `alignment_residual` (px) how well the matches agree with it.
    `valid` is a mask of the after frame's pixels that have a counterpart in the before frame, as PNG (see
    `dataflow.pairs.valid_pixels`); b"" where all have one.
    """

    pair_id: str
    before: ImageRecord
    after: ImageRecord
    objects: Objects
    homography: npt.NDArray[np.float64] = field(default_factory=_identity)
    alignment_score: float = 1.0
    alignment_model: MotionModel = "identity"
    alignment_residual: float = 0.0
    valid: bytes = b""

    def __post_init__(self) -> None:
        object.__setattr__(self, "homography", _freeze(self.homography, np.float64))
        _require(self.homography.shape == (3, 3), f"a homography of shape {self.homography.shape}", "use (3, 3)")
        _require(
            0.0 <= self.alignment_score <= 1.0,
            f"an alignment score of {self.alignment_score}",
            "use a number from 0 to 1",
        )
        _require(
            self.alignment_model in MODELS,
            f"an alignment model {self.alignment_model!r}",
            f"use one of {', '.join(MODELS)}",
        )
        _require(
            0.0 <= self.alignment_residual < np.inf,
            f"an alignment residual of {self.alignment_residual} px",
            "use a finite number from 0",
        )
        _require(
            not self.valid or mask_size(self.valid) == self.after.size,
            f"pair {self.pair_id!r} has a mask of valid pixels that is no grey PNG of the after frame's size",
            "encode it by dataflow.pairs.valid_pixels",
        )
        _require(
            self.before.group_id == self.after.group_id,
            f"pair {self.pair_id!r} spans the scenes {self.before.group_id!r} and {self.after.group_id!r}",
            "pair images of one scene",
        )
        self.objects.check_inside(self.after.size)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one run detected in one image.

    `boxes` (M, 4) float32 xyxy px of the original (upright) image; `scores` (M,) float32 in [0, 1];
    `category_ids` (M,) int64 contiguous; `run_id` says which run.
    """

    image_id: str
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    category_ids: npt.NDArray[np.int64]
    run_id: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", _freeze(np.asarray(self.boxes).reshape(-1, 4), np.float32))
        object.__setattr__(self, "scores", _freeze(np.asarray(self.scores).reshape(-1), np.float32))
        object.__setattr__(self, "category_ids", _freeze(np.asarray(self.category_ids).reshape(-1), np.int64))
        _require(
            len(self.boxes) == len(self.scores) == len(self.category_ids),
            f"image {self.image_id!r}: {len(self.boxes)} boxes, {len(self.scores)} scores, "
            f"{len(self.category_ids)} classes",
            "give one of each per detection",
        )
        finite = np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()
        _require(bool(finite), f"image {self.image_id!r} has detections that are not finite", "drop them first")
        _require(
            bool(((self.scores >= 0) & (self.scores <= 1)).all()),
            f"image {self.image_id!r} has scores outside 0 to 1",
            "use probabilities",
        )

    def __len__(self) -> int:
        return len(self.boxes)
