"""Shards: the same bytes whenever and wherever they are written, and results that survive JSON."""

import hashlib
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from array_record.python.array_record_module import ArrayRecordReader
from hypothesis import given
from hypothesis import strategies as st

from dataflow.findings import Code, Finding
from dataflow.pairs.alignment_counts import PairAlignment
from dataflow.records import Categories, ImageRecord, Objects, no_objects
from dataflow.schema import record_to_example
from dataflow.shards import (
    LARGEST_SHARD_BYTES,
    Outcome,
    ShardFormat,
    ShardKey,
    ShardResult,
    Sight,
    fingerprint,
    load_results,
    place_in_shard,
    save_result,
    shard_count,
    shard_of,
    split_infos,
    write_shard,
)
from dataflow.tfrecord import read_records
from tests.factories import photograph

FORMAT = ShardFormat("x", Categories(("cat", "犬")), "images")
KEY = ShardKey("train", 1, 3)
FINDING = Finding(Code.BOX_EMPTY, "error", "labels/ä.txt", "box", "draw it", 3, "b", repaired=True)
# What another process runs to write the same shard; it prints the digest of the file.
SCRIPT = """
import hashlib, sys
from pathlib import Path
from tests.dataflow.test_shards import FORMAT, KEY, outcomes
from dataflow.shards import write_shard
write_shard(Path(sys.argv[1]), FORMAT, KEY, outcomes())
print(hashlib.sha256(FORMAT.path(Path(sys.argv[1]), KEY).read_bytes()).hexdigest())
"""


def outcomes() -> list[Outcome]:
    made = []
    for i in range(4):
        boxes = np.array([[1, 2, 20 + i, 30.125], [0, 0, 64, 48]], np.float32)
        objects = Objects(boxes, np.array([0, 1]), track_ids=np.array([i, 7])) if i else no_objects()
        record = ImageRecord(f"bild-{i}-ü", photograph(seed=i), 48, 64, objects, "scene", "a.txt:1", f"{i}.jpg")
        made.append(Outcome(record.image_id, record_to_example(record), (FINDING,) if i == 1 else ()))
    return [*made, Outcome("kept out", None, (replace(FINDING, repaired=False),))]


def result_of(directory: Path) -> ShardResult:
    directory.mkdir(exist_ok=True)
    return write_shard(directory, FORMAT, KEY, outcomes())


def test_same_bytes_twice(tmp_path: Path) -> None:
    first, second = result_of(tmp_path / "a"), result_of(tmp_path / "b")
    assert first == second
    assert (tmp_path / "a" / first.file).read_bytes() == (tmp_path / "b" / second.file).read_bytes()


@pytest.mark.parametrize("hash_seed", ["1", "4711"])
def test_same_bytes_in_another_process(tmp_path: Path, hash_seed: str) -> None:
    result = result_of(tmp_path / "a")
    (tmp_path / "b").mkdir()
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "b")]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == hashlib.sha256((tmp_path / "a" / result.file).read_bytes()).hexdigest()


def test_what_a_result_says_is_so(tmp_path: Path) -> None:
    result = result_of(tmp_path)
    assert (result.split, result.index, result.file) == ("train", 1, "x-train.tfrecord-00001-of-00003")
    with (tmp_path / result.file).open("rb") as file:
        payloads = list(read_records(file))
    assert len(payloads) == result.count == 4
    assert sum(map(len, payloads)) == result.num_bytes
    assert xxhash.xxh3_128_hexdigest(b"".join(payloads)) == result.digest
    assert result.quarantined == ("kept out",)
    assert result.findings == (FINDING, replace(FINDING, repaired=False))
    assert [path.name for path in tmp_path.iterdir()] == [result.file], "nothing temporary stays"


def test_an_empty_shard_is_an_empty_file(tmp_path: Path) -> None:
    result = write_shard(tmp_path, FORMAT, KEY, [])
    assert (result.count, result.num_bytes, (tmp_path / result.file).read_bytes()) == (0, 0, b"")


def test_a_shard_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def failing() -> object:
        yield outcomes()[0]
        raise RuntimeError("the worker dies")

    with pytest.raises(RuntimeError, match="dies"):
        write_shard(tmp_path, FORMAT, KEY, failing())  # type: ignore[arg-type]
    assert not FORMAT.path(tmp_path, KEY).exists()
    assert write_shard(tmp_path, FORMAT, KEY, outcomes()).count == 4


def test_results_survive_json(tmp_path: Path) -> None:
    result = result_of(tmp_path)
    other = replace(result, index=0, file="x-train.tfrecord-00000-of-00003", findings=())
    earlier = replace(result, split="a", file="y", quarantined=("ü", "\udce9"))
    for each in (result, other, earlier):
        save_result(each, tmp_path)
    loaded = load_results(tmp_path)
    assert loaded == [earlier, other, result]
    assert isinstance(loaded[-1].findings[0].code, Code)
    assert isinstance(loaded[-1].quarantined, tuple)


def test_a_result_counts_alignments(tmp_path: Path) -> None:
    given = outcomes()
    found = [PairAlignment(outcome.image_id, 0.9 - i / 10, 0.1, "affine", 2.0) for i, outcome in enumerate(given)]
    refusal = replace(FINDING, code=Code.PAIR_UNALIGNED, repaired=False)
    aligned = [replace(outcome, alignment=pair) for outcome, pair in zip(given[:4], found, strict=False)]
    other = replace(given[4], findings=(replace(FINDING, code=Code.SIZE_MISMATCH),))
    result = write_shard(tmp_path, FORMAT, KEY, [*aligned, replace(given[4], findings=(refusal,)), other])
    counts = result.alignment
    assert counts is not None and (counts.pairs, counts.aligned, counts.refused) == (4, 4, 1)
    assert counts.worst == tuple(reversed(found[:4]))
    save_result(result, tmp_path)
    assert load_results(tmp_path) == [result]
    assert result_of(tmp_path / "images").alignment is None


def test_shard_count() -> None:
    assert shard_count(0, 0) == shard_count(0, 5) == shard_count(LARGEST_SHARD_BYTES, 5) == 1
    assert shard_count(LARGEST_SHARD_BYTES + 1, 5) == 2
    assert shard_count(3 * LARGEST_SHARD_BYTES, 100) == shard_count(4 * LARGEST_SHARD_BYTES, 100) == 4
    assert shard_count(100 * LARGEST_SHARD_BYTES, 7) == 4, "never more shards than examples"


@given(st.text(), st.integers(0, 10))
def test_doubling_divides_shards_and_moves_nothing_else(image_id: str, power: int) -> None:
    """So a dataset that has doubled is the same as one made anew."""
    assert shard_of(image_id, 2 ** (power + 1)) // 2 == shard_of(image_id, 2**power)


def test_array_record_holds_the_same_and_is_the_same_every_time(tmp_path: Path) -> None:
    shard_format = replace(FORMAT, file_format="array_record")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (write_shard(tmp_path / name, shard_format, KEY, outcomes()) for name in "ab")
    assert first == second and first.file == "x-train.array_record-00001-of-00003"
    assert (tmp_path / "a" / first.file).read_bytes() == (tmp_path / "b" / first.file).read_bytes()
    assert first.digest == result_of(tmp_path / "tfrecord").digest, "digests are of the examples, not of the file"
    reader = ArrayRecordReader(str(tmp_path / "a" / first.file))
    payloads = reader.read(list(range(reader.num_records())))
    reader.close()
    assert xxhash.xxh3_128_hexdigest(b"".join(payloads)) == first.digest


def test_what_a_shard_shows(tmp_path: Path) -> None:
    """Classes, regions to ignore, and hashes in the order of the outcomes, those kept out included."""
    seen = [replace(outcome, sight=Sight(i, 10 + i or None)) for i, outcome in enumerate(outcomes())]
    seen[4] = replace(seen[4], unknown_classes=(7, 7, 80))
    result = write_shard(tmp_path, FORMAT, KEY, seen)
    assert result.objects == {"0": 3, "1": 3} and result.ignored == 0
    assert result.unknown_classes == {"7": 2, "80": 1}
    assert np.frombuffer(bytes.fromhex(result.contents), ">u8").tolist() == [0, 1, 2, 3, 4]
    assert np.frombuffer(bytes.fromhex(result.looks), ">u8").reshape(-1, 2)[:, 1].tolist() == [10, 11, 12, 13, 14]


@given(st.text(), st.integers(1, 1000))
def test_every_id_has_a_shard(image_id: str, shards: int) -> None:
    assert 0 <= shard_of(image_id, shards) < shards


def test_shards_are_of_like_size() -> None:
    counts = Counter(shard_of(f"image {i}", 8) for i in range(8000))
    # Five standard deviations of a binomial count.
    assert all(abs(count - 1000) < 5 * math.sqrt(1000 * 7 / 8) for count in counts.values())


def test_places_are_stable_and_no_two_are_one() -> None:
    names = [f"image {i}" for i in range(1000)]
    order = sorted(names, key=place_in_shard)
    assert order != names
    assert order == sorted(dict.fromkeys(names[::-1]), key=place_in_shard)
    assert len({place_in_shard(name) for name in names}) == 1000


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    result = result_of(tmp_path)
    base = fingerprint(FORMAT.categories, "images", [result])
    assert base == fingerprint(FORMAT.categories, "images", [replace(result, findings=(), quarantined=())])
    others = [
        fingerprint(Categories(("cat", "dog")), "images", [result]),
        fingerprint(Categories(("cat", "犬"), (5, 6)), "images", [result]),
        fingerprint(FORMAT.categories, "pairs", [result]),
        fingerprint(FORMAT.categories, "images", [replace(result, digest="0")]),
        fingerprint(FORMAT.categories, "images", [replace(result, split="test")]),
        fingerprint(FORMAT.categories, "images", [result, replace(result, index=2)]),
    ]
    assert len({base, *others}) == 7


def test_split_infos_count_every_shard(tmp_path: Path) -> None:
    result = result_of(tmp_path)
    results = [replace(result, index=0, count=2), replace(result, index=1, count=0), replace(result, split="a")]
    by_name = {info.name: info for info in split_infos(results, FORMAT, tmp_path)}
    assert by_name["train"].shard_lengths == [2, 0] and by_name["a"].shard_lengths == [4]
    assert by_name["train"].num_bytes == 2 * result.num_bytes
