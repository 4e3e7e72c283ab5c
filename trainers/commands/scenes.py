"""Generated before/after scenes with known truth: photographs as background, cut-outs that move, appear and vanish.

The photographs are those that scikit-image and scikit-learn (which FiftyOne depends on) ship for their own examples.
A scene is a MOTChallenge sequence of two frames, written as any user's source would be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.boxes import pairwise_iou, xyxy_to_mot
from dataflow.errors import UsageError
from dataflow.images import RgbImage, decode_rgb, encode_jpeg

_PHOTOGRAPHS = (
    ("sklearn.datasets.images", "china.jpg"),
    ("sklearn.datasets.images", "flower.jpg"),
    ("skimage.data", "astronaut.png"),
    ("skimage.data", "chelsea.png"),
    ("skimage.data", "coffee.png"),
    ("skimage.data", "motorcycle_left.png"),
    ("skimage.data", "rocket.jpg"),
)
_FILL_TRIES = 40


@dataclass(frozen=True)
class SceneOptions:
    """How scenes look. Sizes are pixels, noise and exposure are levels and shares of the 8-bit range."""

    height: int = 360
    width: int = 480
    least_side: int = 32
    most_side: int = 88
    noise: float = 3.0
    exposure: float = 0.02
    shake: float = 1.0
    """Largest shift of the camera between the frames, px in x and y."""


@dataclass(frozen=True)
class _Cutout:
    """A piece of a photograph and its soft-edged mask: pixels (h, w, 3) uint8, mask (h, w, 1) float32 in [0, 1]."""

    pixels: RgbImage
    mask: npt.NDArray[np.float32]


def load_photographs() -> list[RgbImage]:
    """The photographs, (H, W, 3) uint8 each.

    Raises:
        ModuleNotFoundError: scikit-image or scikit-learn is not installed.
    """
    found = []
    for package, name in _PHOTOGRAPHS:
        resource = files(package) / name
        if resource.is_file():
            found.append(decode_rgb(resource.read_bytes()))
    if not found:
        raise UsageError("scikit-image and scikit-learn came without their photographs", "install them from PyPI")
    return found


def write_scenes(out: Path, count: int, seed: int = 0, options: SceneOptions = SceneOptions()) -> None:
    """Write `count` scenes `out/scene_000` ... of two frames each, with the truth in `gt/gt.txt`."""
    photographs = load_photographs()
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        _write_scene(out / f"scene_{index:03d}", photographs, rng, options)


def _write_scene(
    folder: Path, photographs: Sequence[RgbImage], rng: np.random.Generator, options: SceneOptions
) -> None:
    backdrop = _crop(photographs[int(rng.integers(len(photographs)))], rng, options)
    frames = [backdrop.astype(np.float32), backdrop.astype(np.float32)]
    rows: list[tuple[int, int, npt.NDArray[np.float32]]] = []
    taken: list[list[float]] = []
    kinds = ["moves"] * int(rng.integers(1, 4)) + ["appears", "vanishes", "stays"] * int(rng.integers(0, 2))
    for track, kind in enumerate(kinds, 1):
        cutout = _cutout(photographs, rng, options)
        places = [_place(cutout, taken, rng, options) for _ in range(2 if kind == "moves" else 1)]
        if any(place is None for place in places):
            continue
        shown = {"moves": [0, 1], "appears": [1], "vanishes": [0], "stays": [0, 1]}[kind]
        for frame in shown:
            place = places[frame] if kind == "moves" else places[0]
            assert place is not None
            _paste(frames[frame], cutout, place)
            h, w = cutout.mask.shape[:2]
            rows.append((frame, track, np.array([place[0], place[1], place[0] + w, place[1] + h], np.float32)))
    shift = rng.uniform(-options.shake, options.shake, 2)
    frames[1] = _shaken(frames[1], shift)
    moved = [(f, t, box + np.tile(shift, 2).astype(np.float32) if f == 1 else box) for f, t, box in rows]
    _save(folder, [_exposed(frame, rng, options) for frame in frames], moved, options)


def _crop(photograph: RgbImage, rng: np.random.Generator, options: SceneOptions) -> RgbImage:
    """A random part of a photograph at the scene's size, mirrored half of the time."""
    height, width = photograph.shape[:2]
    most = min(height / options.height, width / options.width)
    scale = rng.uniform(0.6, 1.0) * most
    h, w = int(options.height * scale), int(options.width * scale)
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    part = cv2.resize(photograph[y : y + h, x : x + w], (options.width, options.height), interpolation=cv2.INTER_AREA)
    return np.asarray(part[:, ::-1] if rng.random() < 0.5 else part, np.uint8)


def _cutout(photographs: Sequence[RgbImage], rng: np.random.Generator, options: SceneOptions) -> _Cutout:
    """An ellipse or rounded rectangle out of a photograph, a little brighter or darker than it was."""
    h, w = (int(side) for side in rng.integers(options.least_side, options.most_side + 1, 2))
    photograph = photographs[int(rng.integers(len(photographs)))]
    y, x = rng.integers(0, photograph.shape[0] - h), rng.integers(0, photograph.shape[1] - w)
    yy, xx = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    power = rng.choice([2.0, 6.0])
    inside = np.clip((1.0 - (np.abs(xx) ** power + np.abs(yy) ** power)) * 6.0, 0.0, 1.0)
    tint = rng.uniform(0.6, 1.5, 3)
    pixels = np.clip(photograph[y : y + h, x : x + w] * tint, 0, 255).astype(np.uint8)
    return _Cutout(pixels, inside.astype(np.float32)[..., None])


def _place(
    cutout: _Cutout, taken: list[list[float]], rng: np.random.Generator, options: SceneOptions
) -> tuple[int, int] | None:
    """A free (x, y) for a cut-out, or None where the scene is full; it is noted in `taken`."""
    h, w = cutout.mask.shape[:2]
    for _ in range(_FILL_TRIES):
        x, y = int(rng.integers(2, options.width - w - 2)), int(rng.integers(2, options.height - h - 2))
        box = [float(x), float(y), float(x + w), float(y + h)]
        if not taken or pairwise_iou([box], taken).max() == 0:
            taken.append(box)
            return x, y
    return None


def _paste(frame: npt.NDArray[np.float32], cutout: _Cutout, place: tuple[int, int]) -> None:
    x, y = place
    h, w = cutout.mask.shape[:2]
    part = frame[y : y + h, x : x + w]
    part += cutout.mask * (cutout.pixels - part)


def _shaken(frame: npt.NDArray[np.float32], shift: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The frame moved by `shift` (x, y) px, its border repeated."""
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    size = (frame.shape[1], frame.shape[0])
    moved = cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


def _exposed(frame: npt.NDArray[np.float32], rng: np.random.Generator, options: SceneOptions) -> RgbImage:
    """The frame as a sensor would record it: another exposure each time, and noise."""
    gain = 1 + rng.uniform(-options.exposure, options.exposure)
    noise = rng.normal(0, options.noise, frame.shape)
    return np.clip(frame * gain + noise, 0, 255).round().astype(np.uint8)


def _save(
    folder: Path,
    frames: Sequence[RgbImage],
    rows: Sequence[tuple[int, int, npt.NDArray[np.float32]]],
    options: SceneOptions,
) -> None:
    for name in ("img1", "gt"):
        (folder / name).mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        (folder / "img1" / f"{number:06d}.jpg").write_bytes(encode_jpeg(frame, 92))
    lines = []
    for frame_index, track, box in rows:
        left, top, w, h = xyxy_to_mot([box])[0].tolist()
        lines.append(f"{frame_index + 1},{track},{left:.2f},{top:.2f},{w:.2f},{h:.2f},1")
    (folder / "gt" / "gt.txt").write_text("".join(f"{line}\n" for line in sorted(lines)))
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nimDir=img1\nseqLength={len(frames)}\n"
        f"imWidth={options.width}\nimHeight={options.height}\nimExt=.jpg\n"
    )
