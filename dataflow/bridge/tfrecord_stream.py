"""Encoded examples out of TFRecord shards, read by tf.data in the background and handed on in a planned order.

tf.data reads several places in turn, in one thread of its own, and stays a little ahead: a thread for each place would
be woken up for every example, which costs more than reading it, and the system reads ahead in each file anyway. By the
tickets an endless stream over epochs is put in order, and a shard that holds less than its dataset says is noticed.
"""

from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

import numpy as np

from dataflow.bridge.order import MAX_LANES, ReadPlan
from dataflow.bridge.planned_reads import Plans, short_shard, unreadable_shard
from dataflow.errors import ShardboxError
from dataflow.prepared import Shard
from dataflow.tensorflow_runtime import load_tensorflow
from dataflow.tfrecord import CorruptRecordError, read_records

_CHUNK = 64  # examples handed from TensorFlow to Python at once; of large images, of which windows hold few, fewer
_READ_BUFFER = 1 << 20  # bytes per lane
_STRETCH = 10_000  # examples read by one pipeline, or one epoch


def read_tfrecords(shards: list[Shard], plans: Plans, window: int) -> Generator[tuple[int, bytes], None, None]:
    """(ticket, serialised example) of every planned visit, in order. Closing the iterator ends the reading.

    About `window` examples are held in memory, encoded as they are.

    Args:
        shards: all shards of the split, in order.
        plans: what to read, and in which order to hand it on.
        window: how many examples the plans shuffle at a time.

    Raises:
        UsageError: a shard is missing.
        CorruptRecordError: a shard is damaged or holds fewer examples than its dataset says.
        MissingExtraError: TensorFlow is not installed.
    """
    total = sum(shard.count for shard in shards)
    arriving = _read(shards, plans, max(1, min(_CHUNK, window // 8)))
    held: dict[int, bytes] = {}
    try:
        for epoch, plan in plans():
            for count, ticket in enumerate((plan.visits + epoch * total).tolist()):
                # One is taken in for each one handed on, so that a window fills up while the last one is used up.
                held.update(islice(arriving, 1))
                while ticket not in held:
                    new = next(arriving, None)
                    if new is None or len(held) > window + MAX_LANES:
                        raise _missing_example(shards, ticket % total)
                    held[new[0]] = new[1]
                payload = held.pop(ticket)
                if count >= plan.skip:
                    yield ticket, payload
    finally:
        arriving.close()


def _read(shards: list[Shard], plans: Plans, chunk: int) -> Generator[tuple[int, bytes], None, None]:
    """(ticket, serialised example) in the order of reading: the lanes of each plan in turn, epoch after epoch."""
    tf = load_tensorflow()
    failure = tf.errors.OpError  # Looked up now: when the interpreter ends, the module may be gone before the iterator.
    epochs = iter(plans())
    try:
        while stretch := _stretch(epochs):
            for tickets, payloads in _pipeline(tf, shards, stretch, chunk):
                yield from zip(tickets.numpy().tolist(), payloads.numpy().tolist(), strict=True)
    except failure as error:
        raise _read_error(shards, error.message) from error


def _stretch(epochs: Iterator[tuple[int, ReadPlan]]) -> list[tuple[int, ReadPlan]]:
    """The next epochs that one pipeline reads: setting one up costs as much as decoding a hundred images.

    (A pipeline that fetches its epochs from a Python generator would be set up once for all. But where Python is 3.11
    such a pipeline makes glibc unmap and map anew every array of more than 128 KiB in the process, which costs as much
    as a quarter of the decoding.)
    """
    stretch: list[tuple[int, ReadPlan]] = []
    length = 0
    while length < _STRETCH and (new := next(epochs, None)):
        stretch.append(new)
        length += len(new[1].visits)
    return stretch


def _pipeline(tf: Any, shards: list[Shard], stretch: list[tuple[int, ReadPlan]], chunk: int) -> Any:
    """A tf.data pipeline of (tickets (n,) int64, serialised examples (n,) string) of at most `chunk` examples."""
    paths = tf.constant([str(shard.path) for shard in shards])

    def read_run(run: Any) -> Any:
        shard, first, length, ticket = run[0], run[1], run[2], run[3]
        records = tf.data.TFRecordDataset(tf.gather(paths, shard), buffer_size=_READ_BUFFER)
        tickets = tf.data.Dataset.range(ticket, ticket + length)
        return tf.data.Dataset.zip((tickets, records.skip(first).take(length)))

    def read_lane(runs: Any) -> Any:
        return tf.data.Dataset.from_tensor_slices(runs).flat_map(read_run)

    def read_epoch(lanes: Any) -> Any:
        return tf.data.Dataset.from_tensor_slices(lanes).interleave(read_lane, cycle_length=MAX_LANES, block_length=1)

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # There is nothing to tune: all numbers are given.
    dataset = tf.data.Dataset.from_tensor_slices(_to_table(shards, stretch)).flat_map(read_epoch)
    return dataset.batch(chunk).prefetch(2).with_options(options)


def _to_table(shards: list[Shard], stretch: list[tuple[int, ReadPlan]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(epochs, lanes, runs, 4) int64: shard, first example, length, ticket of the first; padded with empty runs."""
    offsets = np.cumsum([0] + [shard.count for shard in shards])
    lanes = max(len(plan.lanes) for _, plan in stretch)
    runs = max((len(lane) for _, plan in stretch for lane in plan.lanes), default=0)
    table = np.zeros((len(stretch), lanes, runs, 4), np.int64)
    for (epoch, plan), rows in zip(stretch, table, strict=True):
        for lane, row in zip(plan.lanes, rows, strict=False):
            for run, cell in zip(lane, row, strict=False):
                cell[:] = (*run, epoch * offsets[-1] + offsets[run.shard] + run.first)
    return table


def _read_error(shards: list[Shard], message: str) -> ShardboxError:
    """What TensorFlow could not read. It does not always say where, so the shards are looked through for damage."""
    for shard in shards:
        try:
            with shard.path.open("rb") as file:
                for _ in read_records(file, str(shard.path)):
                    pass
        except OSError as error:
            return unreadable_shard(shard, error)
        except CorruptRecordError as error:
            return error
    return ShardboxError(f"{shards[0].path.parent} cannot be read: {message}", "prepare the dataset again")


def _missing_example(shards: list[Shard], index: int) -> CorruptRecordError:
    for shard in shards:
        if index < shard.count:
            return short_shard(shard)
        index -= shard.count
    raise AssertionError(f"no shard holds example {index}")
