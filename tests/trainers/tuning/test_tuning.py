"""Searches: what they draw, what they end early, what they go on from after a kill, and what they tell of it."""

import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from tests.pages import HOSTILE, check_page
from tests.trainers.small_sets import squares, write_dataset
from tests.trainers.tiny_recipes import TINY
from tfds_builders.pages.markup import legible
from trainers.cli import main
from trainers.evaluation.evaluation import evaluate
from trainers.pages.axes import Axis
from trainers.prediction.prediction import predict
from trainers.prediction.predictions import read_predictions
from trainers.recipes.catalogue import find_recipe
from trainers.recipes.recipe import Recipe
from trainers.training.divergence import DivergedError
from trainers.tuning import tuning
from trainers.tuning.report import search_json, write_search
from trainers.tuning.search import Search, Searched
from trainers.tuning.search_space import Choice, Range, default_space
from trainers.tuning.tuning import tune

SHORT = replace(TINY, name="dense_cnn_small", steps=8)
"""By the name of a recipe, since a search tells where to find it."""
SEARCH = Search(SHORT, default_space(SHORT), evaluations=4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_dataset(tmp_path_factory.mktemp("data"), {"train": list(squares(9)), "validation": list(squares(6))})


def pretended(recipe: Recipe) -> float:
    """A value that is best, 0.9, at a learning rate of 4e-3."""
    return 0.9 / (1 + abs(math.log(recipe.learning_rate / 4e-3)))


def pretend(value: Callable[[Recipe], float] = pretended) -> Callable[..., None]:
    """Stands for `train`: reports evaluations that rise to a value, and writes a model."""

    def train(dataset: Any, recipe: Recipe, run: Path, *, callbacks: Any, **_: Any) -> None:
        run.mkdir(parents=True)
        for step in range(recipe.watch.every, recipe.steps + 1, recipe.watch.every):
            state = SimpleNamespace(global_step=step, max_steps=recipe.steps)
            figure = value(recipe) * step / recipe.steps
            metrics = {f"eval_{recipe.watch.best}": figure}
            for callback in callbacks:
                callback.on_evaluate(None, state, None, metrics=metrics)
        (run / "model.safetensors").write_bytes(b"")

    return train


def drawn(found: Searched) -> list[tuple[dict[str, Any], float | None, str]]:
    """The values, result and state of all trials that count."""
    return [(t.params, t.value, t.state.name) for t in found.of(TrialState.COMPLETE, TrialState.PRUNED)]


class TestSearching:
    @pytest.fixture(autouse=True)
    def no_training(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tuning, "train", pretend())

    def test_it_begins_with_the_recipe_and_ends_with_something_better(
        self, dataset: PreparedDataset, tmp_path: Path
    ) -> None:
        found = tune(dataset, SEARCH, tmp_path / "out", trials=20)
        assert len(found.trials) == 20
        assert found.own is not None and found.own.number == 0
        assert found.own.params == {
            "learning_rate": 2e-3, "weight_decay": 1e-4, "warm_up_steps": 2, "flip": 0.5, "augment": False
        }  # fmt: skip
        assert found.own.value == pytest.approx(pretended(SHORT))
        best = found.best
        assert best is not None and best.value == max(t.value for t in found.of(TrialState.COMPLETE))
        assert best.value > found.own.value
        for trial in found.trials:
            assert all(found.search.space[name].holds(value) for name, value in trial.params.items())
        kept = [path.parent.name for path in (tmp_path / "out" / "trials").glob("*/model.safetensors")]
        assert kept == [f"{best.number:04d}"]

    def test_what_is_worse_than_the_median_ends_early(self, dataset: PreparedDataset, tmp_path: Path) -> None:
        """The rule by hand: after three complete trials, the best so far against the median of theirs."""
        found = tune(dataset, SEARCH, tmp_path / "out", trials=15)
        complete: list[list[float]] = []
        for trial in found.trials:
            curve = [value for _, value in trial.user_attrs["curve"]]
            assert len(curve) == 4 or trial.state == TrialState.PRUNED
            behind = [
                i for i, value in enumerate(curve[:3])
                if len(complete) >= 3 and max(curve[: i + 1]) < statistics.median(c[i] for c in complete)
            ]  # fmt: skip
            assert (trial.state == TrialState.PRUNED) == bool(behind)
            if behind:
                assert len(curve) == behind[0] + 1
            else:
                complete.append([max(curve[: i + 1]) for i in range(4)])
        assert found.of(TrialState.PRUNED) and len(complete) > 3

    def test_the_seed_decides(self, dataset: PreparedDataset, tmp_path: Path) -> None:
        once, again, other = (
            drawn(tune(dataset, replace(SEARCH, seed=seed), tmp_path / name, trials=9))
            for name, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        assert once == again
        assert once[0] == other[0]
        assert once[1][0] != other[1][0]

    def test_more_trials_go_on(self, dataset: PreparedDataset, tmp_path: Path) -> None:
        whole = tune(dataset, SEARCH, tmp_path / "whole", trials=9)
        tune(dataset, SEARCH, tmp_path / "parts", trials=4)
        assert drawn(tune(dataset, SEARCH, tmp_path / "parts", trials=9)) == drawn(whole)
        assert drawn(tune(dataset, SEARCH, tmp_path / "parts", trials=5)) == drawn(whole)

    def test_a_timeout_lets_the_running_trial_end(self, dataset: PreparedDataset, tmp_path: Path) -> None:
        assert len(tune(dataset, SEARCH, tmp_path / "out", trials=9, timeout=0.0).trials) == 1

    @pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
    def test_what_was_stopped_is_drawn_again(
        self, stop: type[BaseException], dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = tune(dataset, SEARCH, tmp_path / "whole", trials=9)

        def fail(recipe: Recipe) -> float:
            if recipe.learning_rate == whole.trials[7].params["learning_rate"]:
                raise stop
            return pretended(recipe)

        monkeypatch.setattr(tuning, "train", pretend(fail))
        with pytest.raises(stop):
            tune(dataset, SEARCH, tmp_path / "parts", trials=9)
        monkeypatch.setattr(tuning, "train", pretend())
        found = tune(dataset, SEARCH, tmp_path / "parts", trials=9)
        assert drawn(found) == drawn(whole)
        assert [trial.number for trial in found.of(TrialState.FAIL)] == [7]
        assert found.trials[8].user_attrs["again"] == 7

    def test_a_loss_is_searched_downwards(self, dataset: PreparedDataset, tmp_path: Path) -> None:
        found = tune(dataset, replace(SEARCH, metric="loss", evaluations=1), tmp_path / "out", trials=8)
        assert found.best is not None
        assert found.best.value == min(trial.value for trial in found.of(TrialState.COMPLETE))

    def test_what_diverges_counts_and_is_told(
        self, dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def diverge(recipe: Recipe) -> float:
            if recipe.learning_rate > 3e-3:
                raise DivergedError(3, math.nan, ["image7"])
            return pretended(recipe)

        monkeypatch.setattr(tuning, "train", pretend(diverge))
        found = tune(dataset, SEARCH, tmp_path / "out", trials=8)
        told = [trial["outcome"] for trial in search_json(found)["trials"] if trial["values"]["learning_rate"] > 3e-3]
        assert told and all("nan at step 3 (images image7)" in outcome for outcome in told)
        assert len(found.trials) == 8
        assert found.best is not None and found.best.params["learning_rate"] <= 3e-3

    def test_values_that_make_no_training_are_named(
        self, dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(recipe: Recipe) -> float:
            raise UsageError("no such batch", "give another")

        monkeypatch.setattr(tuning, "train", pretend(refuse))
        with pytest.raises(UsageError, match=r"trial 0 \(batch_size 3\): no such batch; give another"):
            tune(dataset, replace(SEARCH, space={"batch_size": Choice((3, 6))}), tmp_path / "out", trials=1)

    def test_what_is_asked_for_holds_in_every_trial(
        self, dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Recipe] = []
        monkeypatch.setattr(tuning, "train", pretend(lambda recipe: seen.append(recipe) or 0.5))  # type: ignore[func-returns-value]
        search = replace(
            SEARCH, space={"batch_size": Choice((2, 6))}, changes={"steps": 12, "learning_rate": 1e-3}, evaluations=3
        )
        tune(dataset, search, tmp_path / "out", trials=6)
        assert {(r.batch_size, r.steps, r.watch.every, r.learning_rate) for r in seen} == {
            (2, 18, 6, 1e-3), (6, 6, 2, 1e-3)
        }  # fmt: skip

    def test_what_cannot_be_searched_is_refused(self, dataset: PreparedDataset, tmp_path: Path) -> None:
        out = tmp_path / "out"
        for search, trials, said in (
            (SEARCH, 0, "0 trials"),
            (replace(SEARCH, evaluations=0), 1, "0 evaluations"),
            (replace(SEARCH, space={}), 1, "nothing to vary"),
            (replace(SEARCH, split="validation"), 1, "which are trained on"),
            (replace(SEARCH, evaluate_split="test"), 1, "has no split 'test'"),
            (replace(SEARCH, space={"backbone_learning_rate": Range(1e-5, 1e-4)}), 1, "has no backbone"),
        ):
            with pytest.raises(UsageError, match=re.escape(said)):
                tune(dataset, search, out, trials=trials)
        assert not out.exists()
        tune(dataset, SEARCH, out, trials=1)
        with pytest.raises(UsageError, match="with other settings: recipe_settings, metric, seed"):
            tune(dataset, replace(SEARCH, metric="AP", seed=4), out, trials=2)
        with tuning._alone(out), pytest.raises(UsageError, match="another process is tuning"):
            tune(dataset, SEARCH, out, trials=2)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file").touch()
        with pytest.raises(UsageError, match="holds no search"):
            tune(dataset, SEARCH, tmp_path / "other", trials=1)


KILLED = """
import os, signal, sys
from pathlib import Path
from dataflow.prepared import PreparedDataset
from tests.trainers.tuning import test_tuning as here
from trainers.tuning import tuning

done = []

def die(recipe):
    if len(done) == 14:  # In the sixth trial, two others having ended early.
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(recipe)
    return here.pretended(recipe)

tuning.train = here.pretend(die)
tuning.tune(PreparedDataset(sys.argv[1]), here.SEARCH, Path(sys.argv[2]), trials=7)
"""


def test_a_killed_search_goes_on_as_if_nothing_had_happened(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = Path(__file__).parents[3], tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(dataset.path), str(out)]
    done = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, check=False)
    assert done.returncode == -signal.SIGKILL
    before = (out / tuning.JOURNAL).read_bytes()
    with (out / tuning.JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":5,"worker_id":')  # What a kill may leave of a line.
    (out / f"{tuning.JOURNAL}.lock").symlink_to(out / tuning.JOURNAL)
    assert (out / "trials" / "0005").is_dir()
    monkeypatch.setattr(tuning, "train", pretend())
    found = tune(dataset, SEARCH, out, trials=7)
    assert (out / tuning.JOURNAL).read_bytes().startswith(before)
    assert drawn(found) == drawn(tune(dataset, SEARCH, tmp_path / "whole", trials=7))
    assert [trial.number for trial in found.of(TrialState.FAIL)] == [5]
    assert not (out / "trials" / "0005").exists()
    assert len(found.of(TrialState.COMPLETE, TrialState.PRUNED)) == 7


class TestReport:
    @pytest.fixture(scope="class")
    def out(self, dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
        out = tmp_path_factory.mktemp("report") / "out"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tuning, "train", pretend())
            tune(dataset, SEARCH, out, trials=24)
        return out

    def test_json_has_the_trials_and_what_they_say(self, out: Path) -> None:
        content = json.loads((out / "tune.json").read_text())
        assert len(content["trials"]) == content["trials_wanted"] == 24
        assert content["counts"]["complete"] + content["counts"]["pruned"] == 24
        best = max((t for t in content["trials"] if t["state"] == "complete"), key=lambda t: t["value"])
        assert content["best"] == {"trial": best["number"], "value": best["value"], "values": best["values"]}
        assert best["value"] == max(value for _, value in best["curve"])

    def test_what_decides_is_told(
        self, dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing but weight decay does; where nothing is ended early, every trial is there to show it."""
        monkeypatch.setattr(
            tuning, "train", pretend(lambda recipe: 0.9 / (1 + abs(math.log(recipe.weight_decay / 1e-4))))
        )
        found = tune(dataset, replace(SEARCH, evaluations=1), tmp_path / "out", trials=16)
        shares = search_json(found)["importance"]
        assert sum(shares.values()) == pytest.approx(1)
        assert max(shares, key=shares.get) == "weight_decay"
        few = tune(dataset, replace(SEARCH, evaluations=1), tmp_path / "few", trials=4)
        assert search_json(few)["importance"] is None

    def test_the_best_values_are_a_recipe(self, out: Path) -> None:
        content = json.loads((out / "tune.json").read_text())
        recipe = find_recipe(str(out / "recipe.json"))
        assert recipe.learning_rate == content["best"]["values"]["learning_rate"]
        assert recipe.flip == content["best"]["values"]["flip"]
        assert recipe.steps == find_recipe("dense_cnn_small").steps

    def test_the_page_tells_every_trial(self, out: Path) -> None:
        page = check_page((out / "tune.html").read_text())
        assert len(page.of("tr")) >= 24 + 1
        assert len(page.of("svg")) > 5 and "nan" not in page.text.lower()
        assert "the recipe's own values" in page.text

    def test_names_are_text(self, dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tuning, "train", pretend())
        found = tune(dataset, SEARCH, tmp_path / "out", trials=2)
        write_search(replace(found, settings={**found.settings, "dataset": HOSTILE, "recipe": HOSTILE}), tmp_path)
        assert check_page((tmp_path / "tune.html").read_text()).text.count(legible(HOSTILE)) >= 6

    def test_axes_have_round_numbers(self) -> None:
        assert [text for _, text in Axis("", 0, 1).ticks()] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
        assert [text for _, text in Axis("", 0, 0.93).ticks()] == ["0", "0.2", "0.4", "0.6", "0.8"]
        assert [text for _, text in Axis("", 1e-5, 1e-1, True).ticks()] == ["1e-05", "0.0001", "0.001", "0.01", "0.1"]
        assert Axis("", 4e-4, 1e-2, True).share(2e-3) == pytest.approx(0.5)
        assert Axis("", names=("a", "b")).ticks() == [(0.25, "a"), (0.75, "b")]
        assert Axis("", 3, 3).ticks() == [(0.5, "3")]


def test_a_search_that_trains(dataset: PreparedDataset, tmp_path: Path) -> None:
    """The value of the best trial is what predicting with its run and evaluating gives."""
    search = replace(SEARCH, space={"learning_rate": Range(1e-3, 1e-2)}, evaluations=2)
    found = tune(dataset, search, tmp_path / "out", trials=2)
    assert found.best is not None
    run = tmp_path / "out" / "trials" / f"{found.best.number:04d}"
    assert not (run / "checkpoints").exists()
    predict(dataset, run, tmp_path / "predictions")
    judged = evaluate(dataset, read_predictions(tmp_path / "predictions"), "validation")
    assert judged.figures["AP50"] == pytest.approx(found.best.value, abs=1e-6)
    assert [step for step, _ in found.best.user_attrs["curve"]] == [4, 8]


def test_the_command_line(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "train", pretend())
    out = tmp_path / "out"
    words = ["tune", str(dataset.path), "--recipe", "dense_cnn_small", "--out", str(out), "--steps", "8"]
    assert main([*words, "--trials", "3", "--vary", "learning_rate=1e-3..1e-2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("3 trials: the best AP50 is 0.")
    assert printed[1] == f"train with it: shardbox train {dataset.path} --recipe {out / 'recipe.json'} --out RUN"
    assert main([*words, "--trials", "4", "--vary", "learning_rate=1e-3..1e-2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["complete"] == 4
    assert main([*words, "--trials", "4"]) == 2
    assert "with other settings: space" in capsys.readouterr().err
    assert main([*words, "--vary", "speed=1..2"]) == 2
    assert "vary one of learning_rate" in capsys.readouterr().err
