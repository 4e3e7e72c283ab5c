"""The same files, byte for byte, whatever the runner and however many workers.

Sources, references and findings travel to other processes, and into another environment, and back.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from dataflow.pairs.camera_motion import random_movement
from dataflow.prepared import METRICS, PreparedDataset
from dataflow.shards import FILE_FORMATS, FileFormat
from tests.factories import Picture, logical_dataset, photograph, write, write_mot, write_yolo
from tests.tfds_builders.light_environment import make_light_environment
from tests.tfds_builders.portable import external, loopback, time_limit
from tests.tfds_builders.shaken_frames import write_scenes
from tfds_builders.builders import IngestOptions, SourceBuilder
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.planning import PlanOptions
from tfds_builders.running import Running
from tfds_builders.sources.pairing import PairOptions

LIMIT_S = 120.0
KINDS = ("images", "pairs", "differences", "aligned")
Case = tuple[str, FileFormat]
CASES: list[Case] = [(kind, file_format) for kind in KINDS for file_format in FILE_FORMATS]
FEW: list[Case] = [
    ("images", "array_record"),
    ("pairs", "tfrecord"),
    ("differences", "array_record"),
    ("aligned", "tfrecord"),
]


@dataclass(frozen=True)
class Sources:
    """Images and frames with findings of many kinds, and pairs to make differences of, in both file formats.

    `shaken` pairs are of a camera that moved; some cannot be aligned.
    """

    images: Path
    frames: Path
    pairs: dict[FileFormat, PreparedDataset]
    shaken: dict[FileFormat, PreparedDataset]

    def build(self, case: Case, out: Path, running: Running = Running()) -> dict[str, bytes]:
        """All files of the dataset that a case gives."""
        kind, file_format = case
        with time_limit(LIMIT_S):
            if kind == "aligned":
                pairs = self.shaken[file_format]
                return files(DifferencesBuilder(pairs, name="a", out=out, align="features", running=running).prepare())
            if kind == "differences":
                return files(DifferencesBuilder(self.pairs[file_format], name="d", out=out, running=running).prepare())
            source: Any = open_yolo(self.images) if kind == "images" else open_mot(self.frames, PairOptions(1))
            options = IngestOptions(PlanOptions(shards=4), file_format=file_format)
            return files(SourceBuilder(source, name=kind, out=out, options=options, running=running).prepare())


def files(dataset: PreparedDataset) -> dict[str, bytes]:
    """Every file of a dataset, hidden ones too."""
    return {path.name: path.read_bytes() for path in dataset.path.iterdir() if path.name != METRICS}


def damaged(seed: int) -> bytes:
    """A PNG whose header is right and whose pixels are not."""
    whole = photograph(60, 80, seed=seed, encoding="PNG", orientation=1)
    at = whole.find(b"IDAT") + 200
    return whole[:at] + b"damage" + whole[at + 6 :]


def write_images(root: Path) -> Path:
    """Turned, empty, damaged and unlabelled ones, boxes that leave the image, names beyond ASCII."""
    write_yolo(root, [*logical_dataset(20, classes=2), Picture("scene/élan ☃")], ("cat", "köttur"))
    write(root / "images" / "scene" / "damaged.jpg", damaged(5))
    write(root / "images" / "scene" / "empty.jpg", b"")
    write(root / "images" / "other" / "unlabelled.jpg", photograph(seed=6))
    write(root / "labels" / "scene" / "000003.txt", "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 7 0.1\n9 0.5 0.5 0.1 0.1\nnonsense\n")
    return root


def write_frames(root: Path) -> Path:
    """Two sequences, objects that come, go, move and are to be ignored, and a frame that cannot be read."""
    for number, sequence in enumerate(("walk", "run")):
        scenes = logical_dataset(9, crowd=True, seed=number)
        pictures = [
            Picture(f"{sequence}/{index:06d}", 60, 80, tuple(t for t in picture.things if max(t.box) < 60))
            for index, picture in enumerate(scenes, 1)
        ]
        write_mot(root, pictures)
    write(root / "walk" / "img1" / "000004.jpg", damaged(7))
    return root


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    tmp = tmp_path_factory.mktemp("sources")
    frames = write_frames(tmp / "frames")
    movements = [random_movement(np.random.default_rng(number)) for number in range(8)]
    shaken = write_scenes(tmp / "shaken", movements, {5: 1})

    def prepared(source: Path, name: str, file_format: FileFormat) -> PreparedDataset:
        # "header" lets the damaged frame pass: the diff has to find it.
        options = IngestOptions(PlanOptions(shards=2), level="header", file_format=file_format)
        builder = SourceBuilder(open_mot(source, PairOptions(1)), name=name, out=tmp / file_format, options=options)
        return builder.prepare()

    pairs, moving = (
        {file_format: prepared(source, name, file_format) for file_format in FILE_FORMATS}
        for source, name in ((frames, "pairs"), (shaken, "shaken"))
    )
    return Sources(write_images(tmp / "images"), frames, pairs, moving)


@pytest.fixture(scope="module")
def expected(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> dict[Case, dict[str, bytes]]:
    """What FnApiRunner gives in memory."""
    return {case: sources.build(case, tmp_path_factory.mktemp("in memory")) for case in CASES}


def cases(few: list[Case] = FEW) -> list[object]:
    """All cases; those that are not among `few` are marked as slow."""
    return [case if case in few else pytest.param(case, marks=pytest.mark.slow) for case in CASES]


def names(case: Any) -> str:
    """What pytest calls a case."""
    return " ".join(map(str, case)) if isinstance(case, tuple) else str(case)


def test_there_is_something_to_compare(sources: Sources, expected: dict[Case, dict[str, bytes]]) -> None:
    for (kind, file_format), made in expected.items():
        shards = [name for name in made if f".{file_format}-" in name]
        assert len(shards) >= 2 and {"audit.json", "manifest.json", "dataset_info.json", "inputs.json"} <= made.keys()
        assert b'"severity": "error"' in made["audit.json"], kind
        assert not any(name.startswith(".") for name in made)
    for kind in KINDS:
        assert expected[kind, "tfrecord"]["audit.json"] == expected[kind, "array_record"]["audit.json"]


@pytest.mark.parametrize("case", CASES, ids=names)
def test_in_memory_again(case: Case, sources: Sources, expected: dict[Case, dict[str, bytes]], tmp_path: Path) -> None:
    assert sources.build(case, tmp_path) == expected[case]


def several() -> list[object]:
    """Numbers of workers with cases: processes take seconds to start, so that most of them are slow."""
    short = [(2, case) for case in FEW] + [(1, FEW[0]), (3, FEW[1])]
    every = [(workers, case) for workers in (1, 2, 3) for case in CASES]
    return [pytest.param(*each, marks=[] if each in short else pytest.mark.slow) for each in every]


@pytest.mark.parametrize(("workers", "case"), several(), ids=names)
def test_several_processes(
    workers: int, case: Case, sources: Sources, expected: dict[Case, dict[str, bytes]], tmp_path: Path
) -> None:
    options = ("--direct_running_mode=multi_processing", f"--direct_num_workers={workers}")
    assert sources.build(case, tmp_path, Running("FnApiRunner", options)) == expected[case]


@pytest.fixture(scope="module")
def on_loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    with loopback(tmp_path_factory.mktemp("loopback")) as arguments:
        yield arguments


@pytest.mark.parametrize("case", CASES, ids=names)
def test_a_job_service(
    case: Case,
    sources: Sources,
    expected: dict[Case, dict[str, bytes]],
    on_loopback: tuple[str, ...],
    tmp_path: Path,
) -> None:
    assert sources.build(case, tmp_path, Running("PortableRunner", on_loopback)) == expected[case]


@pytest.fixture(scope="module")
def on_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    with external(tmp_path_factory.mktemp("external")) as arguments:
        yield arguments


@pytest.mark.parametrize("case", cases(), ids=names)
def test_workers_of_a_pool(
    case: Case,
    sources: Sources,
    expected: dict[Case, dict[str, bytes]],
    on_workers: tuple[str, ...],
    tmp_path: Path,
) -> None:
    options = (*on_workers, "--direct_num_workers=2")
    assert sources.build(case, tmp_path, Running("PortableRunner", options)) == expected[case]


@pytest.fixture(scope="module")
def prism() -> Iterator[str]:
    """Beam's Prism; the servers that its runner starts end with the tests."""
    binary = os.environ.get("PRISM", shutil.which("prism") or "")
    if not binary:
        pytest.skip(
            "no `prism` on the PATH nor in $PRISM: go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0"
        )
    before = set(psutil.Process().children(recursive=True))
    yield binary
    for process in set(psutil.Process().children(recursive=True)) - before:
        process.kill()


@pytest.mark.parametrize("case", CASES, ids=names)
def test_prism(
    case: Case, sources: Sources, expected: dict[Case, dict[str, bytes]], prism: str, tmp_path: Path
) -> None:
    options = (f"--prism_location={prism}", "--environment_type=LOOPBACK")
    assert sources.build(case, tmp_path, Running("PrismRunner", options)) == expected[case]
    assert Path(prism).name in {process.name() for process in psutil.Process().children(recursive=True)}


@pytest.fixture(scope="module")
def light_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_light_environment(tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="module")
def on_light_workers(light_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    with external(tmp_path_factory.mktemp("light workers"), light_environment, path=None) as arguments:
        yield arguments


@pytest.mark.slow
def test_the_other_environment_is_light(light_environment: Path) -> None:
    heavy = ["tensorflow", "torch", "fiftyone", "transformers"]
    code = f"""
import importlib.util, dataflow
print([name for name in {heavy} if importlib.util.find_spec(name)])
print(dataflow.__file__)
"""
    done = subprocess.run(
        [light_environment, "-I", "-c", code], cwd="/", check=True, timeout=60, capture_output=True, text=True
    )
    found, where = done.stdout.splitlines()
    assert found == "[]" and Path(where).is_relative_to(light_environment.parents[1])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=names)
def test_workers_in_another_environment(
    case: Case,
    sources: Sources,
    expected: dict[Case, dict[str, bytes]],
    on_light_workers: tuple[str, ...],
    tmp_path: Path,
) -> None:
    assert sources.build(case, tmp_path, Running("PortableRunner", on_light_workers)) == expected[case]
