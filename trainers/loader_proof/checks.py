"""What is looked at to prove the loader's promises (`trainers.loader_proof.proof`), and the checks of every image."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest
from typing import Any, Literal, NamedTuple

import numpy as np

from dataflow.boxes import Size
from dataflow.bridge.batches import targets_to_predictions
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.order import Share
from dataflow.bridge.pair_augmentation import PairAugmentation
from dataflow.bridge.resize import ResizePolicy
from dataflow.bridge.view import View, sight_of
from dataflow.errors import ShardboxError, UsageError
from dataflow.images import decode_rgb
from dataflow.prepared import PreparedDataset
from dataflow.records import ImageRecord, Predictions
from dataflow.schema import example_image_id, example_to_record
from dataflow.tfrecord import CorruptRecordError

CheckName = Literal["images", "boxes", "evaluation", "epochs", "order", "resuming", "threads"]

TOLERANCE_PX = 0.01
"""How far a box may be from where it was after the way to a target and back."""
MOST_FAILURES = 20
"""How many failures, and notes, a check lists."""

_RESIZE = ResizePolicy(480, 640)
_FLIP = 0.5


@dataclass(frozen=True)
class ProofOptions:
    """How the loader is looked at.

    `batch_size`: images in a batch of one rank. `world_sizes`: numbers of ranks to share a split among. `seed`: of the
    orders, and of the steps to resume at. `limit`: look at the first images of a split only. `resize`: to which size.

    Raises:
        UsageError: a limit or a world size below 1, or no world size.
    """

    batch_size: int = 8
    world_sizes: tuple[int, ...] = (1, 2, 3, 5)
    seed: int = 0
    limit: int | None = None
    resize: ResizePolicy = _RESIZE

    def __post_init__(self) -> None:
        if not self.world_sizes or min(self.world_sizes) < 1:
            raise UsageError(
                f"--world-sizes {', '.join(map(str, self.world_sizes))}", "give numbers of ranks from 1 on"
            )
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}", "give a number of images from 1 on")


@dataclass(frozen=True)
class Check:
    """One promise: `says` what was looked at and how it should be, `counts` it; `failures` say where it is not so.

    `notes` are of images that keep the promise, but not as one may think.
    """

    name: CheckName
    says: str
    counts: Mapping[str, float]
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        return not self.failures


@dataclass(frozen=True)
class Subject:
    """The split whose batches are looked at, and how."""

    dataset: PreparedDataset
    split: str
    options: ProofOptions

    @cached_property
    def images(self) -> int:
        """Number of images that are looked at."""
        total = sum(shard.count for shard in self.dataset.shards(self.split))
        return total if self.options.limit is None else min(total, self.options.limit)

    @property
    def trainable(self) -> list[int]:
        """World sizes that leave at least one image to each rank; of one rank, if no other does."""
        return sorted({n for n in self.options.world_sizes if n <= self.images}) or [1]

    @property
    def placements(self) -> list[Share]:
        """The ranks whose batches are looked at: the last of the fewest and of the most."""
        return [Share(n - 1, n) for n in sorted({self.trainable[0], self.trainable[-1]})]

    @property
    def augmentation(self) -> PairAugmentation | None:
        """What training changes about pairs."""
        if self.dataset.layout.kind != "pairs":
            return None
        from trainers.recipes.recipe import AUGMENTATION  # It takes seconds, which single images need not wait for.

        return AUGMENTATION

    def loader(self, share: Share, *, training: bool, step: int = 0, threads: int | None = None) -> BatchLoader:
        """A loader as training (mirroring and, of pairs, augmenting) or evaluation has it, from a step on."""
        return BatchLoader(
            self.dataset,
            self.split,
            self.options.resize,
            self.options.batch_size,
            training=training,
            seed=self.options.seed,
            rank=share.rank,
            world_size=share.world_size,
            start_step=step,
            threads=threads,
            flip=_FLIP if training else 0.0,
            limit=self.options.limit,
            augmentation=self.augmentation if training else None,
        )

    def place(self, index: int) -> str:
        """Shard and position of an image of the split."""
        for shard in self.dataset.shards(self.split):
            if index < shard.count:
                return f"{shard.path}, example {index}"
            index -= shard.count
        return "in no shard"


class _OutOfStepError(Exception):
    """The loader gives other images than the shards hold."""


class _Seen(NamedTuple):
    """Of an image as the loader gives it: its targets, brought back, and its size."""

    truth: Predictions
    size: Size


class Found(NamedTuple):
    """An image in its place in the split: its id, and its (height, width) px after resizing."""

    image_id: str
    size: Size


def check_images(subject: Subject) -> tuple[list[Found], list[Check]]:
    """The images in shard order, and what one pass over all of them shows, beside records read without the loader."""
    found: list[Found] = []
    broken: list[str] = []
    displaced: list[str] = []
    n_boxes, worst = 0, 0.0
    loader = subject.loader(Share(), training=False)
    try:
        for index, (seen, record) in enumerate(_side_by_side(subject, loader)):
            image = f"image {record.image_id!r} ({subject.place(index)})"
            if seen.size != record.size:
                broken.append(f"{image} comes as (height, width) = {seen.size} px, its example says {record.size}")
            found.append(Found(record.image_id, subject.options.resize.target_size(record.size)))
            far = _displacement(seen.truth, record)
            n_boxes, worst = n_boxes + len(seen.truth), max(worst, far)
            if not far < TOLERANCE_PX:
                what = f"return {far:.3g} px off" if far < math.inf else "do not all return, or with other classes"
                displaced.append(f"{image}: boxes {what}")
    except UsageError:
        raise
    except _OutOfStepError as error:
        broken.append(str(error))
    except ShardboxError as error:
        broken += islice(_faults(subject, len(found)), MOST_FAILURES)
        broken = broken or [error.message]
    images = (
        f"{subject.images} images decode and come once, in the order of the shards, each of the size that its example "
        "says and with all boxes inside"
    )
    counts = {"images": len(found), "damaged": len(loader.damaged), "refused": len(loader.refused)}
    checks = [Check("images", images, counts, tuple(broken[:MOST_FAILURES]), tuple(_notes(loader)))]
    if not broken:
        boxes = f"{n_boxes} boxes return to the original images within {worst:.2g} px (less than {TOLERANCE_PX} asked)"
        checks.append(
            Check(
                "boxes", boxes, {"boxes": n_boxes, "largest_error_px": worst}, failures=tuple(displaced[:MOST_FAILURES])
            )
        )
    return found, checks


def _notes(loader: BatchLoader) -> Iterator[str]:
    """Images that the loader shows in part, or without what changed in them."""
    for what, images in (
        ("damaged, shown as far as decodable", loader.damaged),
        ("not aligned, shown without change and objects", loader.refused),
    ):
        if images:
            listed = [f"{image_id!r} ({why})" for image_id, why in islice(sorted(images.items()), MOST_FAILURES)]
            more = f", and {len(images) - len(listed)} more" if len(images) > len(listed) else ""
            yield f"{len(images)} {what}: {', '.join(listed)}{more}"


def _side_by_side(subject: Subject, loader: BatchLoader) -> Iterator[tuple[_Seen, ImageRecord]]:
    """Every image as the loader gives it for evaluation, and as it is read without it."""
    records = islice(subject.dataset.records(subject.split), subject.images)
    for index, (seen, record) in enumerate(zip_longest(_each(loader), records)):
        given, stored = (seen.truth.image_id if seen else None), (record.image_id if record else None)
        if given != stored:
            where = subject.place(index)
            raise _OutOfStepError(f"the loader gives {_image(given)}, the shards hold {_image(stored)} ({where})")
        yield seen, record


def _image(image_id: str | None) -> str:
    return "nothing" if image_id is None else f"image {image_id!r}"


def _each(loader: BatchLoader) -> Iterator[_Seen]:
    for batch in loader:
        sizes = batch.original_sizes.tolist()
        for truth, (height, width) in zip(targets_to_predictions(batch, "truth"), sizes, strict=True):
            yield _Seen(truth, (height, width))


def _displacement(seen: Predictions, record: ImageRecord) -> float:
    """How far (px) boxes are from where they were stored; infinite where others, or other classes, come back."""
    found = ~record.objects.is_crowd
    boxes, classes = record.objects.boxes[found], record.objects.category_ids[found]
    if not np.array_equal(seen.category_ids, classes):
        return math.inf
    return float(np.abs(np.asarray(seen.boxes, np.float64) - boxes).max(initial=0.0))


def _faults(subject: Subject, first: int) -> Iterator[str]:
    """What is wrong with images from the `first` on, each looked at by itself, which the loader cannot do."""
    start = 0
    for shard in subject.dataset.shards(subject.split):
        examples = islice(subject.dataset.shard_examples(shard), max(0, min(shard.count, subject.images - start)))
        try:
            for number, (position, example) in enumerate(examples):
                if start + number >= first and (fault := _fault(subject.dataset, example, position)):
                    image_id = example_image_id(example, subject.dataset.layout, position)
                    yield f"image {image_id!r} ({shard.path}, example {number}): {fault}"
        except CorruptRecordError as error:
            yield error.message
        start += shard.count


def _fault(dataset: PreparedDataset, example: Mapping[str, Any], position: str) -> str:
    """Why an example cannot be shown, or nothing."""
    ours = dataset.layout.is_ours
    try:
        record = example_to_record(example, dataset.layout, position)
        record.objects.check_inside(record.size, len(dataset.categories))
        for frame in sight_of(View().settled(dataset), dataset.layout.kind).frames:
            turned = example.get(f"{frame}/orientation") if ours else 1
            size = decode_rgb(example[frame], None if turned is None else int(turned)).shape[:2]
            if size != record.size:
                return f"`{frame}` has (height, width) = {size} px, its example says {record.size}"
    except ShardboxError as error:
        return error.message
    return ""
