"""Weights from elsewhere: finding a checkpoint on the hub or on disk, and the report of what was loaded from it."""

import copy
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from dataflow.errors import UsageError
from dataflow.records import Categories
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import cached_directory, location

_HUB_TIMEOUT_S = 15.0
_LISTED = 4
_MODEL_SUFFIXES = (".json", ".safetensors", ".bin")


@dataclass(frozen=True)
class LoadReport:
    """Which weights a model started from. Names are those of `named_parameters` and `named_buffers`."""

    source: str
    """Directory or hub name; "" for a model with random weights throughout."""
    identity: str = ""
    """The same, told by content: the hub's commit or a digest of the files."""
    loaded: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    """In the model, but not (or not in this shape) in the checkpoint: random."""
    left_over: tuple[str, ...] = ()
    """In the checkpoint, but not in the model."""
    widened: tuple[str, ...] = ()
    """Loaded, with zeros for input channels that the checkpoint does not have."""

    def __str__(self) -> str:
        if not self.source:
            return "weights: random throughout"
        parts = [f"weights: {len(self.loaded)} tensors loaded from {self.source}"]
        for what, names in (
            ("started at random", self.reinitialised),
            ("widened to more channels", self.widened),
            ("left over", self.left_over),
        ):
            if names:
                listed = names if len(names) <= _LISTED else _modules(names)
                parts.append(f"{len(names)} {what} ({', '.join(listed)})")
        return "; ".join(parts)


def _modules(names: Iterable[str]) -> list[str]:
    """The modules that tensors are of, of numbered ones the lists they are in: `model.decoder.layers.{0-5}`."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        numbered = re.match(r"(.+?)\.(\d+)\.", name)
        module = numbered[1] if numbered else name.rpartition(".")[0] or name
        numbers.setdefault(module, set()).update([int(numbered[2])] if numbered else [])
    return [f"{module}.{{{_ranges(found)}}}" if found else module for module, found in sorted(numbers.items())]


def _ranges(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 as `0-2,5`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' own reports and bars: what they say is told in our words."""
    logging_of = transformers.utils.logging
    level, bars = logging_of.get_verbosity(), logging_of.is_progress_bar_enabled()
    logging_of.set_verbosity(logging.CRITICAL)
    logging_of.disable_progress_bar()
    try:
        yield
    finally:
        logging_of.set_verbosity(level)
        if bars:
            logging_of.enable_progress_bar()


def fetched(weights: str) -> str:
    """A checkpoint directory in an object store as one in the cache; what else names a checkpoint, as it is.

    Raises:
        UsageError: there is nothing, or the store cannot be used.
    """
    place = location(weights)
    return str(cached_directory(place, _is_of_model)) if is_cloud(place) else weights


def _is_of_model(name: str) -> bool:
    """Whether a file is of a model, and of no state of a training beside it."""
    return name.endswith(_MODEL_SUFFIXES) and not name.startswith("checkpoints/")


def read_config(weights: str, model_type: str) -> PreTrainedConfig:
    """The configuration of a checkpoint directory or hub model, which must be of `model_type`.

    Raises:
        UsageError: it is not there, cannot be reached, or is a checkpoint of another architecture.
    """
    at_hand = fetched(weights)
    if Path(at_hand).exists():
        _check_directory(Path(at_hand), weights)
    else:
        check_hub(weights)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(at_hand)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"the configuration of {weights} cannot be read: {first}", "give a Hugging Face checkpoint"
        ) from error
    if config.model_type != model_type:
        raise UsageError(
            f"{weights} is a checkpoint of {config.model_type!r}, this recipe builds {model_type!r}",
            "choose weights and recipe that belong together",
        )
    return config


def _check_directory(path: Path, name: str) -> None:
    """Refuse what `from_pretrained` would refuse at length. Pickled weights are refused: unpickling runs code."""
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{name} is no checkpoint: it has no config.json", "give the directory of a Hugging Face checkpoint"
        )
    if not (path / "model.safetensors").is_file() and not (path / "model.safetensors.index.json").is_file():
        pickled = (path / "pytorch_model.bin").is_file()
        raise UsageError(
            f"{name} has no weights in safetensors"
            + (", only pytorch_model.bin, whose loading can run code" if pickled else ""),
            "save it with save_pretrained (safetensors is the default) and give that directory",
        )


def check_hub(name: str) -> None:
    """Ask the hub once, where the model is not in the local cache: `from_pretrained` would retry for half a minute."""
    elsewhere = f"download it where there is a network (hf download {name} --local-dir DIR), and pass --weights DIR"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UsageError(f"there is no directory {name}", "check --weights")
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=_HUB_TIMEOUT_S)
    except HFValidationError as error:
        raise UsageError(f"{name!r} is neither a directory nor a hub name", "check --weights") from error
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise UsageError(f"the hub has no model {name}, or not for you", "check --weights, or hf auth login") from error
    except Exception as error:  # Which library carries the request, and so which error it raises, varies with versions.
        raise UsageError(f"{name} is not in the local cache and the hub cannot be reached", elsewhere) from error


def with_categories(config: PreTrainedConfig, categories: Categories) -> PreTrainedConfig:
    """`config` itself, with one class per category, in order. Both mappings: given one, transformers ignores it."""
    config.id2label = dict(enumerate(categories.names))
    config.label2id = {name: index for index, name in enumerate(categories.names)}
    return config


def class_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """The class names of a model, by index."""
    return tuple(config.id2label[index] for index in sorted(config.id2label))


def load_detector(
    model_class: type[PreTrainedModel],
    weights: str,
    categories: Categories,
    *,
    backbone: str | tuple[str, ...],
    class_head: str,
    **changes: Any,
) -> tuple[PreTrainedModel, LoadReport]:
    """A float32 detector for `categories` with the weights of a checkpoint; what does not fit starts at random.

    The model that is returned is made afresh, with random weights throughout, and then given every tensor of the
    checkpoint that it has a place for: whatever is not loaded is so as in a new model, never memory as it was found.
    The class head is kept only where the checkpoint has the same classes in the same order.

    Args:
        model_class: what to build; the checkpoint must be of this architecture.
        weights: checkpoint directory or hub name.
        categories: the classes to detect.
        backbone: prefix, or prefixes, of the names of the backbone's tensors.
        class_head: regular expression that the names of the tensors with one entry per class begin with.
        changes: further values of the configuration to change.

    Raises:
        UsageError: see `read_config`, `check_complete` and `check_finite`.
    """
    config = read_config(weights, model_class.config_class.model_type)
    keep_classes = class_names(config) == categories.names
    stored, absent, left_over = _stored(model_class, weights, config)
    config = with_categories(copy.deepcopy(config), categories)
    for name, value in changes.items():
        setattr(config, name, value)
    model = model_class(config)
    wanted = model.state_dict()
    loaded = {
        name: tensor
        for name, tensor in stored.items()
        if name not in absent
        and name in wanted
        and tensor.shape == wanted[name].shape
        and (keep_classes or not re.match(class_head, name))
    }
    lost = [name for name in sorted(set(wanted) - set(loaded)) if name.startswith(backbone)]
    check_complete(weights, lost)
    check_finite(weights, model, loaded)
    model.load_state_dict(loaded, strict=False)
    report = LoadReport(
        source=weights,
        identity=identity_of(weights, getattr(config, "_commit_hash", None)),
        loaded=tuple(sorted(loaded)),
        reinitialised=tuple(sorted(set(wanted) - set(loaded))),
        left_over=tuple(sorted({*left_over, *(set(stored) - set(wanted))})),
    )
    return model.eval(), report


def check_complete(weights: str, lost: Sequence[str]) -> None:
    """Refuse a checkpoint without which a part of the backbone would be random, and training never say so.

    Args:
        weights: what the checkpoint was called.
        lost: names of the backbone's tensors that it does not have in their shape.

    Raises:
        UsageError: there are some.
    """
    if lost:
        raise UsageError(
            f"{weights} does not fit: {len(lost)} tensors of the backbone are missing or of another shape, "
            f"such as {lost[0]}",
            "give the checkpoint of a model with this backbone",
        )


def check_finite(weights: str, model: nn.Module, loaded: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint with which the first loss would be no number, and the images be suspected.

    Args:
        weights: what the checkpoint was called.
        model: has the parameters that are looked at; a buffer may hold what is not finite, such as a mask.
        loaded: tensors of the checkpoint by their names in the model.

    Raises:
        UsageError: a parameter has values that are not finite.
    """
    bad = [name for name, _ in model.named_parameters() if name in loaded and not bool(loaded[name].isfinite().all())]
    if bad:
        raise UsageError(
            f"{weights} is damaged: {len(bad)} of its tensors hold values that are not finite, such as {bad[0]}",
            "give other weights",
        )


def _stored(
    model_class: type[PreTrainedModel], weights: str, config: PreTrainedConfig
) -> tuple[dict[str, Tensor], set[str], set[str]]:
    """The tensors of a checkpoint by the names they have in memory, the names that it lacks, and those left over."""
    try:
        with quiet_transformers():
            model, info = model_class.from_pretrained(
                fetched(weights),
                config=config,
                dtype="float32",
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (OSError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"the weights of {weights} cannot be read: {first}", "give a checkpoint with model.safetensors"
        ) from error
    mismatched = {entry[0] if isinstance(entry, tuple) else entry for entry in info["mismatched_keys"]}
    return model.state_dict(), {*info["missing_keys"], *mismatched}, set(info["unexpected_keys"])


def identity_of(weights: str, commit: str | None) -> str:
    """What says which weights these were, wherever they lay: the hub's commit, or a digest of the files."""
    folder = Path(fetched(weights))
    if not folder.is_dir():
        return f"{weights}@{commit}"
    digest = hashlib.sha256()
    files = folder.glob("*.safetensors"), folder.rglob("*.safetensors"), folder.rglob("*.bin")
    for path in next((found for found in map(sorted, files) if found), []):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"
