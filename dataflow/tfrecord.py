"""TFRecord files without TensorFlow: workers that only ingest or diff need none.

A record is its length (8 bytes), the length's masked CRC-32C (4), the payload, the payload's masked CRC-32C (4), all
little-endian, as described at https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from dataflow.errors import ShardboxError


class CorruptRecordError(ShardboxError):
    """A shard whose bytes are not what was written."""


def _masked_crc(data: bytes) -> bytes:
    crc = int(google_crc32c.value(data))
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def write_record(file: BinaryIO, payload: bytes) -> int:
    """Append one record; returns the number of bytes written."""
    length = struct.pack("<Q", len(payload))
    return sum(file.write(part) for part in (length, _masked_crc(length), payload, _masked_crc(payload)))


def read_records(file: BinaryIO, name: str = "shard") -> Iterator[bytes]:
    """The payloads of a file, in order.

    Raises:
        CorruptRecordError: a checksum is wrong or the file ends within a record.
    """
    position = 0
    while header := file.read(12):
        remedy = "prepare the dataset again"
        if len(header) < 12 or _masked_crc(header[:8]) != header[8:]:
            raise CorruptRecordError(f"{name}: damaged record header at byte {position}", remedy)
        (length,) = struct.unpack("<Q", header[:8])
        payload, checksum = file.read(length), file.read(4)
        if len(payload) < length or _masked_crc(payload) != checksum:
            raise CorruptRecordError(f"{name}: damaged record at byte {position}", remedy)
        position += length + 16
        yield payload
