"""The bridge: prepared shards in, padded and masked torch batches out, at about the speed of decoding.

    tf.data or ArrayRecord (encoded examples, in order) -> drafts -> grouped by shape
    -> threads (decode, resize, straight onto the canvas) -> Batch

TensorFlow, where it is used, only reads. Decoding and resizing are native code that runs without Python's lock, in the
loader's own threads, some batches ahead of the training step. Pixels stay uint8 until they are on the training device,
where `dataflow.bridge.batches.normalise` makes floats of them.
"""

import atexit
import logging
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import count, islice

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from dataflow.bridge.assembly import Assembly, PendingBatch
from dataflow.bridge.batches import Batch
from dataflow.bridge.consecutive_records import read_consecutively
from dataflow.bridge.drafts import Augmentation, Draft
from dataflow.bridge.drawing import ByteCanvas, FloatCanvas, Normalisation
from dataflow.bridge.example_reader import ExampleReader
from dataflow.bridge.grouping import group_by_shape, group_of
from dataflow.bridge.image_augmentation import ImageAugmentation
from dataflow.bridge.order import ReadPlan, Share, sequential_plan, shuffled_plan
from dataflow.bridge.padding import TO_LARGEST, Padding
from dataflow.bridge.pair_augmentation import PairAugmentation
from dataflow.bridge.record_stream import read_in_order
from dataflow.bridge.resize import Resize
from dataflow.bridge.transforms import Transform
from dataflow.bridge.view import View
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset

_WINDOW_BYTES = 128 << 20  # of encoded examples that are shuffled at a time
_WINDOW_LIMITS = (64, 4096)  # examples
_USUAL_BYTES = 256 << 10  # of a photograph
_GROUPED_EXAMPLES = 256  # that are batched by shape together: photographs are then padded by two percent
_DRAFTED_TOGETHER = 128  # examples: most of what each alone would take is code coming into the processor's caches
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

    **Padding** is saved by batching images of similar shape: examples are taken in *groups* of some batches, and cut
    into these by shape (`dataflow.bridge.grouping`). Training does so unless `group=1`; where all images are of one
    shape it changes nothing.

    A pair that could not be aligned shows no change and no objects; `refused` says which these were, and why. A JPEG of
    which some pixels are lost is shown as far as it can be decoded; `damaged` says which these were, and where. An
    image that cannot be decoded ends the iteration with an `ExampleError` that names it, its shard and its place there.

    Ignore regions (crowds) are in no target. EXIF orientation is applied to our datasets, whose boxes are in the
    upright frame, and not to others, because TFDS and so the boxes of its datasets ignore it.

    Pixels are bytes, which `dataflow.bridge.batches.normalise` makes floats of on the training device. For training on
    a CPU `normalisation` makes them here, where it is cheapest: (B, C, H, W) float32, with the values of Hugging Face's
    processor.

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
        steps: int | None = None,
        threads: int | None = None,
        flip: float = 0.0,
        limit: int | None = None,
        shard: int | None = None,
        view: View = View(),
        augmentation: ImageAugmentation | PairAugmentation | None = None,
        transform: Transform | None = None,
        normalisation: Normalisation | None = None,
        group: int | None = None,
        reduced_decoding: bool = True,
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
            steps: where training ends, for loops that want to know a length; the first `start_step` count among them.
            threads: that decode; by default one per processor, at most eight.
            flip: probability of mirroring an image left to right, in training.
            limit: use only the first examples of the split.
            shard: use only the examples of this shard, in evaluation.
            view: what is shown of an example; of a dataset of pairs, differences can be made on the way.
            augmentation: what training changes at random, of images or of pairs whose frames are compared on the way.
            transform: what training does to each resized image and its boxes after that (see
                `dataflow.bridge.transforms`); it is called in the thread that iterates.
            normalisation: make floats of the pixels.
            group: batches whose examples are batched by shape; 1 keeps them as they come. By default about 256 examples
                in training, and 1 in evaluation.
            reduced_decoding: decode JPEGs that are much larger than what is wanted of them at a fraction of their size,
                which changes values by less than one level, in the mean.

        Raises:
            UsageError: no such split, a number out of range, no example to train on, a view that the dataset does not
                have or that cannot be augmented, or a transform outside of training.
        """
        super().__init__()
        threads = default_threads() if threads is None else threads
        for good, what in (
            (batch_size >= 1, f"a batch size of {batch_size}"),
            (0 <= rank < world_size, f"rank {rank} of {world_size}"),
            (start_step >= 0, f"start step {start_step}"),
            (steps is None or steps >= 1, f"{steps} steps"),
            (threads >= 1, f"{threads} threads"),
            (0 <= flip <= 1, f"a flip probability of {flip}"),
            (limit is None or limit >= 1, f"a limit of {limit} examples"),
            (group is None or group >= 1, f"groups of {group} batches"),
            (shard is None or not training, f"shard {shard} for training"),
        ):
            if not good:
                raise UsageError(f"the loader was given {what}", "use a number in range")
        if transform is not None and not training:
            raise UsageError("the loader was given a transform for evaluation", "transform images in training only")
        self.dataset = dataset
        self.split = dataset.check_split(split)
        self.view = view.settled(dataset)
        self.policy = policy
        self.pad = pad
        self.batch_size = batch_size
        self.training = training
        self.seed = seed
        self.start_step = start_step
        self.steps = steps
        self._first_step = start_step  # which resuming does not change
        self.threads = threads
        self.transform = transform
        self._share = Share(rank, world_size)
        self._canvas = ByteCanvas() if normalisation is None else FloatCanvas(normalisation)
        changed = _augmentation(flip, seed, augmentation) if training else Augmentation()
        self._reader = ExampleReader(dataset, split, policy, changed, self.view, reduced_decoding=reduced_decoding)
        self._counts = _limited([shard.count for shard in dataset.shards(split)], limit)
        if shard is not None:
            stops = np.cumsum(self._counts).tolist()
            self._share = Share(rank, world_size, (stops[shard] - self._counts[shard], stops[shard]))
        self._window = _window(dataset, split) if training else 1
        self.group = (self._usual_group() if training else 1) if group is None else group
        self.refused: dict[str, str] = {}
        self.damaged: dict[str, str] = {}
        self._given = 0  # batches, since it was last iterated over
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
        """Number of batches; TypeError for training without an end. A loaded state does not change it."""
        if self.training and self.steps is None:
            raise TypeError("a training loader is endless unless it is given `steps`")
        end = math.ceil(self.examples_per_epoch / self.batch_size) if not self.training else self.steps or 0
        return max(0, end - self._first_step)

    @property
    def planned_step(self) -> int:
        """The step that `plans` begin with: a group is read as a whole, to be cut into batches by shape."""
        return self.group_at(self.start_step)[0]

    def plans(self) -> Iterator[tuple[int, ReadPlan]]:
        """Epoch by epoch what this rank reads, from the first batch of the start step's group on."""
        epoch, start = divmod(self.planned_step * self.batch_size, max(self.examples_per_epoch, 1))
        if not self.training:
            if epoch == 0:
                yield 0, sequential_plan(self._counts, self._share, start)
            return
        for number in count(epoch):
            window = self._window
            plan = shuffled_plan(self._counts, self._share, seed=self.seed, epoch=number, window=window, start=start)
            yield number, plan
            start = 0

    def state_dict(self) -> dict[str, int]:
        """Where the iteration is, in a few numbers whatever the dataset: for checkpoints, and `load_state_dict`."""
        step = self.start_step + self._given
        return {
            "examples": step * self.batch_size * self._share.world_size,
            "seed": self.seed,
            "split_examples": sum(self._counts),
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where another loader was: with the very next batches, if batch size, ranks and groups are the same.

        Otherwise with the step that has as many examples of all ranks before it, rounded down: the running epoch then
        shows some images twice or not at all, every later one each image once.

        Raises:
            UsageError: it is the state of a loader of another seed or over another number of examples.
        """
        for name, ours in (("seed", self.seed), ("split_examples", sum(self._counts))):
            if state.get(name) != ours:
                raise UsageError(f"the loader's state has {name} {state.get(name)}, not {ours}", "resume the same data")
        self.start_step = state["examples"] // (self.batch_size * self._share.world_size)
        self._given = 0

    def _usual_group(self) -> int:
        """As many batches as a few hundred examples make, and no more than are shuffled together anyway."""
        return max(1, min(self._window, _GROUPED_EXAMPLES) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the start step on. The threads and the open files end with the iterator."""
        if get_worker_info() is not None:
            raise UsageError("a BatchLoader was given to DataLoader workers", "use num_workers=0: it has threads")
        batches = self._batches()
        _RUNNING.add(batches)
        return batches

    def _batches(self) -> Generator[Batch, None, None]:
        # Enough batches on their way for every thread to have an image at hand while another waits.
        ahead = max(2, math.ceil(2 * self.threads / self.batch_size))
        pending: deque[PendingBatch] = deque()
        self._given = 0
        with (
            closing(self._examples()) as examples,
            _decoding_threads(self.threads) as pool,
        ):
            assembly = Assembly(pool, self.threads, self.pad, self._canvas, self.view.channels, self.transform)
            left = None if self.steps is None or not self.training else max(0, self.steps - self.start_step)
            for drafts in islice(self._grouped(self._drafts(examples)), left):
                pending.append(PendingBatch(assembly, drafts))
                if len(pending) > ahead:
                    yield self._finished(pending.popleft())
            while pending:
                yield self._finished(pending.popleft())

    def _examples(self) -> Generator[tuple[int, bytes], None, None]:
        shards = self.dataset.shards(self.split)
        if self.training:
            return read_in_order(shards, self.plans, self._window)
        return read_consecutively(shards, self.plans)

    def _drafts(self, examples: Iterator[tuple[int, bytes]]) -> Iterator[Draft]:
        total = sum(shard.count for shard in self.dataset.shards(self.split))
        together = max(self.batch_size, min(_DRAFTED_TOGETHER, self._window // 8))  # Of large images windows hold few.
        while some := list(islice(examples, together)):
            yield from self._reader.drafts([(*divmod(ticket, total), payload) for ticket, payload in some])

    def _grouped(self, drafts: Iterator[Draft]) -> Iterator[list[Draft]]:
        """Drafts by batch, from the start step on. While a group is handed on, the next one is read."""
        start, stop = self.group_at(self.start_step)
        passed = self.start_step - start
        read = list(islice(drafts, (stop - start) * self.batch_size))
        while read:
            group, read = read, []
            start, stop = self.group_at(stop)
            wanted = (stop - start) * self.batch_size
            batches = [np.arange(len(group))]
            if len(group) > self.batch_size:
                batches = group_by_shape([draft.size for draft in group], self.batch_size)
            for batch in batches[passed:]:
                yield [group[i] for i in batch]
                read += islice(drafts, min(self.batch_size, wanted - len(read)))
            read += islice(drafts, wanted - len(read))
            passed = 0

    def group_at(self, step: int) -> tuple[int, int]:
        """The steps, first and behind the last, whose examples are batched by shape together with those of `step`."""
        if not self.training:  # Of one pass there is no border to cross.
            start = step - step % self.group
            return start, start + self.group
        return group_of(step, self.group, self.batch_size, self.examples_per_epoch)

    def _finished(self, pending: PendingBatch) -> Batch:
        batch, refused, damaged = pending.finish()
        self._tell(self.refused, refused, "pair %s shows no change and no objects: it was not aligned (%s)")
        self._tell(self.damaged, damaged, "image %s is damaged, and shown as far as it can be decoded (%s)")
        self._given += 1
        return batch

    def _tell(self, known: dict[str, str], new: Mapping[str, str], message: str) -> None:
        for image_id, reason in new.items():
            if image_id not in known:
                _log.warning(message, image_id, reason)
        known |= new


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


def _augmentation(flip: float, seed: int, changed: ImageAugmentation | PairAugmentation | None) -> Augmentation:
    if isinstance(changed, PairAugmentation):
        return Augmentation(flip, seed, pairs=changed)
    return Augmentation(flip, seed, images=changed)


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
