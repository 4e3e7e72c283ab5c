"""Examples to the bytes of a `tf.train.Example`, by the wire format of protocol buffers, keys in sorted order.

TFDS's own serialiser finds out anew for every example how each of its features is encoded, which takes longer than all
the rest of writing a shard; and it leaves the map of features in an order that changes from run to run. The tests hold
that what comes out here is what TFDS's gives, byte for byte, once that map is sorted.

The format: https://protobuf.dev/programming-guides/encoding/ and tensorflow/core/example/{example,feature}.proto.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

Encode = Callable[[Any], bytes]
# Tags: field number << 3 | wire type. All fields here are length-delimited (2).
_FIRST, _SECOND, _THIRD = b"\x0a", b"\x12", b"\x1a"


def _varint(value: int) -> bytes:
    """An unsigned number in groups of 7 bits, the lowest first."""
    if value < 0x80:
        return bytes((value,))
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _bytes_list(values: Iterable[bytes]) -> bytes:
    return _field(_FIRST, b"".join([_field(_FIRST, value) for value in values]))


def _floats(values: Any) -> bytes:
    packed = np.asarray(values, "<f4").tobytes()
    return _field(_SECOND, _field(_FIRST, packed) if packed else b"")


def _integers(values: Iterable[int]) -> bytes:
    # Negative numbers are sent as 64 bits of two's complement.
    packed = b"".join([_varint(int(value) & 0xFFFFFFFFFFFFFFFF) for value in values])
    return _field(_THIRD, _field(_FIRST, packed) if packed else b"")


def _text(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _encoder(feature: Any) -> Encode:
    """How one feature outside of the objects is encoded."""
    if isinstance(feature, tfds.features.Image | tfds.features.Text):
        return lambda value: _bytes_list((_text(value),))
    if feature.np_dtype == np.float64:
        # Kept as bytes, because a list of floats holds float32 only.
        return lambda value: _bytes_list((np.asarray(value, "<f8").tobytes(),))
    if feature.np_dtype == np.float32:
        return lambda value: _floats((value,))
    return lambda value: _integers((value,))


def _column_encoder(feature: Any) -> Encode:
    """How one column of the objects is encoded, a value (or a box) for each object."""
    if isinstance(feature, tfds.features.Text):
        return lambda values: _bytes_list([_text(value) for value in values])
    if feature.np_dtype == np.float32:
        return _floats
    return lambda values: _integers(np.asarray(values).tolist())


class ExampleBytes:
    """What turns examples of our features into bytes.

    An example is a dictionary of values by feature name; `objects` is a dictionary of columns, each with a value per
    object: `bbox` (N, 4), `label` (N,), and so on.
    """

    def __init__(self, features: tfds.features.FeaturesDict) -> None:
        keys: list[tuple[str, str, str, Encode]] = []
        for name, feature in features.items():
            if name == "objects":
                columns = feature.feature.items()
                keys += [(f"objects/{column}", name, column, _column_encoder(inner)) for column, inner in columns]
            else:
                keys.append((name, name, "", _encoder(feature)))
        self._keys = [
            (_field(_FIRST, key.encode()), name, column, encode) for key, name, column, encode in sorted(keys)
        ]

    def __call__(self, example: Mapping[str, Any]) -> bytes:
        """The serialised `tf.train.Example`."""
        entries: list[bytes] = []
        size = 0
        for key, name, column, encode in self._keys:
            value = example[name]
            encoded = encode(value[column] if column else value)
            # An entry of the map: its key, its value, and how long both are.
            head = key + _SECOND + _varint(len(encoded))
            entry_size = len(head) + len(encoded)
            prefix = _FIRST + _varint(entry_size) + head
            entries += (prefix, encoded)
            size += len(prefix) + len(encoded)
        return b"".join((_FIRST, _varint(size), *entries))
