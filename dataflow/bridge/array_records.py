"""Encoded examples out of ArrayRecord shards, by random access and without TensorFlow.

An ArrayRecord file knows where each of its examples lies, so they are read in the very order of the visits, a few
ahead of whoever takes them: no window fills up first, and what was visited before is not read again.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any

import numpy as np

from dataflow.bridge.order import MAX_LANES, Indices
from dataflow.bridge.planned_reads import Plans, short_shard, unreadable_shard
from dataflow.prepared import Shard
from dataflow.tfrecord import CorruptRecordError

_THREADS = 4  # that read at the same moment
_CHUNK = 8  # examples that one thread reads at a time
_AHEAD = 4  # chunks on their way while one is handed on
_OPEN_SHARDS = MAX_LANES  # that a thread keeps open: what is shuffled together lies in as many
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # As ArrayRecord recommends for random access.
_READ_BUFFER = 32 << 10  # bytes per open shard, which is what ArrayRecord's own data source takes


def read_array_records(shards: list[Shard], plans: Plans) -> Generator[tuple[int, bytes], None, None]:
    """(ticket, serialised example) of every planned visit, in order. Closing the iterator ends the reading.

    At most 40 examples are held in memory, encoded as they are.

    Args:
        shards: all shards of the split, in order.
        plans: what to hand on, and in which order; their lanes are of no use here.

    Raises:
        UsageError: a shard is missing.
        CorruptRecordError: a shard is damaged or holds fewer examples than its dataset says.
    """
    pending: deque[tuple[list[int], Future[list[bytes]]]] = deque()
    total = sum(shard.count for shard in shards)
    with _reading_threads(shards) as (pool, idle):
        for tickets in _chunks(plans, total):
            pending.append((tickets.tolist(), pool.submit(_read, idle, tickets % total)))
            if len(pending) > _AHEAD:
                yield from _finished(*pending.popleft())
        while pending:
            yield from _finished(*pending.popleft())


def _chunks(plans: Plans, total: int) -> Iterator[Indices]:
    """The tickets of all visits that are still to be made, some at a time."""
    for epoch, plan in plans():
        for start in range(plan.skip, len(plan.visits), _CHUNK):
            yield plan.visits[start : start + _CHUNK] + epoch * total


def _finished(tickets: list[int], payloads: Future[list[bytes]]) -> Iterator[tuple[int, bytes]]:
    return zip(tickets, payloads.result(), strict=True)


class _Readers:
    """The shards that one thread reads at a time. The last ones it read stay open."""

    def __init__(self, shards: list[Shard]) -> None:
        self._shards = shards
        self._offsets = np.cumsum([0] + [shard.count for shard in shards])
        self._open: dict[int, Any] = {}

    def read(self, indices: Indices) -> list[bytes]:
        """The examples at these indices into the split, shard by shard, returned in the order of the indices."""
        found: dict[int, bytes] = {}
        numbers = np.searchsorted(self._offsets, indices, side="right") - 1
        for number in np.unique(numbers).tolist():
            asked = indices[numbers == number]
            payloads = self._read_shard(number, (asked - self._offsets[number]).tolist())
            found.update(zip(asked.tolist(), payloads, strict=True))
        return [found[index] for index in indices.tolist()]

    def _read_shard(self, number: int, positions: list[int]) -> list[bytes]:
        reader = self._open.pop(number, None)
        if reader is None:
            if len(self._open) == _OPEN_SHARDS:
                _close(self._open.pop(next(iter(self._open))))
            reader = _open_shard(self._shards[number])
        self._open[number] = reader  # The last in the dictionary is the one used last.
        try:
            return reader.read(positions)  # type: ignore[no-any-return]
        except RuntimeError as error:
            raise _damaged(self._shards[number], error) from error

    def close(self) -> None:
        """Close what is open."""
        while self._open:
            _close(self._open.popitem()[1])


def _read(idle: SimpleQueue[_Readers], indices: Indices) -> list[bytes]:
    """What one thread does: there are as many readers as threads, so one is always idle."""
    readers = idle.get()
    try:
        return readers.read(indices)
    finally:
        idle.put(readers)


@contextmanager
def _reading_threads(shards: list[Shard]) -> Iterator[tuple[ThreadPoolExecutor, SimpleQueue[_Readers]]]:
    """Threads, and readers for them. When the context ends, the threads have ended and all shards are closed."""
    readers = [_Readers(shards) for _ in range(_THREADS)]
    idle: SimpleQueue[_Readers] = SimpleQueue()
    for one in readers:
        idle.put(one)
    pool = ThreadPoolExecutor(_THREADS, "shardbox-read")
    try:
        yield pool, idle
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for one in readers:
            one.close()


def _open_shard(shard: Shard) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        shard.path.open("rb").close()
    except OSError as error:
        raise unreadable_shard(shard, error) from error
    reader = ArrayRecordReader(str(shard.path), _READER_OPTIONS, file_reader_buffer_size=_READ_BUFFER)
    # A file whose index is damaged says so when it is read; until then it seems to be empty.
    if reader.ok() and reader.num_records() < shard.count:
        reader.close()
        raise short_shard(shard)
    return reader


def _close(reader: Any) -> None:
    with suppress(RuntimeError):  # A damaged file complains again, and is closed all the same.
        reader.close()


def _damaged(shard: Shard, error: RuntimeError) -> CorruptRecordError:
    return CorruptRecordError(f"{shard.path}: damaged record ({error})", "prepare the dataset again")
