"""What preflight looks at without training a step: classes against the head, and boxes against what a detector sees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from dataflow.prepared import PreparedDataset
from dataflow.records import Categories
from trainers.detectors.checkpoints import class_names
from trainers.detectors.detectors import ClassHead, Reach
from trainers.recipes.recipe import Recipe

CheckName = Literal["classes", "boxes", "parameters", "overfit", "memory", "speed"]
Level = Literal["good", "note", "bad"]
"""`bad` must be mended before training; `note` is for a person to judge."""

_MOST_IMAGES = 2000
_FEW = 0.05
"""Share of objects that may be too small without a word."""
_HALF_OVERLAP = 0.5**0.5
"""Side over that of a square that holds it, at which the two overlap by half (IoU 0.5)."""
_NAMED = 3


@dataclass(frozen=True)
class Check:
    """One subject of preflight: what was found, in words and in `figures`, and what to do about it."""

    name: CheckName
    level: Level
    says: str
    figures: Mapping[str, Any]
    details: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True, eq=False)
class Truth:
    """The objects of the first images of a split, as the detector sees them.

    `sides` (N,) float64: square root of the area of each box in the resized image, px; `category_ids` (N,) int64;
    `counts` (images,) objects of each image; `image_ids` of the images, and `owners` (N,) which of them has the object.
    Regions to ignore are left out.
    """

    sides: npt.NDArray[np.float64]
    category_ids: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    image_ids: tuple[str, ...]
    owners: npt.NDArray[np.int64]
    total: int
    """Images of the split."""


def read_truth(dataset: PreparedDataset, split: str, recipe: Recipe, most: int = _MOST_IMAGES) -> Truth:
    """The objects of the first `most` images of a split; shards are in no order, so they stand for the others."""
    sides, ids, image_ids = [], [], []
    for record in islice(dataset.records(split), most):
        kept = record.objects.only(~record.objects.is_crowd)
        scale = np.array(recipe.resize.target_size(record.size), np.float64) / record.size
        extents = (kept.boxes[:, 2:] - kept.boxes[:, :2]).astype(np.float64) * scale[::-1]
        sides.append(np.sqrt(extents.prod(axis=1)))
        ids.append(kept.category_ids)
        image_ids.append(record.image_id)
    counts = np.array([len(each) for each in ids], np.int64)
    return Truth(
        np.concatenate([*sides, np.zeros(0)]),
        np.concatenate([*ids, np.zeros(0, np.int64)]),
        counts,
        tuple(image_ids),
        np.repeat(np.arange(len(counts)), counts),
        dataset.splits[split],
    )


def check_classes(categories: Categories, truth: Truth, model: PreTrainedModel, head: ClassHead) -> Check:
    """Whether the head has one output per class in order and no-object where its loss expects it, and what is absent.

    Args:
        head: what the model yields, measured on a batch; see `trainers.detectors.detectors.class_head`.
    """
    names, known = categories.names, class_names(model.config)
    objects = np.bincount(truth.category_ids, minlength=len(names))
    figures = {
        "classes": list(names),
        "objects": dict(zip(names, objects.tolist(), strict=False)),
        "head_outputs": head.outputs,
        "no_object_index": head.no_object,
    }
    wanted = len(names) + (head.no_object is not None)
    if head.outputs != wanted or known != names:
        what = f"{head.outputs} outputs for {', '.join(known)}" if known != names else f"{head.outputs} outputs"
        return Check(
            "classes",
            "bad",
            f"the head has {what}; {_classes(names)} want {wanted}",
            figures,
            remedy="build the detector for this dataset's classes, from the recipe or from --weights",
        )
    extra = "" if head.no_object is None else f", no-object being output {head.no_object}"
    says = f"the head has {head.outputs} {'output' if head.outputs == 1 else 'outputs'} for {_classes(names)}{extra}"
    absent = [name for name, count in zip(names, objects, strict=False) if not count]
    if not absent:
        return Check("classes", "good", says, figures)
    listed = ", ".join(absent[:_NAMED]) + (f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else "")
    return Check(
        "classes",
        "note",
        f"{says}; no object of {listed} in the {_looked_at(truth)}",
        figures,
        remedy="they will never be detected unless the weights know them; check the split",
    )


def _classes(names: Sequence[str]) -> str:
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({', '.join(names[:5])}" + (
        ", ...)" if len(names) > 5 else ")"
    )


def _looked_at(truth: Truth) -> str:
    count = len(truth.image_ids)
    return f"{count} images" if count == truth.total else f"first {count} of {truth.total} images"


def check_boxes(truth: Truth, reach: Reach) -> Check:
    """How large objects are where the detector looks, against its finest cells, anchors and number of queries."""
    if not len(truth.sides):
        return Check(
            "boxes",
            "bad",
            f"there is no object in the {_looked_at(truth)}",
            {"objects": 0},
            remedy="train on a split with objects: choose another --split, or look at audit.html",
        )
    least, median, largest = np.quantile(truth.sides, (0, 0.5, 1)).tolist()
    small = truth.sides < reach.stride
    figures: dict[str, Any] = {
        "objects": len(truth.sides),
        "side_px": {"least": least, "median": median, "largest": largest},
        "finest_stride_px": reach.stride,
        "below_stride": float(small.mean()),
        "most_in_an_image": int(truth.counts.max()),
    }
    says = (
        f"{len(truth.sides):,} objects in the {_looked_at(truth)}, {least:.0f} to {largest:.0f} px in the network "
        f"(half of them below {median:.0f}); {small.mean():.1%} are smaller than its finest cell, {reach.stride} px"
    )
    notes = []
    if small.mean() > _FEW:
        owner = int(truth.owners[truth.sides.argmin()])
        notes.append(f"the smallest, {least:.1f} px, is in {truth.image_ids[owner]}; train on larger images to see it")
    if reach.anchor is not None:
        missed = float((truth.sides < _HALF_OVERLAP * reach.anchor).mean())
        figures |= {"smallest_anchor_px": reach.anchor, "below_anchors": missed}
        if missed > _FEW:
            notes.append(f"{missed:.1%} overlap no anchor by half: the smallest is {reach.anchor:.0f} px")
    if reach.queries is not None:
        figures |= {"queries": reach.queries, "images_with_more": int((truth.counts > reach.queries).sum())}
        if figures["images_with_more"]:
            notes.append(f"{figures['images_with_more']} images have more objects than there are queries")
    level: Level = "note" if notes else "good"
    return Check("boxes", level, says, figures, tuple(notes))
