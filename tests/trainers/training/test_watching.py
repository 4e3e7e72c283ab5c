"""Evaluation while training, the moving average of the weights, bfloat16: what they measure, keep and go on from."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from dataflow.bridge.resize import FixedSize
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from tests.trainers.small_sets import squares, write_dataset
from tests.trainers.tiny_recipes import STAGED, TINY, TINY_DETR
from trainers.evaluation.evaluation import evaluate
from trainers.prediction.prediction import predict
from trainers.prediction.predictions import read_predictions
from trainers.recipes.catalogue import RECIPES
from trainers.recipes.watch import Watch
from trainers.training.averaging import Average
from trainers.training.detection_trainer import Patience
from trainers.training.training import train

WATCHED = replace(TINY, watch=Watch(2, pictures=3), ema=0.9, accumulate=3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    splits = {"train": list(squares(10)), "validation": list(squares(5)), "bare": list(squares(1))}
    return write_dataset(tmp_path_factory.mktemp("data"), splits)


@pytest.fixture(scope="module")
def watched(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "watched"
    train(dataset, WATCHED, out)
    return out


def test_the_figures_are_those_of_predicting_and_evaluating_the_model(watched: Path, dataset, tmp_path: Path) -> None:
    description = json.loads((watched / "run.json").read_text())
    assert [entry["step"] for entry in description["evaluations"]] == [2, 4, 6]
    best = max(description["evaluations"], key=lambda entry: (entry["AP"], -entry["step"]))
    assert description["model_step"] == best["step"]
    predict(dataset, watched, tmp_path / "predictions")
    figures = evaluate(dataset, read_predictions(tmp_path / "predictions"), "validation").figures
    assert figures["AP"] == pytest.approx(best["AP"], abs=1e-6)
    assert figures["AP50"] == pytest.approx(best["AP50"], abs=1e-6)


def test_the_model_is_the_average_and_the_checkpoint_goes_on_without_it(watched: Path) -> None:
    step = json.loads((watched / "run.json").read_text())["model_step"]
    checkpoint = watched / "checkpoints" / f"checkpoint-{step}"
    average, raw = load_file(checkpoint / "average.safetensors"), load_file(checkpoint / "model.safetensors")
    model = load_file(watched / "model.safetensors")
    assert all(torch.equal(model[name], average[name]) for name in model)
    assert any(not torch.equal(model[name], raw[name]) for name in model)


@pytest.mark.parametrize(
    "recipe", [TINY, pytest.param(TINY_DETR, marks=pytest.mark.slow)], ids=lambda recipe: recipe.name
)
def test_the_loss_of_a_split_does_not_depend_on_its_batches(recipe, dataset, tmp_path: Path) -> None:
    """It is the one that the whole split would have as one batch."""
    recipe = replace(
        recipe,
        watch=Watch(1, best="loss", pictures=0),
        resize=FixedSize(64, 64),
        steps=1,
        batch_size=6,
        learning_rate=0.0,
    )
    losses = []
    for parts in (1, 2, 6):
        (evaluation,) = train(dataset, replace(recipe, accumulate=parts), tmp_path / f"{parts}").evaluations
        losses.append(evaluation["loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)


def test_watching_and_averaging_change_no_step(watched: Path, dataset, tmp_path: Path) -> None:
    train(dataset, replace(WATCHED, watch=None, ema=None), tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    raw = load_file(watched / "checkpoints" / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(plain[name], raw[name]) for name in plain)


def test_tensorboard_shows_figures_and_the_same_images_again(watched: Path) -> None:
    events = EventAccumulator(str(watched / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert {"eval/AP", "eval/AP50", "eval/loss"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("eval/AP")] == [2, 4, 6]
    assert events.Tags()["images"] == [f"validation/image{n}" for n in range(3)]
    shown = events.Images("validation/image1")
    assert [event.step for event in shown] == [2, 4, 6]
    assert (shown[0].width, shown[0].height) == (14 * 48, 14 * 32)  # Small images are magnified.


class Stopped(TrainerCallback):
    """Breaks off, as a kill would, before the step after `step`."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args, state, control, **_: object) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow), 5])
def test_a_stopped_run_goes_on_with_average_parts_and_best(step: int, watched: Path, dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(dataset, TINY, out, watch=WATCHED.watch, ema=0.9, accumulate=3, callbacks=[Stopped(step)])
    torch.rand(5)
    resumed = train(dataset, TINY, out, resume=True)  # What was asked for is known.
    assert resumed.first_step == step - step % 2
    for path in ("model.safetensors", "checkpoints/checkpoint-6/model.safetensors"):
        expected, got = load_file(watched / path), load_file(out / path)
        assert all(torch.equal(expected[name], got[name]) for name in expected)
    known = [json.loads((run / "run.json").read_text()) for run in (watched, out)]
    for name in ("losses", "evaluations", "model_step", "steps", "run_id"):
        assert known[0][name] == known[1][name]


def evaluations(values: list[float], watch: Watch) -> list[tuple[bool, bool]]:
    """(saved, stopped) after each evaluation."""
    seen, state = [], TrainerState()
    for value in values:
        state.log_history.append({f"eval_{watch.best}": value})
        control = TrainerControl()
        Patience(watch).on_evaluate(None, state, control)
        seen.append((control.should_save, control.should_training_stop))
    return seen


def test_patience_counts_evaluations_since_the_best() -> None:
    kept, on, stop = (True, False), (False, False), (True, True)
    assert evaluations([0.1, 0.3, 0.2, 0.3], Watch(1, patience=2)) == [kept, kept, on, stop]
    assert evaluations([0.1, 0.1, 0.2, 0.1], Watch(1, patience=2)) == [kept, on, kept, on]
    assert evaluations([5, 4, 4.5, 3], Watch(1, best="loss", patience=2)) == [kept, kept, on, kept]
    assert evaluations([float("nan"), 0.1, float("nan")], Watch(1, patience=3)) == [on, kept, on]
    assert evaluations([1, 0, 0, 0, 0], Watch(1)) == [kept, on, on, on, on]


def test_the_best_is_kept_among_later_checkpoints(dataset, tmp_path: Path) -> None:
    """A huge step after small ones: the loss is best before it, and the run's model is of then."""
    recipe = replace(TINY, steps=8, learning_rate=1e-9, warm_up_steps=0, schedule="constant", checkpoint_steps=1)
    first = train(dataset, recipe, tmp_path / "run", watch=Watch(2, best="loss", pictures=0), learning_rate=0.5)
    losses = {int(entry["step"]): entry["loss"] for entry in first.evaluations}
    assert first.model_step == min(losses, key=lambda step: (losses[step], step))
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {f"checkpoint-{first.model_step}", "checkpoint-8"} | (
        {"checkpoint-7"} if first.model_step == 8 else set()
    )
    expected = load_file(tmp_path / "run" / "checkpoints" / f"checkpoint-{first.model_step}" / "model.safetensors")
    model = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(model[name], expected[name]) for name in model)


def test_what_cannot_be_watched_is_refused(dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"split 'bare' of .* has no objects to be found"):
        train(dataset, TINY, tmp_path / "one", watch=Watch(1, split="bare"))
    with pytest.raises(UsageError, match="has no split 'test'"):
        train(dataset, TINY, tmp_path / "two", watch=Watch(1, split="test"))
    with pytest.raises(UsageError, match="the best by 'AR'; choose from AP, AP50, loss"):
        Watch(1, best="AR")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="3 images a step in 2 parts"):
        train(dataset, TINY, tmp_path / "three", accumulate=2)
    with pytest.raises(UsageError, match="ema is 1; give a decay between 0 and 1"):
        train(dataset, TINY, tmp_path / "four", ema=1)
    assert not any((tmp_path / name).exists() for name in ("three", "four"))


@given(st.floats(0.01, 0.9999), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_the_average_is_the_one_of_its_definition(decay: float, steps: int) -> None:
    rng = np.random.default_rng(steps)
    values = rng.normal(size=(steps + 1, 3))
    model = nn.BatchNorm1d(3, dtype=torch.float64)
    model.weight.data = torch.tensor(values[0])
    average = Average(model, decay)  # type: ignore[arg-type]
    expected = values[0]
    for t in range(1, steps + 1):
        model.weight.data = torch.tensor(values[t])
        average.update(model)  # type: ignore[arg-type]
        now = min(decay, (1 + t) / (10 + t))
        expected = now * expected + (1 - now) * values[t]
    with average.lent_to(model):  # type: ignore[arg-type]
        np.testing.assert_allclose(model.weight.detach(), expected, rtol=1e-9)
    assert torch.equal(model.weight.data, torch.tensor(values[steps]))


def test_bfloat16_trains_in_it_and_keeps_the_weights(dataset, tmp_path: Path) -> None:
    seen = []

    def spied(categories, weights, *, view):
        model, report = TINY.build(categories, weights, view=view)
        layer = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        return model, report

    train(dataset, replace(TINY, build=spied, bf16=True, steps=2), tmp_path / "run")
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in load_file(tmp_path / "run" / "model.safetensors").values()} == {torch.float32}
    seen.clear()
    train(dataset, replace(TINY, build=spied, steps=1), tmp_path / "full")
    assert set(seen) == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("make", [make for make in RECIPES if make().weights is None], ids=lambda make: make.__name__)
def test_every_small_recipe_trains_watched_in_bfloat16(make, dataset, tmp_path: Path) -> None:
    recipe = make()
    recipe = replace(recipe, resize=FixedSize(128, 192), batch_size=4, steps=max(2, len(recipe.stages)))
    summary = train(dataset, recipe, tmp_path / "run", bf16=True, ema=0.9, accumulate=2, watch=Watch(1, pictures=1))
    assert len(summary.evaluations) == recipe.steps
    assert all(np.isfinite(entry["loss"]) for entry in summary.evaluations)
    predict(dataset, tmp_path / "run", tmp_path / "predictions")
    figures = evaluate(dataset, read_predictions(tmp_path / "predictions"), "validation").figures
    best = max(entry["AP"] for entry in summary.evaluations)
    assert figures["AP"] == pytest.approx(best, abs=0.05)  # Predicted in float32.


@pytest.mark.slow
def test_stages_average_anew_and_the_best_of_all_is_the_model(dataset, tmp_path: Path) -> None:
    summary = train(dataset, STAGED, tmp_path / "run", watch=Watch(3, pictures=0), ema=0.99)
    assert [int(entry["step"]) for entry in summary.evaluations] == [3, 6, 9]
    best = max(summary.evaluations, key=lambda entry: (entry["AP"], -entry["step"]))
    assert summary.model_step == best["step"]
