"""A decoded frame with the smaller pictures by which frames are aligned, each made once however many pairs it is in."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.images import RgbImage

Grey = npt.NDArray[np.uint8]
Detail = npt.NDArray[np.float32]

# The longer side frames are worked on: half of 768 pixels.
_WORKING_SIDE = 384


@dataclass(frozen=True, eq=False)
class Frame:
    """Pixels (H, W, 3), (H, W, 1) or (H, W) uint8, and what alignment looks at of them, made when first asked for.

    Everything is a function of the pixels, which are not to be changed.
    """

    pixels: RgbImage

    @cached_property
    def grey(self) -> Grey:
        """The frame in grey, (H, W) uint8."""
        if self.pixels.ndim == 2:
            return self.pixels
        one = self.pixels.shape[2] == 1
        return np.ascontiguousarray(self.pixels[:, :, 0] if one else cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY))

    @cached_property
    def working(self) -> Grey:
        """The grey frame at working size (h, w), about 384 pixels on its longer side, or as it is if it is small."""
        height, width = self.grey.shape
        factor = max(height, width) / _WORKING_SIDE
        if factor < 1.25:
            return self.grey
        size = max(1, round(width / factor)), max(1, round(height / factor))
        return np.asarray(cv2.resize(self.grey, size, interpolation=cv2.INTER_AREA), np.uint8)

    @cached_property
    def brightness(self) -> tuple[float, float]:
        """Mean and standard deviation of the grey levels at working size, by every fourth row, which tell as much."""
        (mean,), (deviation,) = cv2.meanStdDev(self.working[::4])
        return float(mean[0]), float(deviation[0])

    @cached_property
    def detail(self) -> Detail:
        """The frame at half its working size without its slow changes, float32."""
        height, width = self.working.shape
        half = cv2.resize(self.working, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
        values = half.astype(np.float32)
        detail: Detail = values - cv2.blur(values, (7, 7))
        return detail

    @cached_property
    def roughness(self) -> float:
        """The root mean square of `detail`, in grey levels."""
        return float(cv2.norm(self.detail, cv2.NORM_L2) / np.sqrt(self.detail.size))
