"""Every option of the command line that takes a path: what it does with one in an object store."""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.stores.paths import cache_directory, location, objects_below, upload_files
from tests.factories import Picture, Thing, prepare, write_yolo
from tests.object_stores import STORES, object_store
from tests.tfds_builders.portable import ROOT
from tests.trainers.small_runs import RECIPE, write_run
from tests.trainers.tiny_recipes import TINY, TINY_DETR
from tfds_builders.formats.yolo import open_yolo
from trainers.cli import build_parser, main
from trainers.commands.options import local_path, place
from trainers.evaluation.explain_map import read_torchmetrics
from trainers.recipes.catalogue import find_recipe
from trainers.tuning.search_space import read_space

NAMES = ("cat", "dog")
# Options whose text is a path or the name of something else.
EITHER = {"--recipe", "--weights"}


@pytest.fixture(scope="module", params=sorted(STORES))
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    cache = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    with object_store(request.param) as url, patch.dict(os.environ, cache):
        yield location(url)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = [Picture(f"p{i:02d}", 64, 128, (Thing(0, (4, 4, 24, 34)),)) for i in range(8)]
    return write_yolo(tmp_path_factory.mktemp("source"), pictures, NAMES)


@pytest.fixture(scope="module")
def dataset(source: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare(open_yolo(source), tmp_path_factory.mktemp("data"))


def options(kind: object) -> set[str]:
    """Command and option of all whose text is made a path by `kind`."""
    [commands] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return {
        f"{name} {action.option_strings[0] if action.option_strings else action.metavar}"
        for name, parser in commands.choices.items()
        for action in parser._actions
        if action.type is kind
    }


def test_the_table_of_the_page_has_every_option_that_takes_a_path() -> None:
    page = (ROOT / "docs" / "runners.md").read_text().partition("## Object stores\n")[2].partition("\n### ")[0]
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    told = {name: how.strip() for names, how in rows for name in names.replace("`", "").strip().split(", ")}
    refused = {option for option, how in told.items() if how.startswith("refused")}
    assert options(local_path) == refused == {"tune --out", "demo --out"}
    of_any = {option.split()[-1] for option in options(place)} | EITHER
    assert of_any == {option for option in told if " " not in option}
    assert options(Path) == set(), "it would make a folder called `s3:` here"


@pytest.mark.parametrize(
    "words",
    [
        ["tune", "DATASET", "--recipe", "dense_cnn_small", "--out", "URL/out"],
        ["demo", "--out", "URL/out"],
    ],
    ids=lambda words: words[0],
)
def test_what_works_on_this_machine_only_says_so(root: Path, words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([word.replace("URL", str(root)) for word in words])
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert f"argument --out: {root}/out is in an object store: name a directory of this machine" in told


@pytest.mark.parametrize("words", [["stats", "az://bucket/data"], ["diff", "data", "--out", "S3://bucket/out"]])
def test_other_stores_are_refused_and_nothing_is_made(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2 and not any(tmp_path.iterdir())
    scheme = words[-1].partition("://")[0]
    assert f"{words[-1]}: there is no way to {scheme}://; name gs://, s3:// or a path" in capsys.readouterr().err


def test_corrections_are_read_from_a_store(root: Path, source: Path, tmp_path: Path) -> None:
    line = {"image_id": "p03", "action": "add", "class": "dog", "box": [60, 10, 90, 40]}
    (root / "found.jsonl").write_text(json.dumps(line))
    (tmp_path / "found.jsonl").write_text(json.dumps(line))
    for name, given in (("there", root), ("here", tmp_path)):
        words = ["ingest", str(source), "--name", "set", "--out", str(tmp_path / name), "--shards", "1"]
        assert main([*words, "--relabel", str(given / "found.jsonl")]) == 0
    there, here = (tmp_path / name / "set/1.0.0" for name in ("there", "here"))
    [shard] = [file.name for file in there.glob("*train.tfrecord*")]
    assert (there / shard).read_bytes() == (here / shard).read_bytes()
    assert json.loads((there / "audit.json").read_text())["images_in"] == 8


def test_small_files_are_read_from_a_store(root: Path) -> None:
    (root / "tuned/recipe.json").write_text(json.dumps({"recipe": "dense_cnn_small", "values": {"batch_size": 3}}))
    assert find_recipe(f"{root}/tuned/recipe.json").batch_size == 3
    (root / "space.yaml").write_text("learning_rate: 1e-4..1e-2\n")
    assert set(read_space(place(f"{root}/space.yaml"))) == {"learning_rate"}
    (root / "figures.json").write_text('{"map": 0.25}')
    assert [given.value for given in read_torchmetrics(place(f"{root}/figures.json")).values()] == [0.25]
    with pytest.raises(UsageError, match=f"^{root}/none.json: No such file"):
        find_recipe(f"{root}/none.json")


@pytest.mark.parametrize("recipe", [TINY, TINY_DETR], ids=lambda recipe: recipe.name)
def test_weights_are_read_from_a_store(root: Path, recipe, dataset: PreparedDataset, tmp_path: Path) -> None:
    """Where they lay is told; what they are is what they are on a disk. States of training beside them stay there."""
    model, _ = recipe.build(dataset.categories, None)
    model.save_pretrained(tmp_path / "weights")
    (tmp_path / "weights" / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "weights" / "checkpoints" / "checkpoint-2" / "model.safetensors").write_bytes(b"large")
    (tmp_path / "weights" / "events.out.tfevents").write_bytes(b"large")
    url = root / "runs" / recipe.name
    upload_files(tmp_path / "weights", url)
    (_, here), (started, there) = (recipe.build(dataset.categories, str(each)) for each in (tmp_path / "weights", url))
    assert there == replace(here, source=str(url)) and not there.reinitialised
    for name, tensor in model.state_dict().items():
        assert tensor.equal(started.state_dict()[name]), name
    kept = [file for file in cache_directory().rglob("*") if recipe.name in str(file) and file.is_file()]
    assert {file.name for file in kept} == {"config.json", "model.safetensors"}


def test_weights_that_are_not_in_the_store(root: Path, dataset: PreparedDataset, capsys: pytest.CaptureFixture) -> None:
    words = ["train", str(dataset.path), "--out", str(root / "run"), "--no-preflight", "--recipe", "dense_cnn_small"]
    assert main([*words, "--weights", str(root / "nothing")]) == 2
    assert f"{root}/nothing: there is nothing" in capsys.readouterr().err
    (root / "other/readme.json").write_text("{}")
    assert main([*words, "--weights", str(root / "other")]) == 2
    assert f"{root}/other is no checkpoint: it has neither config.json" in capsys.readouterr().err
    assert not objects_below(root / "run")


def test_a_training_that_starts_from_a_run_in_the_store(root: Path, dataset: PreparedDataset, tmp_path: Path) -> None:
    upload_files(write_run(tmp_path / "first", dataset), root / "first")
    with patch("trainers.recipes.catalogue.find_recipe", return_value=replace(RECIPE, steps=2)):
        words = ["train", str(dataset.path), "--recipe", "tiny", "--split", "train", "--out", str(root / "second")]
        assert main([*words, "--weights", str(root / "first")]) == 0
    assert json.loads((root / "second/run.json").read_text())["weights"] == str(root / "first")
