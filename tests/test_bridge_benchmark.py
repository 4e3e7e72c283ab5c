"""The bridge's benchmark: what it holds batches against, how it counts, and all its contenders from end to end."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
EDGES = (60, 80)
MODULES = ("bridge", "bridge_peers", "bridge_source", "bridge_steady", "measuring")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """`bridge` and `bridge_steady`, which are scripts that find each other."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bridge  # type: ignore[import-not-found]
    import bridge_steady  # type: ignore[import-not-found]

    yield bridge, bridge_steady
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The thumbnails of nine smooth photographs of 120 x 160 px, and these beside them."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(9)]
    pictures = [image.resize((160, 120), Image.Resampling.BICUBIC) for image in coarse]
    np.save(tmp_path / "pictures.npy", np.stack([np.asarray(picture) for picture in pictures]))
    thumbnails = [np.asarray(picture.resize((8, 8), Image.Resampling.BOX), np.float32) for picture in pictures]
    np.save(tmp_path / "thumbnails.npy", np.stack(thumbnails))
    return tmp_path


def padded_batch(root: Path) -> dict[str, Any]:
    """Eight of the photographs resized by Pillow to 60 x 80, as NHWC on a canvas of 64 x 90."""
    pixels, mask = np.zeros((8, 64, 90, 3), np.uint8), np.zeros((8, 64, 90), bool)
    for index, picture in enumerate(np.load(root / "pictures.npy")[1:]):
        pixels[index, :60, :80] = Image.fromarray(picture).resize((80, 60), Image.Resampling.BILINEAR)
    mask[:, :60, :80] = True
    return {"pixels": pixels, "mask": mask, "boxes": [np.zeros((2, 4))] * 8}


def test_a_good_batch_passes_in_every_layout(modules: tuple[ModuleType, ModuleType], root: Path) -> None:
    steady = modules[1]
    good = padded_batch(root)
    floats = ((good["pixels"] / 255 - steady.MEAN) / steady.STD).astype(np.float32) * good["mask"][..., None]
    for pixels in (good["pixels"], good["pixels"].transpose(0, 3, 1, 2), floats):
        steady.check(steady.Padded(**good | {"pixels": pixels}), root, EDGES)


def _spoilt(batch: dict[str, Any], what: str) -> dict[str, Any]:
    pixels, mask = batch["pixels"].copy(), batch["mask"].copy()
    if what == "padding":
        pixels[3, 62, 85] = 1
    elif what == "channels":
        pixels = pixels[..., ::-1]
    elif what == "cut":
        pixels[:, :60, :80] = np.repeat(np.repeat(pixels[:, :30, :40], 2, axis=1), 2, axis=2)
    elif what == "small":
        mask[0, 50:], mask[0, :, 70:] = False, False
        pixels[~mask] = 0
    boxes = batch["boxes"][1:] if what == "boxes" else batch["boxes"]
    return {"pixels": pixels, "mask": mask, "boxes": boxes}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("padding", "not zero"),
        ("channels", "differs"),
        ("cut", "differs"),
        ("small", "50 x 70"),
        ("boxes", "7 lists of boxes"),
    ],
)
def test_a_wrong_batch_is_refused(modules: tuple[ModuleType, ModuleType], root: Path, what: str, message: str) -> None:
    steady = modules[1]
    with pytest.raises(steady.CheckError, match=message):
        steady.check(steady.Padded(**_spoilt(padded_batch(root), what)), root, EDGES)


def test_work_of_child_processes_counts(modules: tuple[ModuleType, ModuleType]) -> None:
    lines = ("import sys, time", "for _ in sys.stdin:", " end = time.process_time() + 0.08")
    lines += (" while time.process_time() < end: pass", " print(flush=True)")

    def stream() -> Iterator[None]:
        with subprocess.Popen(
            [sys.executable, "-c", "\n".join(lines)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdin is not None and child.stdout is not None
            while True:
                child.stdin.write(b"\n")
                child.stdin.flush()
                child.stdout.readline()
                yield

    batches = stream()
    figures = modules[1].steady(batches, least=40, seconds=0)
    batches.close()
    assert figures["images"] == 40
    assert figures["cpu_ms"] >= 9  # 80 ms a batch of eight, to the tick of the system's clock.


def test_what_comes_before_the_measure_does_not_count(
    modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    steady = modules[1]
    monkeypatch.setattr(steady, "WARM_UP_SECONDS", 0)

    def stream() -> Iterator[None]:
        start = time.process_time()
        while time.process_time() < start + 0.5:
            pass
        while True:
            yield

    assert steady.steady(stream(), least=8, seconds=0)["cpu_ms"] < 500 / 8


def test_padding_is_area_over_area(modules: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    import torch

    bridge, steady = modules
    listed = [(f"{index}.jpg", 480, 640, []) for index in range(8)]
    listed += [(f"{index}.jpg", 640, 480, []) for index in range(8, 16)]
    (tmp_path / "photographs.json").write_text(json.dumps(listed))
    mask = torch.zeros((8, 10, 10), dtype=torch.bool)
    mask[:, :5] = True
    batch = steady.Padded(None, mask, [])
    assert bridge.padded_over_real(iter([batch] * 2), tmp_path) == 2
    # Batches of one shape alone add nothing, any other mixture a third: 640 x 640 for 480 x 640.
    assert 1.3 < bridge.random_padded_over_real(tmp_path, bridge.CASES["480"]) <= 4 / 3


def test_a_peer_that_is_missing_is_named_and_left_out(
    modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bridge = modules[0]
    there: Callable[[str], Any] = find_spec
    monkeypatch.setattr(bridge.importlib.util, "find_spec", lambda name: None if name == "litdata" else there(name))
    assert "litdata" not in bridge.installed()
    assert "pip install litdata" in capsys.readouterr().err


@pytest.mark.slow
def test_every_contender_shows_the_photographs(modules: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    bridge = modules[0]
    options = ("--images", "32", "--large", "8", "--rounds", "1", "--seconds", "0", "--json")
    command = [sys.executable, str(BENCHMARKS / "bridge.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    result = json.loads(done.stdout.splitlines()[-1])
    expected = {
        f"{case} {bridge.CONTENDERS[key].title}" for key in bridge.installed() for case in bridge.CONTENDERS[key].cases
    }
    assert {row["name"] for row in result["rows"]} == expected
    assert {"decode_vs_ours_uint8_12mp", "padded_over_real_ours_480", "tensorflow_vs_ours_float_800"} <= result[
        "ratios"
    ].keys()
