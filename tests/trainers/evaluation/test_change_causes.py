"""Causes of false alarms on made scenes in which the cause is known, and on real frames."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataflow.boxes import mot_to_xyxy, pairwise_iou
from dataflow.images import decode_rgb, encode_png
from dataflow.pairs.camera_motion import Movement, shake
from dataflow.records import Change, FramePair, ImageRecord, Objects, Predictions, no_objects
from trainers.commands.scenes import SceneOptions, write_scenes
from trainers.evaluation.change_causes import still_to_undo, suspect
from trainers.evaluation.evaluation import evaluate
from trainers.prediction.predictions import collect_predictions

SIZE = (240, 320)
PETS = Path(__file__).parents[4] / "shared" / "data" / "pets09_s2l1"
BOX = np.array([120.0, 80.0, 180.0, 160.0])
PART = (slice(80, 160), slice(120, 180))


def _noisy(frame, rng):
    """What a sensor makes of a scene."""
    return np.clip(frame + rng.normal(0, 2, frame.shape), 0, 255).round().astype(np.uint8)


def _ground(rng):
    """A textured scene, float32."""
    texture = sum(
        cv2.resize(rng.normal(0, 60 / 2**level, (SIZE[0] >> level, SIZE[1] >> level, 3)), SIZE[::-1])
        for level in range(1, 6)
    )
    return np.clip(128 + texture, 20, 235).astype(np.float32)


@pytest.fixture(params=range(4))
def rng(request):
    return np.random.default_rng(request.param)


def test_a_shaken_camera_is_suspected(rng):
    ground = _ground(rng)
    moved = shake(_noisy(ground, rng), Movement(shift_x=3, shift_y=-2, rotation=0.5)).pixels
    assert suspect(still_to_undo(_noisy(ground, rng), moved), BOX) == "camera-motion"


@pytest.mark.parametrize(("shake", "moved"), [(0.0, False), (0.5, False), (6.0, True)])
def test_whether_the_camera_of_a_scene_moved_is_known(tmp_path, shake, moved):
    """Scenes as the demonstration has them: a shift of less than a pixel, in which things move as well, is none."""
    write_scenes(tmp_path, 6, options=SceneOptions(shake=shake))
    found = Counter()
    for scene in sorted(tmp_path.iterdir()):
        compared = still_to_undo(*(decode_rgb(path.read_bytes(), None) for path in sorted(scene.glob("img1/*.jpg"))))
        boxes = np.random.default_rng(0).uniform((0, 0), (400, 280), (12, 2))
        found.update(suspect(compared, [x, y, x + 60, y + 70]) for x, y in boxes)
    assert found["camera-motion"] >= 0.5 * found.total() if moved else not found["camera-motion"]


def test_a_poor_alignment_is_suspected(rng):
    frame = _noisy(_ground(rng), rng)
    assert suspect(still_to_undo(frame, frame, score=0.65), BOX) == "camera-motion"
    assert suspect(still_to_undo(frame, frame, score=0.95), BOX) == "unmoved"


@pytest.mark.parametrize("sharp", [True, False])
def test_a_shadow_is_suspected(rng, sharp):
    ground = _ground(rng)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    inside = (((x - 150) / 27) ** 2 + ((y - 120) / 36) ** 2 < 1).astype(np.float32)
    factor = 1 - 0.45 * (inside if sharp else cv2.GaussianBlur(inside, (0, 0), 8))
    compared = still_to_undo(_noisy(ground, rng), _noisy(ground * factor[..., None], rng))
    assert suspect(compared, BOX) == "illumination"


def test_a_shadow_on_plain_ground_is_suspected(rng):
    ground = np.full((*SIZE, 3), (90, 120, 150), np.float32)
    darker = ground.copy()
    darker[PART] *= 0.6
    assert suspect(still_to_undo(_noisy(ground, rng), _noisy(darker, rng)), BOX) == "illumination"
    coloured = ground.copy()
    coloured[PART] = (150, 60, 40)
    assert suspect(still_to_undo(_noisy(ground, rng), _noisy(coloured, rng)), BOX) is None


def test_what_stands_still_is_unmoved(rng):
    ground = _ground(rng)
    ground[PART] = _ground(rng)[PART]  # A thing, in both frames.
    assert suspect(still_to_undo(_noisy(ground, rng), _noisy(ground, rng)), BOX) == "unmoved"


def test_a_thing_that_came_has_no_excuse(rng):
    ground = _ground(rng)
    later = ground.copy()
    later[PART] = _ground(rng)[PART]
    compared = still_to_undo(_noisy(ground, rng), _noisy(later, rng))
    assert suspect(compared, BOX) is None
    assert suspect(compared, BOX, BOX[None] + 3) == "unmoved", "unless it is known not to have changed"


def test_a_box_of_hardly_any_pixels_says_nothing(rng):
    frame = _noisy(_ground(rng), rng)
    assert suspect(still_to_undo(frame, frame), [10, 10, 12, 60]) is None
    assert suspect(still_to_undo(frame, frame), [-20, -30, 40, 50]) == "unmoved", "cut at the border"


def test_causes_of_a_run(samples):
    """From a dataset of pairs: only wrong detections where nothing is, and only above the operating score."""
    rng = np.random.default_rng(0)
    ground = _ground(rng)
    later = ground.copy()
    later[10:60, 10:60] = _ground(rng)[10:60, 10:60]
    later[PART] *= 0.6
    pairs = []
    for name in ("a", "b", "c"):
        frames = [
            ImageRecord(f"{name}-{role}", encode_png(_noisy(frame, rng)), *SIZE, no_objects(), "scene", "tests")
            for role, frame in (("before", ground), ("after", later))
        ]
        objects = Objects([[10, 10, 60, 60]], [0], changes=[Change.APPEARED])
        pairs.append(FramePair(name, *frames, objects))
    dataset = samples.dataset({"validation": pairs}, kind="pairs")
    boxes = [[10, 10, 60, 60], BOX, [220, 100, 290, 200], [12, 10, 60, 60], [220, 10, 290, 80]]
    found = [Predictions("a", boxes, [0.9, 0.8, 0.7, 0.6, 0.1], [0] * 5, "run")]
    found += [Predictions(name, boxes[:1], [0.65], [0], "run") for name in ("b", "c")]
    collected = collect_predictions(found, run_id="run", dataset=dataset, split="validation")
    analysis = evaluate(dataset, collected, "validation").error_types
    assert analysis.by_image["a"].detections == (None, "background", "background", None, None)
    assert analysis.by_image["a"].causes == (None, "illumination", "unmoved", None, None)
    assert analysis.by_image["b"].causes == (None,)
    assert analysis.causes == {"camera-motion": 0, "illumination": 1, "unmoved": 1}


@pytest.mark.skipif(not PETS.is_dir(), reason="shared/data/pets09_s2l1 is not beside the checkout")
def test_real_frames():
    """Of people who walked away hardly any is excused, of empty ground hardly any is not; shaken ground is known."""
    rng = np.random.default_rng(0)
    people = defaultdict(dict)
    for frame, track, *box in csv.reader((PETS / "gt" / "gt.txt").open()):
        people[int(frame)][track] = mot_to_xyxy([[float(value) for value in box[:4]]])[0]
    found = defaultdict(Counter)
    for number in (1, 61, 121, 181):
        before, after = (decode_rgb((PETS / "img1" / f"{n:06d}.jpg").read_bytes(), None) for n in (number, number + 10))
        compared = still_to_undo(before, after)
        shaken = still_to_undo(before, shake(after, Movement(shift_x=5, shift_y=3, rotation=0.4)).pixels)
        for track, box in people[number + 10].items():
            if track in people[number] and pairwise_iou(box, people[number][track]) < 0.3:
                found["moved"][suspect(compared, box)] += 1
        taken = np.array([*people[number].values(), *people[number + 10].values()])
        for x, y in rng.uniform((0, 0), (720, 490), (40, 2)):
            if pairwise_iou([x, y, x + 45, y + 85], taken).max() == 0:
                found["empty"][suspect(compared, [x, y, x + 45, y + 85])] += 1
                found["shaken"][suspect(shaken, [x, y, x + 45, y + 85])] += 1
    assert found["moved"][None] >= 0.9 * found["moved"].total() >= 9
    assert found["empty"]["unmoved"] >= 0.9 * found["empty"].total() >= 60
    assert found["empty"]["camera-motion"] == 0
    assert found["shaken"]["camera-motion"] >= 0.75 * found["shaken"].total()
