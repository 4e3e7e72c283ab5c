"""The benchmarks that train detectors: their truth, their tables, and one small training from end to end."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dataflow.images import decode_rgb
from dataflow.pairs.camera_motion import random_movement
from dataflow.pairs.motion_models import carry_boxes
from dataflow.records import FramePair, Objects
from tests.dataflow.detection_sets import make_record
from tests.factories import Picture, Thing, write_mot

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SIZE = (60, 80)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """`changes` and `camera`, which are scripts that find each other."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import camera  # type: ignore[import-not-found]
    import changes  # type: ignore[import-not-found]

    yield changes, camera
    for name in ("changes", "camera", "measuring"):
        sys.modules.pop(name, None)


def a_pair() -> FramePair:
    frames = [
        replace(make_record(name, *SIZE, n=0, seed=seed), group_id="scene")
        for seed, name in enumerate(("before", "after"))
    ]
    return FramePair("pair", *frames, Objects([[20, 20, 30, 35], [40, 25, 52, 40]], [0, 1], in_before=[True, False]))


def test_the_truth_moves_with_the_camera(modules: tuple[ModuleType, ModuleType]) -> None:
    _, camera = modules
    pair = a_pair()
    homography = random_movement(np.random.default_rng(1)).homography(SIZE)
    old, new = (carry_boxes([box], homography)[0] for box in pair.objects.boxes)
    left = camera.shaken(pair, np.random.default_rng(1), carried=False, still=False)
    np.testing.assert_allclose(left.objects.boxes, [pair.objects.boxes[0], new], atol=1e-3)
    assert left.objects.in_before.tolist() == [True, False]
    carried = camera.shaken(pair, np.random.default_rng(1), carried=True, still=False)
    np.testing.assert_allclose(carried.objects.boxes, [old, new], atol=1e-3)
    assert not carried.objects.in_before.any()
    assert carried.before.image == pair.before.image and carried.after.image != pair.after.image


def test_where_nothing_moved_there_is_noise_alone(modules: tuple[ModuleType, ModuleType]) -> None:
    _, camera = modules
    still = camera.shaken(a_pair(), np.random.default_rng(1), carried=True, still=True, moves=False)
    before, after = (decode_rgb(frame.image).astype(float) for frame in (still.before, still.after))
    assert not len(still.objects)
    assert 1 < np.std(after - before) < 8
    assert abs(np.mean(after - before)) < 0.5


def test_tables_have_means_and_ranges(modules: tuple[ModuleType, ModuleType]) -> None:
    changes, camera = modules
    results = [{"view": "signed", "targets": "after", "AP50": value, "AP": value / 2} for value in (0.7, 0.8, 0.9)]
    assert list(changes.rows(results))[2:] == ["| signed | - | 0.800 (0.70 to 0.90) | - | 0.800 | 0.400 |"]
    names = ("steady", "shaken", "aligned", "false steady", "false shaken", "false aligned")
    found = {("after", "signed"): [dict(zip(names, (0.9, 0.4, 0.85, 0.1, 9, 0.2), strict=True))]}
    assert list(camera.rows(found))[2:] == [
        "| signed | `after` | 0.900 | 0.400 | 0.850 | 0.100 | 9.000 | 0.200 | 0.050 |"
    ]


@pytest.mark.slow
def test_a_training_and_its_moving_camera(tmp_path: Path) -> None:
    write_mot(
        tmp_path / "s",
        [
            Picture(f"walk/{i:06d}", *SIZE, (Thing(0, (10 + i % 40, 20, 22 + i % 40, 44)),))
            for i in [*range(1, 25), *range(151, 171)]
        ],
    )
    options = ["--out", str(tmp_path / "out"), "--steps", "2", "--shortest-edge", "48"]
    few = ["--views", "signed", "--targets", "after", "--seeds", "0", "--jobs", "1"]
    for script, more in (("changes.py", few), ("camera.py", [])):
        command = [sys.executable, str(BENCHMARKS / script), str(tmp_path / "s"), *options, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1].startswith("| signed |")
