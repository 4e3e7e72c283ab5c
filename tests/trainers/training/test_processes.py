"""Training in two processes, and in one that is killed: the same result as in one that is left alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dataflow.bridge.batches import Batch
from dataflow.bridge.loader import BatchLoader
from dataflow.prepared import PreparedDataset
from tests.trainers.small_sets import squares, write_dataset
from tests.trainers.tiny_recipes import SHARED
from trainers.training import stage_training
from trainers.training.training import train

ROOT = Path(__file__).parents[3]
SCRIPT = "tests/trainers/two_processes.py"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    splits = {"train": list(squares(10)), "validation": list(squares(5))}
    return write_dataset(tmp_path_factory.mktemp("data"), splits)


def launch(*words: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, *map(str, words)]
    return subprocess.run(line, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def description(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "run.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [(1, 1), (2, 1), (3, 2)])
def test_a_killed_run_goes_on_to_the_very_weights(stage: int, step: int, dataset, tmp_path: Path) -> None:
    """With everything at once: stages, parts, moving average, evaluation, patience."""
    train(dataset, SHARED, tmp_path / "whole")
    killed = launch(SCRIPT, dataset.path, tmp_path / "run", stage, step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()
    resumed = launch(SCRIPT, dataset.path, tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    expected, got = (
        load_file(tmp_path / "whole" / "model.safetensors"),
        load_file(tmp_path / "run" / "model.safetensors"),
    )
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    known = [description(tmp_path / name) for name in ("whole", "run")]
    assert all(known[0][name] == known[1][name] for name in ("losses", "evaluations", "model_step", "steps"))


class Both(BatchLoader):
    """What two processes see of a step, as one batch: parts of theirs in turn."""

    def __iter__(self) -> Iterator[Batch]:
        if not self.training:
            yield from super().__iter__()
            return
        halves = [
            BatchLoader(
                self.dataset, self.split, self.policy, self.batch_size // 2, training=True, pad=self.pad,
                seed=self.seed, rank=rank, world_size=2, start_step=self.start_step, view=self.view,
            )
            for rank in (0, 1)
        ]  # fmt: skip
        for one, other in zip(*halves, strict=False):
            images = [one, other]
            yield Batch(
                torch.cat([batch.pixel_values for batch in images]),
                torch.cat([batch.pixel_mask for batch in images]),
                one.targets + other.targets,
                one.image_ids + other.image_ids,
                torch.cat([batch.sizes for batch in images]),
                torch.cat([batch.original_sizes for batch in images]),
                torch.cat([batch.shown for batch in images]),
            )


LAUNCHERS = {
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    # With `--cpu` it would start several processes by MPI alone; this starts them as torchrun does, GPUs or none.
    "accelerate": (
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_have_the_result_of_one(launcher: str, dataset, tmp_path: Path, monkeypatch) -> None:
    """Of one that sees what both see, in a step and in the evaluation, which has five images for two processes."""
    done = launch(*LAUNCHERS[launcher], SCRIPT, dataset.path, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(stage_training, "BatchLoader", Both)
    train(dataset, replace(SHARED, accumulate=1), tmp_path / "one")
    one, two = (description(tmp_path / name) for name in ("one", "two"))
    assert [step for step, _ in one["losses"]] == [step for step, _ in two["losses"]]
    assert [loss for _, loss in two["losses"]] == pytest.approx([loss for _, loss in one["losses"]], rel=1e-3)
    for ours, theirs in zip(one["evaluations"], two["evaluations"], strict=True):
        assert theirs == pytest.approx(ours, rel=2e-3, abs=1e-6)
    train(dataset, SHARED, tmp_path / "start", learning_rate=1e-12)
    start, expected, got = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "one", "two"))
    # Adam makes full steps of the rounding errors of what has no gradient, such as the bias of attention's keys.
    assert distance(expected, got) < 0.1 * distance(start, expected)
    norms = [gradient_norms(tmp_path / name) for name in ("one", "two")]
    assert norms[1][0] == pytest.approx(norms[0][0], rel=1e-4)  # Before weights can have come apart.
    assert norms[1] == pytest.approx(norms[0], rel=2e-2)


def gradient_norms(run: Path) -> list[float]:
    state = json.loads((run / "checkpoints" / "stage-1" / "checkpoint-3" / "trainer_state.json").read_text())
    return [entry["grad_norm"] for entry in state["log_history"] if "grad_norm" in entry]


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return float(torch.cat([(one[name] - other[name]).flatten() for name in one]).norm())
