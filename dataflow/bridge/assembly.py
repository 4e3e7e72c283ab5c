"""A batch that is being drawn: its drafts in, images on a common canvas out."""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from dataflow.boxes import Size, shown_to_xyxy, xyxy_to_shown
from dataflow.bridge.batches import Batch, Target
from dataflow.bridge.buffers import ArrayRing
from dataflow.bridge.drafts import Draft, ExampleError, targets_of
from dataflow.bridge.drawing import Canvas, Place, draw
from dataflow.bridge.padding import Padding
from dataflow.bridge.transforms import Transform, apply_transform
from dataflow.bridge.view import Seen
from dataflow.errors import ShardboxError, UsageError

_AT_ONCE = 4  # images that one thread draws in one go


@dataclass(frozen=True, eq=False)
class Assembly:
    """How batches are put together, and the memory they are put into, which is used again."""

    pool: ThreadPoolExecutor
    threads: int
    pad: Padding
    canvas: Canvas
    channels: int
    transform: Transform | None = None
    rings: tuple[ArrayRing, ArrayRing] = field(default_factory=lambda: (ArrayRing(), ArrayRing()))

    def places(self, drafts: Sequence[Draft], sizes: Sequence[Size]) -> tuple[Place, list[Place]]:
        """A canvas for images of these `sizes`, and the place of each on it.

        Raises:
            UsageError: an image is larger than the canvas.
        """
        height, width = self.pad.canvas_size(sizes)
        for draft, size in zip(drafts, sizes, strict=True):
            if size[0] > height or size[1] > width:
                raise UsageError(
                    f"image {draft.image_id!r} ({draft.place}) has (height, width) = {size} px after resizing, "
                    f"its batch is padded to {(height, width)}",
                    "pad to a larger size, or resize the images to a smaller one",
                )
        whole = Place(
            self.rings[0].take((len(drafts), height, width, self.channels), self.canvas.dtype),
            self.rings[1].take((len(drafts), height, width), np.bool_),
        )
        return whole, [Place(whole.pixels[i], whole.mask[i]) for i in range(len(drafts))]


class Finished(NamedTuple):
    """A batch, and of its images why they could not be aligned, and what had to be passed over, by image id."""

    batch: Batch
    refused: dict[str, str]
    damaged: dict[str, str]


class PendingBatch:
    """A batch that is being drawn by the threads of an assembly.

    Without a transform the canvas is known at once, and each image is drawn onto it. With one it is known only after
    all images were seen and transformed.
    """

    def __init__(self, assembly: Assembly, drafts: Sequence[Draft]) -> None:
        """Start drawing.

        Raises:
            UsageError: an image is larger than the canvas.
        """
        self._assembly, self._drafts = assembly, drafts
        places: Sequence[Place | None] = [None] * len(drafts)
        if assembly.transform is None:
            self._whole, places = assembly.places(drafts, [draft.size for draft in drafts])
        at_once = max(1, min(_AT_ONCE, math.ceil(len(drafts) / assembly.threads)))
        self._drawn: list[Future[list[Seen]]] = [
            assembly.pool.submit(_see, drafts[i : i + at_once], places[i : i + at_once], assembly.canvas)
            for i in range(0, len(drafts), at_once)
        ]

    def finish(self) -> Finished:
        """The batch, once it is drawn.

        Raises:
            ExampleError: an image could not be decoded or transformed.
            UsageError: a transformed image is larger than the canvas.
        """
        seen = [one for drawn in self._drawn for one in drawn.result()]
        drafts = list(zip(self._drafts, seen, strict=True))
        targets = [draft.target for draft in self._drafts if draft.target is not None]
        if not targets:  # Of pairs, where objects are known only now.
            ways, originals = [one.shown for one in self._drafts], [one.original_size for one in self._drafts]
            targets = targets_of(ways, originals, [one.objects for one in seen])
        sizes = [draft.size for draft in self._drafts]
        shown: list[tuple[float, ...]] = [draft.shown.edges for draft in self._drafts]
        if self._assembly.transform is not None:
            targets, sizes = self._transformed(self._assembly.transform, seen, targets)
            shown = [(math.nan,) * 4] * len(drafts)
        batch = Batch(
            pixel_values=torch.from_numpy(self._whole.pixels).permute(0, 3, 1, 2),
            pixel_mask=torch.from_numpy(self._whole.mask),
            targets=tuple(targets),
            image_ids=tuple(draft.image_id for draft in self._drafts),
            sizes=torch.from_numpy(np.array(sizes, np.int64)),
            original_sizes=torch.from_numpy(np.array([draft.original_size for draft in self._drafts], np.int64)),
            shown=torch.from_numpy(np.array(shown, np.float64)),
        )
        return Finished(
            batch,
            {draft.image_id: found.refused for draft, found in drafts if found.refused},
            {draft.image_id: f"{draft.place}: {found.damage}" for draft, found in drafts if found.damage},
        )

    def _transformed(
        self, transform: Transform, seen: Sequence[Seen], targets: Sequence[Target]
    ) -> tuple[list[Target], list[Size]]:
        """Transform what was seen and draw it; targets and sizes (height, width) after that."""
        made, left = [], []
        for draft, found, target in zip(self._drafts, seen, targets, strict=True):
            height, width = draft.size
            image = np.concatenate(found.images, axis=2) if len(found.images) > 1 else found.images[0]
            boxes = shown_to_xyxy(target.boxes.numpy(), (0, 0, width, height))
            try:
                image, boxes, ids = apply_transform(
                    transform, image, boxes, target.category_ids.numpy(), draft.transform_seed
                )
            except ShardboxError as error:
                raise ExampleError(
                    f"image {draft.image_id!r} ({draft.place}): {error.message}", error.remedy
                ) from error
            made.append(found._replace(images=(image,)))
            edges = (0, 0, image.shape[1], image.shape[0])
            left.append(Target(torch.from_numpy(xyxy_to_shown(boxes, edges)), torch.from_numpy(ids)))
        sizes = [(one.images[0].shape[0], one.images[0].shape[1]) for one in made]
        self._whole, places = self._assembly.places(self._drafts, sizes)
        for one, place in zip(made, places, strict=True):
            draw(one.images, place, self._assembly.canvas)
        return left, sizes


def _see(drafts: Sequence[Draft], places: Sequence[Place | None], canvas: Canvas) -> list[Seen]:
    """What is seen of some examples, drawn where there is a place for it."""
    seen = []
    for draft, place in zip(drafts, places, strict=True):
        if place is None:
            seen.append(draft.seen())
            continue
        one = draft.seen(canvas.room(draft.size, place.pixels))
        draw(one.images, place, canvas)
        seen.append(one._replace(images=()))  # Nobody needs the images any more.
    return seen
