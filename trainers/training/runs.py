"""A run: the directory of one training, from its first step to the model that predicts.

| in the directory | what |
|---|---|
| `run.json` | what was trained on what, and how; the run's id |
| `checkpoints/` | Hugging Face `Trainer` checkpoints, to resume from; of several stages in `stage-1/` and so on |
| `tensorboard/` | losses, learning rate, speed; figures and pictures of what is evaluated |
| `config.json`, `model.safetensors`, `preprocessor_config.json` | the trained model, once training is finished |

The model loads with `AutoModelForObjectDetection.from_pretrained` and `AutoImageProcessor.from_pretrained`. Resizing,
normalisation, padding and how a pair is looked at are kept in `preprocessor_config.json` alone, and read back from
there to predict.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import is_zipfile

import torch
import torchvision
import transformers
import xxhash
from safetensors import SafetensorError, safe_open
from transformers import AutoImageProcessor, DetrImageProcessor, PreTrainedModel

from dataflow.bridge.padding import TO_LARGEST, Padding, PadToLargest, PadToSize
from dataflow.bridge.resize import FixedSize, KeepSize, LongestEdge, Resize, ResizePolicy
from dataflow.bridge.view import View
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import local_file, location
from trainers.detectors.checkpoints import class_names, quiet_transformers
from trainers.detectors.detectors import load_trained
from trainers.recipes.recipe import Channels, Recipe

RUN_JSON = "run.json"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
FORMAT_VERSION = 2
MODEL_FILES = ("model.safetensors", "preprocessor_config.json", "config.json")
_ID_LENGTH = 12


def describe_run(
    dataset: PreparedDataset, recipe: Recipe, *, split: str, seed: int, weights: str | None, weights_identity: str
) -> dict[str, Any]:
    """What decides a run, in JSON's types, with `run_id`, a hash of the rest."""
    categories = dataset.categories
    content = {
        "recipe": recipe.settings(),
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "split": split,
        "seed": seed,
        "weights": weights,
        "weights_identity": weights_identity,
        "categories": [
            {"id": index, "name": name, "source_id": source}
            for index, (name, source) in enumerate(zip(categories.names, categories.source_ids, strict=True))
        ],
        "versions": {
            module.__name__: module.__version__.partition("+")[0] for module in (torch, torchvision, transformers)
        },
        "format_version": FORMAT_VERSION,
    }
    identity = {key: value for key, value in content.items() if key != "weights"}  # A path means nothing elsewhere.
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return {"run_id": f"{recipe.name}-{digest[:_ID_LENGTH]}", **content}


def write_description(run: Path, description: Mapping[str, Any]) -> None:
    """Write `run.json`, whole or not at all."""
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    temporary = run / (RUN_JSON + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(run / RUN_JSON)


def read_description(run: Path) -> dict[str, Any]:
    """The content of `run.json`.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    path = run / RUN_JSON
    if not path.is_file():
        what = "is no run: it has no run.json" if run.is_dir() else "is no directory"
        raise UsageError(f"{run} {what}", "give a directory that `shardbox train` wrote")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged", "train again into another directory") from error
    if version != FORMAT_VERSION:
        raise UsageError(
            f"{path} has format version {version}, this is {FORMAT_VERSION}", "train again with this version"
        )
    return dict(description)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a stage, and what the trainer knew then."""

    path: Path
    step: int
    """Of the stage."""
    stopped: bool
    """Whether the stage ended here."""
    log: tuple[Mapping[str, Any], ...]
    """What was logged until then, by steps of the stage."""


def stage_directory(run: Path, stage: int, stages: int) -> Path:
    """Where the checkpoints of a stage are: a run of one stage has no directory for it."""
    return run / CHECKPOINTS if stages == 1 else run / CHECKPOINTS / f"stage-{stage + 1}"


def last_checkpoint(directory: Path) -> Checkpoint | None:
    """The last checkpoint of a stage whose files are whole; one cut short by a kill, or damaged, is passed over."""
    found = []
    for path in sorted(directory.glob("checkpoint-*")):
        with contextlib.suppress(OSError, ValueError, KeyError, SafetensorError):
            found.append(_read_checkpoint(path))
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def _read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint; its files of tensors are opened, which shows whether their ends are there, but not read."""
    for file in path.glob("*.safetensors"):
        with safe_open(file, "pt"):  # type: ignore[no-untyped-call]
            pass
    if not all(is_zipfile(file) for file in path.glob("*.pt*")):
        raise ValueError(f"{path} has a damaged file")
    state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    step, control = int(state["global_step"]), state["stateful_callbacks"]["TrainerControl"]["args"]
    stopped = step >= int(state["max_steps"]) or bool(control["should_training_stop"])
    return Checkpoint(path, step, stopped, tuple(state["log_history"]))


def image_processor(recipe: Recipe) -> DetrImageProcessor:
    """The processor that does, image by image, what our batches do: resize, normalise, pad.

    What it knows nothing of is kept beside it: how a detector's images are made of a pair, as `shardbox_view`, and
    padding to a multiple, as `shardbox_pad`.
    """
    return DetrImageProcessor(
        **_resize_settings(recipe.resize),
        **_pad_settings(recipe.pad),
        image_mean=list(recipe.mean),
        image_std=list(recipe.std),
        shardbox_view=recipe.view.to_json(),
    )


def _resize_settings(resize: Resize) -> dict[str, Any]:
    """A resize policy in the keys of `DetrImageProcessor`."""
    match resize:
        case KeepSize():
            return {"do_resize": False}
        case LongestEdge(edge):
            return {"size": {"max_height": edge, "max_width": edge}}
        case ResizePolicy() | FixedSize():
            return {"size": asdict(resize)}


def _resize_of(processor: DetrImageProcessor, path: Path) -> Resize:
    """The policy that `_resize_settings` wrote."""
    if not processor.do_resize:
        return KeepSize()
    match size := dict(processor.size):
        case {"shortest_edge": shortest, "longest_edge": longest}:
            return ResizePolicy(shortest, longest)
        case {"max_height": height, "max_width": width} if height == width:
            return LongestEdge(height)
        case {"height": height, "width": width}:
            return FixedSize(height, width)
    raise UsageError(f"{path}: preprocessor_config.json has the size {size}", "train again into another directory")


def _pad_settings(pad: Padding) -> dict[str, Any]:
    """A padding in the keys of `DetrImageProcessor` where it has them."""
    return {"pad_size": asdict(pad)} if isinstance(pad, PadToSize) else {"shardbox_pad": asdict(pad)}


def _pad_of(processor: DetrImageProcessor) -> Padding:
    """The padding that `_pad_settings` wrote; runs from before there was a choice have none."""
    if processor.pad_size is not None:
        return PadToSize(**dict(processor.pad_size))
    return PadToLargest(**getattr(processor, "shardbox_pad", asdict(TO_LARGEST)))


def save_model(run: Path, model: PreTrainedModel, processor: DetrImageProcessor) -> None:
    """Put the trained model into the run: `config.json`, which `is_finished` looks for, comes last."""
    temporary = run / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet_transformers():
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
    for name in MODEL_FILES:
        (temporary / name).replace(run / name)
    shutil.rmtree(temporary)


def is_finished(run: Path) -> bool:
    """Whether the run has its trained model."""
    return all((run / name).is_file() for name in MODEL_FILES)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, ready to predict."""

    path: Path
    run_id: str
    model: PreTrainedModel
    categories: Categories
    resize: Resize
    pad: Padding
    mean: Channels
    std: Channels
    view: View
    """What it was trained on, and must be shown."""
    batch_size: int
    """The recipe's."""
    model_hash: str
    """Of the files of the model."""

    def check(self, dataset: PreparedDataset) -> None:
        """Raise `UsageError` unless the dataset can be seen as the run was trained, and has its classes in order."""
        remedy = "predict a dataset made like the one it was trained on, or the pairs that one was made from"
        try:
            shown = self.view.settled(dataset)
        except UsageError as error:
            raise UsageError(f"{self.path} was trained on {self.view}: {error.message}", remedy) from error
        if shown != self.view:
            raise UsageError(f"{self.path} was trained on {self.view}, {dataset.path} holds {shown}", remedy)
        trained, found = self.categories.names, dataset.categories.names
        if trained != found:
            raise UsageError(
                f"{self.path} was trained on {_listed(trained)}, {dataset.path} has {_listed(found)}",
                "predict a dataset with the same classes, or train a run on this one",
            )


def _listed(names: tuple[str, ...]) -> str:
    few = ", ".join(names[:5])
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({few}{', ...' if len(names) > 5 else ''})"


@contextmanager
def _model_here(run: Path) -> Iterator[Path]:
    """A directory of this machine with the files of a run's model."""
    if not is_cloud(run):
        yield run
        return
    with TemporaryDirectory(prefix="shardbox-") as folder:
        for name in MODEL_FILES:
            with local_file(run / name) as file:
                shutil.copyfile(file, Path(folder, name))
        yield Path(folder)


def _hash(run: Path) -> str:
    digest = xxhash.xxh3_128()
    for name in MODEL_FILES:
        with (run / name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def load_run(path: str | Path) -> Run:
    """A finished run, of this machine or in an object store.

    Raises:
        UsageError: `path` is no run, its training is not finished, or its files are damaged.
    """
    path = location(path)
    description = read_description(path)
    if not is_finished(path):
        raise UsageError(f"the training of {path} is not finished", "finish it with `shardbox train ... --resume`")
    with _model_here(path) as here:
        model_hash = _hash(here)
        try:
            with quiet_transformers():
                processor = AutoImageProcessor.from_pretrained(here, local_files_only=True)
            model = load_trained(here)
        except Exception as error:  # Whatever loaders of JSON and safetensors raise, the file is not what was written.
            first = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"the model in {path} cannot be read: {first}", "train again into another directory"
            ) from error
    listed = description["categories"]
    categories = Categories(
        tuple(entry["name"] for entry in listed), tuple(int(entry["source_id"]) for entry in listed)
    )
    if class_names(model.config) != categories.names:
        raise UsageError(
            f"{path}: config.json and run.json name different classes", "train again into another directory"
        )
    return Run(
        path=path,
        run_id=str(description["run_id"]),
        model=model,
        categories=categories,
        resize=_resize_of(processor, path),
        pad=_pad_of(processor),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        view=View(**processor.shardbox_view),
        batch_size=int(description["recipe"]["batch_size"]),
        model_hash=model_hash,
    )
