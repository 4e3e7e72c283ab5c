"""TFRecord files, against TensorFlow's own reader and writer."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.tensorflow_runtime import load_tensorflow
from dataflow.tfrecord import CorruptRecordError, read_records, write_record

PAYLOADS = [b"", b"a", bytes(range(256)) * 3, b"\0" * 70_000]


def file_of(payloads: list[bytes]) -> bytes:
    file = io.BytesIO()
    written = sum(write_record(file, payload) for payload in payloads)
    assert written == len(file.getvalue())
    return file.getvalue()


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_round_trip(payloads: list[bytes]) -> None:
    assert list(read_records(io.BytesIO(file_of(payloads)))) == payloads


def test_tensorflow_reads_ours(tmp_path: Path) -> None:
    tensorflow = load_tensorflow()
    path = tmp_path / "ours.tfrecord"
    path.write_bytes(file_of(PAYLOADS))
    assert [item.numpy() for item in tensorflow.data.TFRecordDataset(str(path))] == PAYLOADS


def test_we_read_tensorflows_and_write_the_same_bytes(tmp_path: Path) -> None:
    tensorflow = load_tensorflow()
    path = tmp_path / "theirs.tfrecord"
    with tensorflow.io.TFRecordWriter(str(path)) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    with path.open("rb") as file:
        assert list(read_records(file)) == PAYLOADS
    assert path.read_bytes() == file_of(PAYLOADS)


def test_every_damaged_byte_is_noticed() -> None:
    data = file_of([b"first record", b"", b"third"])
    for at in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            with pytest.raises(CorruptRecordError, match="shard: damaged record"):
                list(read_records(io.BytesIO(damaged)))


def test_every_missing_end_is_noticed() -> None:
    data, ends = file_of([b"first record", b"", b"third"]), (0, 28, 44, 65)
    assert len(data) == ends[-1]
    for length in range(len(data)):
        file = io.BytesIO(data[:length])
        if length in ends:
            assert len(list(read_records(file))) == ends.index(length)
        else:
            with pytest.raises(CorruptRecordError):
                list(read_records(file))


def test_the_place_of_damage_is_told() -> None:
    data = bytearray(file_of([b"first record", b"second"]))
    data[-1] ^= 1
    with pytest.raises(CorruptRecordError, match=r"x\.tfrecord: damaged record at byte 28; prepare"):
        list(read_records(io.BytesIO(bytes(data)), "x.tfrecord"))
