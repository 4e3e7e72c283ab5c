"""ArrayRecord shards read at random: the same batches as from TFRecord shards, without TensorFlow."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from xxhash import xxh3_64_hexdigest

from dataflow.bridge.array_records import read_array_records
from dataflow.bridge.batches import Batch
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.order import ReadPlan, Share, sequential_plan, shuffled_plan
from dataflow.bridge.planned_reads import Plans
from dataflow.bridge.resize import ResizePolicy
from dataflow.prepared import PreparedDataset, Shard
from dataflow.tfrecord import CorruptRecordError
from tests.dataflow.detection_sets import make_records, write_ours

ROOT = Path(__file__).parents[3]
LENGTHS = (7, 1, 0, 9, 6)
N = sum(LENGTHS)
ORDERS: tuple[dict[str, Any], ...] = (
    {"training": False},
    {"training": False, "rank": 1, "world_size": 2, "start_step": 1},
    {"training": False, "limit": 10},
    {"training": True, "flip": 0.5},
    {"training": True, "start_step": 7, "seed": 3},
    {"training": True, "rank": 0, "world_size": 2, "start_step": 4},
    {"training": True, "rank": 1, "world_size": 2},
    {"training": True, "limit": 5},
)
ABSENT = """
import sys
from importlib.machinery import PathFinder

class FinderWithoutTensorFlow(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "tensorflow" else super().find_spec(name, path, target)

sys.meta_path = [FinderWithoutTensorFlow if finder is PathFinder else finder for finder in sys.meta_path]
"""
READ = """
import json, sys
from dataflow.prepared import PreparedDataset
from tests.dataflow.bridge.test_array_records import ORDERS, contents

dataset = PreparedDataset(sys.argv[1])
found = [contents(dataset, options) for options in ORDERS]
print(json.dumps([found, [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]]))
"""


def contents(dataset: PreparedDataset, options: dict[str, Any]) -> list[str]:
    """All that is in the batches of a loader, of four epochs of a training."""
    batches = BatchLoader(dataset, "train", ResizePolicy(40, 60), 4, threads=2, **options)
    return [_content(batch) for batch in islice(batches, N)]


def _content(batch: Batch) -> str:
    tensors = [batch.pixel_values, batch.pixel_mask, batch.sizes, batch.original_sizes]
    tensors += [tensor for target in batch.targets for tensor in (target.boxes, target.category_ids)]
    parts = [f"{tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.numpy().tobytes() for tensor in tensors]
    return " ".join(batch.image_ids) + " " + xxh3_64_hexdigest(b"".join(parts))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedDataset, PreparedDataset]:
    """The same records as TFRecord and as ArrayRecord."""
    folder = tmp_path_factory.mktemp("ours")
    as_tfrecord = write_ours(folder / "tfrecord" / "small" / "1.0.0", make_records(N), LENGTHS)
    path = folder / "array_record" / "small" / "1.0.0"
    as_array_record = write_ours(path, make_records(N), LENGTHS, file_format="array_record")
    return as_tfrecord, as_array_record


def test_batches_are_the_same_from_either_format(datasets: tuple[PreparedDataset, PreparedDataset]) -> None:
    assert [dataset.file_format for dataset in datasets] == ["tfrecord", "array_record"]
    for options in ORDERS:
        as_tfrecord, as_array_record = (contents(dataset, options) for dataset in datasets)
        assert as_array_record == as_tfrecord
        assert as_array_record


@pytest.mark.parametrize("before", ["", ABSENT], ids=["unused", "absent"])
def test_batches_are_the_same_without_tensorflow(
    datasets: tuple[PreparedDataset, PreparedDataset], before: str
) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", before + READ, str(datasets[1].path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    found, loaded = json.loads(finished.stdout.splitlines()[-1])
    assert not loaded
    assert found == [contents(datasets[0], options) for options in ORDERS]


FILES = Path("/proc/self/fd")
COUNTS = (30, 0, 25, 45)
TOTAL = sum(COUNTS)


def payload(index: int) -> bytes:
    return np.random.default_rng(index).bytes(300 + 10 * index)


def write(path: Path, indices: range) -> None:
    writer: Any = ArrayRecordWriter(str(path), "group_size:1")
    for index in indices:
        writer.write(payload(index))
    writer.close()


def make_shards(directory: Path, counts: tuple[int, ...]) -> list[Shard]:
    starts = np.cumsum([0, *counts]).tolist()
    shards = []
    for number, (start, length) in enumerate(zip(starts, counts, strict=False)):
        path = directory / f"set-train.array_record-{number:05d}-of-{len(counts):05d}"
        write(path, range(start, start + length))
        shards.append(Shard("train", number, path, length))
    return shards


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    return make_shards(tmp_path, COUNTS)


def sequential(counts: tuple[int, ...] = COUNTS) -> Plans:
    return lambda: [(0, sequential_plan(counts, Share()))]


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shardbox-read")]


def open_shards(directory: Path) -> list[str]:
    """The files below a directory that this process has open."""
    found = []
    for link in FILES.iterdir():
        with contextlib.suppress(FileNotFoundError):  # It was open only to list the others.
            found.append(str(link.readlink()))
    return [path for path in found if path.startswith(str(directory))]


needs_proc = pytest.mark.skipif(not FILES.is_dir(), reason="the system does not list open files")


@needs_proc
@pytest.mark.parametrize("taken", [0, 1, 60])
def test_closing_ends_the_threads_and_closes_the_shards(shards: list[Shard], taken: int) -> None:
    stream = read_array_records(shards, sequential())
    assert len(list(islice(stream, taken))) == taken
    assert bool(open_shards(shards[0].path.parent)) == bool(reading_threads()) == (taken > 0)
    stream.close()
    assert not reading_threads()
    assert not open_shards(shards[0].path.parent)


@needs_proc
def test_the_end_and_an_error_close_the_shards_too(shards: list[Shard]) -> None:
    assert [ticket for ticket, _ in read_array_records(shards, sequential())] == list(range(TOTAL))
    assert not reading_threads()
    damage(shards[2].path, payload(40))
    with pytest.raises(CorruptRecordError):
        list(read_array_records(shards, sequential()))
    assert not reading_threads()
    assert not open_shards(shards[0].path.parent)


@needs_proc
def test_of_many_shards_a_few_are_open(tmp_path: Path) -> None:
    counts = (1,) * 200
    shards = make_shards(tmp_path, counts)
    stream = read_array_records(shards, sequential(counts))
    for ticket, found in stream:
        assert found == payload(ticket)
        assert len(open_shards(tmp_path)) <= 64
    assert ticket == 199


def test_no_more_is_asked_for_than_a_few_examples_ahead(shards: list[Shard]) -> None:
    asked = []

    def plans() -> Iterator[tuple[int, ReadPlan]]:
        for epoch in range(10**9):
            asked.append(epoch)
            yield epoch, shuffled_plan(COUNTS, Share(), seed=1, epoch=epoch, window=20)

    stream = read_array_records(shards, plans)
    for taken in range(1, 4 * TOTAL):
        next(stream)
        assert asked[-1] * TOTAL <= taken + 40
    stream.close()


def damage(path: Path, example: bytes) -> None:
    """Change one bit of a stored example."""
    content = bytearray(path.read_bytes())
    content[content.index(example) + len(example) // 2] ^= 4
    path.write_bytes(content)


def test_what_was_visited_before_is_not_read(shards: list[Shard]) -> None:
    whole = shuffled_plan(COUNTS, Share(), seed=1, epoch=0, window=64)
    rest = shuffled_plan(COUNTS, Share(), seed=1, epoch=0, window=64, start=50)
    assert rest.skip == 50
    starts = np.cumsum([0, *COUNTS])
    for index in whole.visits[:50].tolist():
        damage(shards[int(np.searchsorted(starts, index, side="right")) - 1].path, payload(index))
    found = list(read_array_records(shards, lambda: [(0, rest)]))
    assert found == [(index, payload(index)) for index in whole.visits[50:].tolist()]
    with pytest.raises(CorruptRecordError):
        next(read_array_records(shards, lambda: [(0, whole)]))


def test_no_damage_goes_unnoticed(shards: list[Shard]) -> None:
    """A bit changed anywhere in a file is an error that names it, or changes no example."""
    whole = list(read_array_records(shards, sequential()))
    path = shards[3].path
    content = path.read_bytes()
    told = 0
    used = np.flatnonzero(np.frombuffer(content, np.uint8))  # The rest is padding.
    for place in np.random.default_rng(0).choice(used, 60, replace=False).tolist():
        changed = bytearray(content)
        changed[place] ^= 16
        path.write_bytes(changed)
        try:
            assert list(read_array_records(shards, sequential())) == whole
        except CorruptRecordError as error:
            assert str(path) in error.message
            told += 1
    assert told > 50


@pytest.mark.parametrize("left", [0, 100, 70_000])
def test_a_shard_that_was_cut_off_is_named(shards: list[Shard], left: int) -> None:
    path = shards[2].path
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CorruptRecordError, match="00002-of-00004: damaged record"):
        list(read_array_records(shards, sequential()))


def test_a_shard_without_any_example_is_too_short(shards: list[Shard]) -> None:
    write(shards[2].path, range(0))
    with pytest.raises(CorruptRecordError, match="00002-of-00004 does not hold the 25 examples"):
        list(read_array_records(shards, sequential()))
