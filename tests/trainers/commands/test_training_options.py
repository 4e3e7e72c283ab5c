"""The options of `train` that vary a recipe, as they are typed, and what they leave in the run."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dataflow.prepared import PreparedDataset
from tests.trainers.small_sets import squares, write_dataset
from trainers.cli import main
from trainers.preflight import preflight
from trainers.training import training

VARIED = (
    "--steps", "2", "--batch-size", "4", "--learning-rate", "1e-12", "--resize", "64x64", "--pad", "multiple:64",
    "--accumulate", "2", "--bf16", "--ema", "0.5", "--evaluate-every", "1", "--best", "loss", "--patience", "2",
    "--evaluate-split", "held_out",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    splits = {"train": list(squares(8)), "held_out": list(squares(3))}
    return write_dataset(tmp_path_factory.mktemp("data"), splits)


def test_every_option_reaches_the_run(dataset: PreparedDataset, tmp_path: Path, capsys, recwarn) -> None:
    run = tmp_path / "run"
    words = ["train", str(dataset.path), "--recipe", "dense_cnn_small", *VARIED, "--out", str(run)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert not any("box" in str(warning.message) for warning in recwarn.list)  # There may be none to draw.
    known = json.loads((run / "run.json").read_text())
    recipe = known["recipe"]
    assert (recipe["steps"], recipe["batch_size"], recipe["accumulate"]) == (2, 4, 2)
    assert (recipe["bf16"], recipe["ema"], recipe["learning_rate"]) == (True, 0.5, 1e-12)
    assert recipe["resize"] == {"height": 64, "width": 64} and recipe["pad"] == {"multiple_of": 64}
    watch = recipe["watch"]
    assert (watch["every"], watch["best"], watch["patience"], watch["split"]) == (1, "loss", 2, "held_out")
    best = next(entry for entry in known["evaluations"] if entry["step"] == known["model_step"])
    assert best["loss"] == min(entry["loss"] for entry in known["evaluations"])
    assert f"of {len(known['evaluations'])} evaluations, at step {known['model_step']}" in said
    assert f"loss {best['loss']:.3f}" in said
    checkpoint = run / "checkpoints" / f"checkpoint-{known['model_step']}"
    assert load_file(checkpoint / "average.safetensors").keys() == load_file(run / "model.safetensors").keys()
    before = known
    assert main([*words, "--resume"]) == 0
    assert capsys.readouterr().out.startswith("no step was left to do\n")
    assert json.loads((run / "run.json").read_text()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--best", "AP"), "give --evaluate-every N too"),
        (("--resize", "640"), "--resize 640; write shortest:800:1333"),
        (("--pad", "no"), "--pad no; write largest"),
        (("--ema", "1.5"), "ema is 1.5; give a decay between 0 and 1"),
        (("--accumulate", "3"), "8 images a step in 3 parts; accumulate a divisor"),
        (("--evaluate-every", "2"), "has no split 'validation'; choose --evaluate-split among"),
        (("--evaluate-every", "0"), "an evaluation every 0 steps; give at least 1"),
        (("--evaluate-every", "1", "--patience", "0"), "a patience of 0 evaluations; give at least 1"),
        (("--seed", "-1"), "the seed is -1"),
        (("--seed", "-1", "--preflight"), "the seed is -1"),
        (("--split", "test"), "has no split 'test'; choose"),
        (("--split", "test", "--preflight"), "has no split 'test'; choose"),
        (("--epochs", "inf"), "inf epochs; give a positive number"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, said: str, dataset, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main(["train", str(dataset.path), "--recipe", "dense_cnn_small", *words, "--out", str(out)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert said in lines[-1]
    assert not out.exists()


def test_an_interrupted_training_says_how_it_goes_on(dataset, tmp_path: Path, capsys, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_stages", interrupted)
    words = ["train", str(dataset.path), "--recipe", "dense_cnn_small", "--steps", "1", "--out", str(tmp_path / "run")]
    assert main(words) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "shardbox train: stopped; the same command with --resume goes on from the last checkpoint"
    monkeypatch.undo()
    assert main([*words, "--resume"]) == 0


def test_many_epochs_are_a_long_training_too(dataset, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(preflight, "LONG_RUN", 4)
    words = ["train", str(dataset.path), "--recipe", "dense_cnn_small", "--batch-size", "2", "--resize", "64x64"]
    for epochs, looked in (("0.5", False), ("1", True)):
        assert main([*words, "--epochs", epochs, "--out", str(tmp_path / epochs)]) == 0
        assert ("overfit: the loss of one batch" in capsys.readouterr().err) is looked
