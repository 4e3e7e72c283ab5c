"""One image on its way into a batch: parsed into a draft, then drawn onto its place on the batch's canvas."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
import torch
import torch.nn.functional as F

from dataflow.batches import Target
from dataflow.boxes import Size, xyxy_to_cxcywh
from dataflow.errors import ShardboxError
from dataflow.images import ImageError, RgbImage, decode_rgb
from dataflow.prepared import PreparedDataset
from dataflow.records import Objects
from dataflow.resize import ResizePolicy
from dataflow.schema import example_image_id, example_orientation, example_size, example_to_objects
from dataflow.splits import unit_hash


class ExampleError(ShardboxError):
    """An example that cannot be made part of a batch. The message names its image id, shard and position."""


@dataclass(frozen=True)
class Flip:
    """Mirroring left to right with `probability`, decided for each image by a hash of (seed, epoch, image id)."""

    probability: float = 0.0
    seed: int = 0

    def applies(self, epoch: int, image_id: str) -> bool:
        """Whether this image is mirrored in this epoch."""
        return self.probability > 0 and unit_hash("flip", self.seed, epoch, image_id) < self.probability


@dataclass(frozen=True, eq=False)
class Draft:
    """An image that is to be drawn onto a canvas. Sizes are (height, width) px."""

    image_id: str
    place: str
    """Shard and position, for messages."""
    image: bytes
    orientation: int | None
    """The EXIF orientation that is applied before anything else; None: the image's own."""
    objects: Objects
    """In pixels of the original image, not mirrored."""
    original_size: Size
    size: Size
    """After resizing."""
    mirrored: bool

    def target(self) -> Target:
        """The objects to find, without regions that are to be ignored."""
        found = ~self.objects.is_crowd
        relative = xyxy_to_cxcywh(self.objects.boxes[found], self.original_size)
        if self.mirrored:
            relative[:, 0] = 1 - relative[:, 0]
        category_ids = np.array(self.objects.category_ids[found])
        return Target(boxes=torch.from_numpy(relative), category_ids=torch.from_numpy(category_ids))

    def draw(self, canvas: RgbImage, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """Decode and resize the image onto the top left of `canvas` (H, W, 3), zero the rest, and say so in `mask`.

        Raises:
            ExampleError: the image cannot be decoded, or has another size than its example says.
        """
        try:
            pixels = decode_rgb(self.image, self.orientation)
            if pixels.shape[:2] != self.original_size:
                raise ImageError(
                    f"the image has (height, width) = {pixels.shape[:2]} px, its example says {self.original_size}",
                    "prepare the dataset again",
                )
        except ShardboxError as error:
            raise ExampleError(f"image {self.image_id!r} ({self.place}): {error.message}", error.remedy) from error
        height, width = self.size
        region = canvas[:height, :width]
        resized = resize(pixels, self.size)
        if self.mirrored:
            cv2.flip(resized, 1, dst=region)
        else:
            np.copyto(region, resized)
        canvas[height:] = 0
        canvas[:height, width:] = 0
        mask[:height, :width] = True
        mask[height:] = False
        mask[:height, width:] = False


def resize(pixels: RgbImage, size: Size) -> RgbImage:
    """Pixels (H, W, 3) uint8 resized to `size` (height, width): bilinear with antialias, in fixed-point arithmetic.

    It is the operation that torchvision applies to uint8 tensors on a CPU with AVX2 (or on ARM), and gives its values.
    """
    height, width = pixels.shape[:2]
    if size == (height, width):
        return pixels
    # Told apart from a contiguous tensor by its batch stride alone, the image is read and written with the channels
    # last, as it lies in memory, without being repacked on the way in and out.
    strides = (height * width * 3, 1, width * 3, 3)
    image = torch.from_numpy(pixels).as_strided((1, 3, height, width), strides)
    resized = F.interpolate(image, size=size, mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


class ExampleReader:
    """Serialised examples of one split as drafts.

    Only what detection needs is unpacked: of a pair or difference dataset `image`, neither `before` nor `after`.
    """

    def __init__(self, dataset: PreparedDataset, split: str, policy: ResizePolicy, flip: Flip) -> None:
        layout = dataset.layout
        sizes = ("image/height", "image/width", layout.orientation) if layout.is_ours else ()
        wanted = ("image", layout.objects, layout.image_id, layout.filename, *sizes)
        features = dataset.builder.info.features
        self._features = tfds.features.FeaturesDict({name: features[name] for name in wanted if name})
        self._decoders = {"image": tfds.decode.SkipDecoding()}
        self._layout = layout
        self._n_categories = len(dataset.categories)
        self._policy = policy
        self._flip = flip
        self._shards = dataset.shards(split)
        self._stops = np.cumsum([shard.count for shard in self._shards])

    def draft(self, epoch: int, index: int, payload: bytes) -> Draft:
        """The draft of the example at `index` of the split, as it is seen in `epoch`.

        Raises:
            ExampleError: the example is broken.
        """
        shard = self._shards[int(np.searchsorted(self._stops, index, side="right"))]
        position = index - int(self._stops[shard.index] - shard.count)
        place = f"{shard.path}, example {position}"
        image_id = f"{shard.path.name}__{position}"
        try:
            example = self._features.deserialize_example_np(payload, decoders=self._decoders)
            image_id = example_image_id(example, self._layout, image_id)
            original_size = example_size(example, self._layout)
            objects = example_to_objects(example[self._layout.objects], original_size, self._layout, image_id)
            objects.check_inside(original_size, self._n_categories)
        except ShardboxError as error:
            raise ExampleError(f"image {image_id!r} ({place}): {error.message}", error.remedy) from error
        return Draft(
            image_id=image_id,
            place=place,
            image=example["image"],
            orientation=example_orientation(example, self._layout),
            objects=objects,
            original_size=original_size,
            size=self._policy.target_size(original_size),
            mirrored=self._flip.applies(epoch, image_id),
        )
