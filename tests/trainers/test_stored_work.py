"""Trainings, predictions and statistics whose results go to an object store: what is on a disk, resumable anywhere."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from transformers import TrainerCallback

from dataflow.beam.shard_tasks import TaskRunner
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.stores.cloud_paths import CloudPath, is_cloud
from dataflow.stores.paths import location, objects_below, upload_files
from tests.factories import logical_dataset, prepare, write_yolo
from tests.object_stores import object_store
from tests.tfds_builders.portable import ROOT
from tests.trainers.small_runs import write_run
from tests.trainers.tiny_recipes import TINY
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.planning import PlanOptions
from trainers import outputs
from trainers.cli import main
from trainers.prediction.prediction import predict, predict_batch
from trainers.training.runs import is_finished
from trainers.training.stored_runs import trained_here
from trainers.training.training import train

RECIPE = replace(TINY, steps=6, checkpoint_steps=2)


@pytest.fixture(scope="module", params=["s3", pytest.param("gs", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    changed = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "PYTHONPATH": str(ROOT)}
    with object_store(request.param) as url, patch.dict(os.environ, changed):
        yield location(url)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two shards, `data`, and a run, `run`, of this machine; `predictions` and `statistics`."""
    folder = tmp_path_factory.mktemp("here")
    dataset = prepare(open_yolo(write_yolo(folder / "source", logical_dataset(12))), folder, plan=PlanOptions(shards=2))
    dataset.path.rename(folder / "data")
    run = write_run(folder / "run", PreparedDataset(folder / "data"))
    predict(PreparedDataset(folder / "data"), run, folder / "predictions", split="train")
    assert main(["stats", str(folder / "data"), "--out", str(folder / "statistics")]) == 0
    return folder


@pytest.fixture(scope="module")
def there(root: Path, here: Path) -> Path:
    """The same dataset and run in the store."""
    for name in ("data", "run"):
        upload_files(here / name, root / name)
    return root


def contents(path: Path) -> dict[str, bytes]:
    names = objects_below(path) if is_cloud(path) else [file.relative_to(path) for file in path.rglob("*")]
    return {str(name): (path / name).read_bytes() for name in names if (path / name).is_file()}


def stop_after(batches: int) -> Callable[..., Any]:
    done = iter(range(batches))

    def batch(*arguments: Any) -> Any:
        if next(done, None) is None:
            raise KeyboardInterrupt
        return predict_batch(*arguments)

    return batch


def test_killed_predictions_go_on(there: Path, here: Path) -> None:
    dataset, out = PreparedDataset(there / "data"), there / "predicted/killed"
    with patch("trainers.prediction.prediction.predict_batch", stop_after(3)), pytest.raises(KeyboardInterrupt):
        predict(dataset, there / "run", out, split="train")
    assert not objects_below(out)
    summary = predict(dataset, there / "run", out, split="train")
    assert 0 < summary.images_kept < summary.images
    assert contents(out) == contents(here / "predictions")
    assert {name.partition("/")[0] for name in objects_below(out.parent)} == {"killed"}


def test_a_call_killed_while_it_names_what_it_made(there: Path, here: Path) -> None:
    dataset, out = PreparedDataset(there / "data"), there / "named/late"
    real = outputs.copy_object

    def copy(source: Path, target: Path) -> None:
        if target.name == "predictions.json":
            raise KeyboardInterrupt
        real(source, target)

    with patch("trainers.outputs.copy_object", copy), pytest.raises(KeyboardInterrupt):
        predict(dataset, there / "run", out, split="train")
    assert objects_below(out) and not (out / "predictions.json").exists()
    summary = predict(dataset, there / "run", out, split="train")
    assert summary.images_kept == summary.images
    assert contents(out) == contents(here / "predictions")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_workers_that_know_the_store_only(processes: int, there: Path, here: Path) -> None:
    dataset, out = PreparedDataset(there / "data"), there / f"by-{processes}"
    mode = "multi_processing" if processes > 1 else "in_memory"
    options = f"--direct_running_mode={mode}", f"--direct_num_workers={processes}"
    predict(dataset, there / "run", out / "predictions", split="train", running=TaskRunner(None, options))
    assert contents(out / "predictions") == contents(here / "predictions")
    assert main(["stats", str(there / "data"), "--out", str(out / "statistics"), "--", *options]) == 0
    assert contents(out / "statistics") == contents(here / "statistics")
    assert {name.partition("/")[0] for name in objects_below(out)} == {"predictions", "statistics"}


class Stop(TrainerCallback):
    """Breaks off, as a kill would, in the step after this one."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args, state, control, **_: object) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt


def test_a_run_goes_on_on_another_machine(there: Path, here: Path, tmp_path: Path) -> None:
    dataset, out = PreparedDataset(here / "data"), there / "runs/one"
    train(dataset, RECIPE, tmp_path / "alone", seed=3)
    with pytest.raises(KeyboardInterrupt), trained_here(out, resume=False) as (run, callbacks):
        train(dataset, RECIPE, run, seed=3, callbacks=[*callbacks, Stop(3)])
    assert not is_finished(out) and (out / "checkpoints/checkpoint-2/trainer_state.json").exists()
    with patch.dict(os.environ, {"XDG_CACHE_HOME": str(tmp_path / "another")}):
        with trained_here(out, resume=True) as (run, callbacks):
            summary = train(dataset, RECIPE, run, seed=3, resume=True, callbacks=callbacks)
        assert not any(path.is_file() for path in (tmp_path / "another").rglob("*"))
    assert summary.first_step == 2
    found, alone = contents(out), contents(tmp_path / "alone")
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert found[name] == alone[name]
    kept = [{name.split("/")[1] for name in each if name.startswith("checkpoints/")} for each in (found, alone)]
    assert kept[0] == kept[1], "checkpoints that the trainer removed are not in the store either"


@pytest.mark.slow
def test_a_store_that_cannot_be_written_to_for_a_while(
    there: Path, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, out = PreparedDataset(here / "data"), there / "runs/three"
    real, broken = CloudPath.upload, UsageError("the network is down", "mend it")

    def upload(self: CloudPath, file: Path) -> None:
        if "checkpoint-2" in str(self) or self == out / "config.json":
            raise broken
        real(self, file)

    with (
        patch.object(CloudPath, "upload", upload),
        pytest.raises(UsageError, match=r"the run is in .*three; try again"),
        trained_here(out, resume=False) as (run, callbacks),
    ):
        train(dataset, RECIPE, run, seed=3, callbacks=callbacks)
    assert "warning: a checkpoint is on this machine only: the network is down" in capsys.readouterr().err
    assert (out / "checkpoints/checkpoint-4/trainer_state.json").exists() and not is_finished(out)
    with trained_here(out, resume=True) as (run, callbacks):
        assert train(dataset, RECIPE, run, seed=3, resume=True, callbacks=callbacks).steps == RECIPE.steps
    assert is_finished(out) and not run.exists()


def test_train_and_predict_by_the_commands(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = there / "runs/two"
    words = ["train", str(there / "data"), "--recipe", "tiny", "--out", str(run)]
    with patch("trainers.recipes.catalogue.find_recipe", return_value=replace(RECIPE, steps=2)):
        assert main([*words, "--resume"]) == 2
        assert f"there is no run {run} to resume" in capsys.readouterr().err
        assert main(words) == 0
        assert main(words) == 2
        assert f"{run} exists already" in capsys.readouterr().err
        assert main([*words, "--resume"]) == 0
        assert main([*words, "--resume", "--seed", "1"]) == 2
        assert f"{run} was started differently: seed was 0, now 1" in capsys.readouterr().err
    predictions = ["predict", str(there / "data"), "--split", "train", "--out", str(there / "two"), "--run"]
    assert main([*predictions, str(there / "runs")]) == 2
    assert f"{there}/runs is no run: it has no run.json" in capsys.readouterr().err
    assert main([*predictions, str(run)]) == 0
    evaluate = ["evaluate", str(there / "data"), "--predictions", str(there / "two"), "--out", str(there / "report")]
    assert main(evaluate) == 0 and (there / "report/report.html").exists()
