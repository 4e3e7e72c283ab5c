"""What holds of every way of reading shards, and the same plan read either way."""

import gc
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from dataflow.bridge.consecutive_records import read_consecutively
from dataflow.bridge.order import ReadPlan, Share, sequential_plan, shuffled_plan
from dataflow.bridge.planned_reads import Plans
from dataflow.bridge.record_stream import read_in_order
from dataflow.errors import UsageError
from dataflow.prepared import Shard
from dataflow.shards import FILE_FORMATS, FileFormat
from dataflow.tfrecord import CorruptRecordError, write_record

COUNTS = (5, 0, 9, 1, 12)
TOTAL = sum(COUNTS)


def payload(index: int) -> bytes:
    return f"example {index} ".encode() * (1 + index)


def write_shards(directory: Path, file_format: FileFormat) -> list[Shard]:
    """Shards of `COUNTS` examples."""
    found = []
    index = 0
    for number, length in enumerate(COUNTS):
        path = directory / f"set-train.{file_format}-{number:05d}-of-{len(COUNTS):05d}"
        write_examples(path, range(index, index + length))
        index += length
        found.append(Shard("train", number, path, length))
    return found


def write_examples(path: Path, indices: range) -> None:
    """A shard of these examples, in the format that its name says."""
    if ".array_record" in path.name:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer: Any = ArrayRecordWriter(str(path), "group_size:1")
        for index in indices:
            writer.write(payload(index))
        writer.close()
        return
    with path.open("wb") as file:
        for index in indices:
            write_record(file, payload(index))


@pytest.fixture(params=FILE_FORMATS)
def shards(tmp_path: Path, request: pytest.FixtureRequest) -> list[Shard]:
    return write_shards(tmp_path, request.param)


def sequential(start: int = 0, share: Share = Share()) -> Plans:  # noqa: B008
    return lambda: [(0, sequential_plan(COUNTS, share, start))]


def shuffled(window: int, epochs: int = 3, start: int = 0) -> Plans:
    def plans() -> Iterator[tuple[int, ReadPlan]]:
        for epoch in range(epochs):
            first = start if epoch == 0 else 0
            yield epoch, shuffled_plan(COUNTS, Share(), seed=5, epoch=epoch, window=window, start=first)

    return plans


def expected(plans: Plans) -> list[tuple[int, bytes]]:
    visits = [(epoch, int(index)) for epoch, plan in plans() for index in plan.visits[plan.skip :]]
    return [(epoch * TOTAL + index, payload(index)) for epoch, index in visits]


def test_sequential_reading_is_the_split_in_order(shards: list[Shard]) -> None:
    assert list(read_in_order(shards, sequential(), 1)) == [(i, payload(i)) for i in range(TOTAL)]
    assert list(read_in_order(shards, sequential(start=7), 1)) == [(i, payload(i)) for i in range(7, TOTAL)]
    assert list(read_in_order(shards, sequential(start=TOTAL), 1)) == []


@pytest.mark.parametrize("window", [1, 4, 10, 100])
def test_shuffled_reading_keeps_to_the_plan_over_epochs(shards: list[Shard], window: int) -> None:
    found = list(read_in_order(shards, shuffled(window), window))
    assert found == expected(shuffled(window))
    assert len(found) == 3 * TOTAL


@pytest.mark.parametrize("start", [1, 9, 10, 26])
def test_going_on_in_the_middle_gives_the_rest(shards: list[Shard], start: int) -> None:
    whole = list(read_in_order(shards, shuffled(10), 10))
    assert list(read_in_order(shards, shuffled(10, start=start), 10)) == whole[start:]


def test_many_epochs_go_through_several_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataflow.bridge.tfrecord_stream._STRETCH", 2 * TOTAL)
    plans = shuffled(10, epochs=7)
    assert list(read_in_order(write_shards(tmp_path, "tfrecord"), plans, 10)) == expected(plans)


def test_an_endless_plan_is_read_as_it_is_used(shards: list[Shard]) -> None:
    def plans() -> Iterator[tuple[int, ReadPlan]]:
        for epoch in count():
            yield epoch, shuffled_plan(COUNTS, Share(), seed=5, epoch=epoch, window=10)

    stream = read_in_order(shards, plans, 10)
    assert list(islice(stream, 2 * TOTAL)) == expected(shuffled(10, epochs=2))
    stream.close()


def test_closing_ends_the_reading(shards: list[Shard]) -> None:
    stream = read_in_order(shards, shuffled(10, epochs=1000), 10)
    assert len(list(islice(stream, 40))) == 40
    stream.close()
    gc.collect()
    assert list(stream) == []


def test_a_shard_with_fewer_examples_than_said_is_named(shards: list[Shard]) -> None:
    write_examples(shards[2].path, range(5, 13))
    for plans in (sequential(), shuffled(10)):
        with pytest.raises(CorruptRecordError, match="00002-of-00005 does not hold the 9 examples"):
            list(read_in_order(shards, plans, 10))


def test_a_damaged_shard_is_named(shards: list[Shard]) -> None:
    content = bytearray(shards[4].path.read_bytes())
    content[200] ^= 1
    shards[4].path.write_bytes(content)
    with pytest.raises(CorruptRecordError, match="00004-of-00005: damaged record"):
        list(read_in_order(shards, sequential(), 1))


def test_a_missing_shard_is_named(shards: list[Shard]) -> None:
    shards[3].path.unlink()
    with pytest.raises(UsageError, match="00003-of-00005 cannot be read: No such file"):
        list(read_in_order(shards, sequential(), 1))


@pytest.mark.parametrize(
    "share", [Share(), Share(1, 3), Share(0, 1, (5, 11)), Share(1, 2, (5, 11)), Share(0, 1, (4, 4))]
)
@pytest.mark.parametrize("start", [0, 2])
def test_reading_from_front_to_back(shards: list[Shard], share: Share, start: int) -> None:
    plans = sequential(start, share)
    assert list(read_consecutively(shards, plans)) == expected(plans)


def test_reading_from_front_to_back_opens_nothing_else(shards: list[Shard]) -> None:
    for shard in shards[:2] + shards[3:]:
        shard.path.unlink()
    first = sum(COUNTS[:2])
    plans = sequential(0, Share(0, 1, (first, first + COUNTS[2])))
    assert list(read_consecutively(shards, plans)) == expected(plans)
    with pytest.raises(UsageError, match="00000-of-00005 cannot be read: No such file"):
        list(read_consecutively(shards, sequential()))


def test_reading_from_front_to_back_names_what_is_damaged_or_short(shards: list[Shard]) -> None:
    content = bytearray(shards[4].path.read_bytes())
    content[200] ^= 1
    shards[4].path.write_bytes(content)
    with pytest.raises(CorruptRecordError, match="00004-of-00005: damaged record"):
        list(read_consecutively(shards, sequential()))
    write_examples(shards[2].path, range(5, 13))
    with pytest.raises(CorruptRecordError, match="00002-of-00005 does not hold the 9 examples"):
        list(read_consecutively(shards, sequential()))


@pytest.mark.parametrize("suffix", ["riegeli", "parquet"])
def test_other_formats_are_refused(tmp_path: Path, suffix: str) -> None:
    shard = Shard("train", 0, tmp_path / f"set-train.{suffix}-00000-of-00001", 3)
    with pytest.raises(UsageError, match="neither a TFRecord nor an ArrayRecord file"):
        next(read_in_order([shard], sequential(), 1))
