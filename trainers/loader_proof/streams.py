"""Checks of the loader's streams (`trainers.loader_proof.proof`): which images come, in which order, and how they
end."""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest
from typing import NamedTuple

import numpy as np

from dataflow.bridge.batches import Batch
from dataflow.bridge.grouping import group_by_shape, padded_share
from dataflow.bridge.loader import BatchLoader, default_threads
from dataflow.bridge.order import Indices, Share, times_visited
from dataflow.splits import unit_hash
from trainers.loader_proof.checks import MOST_FAILURES, Check, Found, Subject

_WHOLE = 32  # batches that are read without a gap
_STRETCH = 8  # batches of a part of a longer stream
_NONE: Indices = np.zeros(0, np.int64)


def check_evaluation(subject: Subject, found: Sequence[Found]) -> Check:
    """Whether the ranks of an evaluation together see each image once; `found` are the images in shard order."""
    failures: list[str] = []
    tails: list[int] = []
    for size in subject.options.world_sizes:
        loaders = [subject.loader(Share(rank, size), training=False) for rank in range(size)]
        visits = [next(_visits(loader), _NONE) for loader in loaders]
        failures += _visited_otherwise(subject, found, visits, f"evaluation by {_ranks(size)}")
        if not failures:
            last = len(loaders[-1]) - 1
            batches = subject.loader(Share(size - 1, size), training=False, step=last)
            shown = [name for batch in batches for name in batch.image_ids]
            planned = _names(found, visits[-1][last * subject.options.batch_size :])
            tails.append(len(shown))
            if shown != planned:
                failures.append(f"the last batch of {_ranks(size)} shows {_listed(shown)}, not {_listed(planned)}")
    says = (
        f"by {_listed(subject.options.world_sizes)} ranks together each of {subject.images} images is visited exactly "
        f"once (all visits as planned; the last batches, of {_listed(tails)} images, as read)"
    )
    sizes = len(subject.options.world_sizes)
    counts = {"world_sizes": sizes, "visits": sizes * subject.images}
    return Check("evaluation", says, counts, tuple(failures[:MOST_FAILURES]))


def check_epochs(subject: Subject, found: Sequence[Found]) -> Check:
    """Whether the ranks of a training together see each image once an epoch, in even shares."""
    failures: list[str] = []
    for size in subject.trainable:
        loaders = [subject.loader(Share(rank, size), training=True) for rank in range(size)]
        plans = [list(islice(_visits(loader), 2)) for loader in loaders]
        for epoch in (0, 1):
            visits = [of_rank[epoch] for of_rank in plans]
            where = f"epoch {epoch} of {_ranks(size)}"
            failures += _visited_otherwise(subject, found, visits, where)
            lengths = {len(share) for share in visits}
            if not lengths <= {subject.images // size, -(-subject.images // size)}:
                failures.append(f"{where}: the shares are of {_listed(sorted(lengths))} images, which is not even")
    left_out = [n for n in subject.options.world_sizes if n > subject.images]
    says = (
        f"the shares of {_listed(subject.trainable)} ranks put together are each of {subject.images} images exactly "
        "once an epoch: a rank's share is N / W images, rounded down or up, and none is dropped or repeated to make "
        "shares equal (all visits of the epochs 0 and 1 as planned)"
    )
    says += f"; for {_listed(left_out)} ranks there are too few images, and training refuses them" if left_out else ""
    counts = {"world_sizes": len(subject.trainable), "visits": 2 * len(subject.trainable) * subject.images}
    return Check("epochs", says, counts, tuple(failures[:MOST_FAILURES]))


def _visits(loader: BatchLoader) -> Iterator[Indices]:
    """Epoch by epoch the images that a loader will show, as indices into its split."""
    for _, plan in loader.plans():
        yield plan.visits[plan.skip :]


def _visited_otherwise(
    subject: Subject, found: Sequence[Found], visits: Sequence[Indices], where: str
) -> Iterator[str]:
    """The images that all these visits together do not show exactly once."""
    times = times_visited(visits, subject.images)
    for index in np.flatnonzero(times != 1)[:MOST_FAILURES].tolist():
        [name] = _names(found, [index])
        yield f"{where}: image {name!r} ({subject.place(index)}) comes {times[index]} times"


def _names(found: Sequence[Found], indices: Iterable[int]) -> list[str]:
    known = range(len(found))
    return [found[index].image_id if index in known else f"no image of the split ({index})" for index in indices]


def _ranks(size: int) -> str:
    return f"{size} rank{'s' if size > 1 else ''}"


def _listed(values: Iterable[object]) -> str:
    """Values as in a sentence."""
    texts = [repr(value) if isinstance(value, str) else str(value) for value in values]
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]])) or "none"


class _Shown(NamedTuple):
    """What a batch shows: its images, and a digest of all its numbers."""

    image_ids: tuple[str, ...]
    digest: str


def _shown(batch: Batch) -> _Shown:
    hashed = hashlib.blake2b(repr(batch.image_ids).encode(), digest_size=16)
    targets = (tensor for target in batch.targets for tensor in (target.boxes, target.category_ids))
    for tensor in (batch.pixel_values, batch.pixel_mask, batch.sizes, batch.original_sizes, *targets):
        hashed.update(repr(tuple(tensor.shape)).encode())
        hashed.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return _Shown(batch.image_ids, hashed.hexdigest())


class _Part(NamedTuple):
    """Steps `first` to `stop` of a stream; from `middle` on, resuming is tried a second time."""

    first: int
    middle: int
    stop: int


@dataclass(frozen=True)
class Stream:
    """The training batches of one rank, without an end, of which some parts are looked at."""

    subject: Subject
    found: Sequence[Found]
    share: Share

    @property
    def name(self) -> str:
        """Whose batches they are."""
        return f"rank {self.share.rank} of {self.share.world_size}"

    @property
    def epoch(self) -> int:
        """Images of this rank in an epoch."""
        return self.share.size(self.subject.images)

    @cached_property
    def parts(self) -> list[_Part]:
        """Up to some batches into the second epoch; of a long stream its beginning, and what is around that border."""
        border = -(-self.epoch // self.subject.options.batch_size)  # the first batch of the second epoch alone
        end = border + _STRETCH // 2
        if end <= _WHOLE:
            return [_Part(0, border, end)]
        return [_Part(0, _STRETCH // 2, _STRETCH), _Part(end - _STRETCH, border, end)]

    @cached_property
    def uninterrupted(self) -> list[list[_Shown]]:
        """What each part shows."""
        return [self.read(part.first, part.stop, threads=max(2, default_threads())) for part in self.parts]

    def read(self, first: int, stop: int, threads: int | None = None) -> list[_Shown]:
        """What the batches from step `first` to `stop` show, of a loader that starts there."""
        loader = self.subject.loader(self.share, training=True, step=first, threads=threads)
        return [_shown(batch) for batch in islice(loader, stop - first)]

    def planned(self, first: int, stop: int) -> list[list[int]]:
        """The images that a loader which starts at step `first` will show in each step up to `stop`."""
        loader, size = self.subject.loader(self.share, training=True, step=first), self.subject.options.batch_size
        batches: list[list[int]] = []
        visits: list[int] = []
        plans = _visits(loader)
        start, end = loader.group_at(first)
        passed = first - start
        while len(batches) < passed + stop - first:
            while len(visits) < (end - start) * size and len(more := next(plans, _NONE)):
                visits += more.tolist()
            group, visits = visits[: (end - start) * size], visits[(end - start) * size :]
            if not group:
                break
            sizes = [self.found[i].size if 0 <= i < len(self.found) else (1, 1) for i in group]
            batches += [[group[i] for i in batch] for batch in group_by_shape(sizes, size)]
            start, end = loader.group_at(end)
        return batches[passed:][: stop - first]

    @property
    def padded(self) -> tuple[float, float]:
        """Area of the canvases over area of the images in the first epoch, and what it were without grouping."""
        size = self.subject.options.batch_size
        batches = self.planned(0, max(1, self.epoch // size))
        visits = next(_visits(self.subject.loader(self.share, training=True)), _NONE)[: len(batches) * size]
        sizes = [image.size for image in self.found]
        as_they_come = [visits[i : i + size] for i in range(0, len(visits), size)]
        return padded_share(sizes, [np.array(batch) for batch in batches]), padded_share(sizes, as_they_come)

    def resumed(self) -> Iterator[tuple[_Part, int]]:
        """Some steps, drawn from the seed, one of them in the second epoch."""
        for part in self.parts:
            for low, high in ((part.first + 1, part.middle), (part.middle, part.stop)):
                if low < high:
                    drawn = unit_hash("resume", self.subject.options.seed, *self.share.bounds(2**31), low)
                    yield part, low + int(drawn * (high - low))

    def differing(self, first: int, expected: Sequence[_Shown], got: Sequence[_Shown], when: str) -> Iterator[str]:
        """The steps, from `first` on, that do not show what they should."""
        for step, (wanted, seen) in enumerate(zip_longest(expected, got), first):
            if seen is None or wanted is None or seen != wanted:
                shows = _listed(seen.image_ids) if seen else "nothing"
                wants = _listed(wanted.image_ids) if wanted else "nothing"
                what = "has other pixels or boxes of" if shows == wants else f"shows {shows}, not"
                yield f"{self.name}: {when}, the batch of step {step} {what} {wants}"


def check_order(streams: Sequence[Stream]) -> Check:
    """Whether batches are the same again, whatever the number of threads, and show what was planned."""
    failures: list[str] = []
    resize = streams[0].subject.options.resize
    threads = max(2, default_threads())
    looked = []
    for stream in streams:
        names = [tuple(_names(stream.found, batch)) for batch in stream.planned(0, stream.parts[-1].stop)]
        for part, batches in zip(stream.parts, stream.uninterrupted, strict=True):
            looked.append(f"{part.first} to {part.stop - 1} of {stream.name}")
            for n, when in ((1, f"with 1 thread instead of {threads}"), (threads, "read again")):
                again = stream.read(part.first, part.stop, n)
                failures += stream.differing(part.first, batches, again, when)
            planned = names[part.first : part.stop]
            as_planned = [seen._replace(image_ids=ids) for seen, ids in zip(batches, planned, strict=False)]
            failures += stream.differing(part.first, as_planned, batches, "beside the plan")
    count = sum(part.stop - part.first for stream in streams for part in stream.parts)
    changed = "mirrored and augmented" if streams[0].subject.augmentation else "mirrored"
    padded, unsorted = streams[0].padded
    says = (
        f"training batches follow from seed, epoch, rank and world size alone: {count} are the same, byte for byte, "
        f"with 1 thread, with {threads} and when read again, and show the planned images (steps {', '.join(looked)}; "
        f"resized to {resize.shortest_edge}/{resize.longest_edge} px, {changed} at random); batched by shape they "
        f"have {padded:.2f} times the area of their images, as they come {unsorted:.2f}"
    )
    counts = {"batches": count, "threads": threads, "padded_share": padded, "padded_share_ungrouped": unsorted}
    return Check("order", says, counts, tuple(failures[:MOST_FAILURES]))


def check_resuming(streams: Sequence[Stream]) -> Check:
    """Whether a stream that starts at a step goes on as the uninterrupted one does."""
    failures: list[str] = []
    steps, batches, planned = [], 0, 0
    for stream in streams:
        size = stream.subject.options.batch_size
        whole = stream.planned(0, end := stream.parts[-1].stop + stream.epoch // size)
        for part, step in stream.resumed():
            reference = stream.uninterrupted[stream.parts.index(part)][step - part.first :]
            when = f"resumed at step {step}"
            failures += stream.differing(step, reference, stream.read(step, part.stop), when)
            rest = stream.planned(step, end)
            if rest != whole[step:]:
                failures.append(f"{stream.name}: {when}, other images are planned than without the interruption")
            steps.append(f"{step} of {stream.name}{' (second epoch)' if step * size >= stream.epoch else ''}")
            batches, planned = batches + len(reference), planned + sum(map(len, rest))
    says = (
        f"resumed at the steps {', '.join(steps)}, the stream goes on with the very batches of the uninterrupted one "
        f"({batches} batches byte for byte, {planned} visits as planned)"
    )
    counts = {"steps": len(steps), "batches": batches, "visits": planned}
    return Check("resuming", says, counts, tuple(failures[:MOST_FAILURES]))


def check_threads(subject: Subject) -> Check:
    """Whether threads end with a loop that ends early."""
    left: list[str] = []
    at_work = []
    for training in (True, False):
        before = set(threading.enumerate())
        for _ in subject.loader(Share(), training=training):
            at_work.append(len(set(threading.enumerate()) - before))
            break
        after = set(threading.enumerate()) - before
        loop = "training" if training else "evaluation"
        left += [f"after a break in {loop} the thread {thread.name!r} is left" for thread in after]
    says = f"{at_work[0]} threads at work in training and {at_work[1]} in evaluation, none after an early break"
    counts = {"threads": max(at_work), "left": len(left)}
    return Check("threads", says, counts, tuple(left[:MOST_FAILURES]))
