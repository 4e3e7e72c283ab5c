"""Sequences from a camera that moves, whose movements are known: a drawn scene, or frames of PETS09-S2L1."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dataflow.boxes import clip_boxes
from dataflow.images import RgbImage, decode_rgb, encode_jpeg, encode_png
from dataflow.pairs.camera_motion import Movement, random_movement, shake
from dataflow.pairs.motion_models import Matrix, carry_boxes
from tests.factories import Thing, mot_row, write

PETS = Path(__file__).parents[2].parent / "shared" / "data" / "pets09_s2l1"
SIZE = (240, 320)
STILL = Movement()


def scene(seed: int = 0) -> RgbImage:
    """A textured background (240, 320, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (SIZE[0] // 8, SIZE[1] // 8, 3))
    return np.clip(np.kron(coarse, np.ones((8, 8, 1))) + rng.normal(0, 3, (*SIZE, 3)), 0, 255).astype(np.uint8)


def write_scenes(root: Path, movements: Sequence[Movement], seeds: Mapping[int, int] = {}, name: str = "walk") -> Path:
    """A sequence of one scene (another where `seeds` has a frame's number, from 1) after movements; one object."""
    lines = []
    for number, movement in enumerate(movements, 1):
        shaken = shake(scene(seeds.get(number, 0)), movement)
        write(root / name / "img1" / f"{number:06d}.png", encode_png(shaken.pixels))
        left = 20.0 * number
        [box] = clip_boxes(carry_boxes([(left, 60, left + 20, 100)], shaken.homography), SIZE).tolist()
        lines.append(mot_row(number, Thing(0, tuple(box))))
    write(root / name / "gt" / "gt.txt", "".join(f"{line}\n" for line in lines))
    return root


def write_shaken_pets(root: Path, numbers: Sequence[int], seed: int = 0) -> dict[int, Matrix]:
    """These frames as a sequence `walk` from 1, every second one shaken; each one's movement since it was steady."""
    rows = defaultdict(list)
    for line in (PETS / "gt" / "gt.txt").read_text().splitlines():
        frame, track, left, top, width, height, flag, *_ = map(float, line.split(","))
        box = left - 1, top - 1, left - 1 + width, top - 1 + height
        rows[int(frame)].append((int(track), box, not flag))
    rng = np.random.default_rng(seed)
    movements, lines = {}, []
    for index, number in enumerate(numbers, 1):
        movement = STILL if index % 2 else random_movement(rng)
        frame = decode_rgb((PETS / "img1" / f"{number:06d}.jpg").read_bytes())
        shaken = shake(frame, movement)
        movements[index] = shaken.homography
        write(root / "walk" / "img1" / f"{index:06d}.jpg", encode_jpeg(shaken.pixels))
        for track, box, ignored in rows[number]:
            [carried] = clip_boxes(carry_boxes([box], shaken.homography), frame.shape[:2]).tolist()
            if carried[2] - carried[0] > 1 and carried[3] - carried[1] > 1:
                lines.append(mot_row(index, Thing(0, tuple(carried), track, ignored)))
    write(root / "walk" / "gt" / "gt.txt", "".join(f"{line}\n" for line in lines))
    return movements
