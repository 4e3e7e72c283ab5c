"""Bytes to normalised floats in one pass over memory, compiled by numba as it is imported (half a second).

What this costs is writing the floats; a call for each operation, on pieces that the caches hold, costs twice that.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt


# No fast mathematics: a difference and a quotient, each rounded to float32, are what Hugging Face's processor has.
@numba.njit("void(uint8[:, ::1], float32[::1], float32[::1], float32[:, ::1])", nogil=True, error_model="numpy")
def _fill(pixels: Any, shift: Any, scale: Any, out: Any) -> None:
    height, width = pixels.shape
    for row in range(height):
        for column in range(width):
            out[row, column] = (np.float32(pixels[row, column]) - shift[column]) / scale[column]


def put_normalised(
    pixels: npt.NDArray[np.uint8],
    shift: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
) -> None:
    """(pixels - shift) / scale of (h, w, C) bytes to the top left of `out` (H, W, C), without the GIL.

    Args:
        pixels: rows one behind the other.
        shift: (C,) grey levels.
        scale: (C,) grey levels.
        out: rows one behind the other; the rest of it stays as it is.
    """
    height, width, channels = pixels.shape
    flat = pixels.reshape(height, width * channels), out.reshape(len(out), -1)
    _fill(flat[0], np.tile(shift, width), np.tile(scale, width), flat[1])
