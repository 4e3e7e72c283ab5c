"""Bytes to normalised floats in one pass over memory, compiled by numba as it is imported (half a second).

What this costs is writing the floats, four bytes for each that is read. They are stored past the processor's caches
("non-temporal"): a batch of floats is larger than these, and a store that goes through them reads first what it
overwrites. That takes two thirds of the time. numba has no such store of its own, so here is one.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_LANES = 16  # values that are stored at once: a line of the caches, since parts of one are slow to store past them
_PERIOD = 48  # after which lanes and channels, 3 or 6, are again what they were
_ROW = _PERIOD + _LANES  # so many levels can be read from any place in a period
_BYTES, _FLOATS = ir.VectorType(ir.IntType(8), _LANES), ir.VectorType(ir.FloatType(), _LANES)


@intrinsic  # type: ignore[untyped-decorator]
def _store(typing: Any, pixels: Any, at: Any, levels: Any, out: Any) -> Any:
    """out[at:] = (pixels[at:] - levels[0, at % 48:]) / levels[1, at % 48:], of as many values as there are lanes."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def pointer(n: int, index: Any, vector: Any) -> Any:
            start = context.make_array(signature.args[n])(context, builder, given[n]).data
            return builder.bitcast(builder.gep(start, [index]), vector.as_pointer())

        at = given[1]
        phase = builder.urem(at, ir.Constant(at.type, _PERIOD))
        shift = builder.load(pointer(2, phase, _FLOATS), align=4)
        scale = builder.load(pointer(2, builder.add(phase, ir.Constant(at.type, _ROW)), _FLOATS), align=4)
        value = builder.uitofp(builder.load(pointer(0, at, _BYTES), align=1), _FLOATS)
        made = builder.fdiv(builder.fsub(value, shift), scale)
        stored = builder.store(made, pointer(3, at, _FLOATS), align=4 * _LANES)
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(pixels, at, levels, out), generate


@intrinsic  # type: ignore[untyped-decorator]
def _fence(typing: Any) -> Any:
    """Let every thread see what was stored past the caches."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


# No fast mathematics: a difference and a quotient, each rounded to float32, are what Hugging Face's processor has.
@numba.njit("void(uint8[:, ::1], float32[:, ::1], float32[:, ::1])", nogil=True, error_model="numpy")
def _fill(pixels: Any, levels: Any, out: Any) -> None:
    length = pixels.shape[1]
    for row in range(len(pixels)):
        values, to = pixels[row], out[row]
        start = min((-to.ctypes.data // 4) % _LANES, length)
        stop = length - (length - start) % _LANES
        for i in range(start):
            to[i] = (np.float32(values[i]) - levels[0, i]) / levels[1, i]
        for i in range(start, stop, _LANES):
            _store(values, i, levels, to)
        for i in range(stop, length):
            to[i] = (np.float32(values[i]) - levels[0, i % _PERIOD]) / levels[1, i % _PERIOD]
    _fence()


def repeated(shift: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Grey levels of the channels of an image, (3,) each, again and again, as `put_normalised` takes them (2, 64)."""
    return np.stack([np.resize(levels, _ROW) for levels in (shift, scale)])


def put_normalised(
    pixels: npt.NDArray[np.uint8], levels: npt.NDArray[np.float32], out: npt.NDArray[np.float32]
) -> None:
    """(pixels - shift) / scale of (h, w, C) bytes to the top left of `out` (H, W, C), without the GIL.

    Args:
        pixels: rows one behind the other, of one image or of two side by side: C is 3 or 6.
        levels: (2, 64) shift and scale of one image's channels, `repeated`.
        out: rows one behind the other; the rest of it stays as it is.
    """
    height, width, _ = pixels.shape
    rows = 1 if width == out.shape[1] else height  # Rows that are filled are as good as one long one.
    _fill(pixels.reshape(rows, -1), levels, out[:height].reshape(rows, -1))
