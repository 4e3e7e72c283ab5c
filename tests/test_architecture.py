"""The shape of the project: which way imports go, what stays light, and where heavy libraries may be used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dataflow", "tfds_builders", "trainers")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LIGHT = (
    "boxes",
    "errors",
    "findings",
    "images",
    "records",
    "splits",
    "bridge.grouping",
    "bridge.image_augmentation",
    "bridge.padding",
    "bridge.pair_augmentation",
    "bridge.random_light",
    "bridge.resize",
    "pairs.aligned_pair",
    "pairs.alignment_counts",
    "pairs.camera_motion",
    "pairs.frame",
    "pairs.illumination",
    "pairs.image_diff",
    "pairs.motion_models",
    "pairs.quarter_shifts",
    "pairs.registration",
    "pairs.valid_pixels",
)
TRAINING = "import trainers.prediction.prediction, trainers.recipes.catalogue, trainers.training.training"
HEAVY = {"tensorflow", "tensorflow_datasets", "torch", "torchvision", "apache_beam", "fiftyone", "transformers"}


def _imports(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    later = set(PACKAGES[PACKAGES.index(package) + 1 :])
    assert not _imports(path) & later


def _where(package: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in SOURCES if package in _imports(path)}


def test_fiftyone_is_imported_in_its_own_package() -> None:
    assert all(path.startswith("trainers/app/") for path in _where("fiftyone"))


def test_beam_is_imported_in_its_own_package_and_pipelines_are_made_in_one() -> None:
    assert all(path.startswith("dataflow/beam/") for path in _where("apache_beam"))
    assert [path.name for path in SOURCES if "beam.Pipeline(" in path.read_text()] == ["pipelines.py"]


def test_tensorflow_is_imported_in_one_module() -> None:
    # It imports by name, so that the order beside triton is in its hands.
    named = {str(path.relative_to(ROOT)) for path in SOURCES if '"tensorflow")' in path.read_text()}
    assert not _where("tensorflow")
    assert named == {"dataflow/tensorflow_runtime.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_have_one_subject(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert path.name != "utils.py"


def _modules_after(code: str) -> set[str]:
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(printed.stdout.split())


@pytest.mark.parametrize("module", LIGHT)
def test_the_light_half_stays_light(module: str) -> None:
    assert not _modules_after(f"import dataflow.{module}") & HEAVY


def test_a_diff_worker_loads_neither_tensorflow_nor_torch() -> None:
    loaded = _modules_after("import dataflow.beam.jobs, tfds_builders.builders, tfds_builders.choices")
    assert "apache_beam" in loaded
    assert not loaded & {"tensorflow", "torch", "fiftyone", "transformers"}


def test_training_loads_no_beam_and_no_fiftyone() -> None:
    loaded = _modules_after(TRAINING)
    assert "torch" in loaded
    assert not loaded & {"apache_beam", "fiftyone"}


def test_libraries_of_backbones_are_loaded_where_one_is_built() -> None:
    loaded = _modules_after(TRAINING)
    assert not loaded & {"timm", "diffusers"}
    assert _where("timm") == {"trainers/detectors/timm_body.py"}
    assert _where("diffusers") == {"trainers/detectors/diffusion_body.py"}


def test_an_analyst_loads_neither_tensorflow_nor_torch() -> None:
    modules = "trainers.evaluation.evaluation, trainers.pages.report, trainers.prediction.predictions"
    loaded = _modules_after(f"import {modules}")
    assert not loaded & {"tensorflow", "torch", "apache_beam"}


def test_counting_a_dataset_loads_neither_tensorflow_nor_torch_nor_beam() -> None:
    package = "trainers.statistics"
    modules = f"{package}.dataset_statistics, {package}.statistics_text, trainers.pages.statistics_page"
    loaded = _modules_after(f"import {modules}")
    assert not loaded & {"tensorflow", "torch", "apache_beam", "fiftyone"}


def test_help_loads_nothing_heavy() -> None:
    loaded = _modules_after("from trainers.cli import build_parser\nbuild_parser().format_help()")
    assert not loaded & (HEAVY | {"numpy", "cv2", "PIL"})
