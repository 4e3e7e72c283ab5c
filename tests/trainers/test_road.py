"""The whole road by its commands: the demonstration, and learning on real photographs."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


def shardbox(folder: Path, *words: object) -> dict[str, Any]:
    """What a command answers with --json, run in a process of its own."""
    command = [sys.executable, "-m", "trainers.cli", *(str(word) for word in words), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def falls(losses: Sequence[tuple[int, float]]) -> bool:
    """Whether the last fifth of the losses is clearly below the first."""
    values = [loss for _, loss in losses]
    part = max(1, len(values) // 5)
    return sum(values[-part:]) < 0.9 * sum(values[:part])


def test_the_demonstration(tmp_path: Path) -> None:
    answer = shardbox(tmp_path, "demo")
    assert answer["figures"]["AP50"] >= 0.85
    report = json.loads((tmp_path / "demo/report/report.json").read_text())
    assert {name: report[name] for name in answer["figures"]} == answer["figures"]
    assert "data:image/jpeg" in (tmp_path / "demo/report/report.html").read_text()
    assert answer["samples"] > 0


@pytest.mark.skipif(not (DATA / "coco128").is_dir(), reason=f"{DATA / 'coco128'} is absent: real data is not shipped")
def test_detr_learns_on_photographs(tmp_path: Path) -> None:
    """Fifty steps, the greyscale photograph and images without objects among the batches."""
    made = shardbox(
        tmp_path,
        "ingest",
        DATA / "coco128",
        "--format",
        "coco",
        "--out",
        "data",
        "--splits",
        "train=0.9,validation=0.1",
    )
    shardbox(tmp_path, "train", made["dataset"], "--recipe", "detr_small", "--steps", 50, "--out", "run")
    losses = json.loads((tmp_path / "run/run.json").read_text())["losses"]
    assert losses[-1][0] == 50
    assert falls(losses)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "pets09_s2l1").is_dir(), reason=f"{DATA / 'pets09_s2l1'} is absent: not shipped")
@pytest.mark.parametrize(
    ("targets", "mode", "recipe", "least"),
    [
        ("both", "absolute", "dense_cnn_small", 0.85),
        ("after", "signed", "dense_cnn_small", 0.85),
        ("after", "signed", "d_fine_small", 0.78),
    ],
)
def test_the_tutorial_finds_who_moved(tmp_path: Path, targets: str, mode: str, recipe: str, least: float) -> None:
    splits = "train=1-150,validation=151-200"
    words = ("--format", "mot", "--pair-gap", 10, "--targets", targets, "--splits", splits, "--out", "data")
    pairs = shardbox(tmp_path, "ingest", DATA / "pets09_s2l1", *words)
    differences = shardbox(tmp_path, "diff", pairs["dataset"], "--mode", mode, "--out", "data")["dataset"]
    shardbox(tmp_path, "train", differences, "--recipe", recipe, "--out", "run")
    shardbox(tmp_path, "predict", differences, "--run", "run", "--out", "predictions")
    report = shardbox(tmp_path, "evaluate", differences, "--predictions", "predictions", "--out", "report")
    assert report["figures"]["AP50"] >= least
