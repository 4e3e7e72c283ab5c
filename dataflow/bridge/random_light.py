"""A light of its own for a frame: brightness, contrast, colour and noise, drawn at random for augmentation."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.images import RgbImage

Levels = npt.NDArray[np.uint8]
"""What becomes of each level, (256, 3) of red, green and blue."""

# Light changed by more leaves little to see.
LIGHT_LIMITS: Final = {"exposure": (0.0, 0.8), "contrast": (0.0, 0.8), "colour": (0.0, 0.8), "noise": (0.0, 40.0)}
_LEVELS = np.arange(256, dtype=np.uint8)
_MIDDLE = 127.5
# Rows of noise made at a time, so that it lies in the processor's cache.
_STRIP = 32


@dataclass(frozen=True)
class LightBounds:
    """How far a light may be from that of the frame: see the augmentations, which have fields of these names."""

    exposure: float = 0.0
    contrast: float = 0.0
    colour: float = 0.0
    noise: float = 0.0


def random_levels(bounds: LightBounds, rng: np.random.Generator) -> Levels:
    """What becomes of each level: rounded half to even, saturated."""
    spread = np.array([bounds.exposure, bounds.contrast, *[bounds.colour] * 3])
    exposure, contrast, *colour = 1 + rng.uniform(-spread, spread)
    lit = _LEVELS[:, None] * exposure * np.array(colour)
    return np.asarray(np.clip(np.rint((lit - _MIDDLE) * contrast + _MIDDLE), 0, 255), np.uint8)


def changes(levels: Levels) -> bool:
    """Whether there is a level that does not stay what it is."""
    return bool((levels != _LEVELS[:, None]).any())


def lit(frame: RgbImage, levels: Levels, out: RgbImage | None = None) -> RgbImage:
    """The frame (H, W, 3) with its levels changed, in `out` where it is given."""
    return np.asarray(cv2.LUT(frame, levels[None], dst=out), np.uint8)


def _unit_normal() -> npt.NDArray[np.float64]:
    """256 equally likely values of a normal distribution of variance 1."""
    values = np.array([NormalDist().inv_cdf((n + 0.5) / 256) for n in range(256)])
    scaled: npt.NDArray[np.float64] = values / values.std()
    return scaled


_NORMAL: Final = _unit_normal()


def add_noise(frame: RgbImage, sigma: float, rng: np.random.Generator) -> RgbImage:
    """The frame, written to, with normal noise to whole levels: by table, many times as fast as normal numbers."""
    noise_levels = np.rint(sigma * _NORMAL).astype(np.int16)
    for top in range(0, len(frame), _STRIP):
        rows = frame[top : top + _STRIP]
        noise = cv2.LUT(rng.integers(0, 256, rows.shape, np.uint8), noise_levels)
        cv2.add(rows, noise, dst=rows, dtype=cv2.CV_8U)
    return frame
