"""The bridge: prepared shards in, padded and masked torch batches out, at about the speed of decoding.

    tf.data or ArrayRecord (encoded examples, in order) -> drafts
    -> threads (decode, resize, straight onto the canvas) -> Batch

TensorFlow, where it is used, only reads. Decoding and resizing are native code that runs without Python's lock, in the
loader's own threads, some batches ahead of the training step. Pixels stay uint8 until they are on the training device,
where `dataflow.batches.normalise` makes floats of them.
"""

import atexit
import logging
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import count, islice

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from dataflow.batches import Batch
from dataflow.boxes import Size
from dataflow.buffers import ArrayRing
from dataflow.drafts import Augmentation, Draft, ExampleReader
from dataflow.errors import UsageError
from dataflow.order import ReadPlan, Share, sequential_plan, shuffled_plan
from dataflow.padding import TO_LARGEST, Padding
from dataflow.pair_augmentation import PairAugmentation
from dataflow.prepared import PreparedDataset
from dataflow.record_stream import read_in_order
from dataflow.resize import Resize
from dataflow.view import Seen, View

_WINDOW_BYTES = 128 << 20  # of encoded examples that are shuffled at a time
_WINDOW_LIMITS = (64, 4096)  # examples
_USUAL_BYTES = 256 << 10  # of a photograph
_MAX_THREADS = 8
_log = logging.getLogger("shardbox")
_RUNNING: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()


@atexit.register
def _stop_running() -> None:
    """End what was left running when the program ends, while the modules that ending needs are still there."""
    for batches in list(_RUNNING):
        with suppress(ValueError):  # It is at work in another thread, which ends by itself.
            batches.close()


def default_threads() -> int:
    """Number of decoding threads: one for each processor this process may use, at most eight."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MAX_THREADS)


class BatchLoader(IterableDataset[Batch]):
    """Batches of one split of a prepared dataset, ours or any TFDS detection dataset.

    **Training** gives an endless stream over epochs, in an order that depends on (seed, epoch, rank, world size) alone.
    Every example of this rank's share comes once an epoch; a batch may cross the border between two epochs, so that
    all batches are full. `start_step=k` gives exactly the batches from the k-th on, without decoding those before.

    **Evaluation** gives each image once, in shard order, each rank its own part; the last batch may be smaller.

    A pair that could not be aligned shows no change and no objects; `refused` says which these were, and why.

    Ignore regions (crowds) are in no target. EXIF orientation is applied to our datasets, whose boxes are in the
    upright frame, and not to others, because TFDS and so the boxes of its datasets ignore it.

    Pixels are bytes. Where floats are wanted, on a CPU too, `dataflow.batches.normalise(batch.pixel_values,
    batch.pixel_mask, mean, std)` gives them as (B, C, H, W) float32, with the values of Hugging Face's processor.

    An image that does not fit the canvas of `pad` ends the iteration with a `UsageError` that names it.

    Give it to a `DataLoader` with `batch_size=None` and no workers: it has threads of its own.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        split: str,
        policy: Resize,
        batch_size: int,
        *,
        training: bool,
        pad: Padding = TO_LARGEST,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        threads: int | None = None,
        flip: float = 0.0,
        limit: int | None = None,
        view: View = View(),
        augmentation: PairAugmentation | None = None,
    ) -> None:
        """A loader that has read nothing yet.

        Args:
            dataset: the prepared dataset.
            split: name of the split.
            policy: to which size images are resized.
            batch_size: images per batch of this rank.
            training: shuffled and endless, or each image once in order.
            pad: to which size the resized images of a batch are padded.
            seed: decides the order and the mirroring in training.
            rank: number of this process among `world_size`.
            world_size: number of processes that share the split.
            start_step: batches to leave out at the beginning.
            threads: that decode; by default one per processor, at most eight.
            flip: probability of mirroring an image left to right, in training.
            limit: use only the first examples of the split.
            view: what is shown of an example; of a dataset of pairs, differences can be made on the way.
            augmentation: of pairs whose frames are compared on the way, in training.

        Raises:
            UsageError: no such split, a number out of range, no example to train on, or a view that the dataset
                does not have or that cannot be augmented.
        """
        super().__init__()
        threads = default_threads() if threads is None else threads
        for good, what in (
            (batch_size >= 1, f"a batch size of {batch_size}"),
            (0 <= rank < world_size, f"rank {rank} of {world_size}"),
            (start_step >= 0, f"start step {start_step}"),
            (threads >= 1, f"{threads} threads"),
            (0 <= flip <= 1, f"a flip probability of {flip}"),
            (limit is None or limit >= 1, f"a limit of {limit} examples"),
        ):
            if not good:
                raise UsageError(f"the loader was given {what}", "use a number in range")
        self.dataset = dataset
        self.split = dataset.check_split(split)
        self.view = view.settled(dataset)
        self.policy = policy
        self.pad = pad
        self.batch_size = batch_size
        self.training = training
        self.seed = seed
        self.start_step = start_step
        self.threads = threads
        self._share = Share(rank, world_size)
        changed = Augmentation(flip, seed, augmentation) if training else Augmentation()
        self._reader = ExampleReader(dataset, split, policy, changed, self.view)
        self._counts = _limited([shard.count for shard in dataset.shards(split)], limit)
        self._window = _window(dataset, split) if training else 1
        self.refused: dict[str, str] = {}
        if training and self.examples_per_epoch == 0:
            raise UsageError(
                f"split {split!r} of {dataset.path} has {sum(self._counts)} examples for {world_size} ranks",
                "train on a split with at least one example per rank",
            )

    @property
    def examples_per_epoch(self) -> int:
        """Number of examples that this rank sees in one pass."""
        return self._share.size(sum(self._counts))

    def __len__(self) -> int:
        """Number of batches of an evaluation; training has no end, and raises TypeError."""
        if self.training:
            raise TypeError("a training loader is endless: give the number of steps instead")
        return max(0, math.ceil(self.examples_per_epoch / self.batch_size) - self.start_step)

    def plans(self) -> Iterator[tuple[int, ReadPlan]]:
        """Epoch by epoch what this rank reads, from the start step on."""
        epoch, start = divmod(self.start_step * self.batch_size, max(self.examples_per_epoch, 1))
        if not self.training:
            if epoch == 0:
                yield 0, sequential_plan(self._counts, self._share, start)
            return
        for number in count(epoch):
            window = self._window
            plan = shuffled_plan(self._counts, self._share, seed=self.seed, epoch=number, window=window, start=start)
            yield number, plan
            start = 0

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the start step on. The threads and the open files end with the iterator."""
        if get_worker_info() is not None:
            raise UsageError("a BatchLoader was given to DataLoader workers", "use num_workers=0: it has threads")
        batches = self._batches()
        _RUNNING.add(batches)
        return batches

    def _batches(self) -> Generator[Batch, None, None]:
        shards = self.dataset.shards(self.split)
        total = sum(shard.count for shard in shards)
        # Enough batches on their way for every thread to have an image at hand while another waits.
        ahead = max(2, math.ceil(2 * self.threads / self.batch_size))
        rings = ArrayRing(), ArrayRing()
        pending: deque[_Pending] = deque()
        with (
            closing(read_in_order(shards, self.plans, self._window)) as examples,
            _decoding_threads(self.threads) as pool,
        ):
            while chunk := list(islice(examples, self.batch_size)):
                drafts = [self._reader.draft(*divmod(ticket, total), payload) for ticket, payload in chunk]
                pending.append(_Pending(pool, drafts, _canvas_size(drafts, self.pad), rings, self.view.channels))
                if len(pending) > ahead:
                    yield self._finished(pending.popleft())
            while pending:
                yield self._finished(pending.popleft())

    def _finished(self, pending: "_Pending") -> Batch:
        batch, refused = pending.batch()
        for image_id, reason in refused.items():
            if image_id not in self.refused:
                _log.warning("pair %s shows no change and no objects: it was not aligned (%s)", image_id, reason)
        self.refused |= refused
        return batch


class _Pending:
    """A batch that is being drawn."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        drafts: list[Draft],
        canvas_size: Size,
        rings: tuple[ArrayRing, ArrayRing],
        channels: int,
    ) -> None:
        self._drafts = drafts
        self._canvas = rings[0].take((len(drafts), *canvas_size, channels), np.uint8)
        self._mask = rings[1].take((len(drafts), *canvas_size), np.bool_)
        self._drawn: list[Future[Seen]] = [
            pool.submit(draft.draw, self._canvas[i], self._mask[i]) for i, draft in enumerate(drafts)
        ]

    def batch(self) -> tuple[Batch, dict[str, str]]:
        """The batch, once it is drawn, and why pairs in it could not be aligned, by image id.

        Raises:
            ExampleError: an image could not be decoded.
        """
        seen = [drawn.result() for drawn in self._drawn]
        drafts = list(zip(self._drafts, seen, strict=True))
        batch = Batch(
            pixel_values=torch.from_numpy(self._canvas).permute(0, 3, 1, 2),
            pixel_mask=torch.from_numpy(self._mask),
            targets=tuple(draft.target(found.objects) for draft, found in drafts),
            image_ids=tuple(draft.image_id for draft in self._drafts),
            sizes=torch.tensor([draft.size for draft in self._drafts]),
            original_sizes=torch.tensor([draft.original_size for draft in self._drafts]),
        )
        return batch, {draft.image_id: found.refused for draft, found in drafts if found.refused}


def _canvas_size(drafts: Sequence[Draft], pad: Padding) -> Size:
    """(height, width) px of the canvas that these are drawn onto.

    Raises:
        UsageError: an image is larger than the canvas.
    """
    canvas = pad.canvas_size([draft.size for draft in drafts])
    for draft in drafts:
        if draft.size[0] > canvas[0] or draft.size[1] > canvas[1]:
            raise UsageError(
                f"image {draft.image_id!r} ({draft.place}) has (height, width) = {draft.size} px after resizing, "
                f"its batch is padded to {canvas}",
                "pad to a larger size, or resize the images to a smaller one",
            )
    return canvas


@contextmanager
def _decoding_threads(n: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `n` threads, in each of which torch computes alone; they have ended when the context ends.

    Where torch's resize is parallel itself (CPUs without AVX2), every thread would otherwise bring its own team.
    torch keeps the setting by thread, with a common default for threads to come, which is put back here.
    """
    default = torch.get_num_threads()
    pool = ThreadPoolExecutor(n, "shardbox-decode", initializer=_compute_alone)
    try:
        started = threading.Barrier(n + 1)
        for _ in range(n):
            pool.submit(started.wait)
        started.wait()
        torch.set_num_threads(default)
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _compute_alone() -> None:
    torch.get_num_threads()  # The first use of torch in a thread takes over the default, so it has to come first.
    torch.set_num_threads(1)


def _limited(counts: Sequence[int], limit: int | None) -> list[int]:
    """Examples by shard, of which only the first `limit` are used."""
    stops = np.cumsum(counts) if limit is None else np.minimum(np.cumsum(counts), limit)
    return [int(n) for n in np.diff(stops, prepend=0)]


def _window(dataset: PreparedDataset, split: str) -> int:
    """How many examples are shuffled at a time: many, but not so many that large images fill the memory."""
    info = dataset.builder.info.splits[split]
    mean_bytes = info.num_bytes / max(1, info.num_examples) or _USUAL_BYTES  # Some writers leave the size out.
    return int(np.clip(_WINDOW_BYTES / mean_bytes, *_WINDOW_LIMITS))
