"""The hook for transforms of other libraries: torchvision's v2, albumentations, or any function.

A transform gets what the loader would otherwise put on the canvas, in the thread that iterates over the batches, with
the random generators of Python, numpy and torch seeded from (seed, epoch, image id). So batches stay a function of
these, whichever generator the transform draws from, and training draws what it would have drawn without.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dataflow.boxes import Boxes
from dataflow.errors import ShardboxError
from dataflow.images import RgbImage

Ids = npt.NDArray[np.int64]
Transform = Callable[[RgbImage, Boxes, Ids], tuple[RgbImage, Boxes, Ids]]
"""An image (h, w, C) uint8, xyxy boxes (N, 4) px in it and class ids (N,) to such; of any size, with any boxes left."""


class TransformError(ShardboxError):
    """A transform that gave back what is no image with boxes."""


def torchvision_transform(transform: Callable[..., Any]) -> Transform:
    """A transform of `torchvision.transforms.v2` on images and `tv_tensors.BoundingBoxes`.

    Boxes that it leaves without area are left out, and with them their class ids.
    """
    from torchvision import tv_tensors

    def changed(image: RgbImage, boxes: Boxes, category_ids: Ids) -> tuple[RgbImage, Boxes, Ids]:
        size = image.shape[:2]
        made: Any = tv_tensors.BoundingBoxes
        picture = tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))
        around = made(torch.from_numpy(np.array(boxes)), format="XYXY", canvas_size=size)
        picture, found = transform(picture, {"boxes": around, "labels": torch.from_numpy(category_ids)})
        pixels = picture.permute(1, 2, 0).contiguous().numpy()
        return pixels, found["boxes"].numpy(), found["labels"].numpy()

    return changed


def albumentations_transform(compose: Callable[..., Any]) -> Transform:
    """A `Compose` of albumentations with `BboxParams(format="pascal_voc", label_fields=["category_ids"])`."""

    def changed(image: RgbImage, boxes: Boxes, category_ids: Ids) -> tuple[RgbImage, Boxes, Ids]:
        reseed = getattr(compose, "set_random_seed", None)  # From its version 2 on it has generators of its own.
        if reseed is not None:
            reseed(random.getrandbits(31))
        made = compose(image=image, bboxes=boxes, category_ids=category_ids)
        found = np.asarray(made["bboxes"], np.float32).reshape(-1, 4)
        return made["image"], found, np.asarray(made["category_ids"], np.int64)

    return changed


def apply_transform(
    transform: Transform, image: RgbImage, boxes: Boxes, category_ids: Ids, seed: int
) -> tuple[RgbImage, Boxes, Ids]:
    """What a transform makes of an image, drawing from a seed; boxes cut at its border, those without area left out.

    Raises:
        TransformError: it is no uint8 image of as many channels, with four numbers and one class id for each box, or
            the transform failed.
    """
    try:
        with _seeded(seed):
            made, found, ids = transform(image, boxes, category_ids)
    except Exception as error:
        message = f"the transform gave an error: {error.__class__.__name__}: {error}"
        raise TransformError(message, f"try it on an image of {image.shape} with {len(boxes)} boxes") from error
    made, found, ids = np.asarray(made), np.asarray(found, np.float32).reshape(-1, 4), np.asarray(ids, np.int64)
    if made.dtype != np.uint8 or made.ndim != 3 or made.shape[2] != image.shape[2] or 0 in made.shape:
        raise TransformError(
            f"the transform gave an image of {made.dtype} {made.shape}",
            f"give uint8 of (height, width, {image.shape[2]}); floats are made by the loader's `normalisation`",
        )
    if ids.shape != (len(found),):
        raise TransformError(f"the transform gave {len(found)} boxes, but class ids {ids.shape}", "give one per box")
    height, width = made.shape[:2]
    found = np.clip(found, 0, np.array([width, height, width, height], np.float32))
    keep = (found[:, :2] < found[:, 2:]).all(axis=1)
    return np.ascontiguousarray(made), found[keep], ids[keep]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The three generators that libraries draw from, seeded; afterwards they are as they were."""
    python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(of_numpy)
