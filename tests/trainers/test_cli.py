"""The command line as a user meets it: one clear line for every mistake, the promised exit status, no traceback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    def refused_with(self, status: int, *words: str) -> bool:
        """Whether it ended with this status and one line on standard error that has all the words."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert self.status == status, self
        assert len(lines) == 1, self.err
        assert lines[0].startswith("shardbox"), lines
        return all(word in lines[0] for word in words)


Shardbox = Callable[..., Outcome]


@pytest.fixture
def shardbox(tmp_path: Path) -> Shardbox:
    """Runs the command in a process of its own, in an empty directory."""

    def run(*words: object) -> Outcome:
        command = [sys.executable, "-m", "trainers.cli", *(str(word) for word in words)]
        # The project as installed; nothing of the checkout by way of the working directory.
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A COCO source of three images, one of them background."""
    source = tmp_path / "coco"
    (source / "annotations").mkdir(parents=True)
    (source / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (60 * number, 90, 120)).save(source / "images" / f"{number}.png")
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(3)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 7, "bbox": [4, 5, 20, 10], "area": 200, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [8, 2, 30, 40], "area": 900, "iscrowd": 0},
        ],
    }
    (source / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return source


def _change_json(source: Path, change: Callable[[dict], None]) -> None:
    path = source / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_an_option_that_a_command_does_not_have(shardbox: Shardbox) -> None:
    said = shardbox("train", "data", "--recipe", "r", "--out", "out", "--resize", "240", "320")
    assert said.refused_with(2, "unrecognized arguments: 320; see shardbox train --help")


def test_a_wrong_path(shardbox: Shardbox) -> None:
    assert shardbox("ingest", "nowhere", "--format", "yolo", "--out", "out").refused_with(
        2, "nowhere", "check the path"
    )
    assert shardbox("diff", "nowhere", "--out", "out").refused_with(2, "nowhere", "no prepared dataset")


@pytest.mark.parametrize("source_format", ["yolo", "coco", "mot"])
def test_an_empty_directory(shardbox: Shardbox, tmp_path: Path, source_format: str) -> None:
    (tmp_path / "empty").mkdir()
    result = shardbox("ingest", "empty", "--format", source_format, "--out", "out")
    assert result.refused_with(2, "empty", "; give ")
    assert not (tmp_path / "out").exists()


def test_a_missing_class_name(shardbox: Shardbox, tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "yolo" / folder).mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "yolo" / "images" / "a.png")
    (tmp_path / "yolo" / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    words = ("ingest", "yolo", "--format", "yolo", "--out", "out")
    assert shardbox(*words).refused_with(2, "names no classes", "--names")
    assert shardbox(*words, "--names", "thing").status == 0
    (tmp_path / "yolo" / "data.yaml").write_text("train: images\nnames: {0: a, 2: c}\n")
    assert shardbox(*words).refused_with(2, "data.yaml", "class 1 has no name")


def test_an_unknown_category_is_a_finding(shardbox: Shardbox, tmp_path: Path, coco: Path) -> None:
    _change_json(coco, lambda content: content["annotations"][0].update(category_id=99))
    words = ("ingest", coco, "--format", "coco", "--out", "out")
    refused = shardbox(*words, "--on-finding", "fail")
    assert refused.refused_with(1, "instances_train.json:/annotations/0/category_id", "99", "add the class name")
    assert not list((tmp_path / "out").rglob("dataset_info.json"))
    quarantined = shardbox(*words)
    assert quarantined.status == 0
    assert not quarantined.err
    assert "3 images in = 2 prepared + 1 quarantined" in quarantined.out
    assert "class-unknown: class 99" in quarantined.out


def test_json_is_all_there_is_on_standard_output(shardbox: Shardbox, coco: Path) -> None:
    result = shardbox("ingest", coco, "--out", "out", "--json")  # The format is recognised.
    answer = json.loads(result.out)
    assert result.status == 0
    assert answer["images_in"] == answer["images_prepared"] == 3
    again = shardbox("ingest", coco, "--format", "coco", "--out", "out", "--json")
    assert again.refused_with(2, "already there", "--out")
    assert json.loads(again.out)["error"] == "usage"


def test_a_run_that_is_none(shardbox: Shardbox, tmp_path: Path, coco: Path) -> None:
    made = json.loads(shardbox("ingest", coco, "--format", "coco", "--out", "out", "--json").out)
    (tmp_path / "empty").mkdir()
    for run in ("nowhere", "empty"):
        words = ("predict", made["dataset"], "--run", run, "--out", "p", "--split", "train")
        assert shardbox(*words).refused_with(2, run, "shardbox train")
    assert shardbox("verify-loader", "empty").refused_with(2, "empty", "no prepared dataset", "shardbox ingest")
    assert shardbox("train", made["dataset"], "--recipe", "nothing", "--out", "r").refused_with(
        2, "nothing", "dense_cnn_small"
    )
    assert shardbox("evaluate", made["dataset"], "--predictions", "empty", "--out", "e").refused_with(
        2, "empty", "shardbox predict"
    )
    assert shardbox("browse", made["dataset"], "--predictions", "empty", "--no-app").refused_with(2, "empty")


def test_options_that_do_not_go_together(shardbox: Shardbox, coco: Path) -> None:
    words = ("ingest", coco, "--format", "coco", "--out", "out")
    assert shardbox(*words, "--pair-gap", 3).refused_with(2, "--pair-gap", "--format mot")
    assert shardbox(*words, "--name", "Ö").refused_with(2, "--name")
    assert shardbox(*words, "--splits", "train=0.8,validation=0.3").refused_with(2, "add up to 1")
    assert shardbox(*words, "--runner", "Nothing").refused_with(2, "Nothing", "FnApiRunner")
    assert shardbox(*words, "--", "--direct_running_mode=multi_threading").refused_with(2, "multi_threading")
    assert shardbox("ingest", coco, "--format", "xml", "--out", "out").refused_with(2, "xml")
    assert shardbox("nonsense").refused_with(2, "nonsense")


def test_a_missing_package_names_its_extra(tmp_path: Path) -> None:
    """In an environment with the light half alone, a command says what to install."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'tensorflow_datasets':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from trainers.cli import main\n"
        "sys.exit(main(['diff', 'x', '--out', 'y']))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], timeout=60
    )
    assert done.returncode == 2
    assert "pip install 'shardbox[prepare]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_was_proved_is_all_there_is_on_standard_output(shardbox: Shardbox, coco: Path) -> None:
    made = json.loads(shardbox("ingest", coco, "--format", "coco", "--out", "out", "--json").out)
    words = ("verify-loader", made["dataset"], "--world-sizes", "1,2", "--batch-size", 2, "--split", "train")
    result = shardbox(*words, "--json")
    assert (result.status, json.loads(result.out)["fingerprint"]) == (0, made["fingerprint"])
    [shard] = Path(made["dataset"]).glob("*-train.tfrecord-*")
    shard.write_bytes(shard.read_bytes()[:-10])
    refused = shardbox(*words)
    assert refused.refused_with(1, "damaged record", shard.name, "prepare the dataset again")
    assert "FAILS: images" in refused.out


def test_the_installed_command_answers() -> None:
    installed = Path(sys.executable).with_name("shardbox")
    done = subprocess.run([installed, "--help"], capture_output=True, text=True, check=True)
    assert "shardbox demo" in done.stdout
