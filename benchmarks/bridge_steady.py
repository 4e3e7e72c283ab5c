"""What an endless stream of batches costs once it runs: of its process, and of all processes that it started."""

import gc
import itertools
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

BATCH = 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARM_UP_BATCHES = 6
WARM_UP_SECONDS = 1.0
MEMORY_BATCHES = 4
# Levels by which a photograph may differ from its own thumbnail: resizers and decoders differ by one or two.
TOLERANCE = 4.0


@dataclass(frozen=True, eq=False)
class Padded:
    """A batch of any contender: arrays or tensors of torch or TensorFlow.

    `pixels` (8, 3, H, W) or (8, H, W, 3), uint8 or normalised float32; `mask` (8, H, W), true on real pixels; `boxes`,
    one for each image.
    """

    pixels: Any
    mask: Any
    boxes: Any


class CheckError(Exception):
    """A batch that is not of the photographs, or not padded as it should be."""


def check(batch: Padded, root: Path, edges: tuple[int, int]) -> None:
    """Compare a batch with the photographs: eight of them, whole, at their size, each with boxes, zeros beside them.

    Raises:
        CheckError: they are not, and what is wrong.
    """
    pixels, mask = np.asarray(batch.pixels), np.asarray(batch.mask).astype(bool)
    if pixels.shape[1] == 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.shape != (BATCH, *mask.shape[1:], 3) or len(mask) != BATCH or len(batch.boxes) != BATCH:
        raise CheckError(f"pixels {pixels.shape}, mask {mask.shape} and {len(batch.boxes)} lists of boxes")
    if pixels[~mask].any():
        raise CheckError("the padding is not zero")
    if pixels.dtype != np.uint8:
        pixels = (pixels * np.float32(STD) + np.float32(MEAN)) * 255
    thumbnails = np.load(root / "thumbnails.npy")
    for image, real in zip(pixels, mask, strict=True):
        height, width = int(real.any(axis=1).sum()), int(real.any(axis=0).sum())
        shorter, longer = sorted((height, width))
        # One edge is what was asked for; the other follows, and each contender rounds in its own way.
        at_size = abs(shorter - edges[0]) <= 1 or abs(longer - edges[1]) <= 1
        if not real[:height, :width].all() or not at_size or shorter > edges[0] + 1 or longer > edges[1] + 1:
            raise CheckError(f"an image of {height} x {width} px for edges {edges}")
        levels = abs(thumbnails - _thumbnail(image[:height, :width])).mean(axis=(1, 2, 3)).min()
        if levels > TOLERANCE:
            raise CheckError(f"an image that differs from all photographs by {levels:.1f} levels")


def _thumbnail(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Means of the cells of a grid as fine as the thumbnails'."""
    rows, columns = (np.linspace(0, side, 9).astype(int)[:-1] for side in image.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), rows, axis=0), columns, axis=1)
    sizes = np.diff([*rows, image.shape[0]])[:, None, None] * np.diff([*columns, image.shape[1]])[None, :, None]
    return np.asarray(sums / sizes)


def steady(stream: Iterator[Any], least: int, seconds: float) -> dict[str, float]:
    """CPU ms per image, images/s and memory of a stream, once it runs.

    Imports, processes that start and buffers that fill are in the batches that are left out, and garbage of all that
    is collected: looking for it takes Python a third of a second, at whichever batch. From then on a batch is
    taken whenever there is one, for at least `least` images and `seconds`; the stream goes on all the while, so that
    there is as much on its way at the end as at the beginning. CPU time is that of this process and all below it, user
    and system. Memory is what is not a mapped file, of all of them together, shared pages counted once: the largest
    after any of a few batches more.
    """
    started = time.perf_counter()
    for taken in itertools.count(1):
        next(stream)
        if taken >= WARM_UP_BATCHES and time.perf_counter() - started >= WARM_UP_SECONDS:
            break
    gc.collect()
    cpu, wall, images = _tree_cpu(), time.perf_counter(), 0
    while images < least or time.perf_counter() - wall < seconds:
        next(stream)
        images += BATCH
    wall, cpu = time.perf_counter() - wall, _tree_cpu() - cpu
    peak = 0.0
    for _ in range(MEMORY_BATCHES):
        next(stream)
        peak = max(peak, _tree_memory())
    return {"cpu_ms": 1000 * cpu / images, "images_per_s": images / wall, "peak_mb": peak, "images": images}


def _tree_cpu() -> float:
    """CPU seconds of this process and of all below it, those that have ended included."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    total = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    return total + sum(sum(child.cpu_times()[:4]) for child in psutil.Process().children(recursive=True))


def _tree_memory() -> float:
    """MB of this process and of all below it that are not mapped files; a page that several share counts once."""
    found = 0
    for process in (os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        found += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
    return found / 1024
