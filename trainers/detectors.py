"""The detectors there are, and what they have in common: one way to detections, whatever the architecture.

A further detector is a further file, and a line in `_DECODERS`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoModelForObjectDetection, PreTrainedModel
from transformers.utils import ModelOutput

from dataflow.errors import UsageError
from trainers import dense, detr
from trainers.checkpoints import quiet_transformers
from trainers.detections import Detections

_DECODERS: Mapping[str, Callable[[Any, Any, int], list[Detections]]] = {
    **dict.fromkeys(detr.ARCHITECTURES, detr.detect),
    dense.DenseDetectorConfig.model_type: dense.DenseDetector.detect,
}


def detect(model: PreTrainedModel, output: ModelOutput, limit: int = 100) -> list[Detections]:
    """The best `limit` detections of every image in the batch that gave `output`; see `Detections` for their frame.

    No score is too low: average precision wants the whole ranking.
    """
    return _DECODERS[model.config.model_type](model, output, limit)


def load_trained(path: Path) -> PreTrainedModel:
    """A trained detector, ready to detect; see `save_pretrained`. Only safetensors are read.

    Raises:
        UsageError: the file lacks weights of the model, which would be random ones then.
    """
    with quiet_transformers():
        model, info = AutoModelForObjectDetection.from_pretrained(
            path, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    if lacking := sorted(info["missing_keys"]):
        raise UsageError(
            f"{path} lacks {len(lacking)} of the model's tensors, such as {lacking[0]}", "train again with this version"
        )
    model.eval()
    return detr.ready(model) if model.config.model_type in detr.ARCHITECTURES else model
