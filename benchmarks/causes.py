"""Causes suspected of false alarms, where the cause is known: on real frames, and on real frames that were changed.

    python benchmarks/causes.py --source pets09_s2l1 [--gap 10] [--step 9] [--boxes 30]

From every `--step`th pair of frames of a MOT scene: the boxes of people who walked away, and boxes drawn at random
where no one is. These are looked at as they are; with the after frame shaken (up to 8 px, 1 degree, 1 %); with a shadow
of 0.6 drawn into them; and with a patch of another place of the frame put there. A row is the share of its boxes for
which each cause, or none, is suspected; the wanted answers are unmoved, camera-motion, illumination, and none twice.
"""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
from measuring import parser, report

from dataflow.boxes import mot_to_xyxy, pairwise_iou
from dataflow.images import RgbImage, decode_rgb
from dataflow.pairs.camera_motion import random_movement, shake
from trainers.evaluation.change_causes import still_to_undo, suspect

WANTED = {
    "empty ground": "unmoved",
    "shaken": "camera-motion",
    "shadow": "illumination",
    "another patch": "none",
    "walked away": "none",
}


def read_people(path: Path) -> dict[int, dict[str, np.ndarray]]:
    """Boxes xyxy px by frame and track."""
    people: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
    with path.open() as file:
        for frame, track, *box in csv.reader(file):
            people[int(frame)][track] = mot_to_xyxy([[float(value) for value in box[:4]]])[0]
    return people


def with_shadow(frame: RgbImage, box: np.ndarray) -> RgbImage:
    """A dark ellipse in the box."""
    mask = np.zeros(frame.shape[:2], np.uint8)
    centre, axes = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * 0.45
    cv2.ellipse(mask, (*centre.astype(int).tolist(),), (*axes.astype(int).tolist(),), 0, 0, 360, 1, -1)
    return np.where(mask[..., None] > 0, frame * 0.6, frame).astype(np.uint8)


def with_patch(frame: RgbImage, box: np.ndarray, rng: np.random.Generator) -> RgbImage:
    """Pixels of another place in the box."""
    x0, y0, x1, y1 = box.astype(int)
    height, width = y1 - y0, x1 - x0
    y, x = rng.integers(0, frame.shape[0] - height), rng.integers(0, frame.shape[1] - width)
    changed = frame.copy()
    changed[y0:y1, x0:x1] = frame[y : y + height, x : x + width]
    return changed


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--source", type=Path, required=True, help="a MOT scene: img1/, gt/gt.txt")
    options.add_argument("--gap", type=int, default=10)
    options.add_argument("--step", type=int, default=9)
    options.add_argument("--boxes", type=int, default=30, help="drawn in each pair; those on people are dropped")
    arguments = options.parse_args()
    rng = np.random.default_rng(0)
    people = read_people(arguments.source / "gt" / "gt.txt")
    images = sorted((arguments.source / "img1").glob("*.jpg"))
    found: dict[str, Counter[str]] = defaultdict(Counter)

    def note(what: str, before: RgbImage, after: RgbImage, boxes: list[np.ndarray]) -> None:
        compared = still_to_undo(before, after)
        found[what].update(suspect(compared, box) or "none" for box in boxes)

    for first in range(0, len(images) - arguments.gap, arguments.step):
        number, later = first + 1, first + 1 + arguments.gap
        before, after = (decode_rgb(images[n - 1].read_bytes(), None) for n in (number, later))
        stayed = [t for t in people[later] if t in people[number]]
        gone = [t for t in stayed if pairwise_iou(people[later][t], people[number][t]).max() < 0.3]
        note("walked away", before, after, [people[later][t] for t in gone])
        taken = np.array([*people[number].values(), *people[later].values()]).reshape(-1, 4)
        sides = rng.uniform((20, 40), (60, 120), (arguments.boxes, 2))
        corners = rng.uniform(0, np.array(after.shape[1::-1]) - sides)
        drawn = np.concatenate([corners, corners + sides], axis=1)
        empty = [box for box in drawn if pairwise_iou(box, taken).max(initial=0) == 0]
        note("empty ground", before, after, empty)
        movement = random_movement(rng, shift=8, rotation=1, zoom=0.01, exposure=0)
        note("shaken", before, shake(after, movement).pixels, empty)
        for box in empty:
            note("shadow", before, with_shadow(after, box), [box])
            note("another patch", before, with_patch(after, box, rng), [box])
    causes = ("unmoved", "camera-motion", "illumination", "none")
    rows = {
        what: {"boxes": float(found[what].total()), **{c: found[what][c] / found[what].total() for c in causes}}
        for what in WANTED
    }
    ratios = {f"{what}: {cause}": rows[what][cause] for what, cause in WANTED.items()}
    report("causes", rows, ratios, arguments.json)


if __name__ == "__main__":
    main()
