"""Small shifts of the quarters of a frame: whether a camera stood still, without following corners."""

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.pairs.frame import Detail

# Side of a block, how many of a quarter must have texture, and the gradient (grey levels per pixel) that is.
_BLOCK, _FEWEST_BLOCKS, _LEAST_GRADIENT = 12, 8, 0.5
# Share of the power that may differ; at a quarter of the size of PETS a pixel makes it about 0.5, walking people 0.2.
_UNLIKE = 0.4


def quarter_shifts(first: Detail, second: Detail) -> npt.NDArray[np.float64] | None:
    """How far, x and y in pixels (4, 2), each quarter of `second` lies from `first`; None where that is hard to say.

    Both are (H, W) float32 without their slow changes. One step of Lucas and Kanade (1981) in blocks, and their median
    by quarters, which people who walk through leave where it is. A step tells movements of less than a pixel only:
    where the frames are too unlike for that, or a quarter has too little texture, the answer is None.
    """
    power = cv2.norm(first, cv2.NORM_L2), cv2.norm(second, cv2.NORM_L2)
    unlike = cv2.norm(first, second, cv2.NORM_L2) ** 2 / max(power[0] ** 2 + power[1] ** 2, 1e-9)
    height, width = first.shape
    columns, rows = width // _BLOCK, height // _BLOCK
    if unlike > _UNLIKE or min(rows, columns) < 2:
        return None
    second = cv2.multiply(second, power[0] / max(power[1], 1e-9))
    both, change = cv2.add(first, second), cv2.subtract(first, second)
    x, y = (cv2.Sobel(both, cv2.CV_32F, *axis, ksize=1, scale=1 / 4) for axis in ((1, 0), (0, 1)))
    xx, xy, yy, xt, yt = (
        cv2.resize(cv2.multiply(*factors), (columns, rows), interpolation=cv2.INTER_AREA)
        for factors in ((x, x), (x, y), (y, y), (x, change), (y, change))
    )
    determinant = xx * yy - xy * xy
    textured = determinant > _LEAST_GRADIENT**2 * (xx + yy)
    shifts = np.stack([yy * xt - xy * yt, xx * yt - xy * xt]) / np.maximum(determinant, 1e-9)
    medians = []
    for down in (slice(rows // 2), slice(rows // 2, None)):
        for across in (slice(columns // 2), slice(columns // 2, None)):
            found = shifts[:, down, across][:, textured[down, across]]
            middle = found.shape[1] // 2
            if found.shape[1] < _FEWEST_BLOCKS:
                return None
            medians.append(np.partition(found, middle, axis=1)[:, middle])
    return np.array(medians, np.float64)
