"""Stages: how steps are shared out, what trains in each, and what a run of several leaves and goes on from."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from tests.trainers.small_detrs import EVERY, small_detector
from tests.trainers.small_sets import TWO_CLASSES, squares, write_dataset
from tests.trainers.tiny_recipes import STAGED, TINY, TINY_DETR
from trainers.detectors.dense import build_dense
from trainers.detectors.detectors import part_patterns
from trainers.recipes.stages import Stage, freeze, frozen_norms, plan_stages
from trainers.recipes.watch import Watch
from trainers.training.training import train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_dataset(tmp_path_factory.mktemp("data"), {"train": list(squares(10)), "validation": list(squares(5))})


@pytest.fixture(scope="module")
def staged(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three stages; do not write to it."""
    out = tmp_path_factory.mktemp("runs") / "staged"
    train(dataset, STAGED, out)
    return out


class Stopped(TrainerCallback):
    """Breaks off, as a kill would, after a step of the run's n-th stage, with whatever was saved until then."""

    def __init__(self, stage: int, step: int) -> None:
        self._left, self._step = stage, step

    def on_train_begin(self, *_: object, **__: object) -> None:
        self._left -= 1

    def on_step_begin(self, args, state, control, **_: object) -> None:
        if self._left <= 0 and state.global_step == self._step:
            raise KeyboardInterrupt


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(0, 500))
def test_stages_share_all_steps(shares: list[float], more: int) -> None:
    steps = len(shares) + more
    planned = plan_stages([Stage(1e-3, share=share) for share in shares], steps)
    assert [each.first_step for each in planned] == [
        sum(each.steps for each in planned[:i]) for i in range(len(shares))
    ]
    assert sum(each.steps for each in planned) == steps
    for each, share in zip(planned, shares, strict=True):
        assert each.steps >= 1
        assert each.steps <= steps * share / sum(shares) + len(shares)


def test_more_stages_than_steps_and_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="2 steps for 3 stages; give at least 3 steps"):
        replace(STAGED, steps=2).planned_stages()
    for wrong in (
        {"share": 0},
        {"cycles": 0},
        {"cycles": 2, "schedule": "linear"},
        {"trains": ()},
        {"warm_up_steps": -1},
    ):
        with pytest.raises(UsageError, match="a stage with"):
            Stage(1e-3, **wrong)


@pytest.mark.parametrize("architecture", EVERY)
def test_the_head_of_a_detr_is_what_gives_classes_and_boxes(architecture) -> None:
    model = small_detector(architecture)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    freeze(model, trainable, Stage(1e-3, trains=("head",)), part_patterns(model))
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("class" in name or "score" in name for name in trains)
    assert any("bbox" in name for name in trains)
    assert len(trains) < len(trainable) / 2
    assert not any("backbone" in name or "encoder.layer" in name or "self_attn" in name for name in trains)
    freeze(model, trainable, Stage(1e-3, trains=("backbone",)), part_patterns(model))
    backbone = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert backbone and not backbone & trains
    freeze(model, trainable, Stage(1e-3), part_patterns(model))
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trainable


def test_what_a_stage_names_is_part_or_expression_and_must_be_there() -> None:
    model, _ = build_dense(TWO_CLASSES, None)
    names = [name for name, _ in model.named_parameters()]
    freeze(model, names[2:], Stage(1e-3, trains=("head", r"^backbone\.stem")), part_patterns(model))
    trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trains and set(trains) <= set(names[2:])  # What the builder froze stays so.
    assert all(name.startswith(("head.", "backbone.stem")) for name in trains)
    with pytest.raises(UsageError, match=r"'decoder' names no parameter .*; name a part \(all, backbone, head\) or"):
        freeze(model, names, Stage(1e-3, trains=("decoder",)), part_patterns(model))
    with pytest.raises(UsageError, match=r"'\(' is no regular expression"):
        freeze(model, names, Stage(1e-3, trains=("(",)), part_patterns(model))


def test_a_stage_that_names_nothing_is_refused_before_the_first_trains(dataset, tmp_path: Path) -> None:
    wrong = replace(STAGED, stages=(*STAGED.stages[:2], Stage(1e-4, trains=("decodr",))))
    with pytest.raises(UsageError, match="'decodr' names no parameter"):
        train(dataset, wrong, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("checkpoint-*"))


def test_a_stage_moves_what_it_trains_and_nothing_else(dataset, tmp_path: Path) -> None:
    states: list[dict[str, torch.Tensor]] = []

    class States(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **_: object) -> None:
            states.append({name: value.clone() for name, value in model.state_dict().items()})

        on_train_end = on_train_begin

    train(dataset, STAGED, tmp_path / "run", callbacks=[States()])
    assert len(states) == 6
    moved = [
        {name for name in before if not torch.equal(before[name], after[name])} for before, after in pairwise(states)
    ]
    head = {name for name in states[0] if re.match("class_labels_classifier|bbox_predictor", name)}
    assert head and moved[0] == head
    assert moved[1] == moved[3] == set()  # A stage begins where the one before ended.
    assert head < moved[2] and any("backbone" in name for name in moved[2])
    assert not any("running_" in name for each in moved for name in each)


def test_the_curves_of_a_staged_run_go_on_from_stage_to_stage(staged: Path) -> None:
    description = json.loads((staged / "run.json").read_text())
    assert [step for step, _ in description["losses"]] == list(range(1, 10))
    assert (description["steps"], description["model_step"]) == (9, 9)
    assert [stage["learning_rate"] for stage in description["recipe"]["stages"]] == [2e-3, 5e-4, 1e-4]
    state = json.loads((staged / "checkpoints" / "stage-1" / "checkpoint-3" / "trainer_state.json").read_text())
    rates = [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]
    assert rates[0] == 0 and rates[1] == pytest.approx(2e-3) and rates[2] == pytest.approx(2e-3)  # It starts again.


@pytest.mark.parametrize(
    ("stage", "step"), [*(pytest.param(*at, marks=pytest.mark.slow) for at in [(1, 1), (1, 2), (2, 0), (3, 2)]), (2, 1)]
)
def test_a_run_stopped_in_any_stage_goes_on_to_the_very_weights(stage, step, staged, dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(dataset, STAGED, out, callbacks=[Stopped(stage, step)])
    torch.rand(7)
    resumed = train(dataset, STAGED, out, resume=True)
    assert resumed.first_step == {(1, 1): 0, (1, 2): 2, (2, 0): 3, (2, 1): 3, (3, 2): 8}[stage, step]
    expected, got = load_file(staged / "model.safetensors"), load_file(out / "model.safetensors")
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    losses = [json.loads((run / "run.json").read_text())["losses"] for run in (staged, out)]
    assert losses[0] == losses[1]


def test_statistics_of_frozen_batch_normalisation_do_not_drift(dataset, tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def look(module: nn.Module, _: object) -> None:
        module.watched(torch.randn(2, 16, 4, 4))

    def built(categories, weights, *, view):
        model, report = TINY_DETR.build(categories, weights, view=view)
        if not seen:
            model.model.backbone.watched = nn.BatchNorm2d(16)
            model.model.backbone.register_forward_pre_hook(look)
        return model, report

    class Statistics(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_: object) -> None:
            norm = model.model.backbone.watched
            seen.append({"mean": norm.running_mean.clone(), "var": norm.running_var.clone()})
            if len(seen) == 2:
                raise KeyboardInterrupt

    recipe = replace(STAGED, build=built, stages=(Stage(1e-3, trains=("head",)),))
    with pytest.raises(KeyboardInterrupt):
        train(dataset, recipe, tmp_path / "frozen", callbacks=[Statistics()])
    assert all(not each["mean"].any() and bool((each["var"] == 1).all()) for each in seen)
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        train(dataset, replace(recipe, stages=(Stage(1e-3),)), tmp_path / "free", callbacks=[Statistics()])
    assert all(each["mean"].any() for each in seen)


def test_frozen_norms_are_those_of_which_nothing_trains() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.GroupNorm(1, 2))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    assert frozen_norms(model) == [model[0]]  # type: ignore[arg-type]


def test_another_learning_rate_changes_all_in_proportion() -> None:
    recipe = STAGED.at_learning_rate(1e-3)
    assert [stage.learning_rate for stage in recipe.stages] == pytest.approx([1e-3, 2.5e-4, 5e-5])
    assert recipe.stages[1].rates[0][1] == pytest.approx(5e-5)
    assert replace(TINY, backbone_learning_rate=1e-4).at_learning_rate(4e-3).backbone_learning_rate == pytest.approx(
        2e-4
    )


def test_a_stage_that_loses_patience_gives_way_to_the_next(dataset, tmp_path: Path) -> None:
    """The second stage takes steps as large as can only harm."""
    watch = Watch(1, best="loss", patience=1, pictures=0)
    recipe = replace(TINY, steps=12, stages=(Stage(1e-12), Stage(0.5, share=2)))
    summary = train(dataset, recipe, tmp_path / "run", watch=watch)
    steps = [int(evaluation["step"]) for evaluation in summary.evaluations]
    assert 4 < steps[-1] < 12 and summary.steps == steps[-1]
    losses = {int(evaluation["step"]): evaluation["loss"] for evaluation in summary.evaluations}
    assert summary.model_step == min(losses, key=lambda step: (losses[step], step))
