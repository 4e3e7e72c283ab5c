"""Published weights of backbones, in the layout in which each library publishes them.

| library | a checkpoint is | such as |
|---|---|---|
| timm | `config.json` with `architecture`, `model.safetensors` | `timm/deit_base_distilled_patch16_224.fb_in1k` |
| transformers | `config.json` with `model_type`, `model.safetensors` | `microsoft/dit-base`, `microsoft/resnet-50` |
| transformers' DeiT and ViT, which become timm's | the same | `facebook/deit-base-distilled-patch16-224` |
| diffusers | `model_index.json`, `transformer/`, `vae/`, `scheduler/` | `facebook/DiT-XL-2-256` |

Several of these were published before safetensors: where there is only `*.bin`, torch reads it with `weights_only`,
which makes tensors and runs nothing.
"""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

from dataflow.errors import UsageError
from trainers.detectors.backbones import (
    RGB,
    BackboneKind,
    DiffusionBackbone,
    HuggingFaceBackbone,
    TimmBackbone,
    architecture_of,
)
from trainers.detectors.checkpoints import (
    LoadReport,
    check_complete,
    check_finite,
    check_hub,
    fetched,
    identity_of,
    quiet_transformers,
)
from trainers.detectors.stems import stem_of, widen_stem

_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Pretrained:
    """The tensors of a checkpoint, by their names in the body they are for."""

    tensors: Mapping[str, Tensor]
    left_over: tuple[str, ...]
    """Names in the checkpoint of tensors that the body has no place for."""


def find_checkpoint(weights: str) -> Path:
    """The directory of a checkpoint: itself, or where the hub's model of this name was downloaded to.

    Raises:
        UsageError: there is none, or the hub cannot be reached.
    """
    path = Path(fetched(weights))
    if not path.exists():
        path = _downloaded(weights)
    if not any((path / name).is_file() for name in ("config.json", "model_index.json")):
        raise UsageError(
            f"{weights} is no checkpoint: it has neither config.json nor model_index.json",
            "give the directory of a checkpoint of Hugging Face, timm or diffusers, or a run's",
        )
    return path


def _downloaded(name: str) -> Path:
    """A model of the hub from the local cache, or else from the hub; `*.bin` only where there are no safetensors."""
    with quiet_transformers():
        for asked in (True, False):
            if not asked:
                check_hub(name)
            for patterns in _WEIGHTS:
                try:
                    path = Path(snapshot_download(name, allow_patterns=["*.json", patterns], local_files_only=asked))
                except (LocalEntryNotFoundError, ValueError):
                    break
                if any(path.rglob(patterns)):
                    return path
    raise UsageError(f"{name} has no weights in safetensors or *.bin", "choose another --weights")


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file.

    Raises:
        UsageError: it is not there or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", "give a whole checkpoint") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no object", "give a whole checkpoint")
    return content


def kind_of_checkpoint(path: Path, wanted: BackboneKind | None) -> BackboneKind:
    """What the checkpoint in a directory is of; what it does not say is as `wanted`.

    Raises:
        UsageError: nothing that can be a backbone, or of another library or architecture than what is wanted.
    """
    if wanted is None:
        raise UsageError(
            f"{path} is no checkpoint of the recipe's detector, whose backbone is a network of its own",
            "choose a recipe with a backbone of this kind",
        )
    found: BackboneKind
    if (path / "model_index.json").is_file():
        transformer, vae = (_public(read_json(path / part / "config.json")) for part in ("transformer", "vae"))
        schedule = path / "scheduler" / "scheduler_config.json"
        scheduler = _public(read_json(schedule)) if schedule.is_file() else {}
        found = DiffusionBackbone(transformer, vae, scheduler)
        if isinstance(wanted, DiffusionBackbone):
            found = replace(found, block=wanted.block, timestep=wanted.timestep, trains=wanted.trains)
    else:
        found = _kind_by_config(path, read_json(path / "config.json"))
    if (there := architecture_of(found)) != (here := architecture_of(wanted)):
        raise UsageError(
            f"{path} is a checkpoint of {there}, the recipe's backbone is of {here}",
            "choose weights and recipe that belong together",
        )
    return found


def _kind_by_config(path: Path, config: Mapping[str, Any]) -> BackboneKind:
    if "architecture" in config or config.get("model_type") in ("deit", "vit"):
        from trainers.detectors.timm_body import kind_of as timm_kind

        return timm_kind(config)
    if "model_type" not in config:
        raise UsageError(
            f"{path / 'config.json'} has neither model_type nor architecture",
            "give a checkpoint of transformers, timm or diffusers",
        )
    from trainers.detectors.huggingface_body import kind_of as huggingface_kind

    return huggingface_kind(config)


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of diffusers without its notes on class and version."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def load_body(body: nn.Module, kind: BackboneKind, path: Path, weights: str, prefix: str) -> LoadReport:
    """Put the weights of a checkpoint into a body; a stem of other channels gets its weights by `widen_stem`.

    Args:
        body: what `build_body` made of `kind`.
        kind: what `kind_of_checkpoint` said.
        path: where the checkpoint is.
        weights: what it was called.
        prefix: of the body's names in the model around it, for the report.

    Raises:
        UsageError: weights cannot be read, or are not finite; the body has tensors that the checkpoint lacks or has in
            other shapes.
    """
    try:
        pretrained = _read(body, kind, path)
    except (OSError, SafetensorError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        if isinstance(error, UsageError):
            raise
        first = str(error).strip().partition("\n")[0]
        raise UsageError(f"the weights of {path} cannot be read: {first}", "give a whole checkpoint") from error
    wanted, found = body.state_dict(), dict(pretrained.tensors)
    stem = stem_of(body)
    if stem in found and found[stem].shape[1] == RGB != wanted[stem].shape[1]:
        found[stem] = widen_stem(found[stem], wanted[stem].shape[1])
    # Buffers other than statistics follow from the shape; libraries do not save them.
    needed = {name for name, _ in body.named_parameters()} | {name for name in wanted if "running_" in name}
    lost = sorted(needed - found.keys())
    lost += [name for name in wanted if name in found and found[name].shape != wanted[name].shape]
    check_complete(weights, [prefix + name for name in lost])
    taken = {name: tensor for name, tensor in found.items() if name in wanted}
    check_finite(weights, body, taken)
    body.load_state_dict(taken, strict=False)
    return LoadReport(
        source=weights,
        identity=identity_of(weights, path.name),
        loaded=tuple(sorted(prefix + name for name in taken)),
        left_over=tuple(sorted({*pretrained.left_over, *(set(found) - set(wanted))})),
    )


def _read(body: nn.Module, kind: BackboneKind, path: Path) -> Pretrained:
    match kind:
        case TimmBackbone():
            from trainers.detectors.timm_body import PREFIX, names_in_body

            tensors, own = names_in_body(_tensors(path)), body.state_dict()
            beside = [name.removeprefix(PREFIX) for name in tensors if name not in own]
            return Pretrained({name: tensor for name, tensor in tensors.items() if name in own}, tuple(beside))
        case HuggingFaceBackbone():
            return _read_huggingface(body, path)
        case DiffusionBackbone():
            from trainers.detectors.diffusion_body import read_weights

            return Pretrained(read_weights(path, kind), ())


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the one file of weights in a directory."""
    if (file := path / "model.safetensors").is_file():
        return load_file(file)
    if (file := path / "pytorch_model.bin").is_file():
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    raise UsageError(f"{path} has neither model.safetensors nor pytorch_model.bin", "give a whole checkpoint")


def _read_huggingface(body: Any, path: Path) -> Pretrained:
    """By transformers' own loader, which knows the older names of its models' tensors."""
    config = body.network.config
    config = type(config).from_dict({**config.to_dict(), "num_channels": RGB})
    with quiet_transformers():
        model, info = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
            path, config=config, dtype="float32", output_loading_info=True, ignore_mismatched_sizes=True
        )
    mismatched = {entry[0] if isinstance(entry, tuple) else entry for entry in info["mismatched_keys"]}
    random = set(info["missing_keys"]) | mismatched
    tensors = {f"network.{name}": tensor for name, tensor in model.state_dict().items() if name not in random}
    return Pretrained(tensors, tuple(info["unexpected_keys"]))
