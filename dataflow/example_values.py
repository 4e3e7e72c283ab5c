"""Values out of serialised `tf.train.Example`s: those that are asked for, and no others.

TFDS's own parser finds out anew for every example how each of its features is encoded, which takes a tenth of the time
of decoding a photograph. Here that is found out once. The tests hold that the values are those of TFDS's parser.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from dataflow.errors import ShardboxError

Values = dict[str, Any]
_Take = Callable[[Any], Any]
"""A message `tf.train.Feature` to its value."""
_PLAIN = (tfds.features.Tensor, tfds.features.Scalar, tfds.features.ClassLabel)
_INTEGERS = (np.int64, np.int32, np.bool_)


class ExampleValues:
    """What reads some features of a dataset out of its examples.

    The values are those of TFDS's `deserialize_example_np` with images left encoded; texts in a sequence are a list of
    bytes. Scalars, texts, images and sequences of boxes, labels, scalars and texts are read here, whatever else is
    asked for by TFDS's parser.
    """

    def __init__(
        self, features: tfds.features.FeaturesDict, names: Collection[str], columns: Collection[str] | None = None
    ) -> None:
        """A reader of the named features that there are; of sequences, only of the `columns` where these are given."""
        wanted = {name: features[name] for name in names if name in features}
        self._takes: dict[str, _Take] = {}
        self._sequences: dict[str, list[tuple[str, str, _Take]]] = {}
        rest: dict[str, Any] = {}
        for name, feature in wanted.items():
            take, inner = _taker(feature), _column_takers(feature, columns)
            if take is not None:
                self._takes[name] = take
            elif inner is not None:
                self._sequences[name] = [(column, f"{name}/{column}", one) for column, one in inner.items()]
            else:
                rest[name] = feature
        self._rest = tfds.features.FeaturesDict(rest) if rest else None

    def __call__(self, payload: bytes) -> Values:
        """The values of one serialised example, by feature name; of a sequence a dictionary of columns.

        Raises:
            ShardboxError: it is no example of these features.
        """
        try:
            found = tf_example_pb2.Example.FromString(payload).features.feature
            values: Values = {name: take(found[name]) for name, take in self._takes.items()}
            for name, columns in self._sequences.items():
                values[name] = {column: take(found[key]) for column, key, take in columns}
        except (DecodeError, IndexError) as error:
            remedy = "prepare the dataset again"
            raise ShardboxError(f"an example of {len(payload)} bytes lacks what its dataset says", remedy) from error
        if self._rest is not None:
            skip = {name: tfds.decode.SkipDecoding() for name, f in self._rest.items() if hasattr(f, "encoding_format")}
            values |= self._rest.deserialize_example_np(payload, decoders=skip)
        return values


def _taker(feature: Any) -> _Take | None:
    """How one value is taken; None if the feature is of another kind."""
    if isinstance(feature, tfds.features.Image | tfds.features.Text):
        return lambda message: message.bytes_list.value[0]
    if type(feature) not in _PLAIN or feature.shape != ():
        return None
    if feature.np_dtype == np.float32:
        return lambda message: message.float_list.value[0]
    if feature.np_dtype in _INTEGERS:
        make = bool if feature.np_dtype == np.bool_ else int
        return lambda message: make(message.int64_list.value[0])
    return None


def _column_takers(feature: Any, columns: Collection[str] | None) -> Mapping[str, _Take] | None:
    """How each column of a sequence of dictionaries is taken; None if one of them is of another kind."""
    inner = getattr(feature, "feature", None)
    if not (isinstance(feature, tfds.features.Sequence) and isinstance(inner, tfds.features.FeaturesDict)):
        return None
    takes = {name: _column_taker(kind) for name, kind in inner.items() if columns is None or name in columns}
    known = {name: take for name, take in takes.items() if take is not None}
    return known if len(known) == len(takes) else None


def _column_taker(feature: Any) -> _Take | None:
    """How a column is taken that has a value for each member of its sequence; None if it is of another kind."""
    if isinstance(feature, tfds.features.BBoxFeature):
        return lambda message: np.array(message.float_list.value, np.float32).reshape(-1, 4)
    if isinstance(feature, tfds.features.Text):
        return lambda message: list(message.bytes_list.value)
    if type(feature) not in _PLAIN or feature.shape != ():
        return None
    dtype = feature.np_dtype
    if dtype == np.float32:
        return lambda message: np.array(message.float_list.value, dtype)
    return (lambda message: np.array(message.int64_list.value, dtype)) if dtype in _INTEGERS else None
