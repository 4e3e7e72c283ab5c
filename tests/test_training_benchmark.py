"""The benchmark of training: what its figures are made of, and all contenders from end to end."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import training  # type: ignore[import-not-found]

    yield training
    for name in ("training", "measuring", "bridge_source", "bridge_steady"):
        sys.modules.pop(name, None)


def test_waiting_is_the_time_in_which_no_step_is_taken(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that take 1 s to come and 3 s to learn from, by a clock that stands still otherwise."""
    now, steps = [0.0], []
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def stream() -> Iterator[dict[str, torch.Tensor]]:
        while True:
            now[0] += 1
            yield {"pixel_values": torch.zeros(8, 3, 4, 5), "pixel_mask": torch.ones(8, 4, 5)}

    def step(inputs: dict[str, torch.Tensor]) -> None:
        now[0] += 3
        steps.append(inputs)

    found = benchmark.timed(stream(), step, 5, CPU)
    assert len(steps) == 5 + benchmark.WARM_UP
    assert found == pytest.approx({"images_per_s": 2, "step_ms": 4000, "waiting": 0.25, "canvas_mpx": 20e-6})


def test_a_step_trains_what_the_recipe_trains(benchmark: ModuleType) -> None:
    training = benchmark.Training(benchmark.CASES["detr_small"], CPU)
    before = [parameter.clone() for parameter in training.trained]
    label = {"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]]), "class_labels": torch.zeros(1, dtype=torch.int64)}
    training.step(
        {
            "pixel_values": torch.rand(1, 3, 64, 64),
            "pixel_mask": torch.ones(1, 64, 64, dtype=torch.bool),
            "labels": [label],
        }
    )
    changed = sum(not torch.equal(a, b) for a, b in zip(before, training.trained, strict=True))
    assert changed > 0.9 * len(before)


@pytest.mark.slow
def test_all_contenders(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "training.py"), "--rounds", "1", "--steps", "2", "--images", "32"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert {row["name"] for row in result["rows"]} == {"ours", "detr_processor", "ready"}
    assert all(row["images_per_s"] > 0 and 0 <= row["waiting"] < 1 for row in result["rows"])
    assert set(result["ratios"]) == {"ours_vs_detr_processor", "ours_vs_ready", "detr_processor_vs_ready"}
