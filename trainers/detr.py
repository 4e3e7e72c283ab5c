"""DETR (Carion et al. 2020) as Hugging Face has it: from a hub name, a local checkpoint, or from random weights.

Unlike the dense detector's, DETR's results do depend a little on padding: its backbone lets values leak from an image
into its padding and back (probabilities of a model with random weights moved by up to 0.01). Published weights were
trained that way.
"""

import re
from collections.abc import Callable

import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.utils import ModelOutput

from dataflow.errors import UsageError
from dataflow.records import Categories
from dataflow.view import View
from trainers.checkpoints import LoadReport, class_names, load_detector, with_categories
from trainers.detections import Detections

DETR_R50 = "facebook/detr-resnet-50"
_BACKBONE = "model.backbone."
_EARLY = re.compile(r"model\.backbone\.model\.(conv1|bn1|layer1|embedder|encoder\.stages\.0)\.")
"""Names of the stem and first stage of timm's ResNet, and of Hugging Face's."""


def small_detr_config() -> DetrConfig:
    """A DETR for laptops and tests: 3 M parameters, no published weights, no timm."""
    backbone = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 256],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    return DetrConfig(
        backbone_config=backbone,
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=100,
        dropout=0.0,
    )


def build_detr(
    categories: Categories,
    weights: str | None,
    config: Callable[[], DetrConfig] | None = None,
    train_early_layers: bool = False,
    *,
    view: View = View(),
) -> tuple[DetrForObjectDetection, LoadReport]:
    """A DETR for `categories`.

    Args:
        weights: hub name or checkpoint directory; None for random weights throughout.
        config: what to build where there are no weights.
        train_early_layers: train the backbone's stem and first stage too; without, they keep the weights they have,
            as in DETR itself (its section A.4), which makes sense with pretrained weights only.
        view: what it is shown; one RGB image.

    Raises:
        UsageError: see `load_detector`; there are neither weights nor a configuration; the view has two images.
    """
    if view.images != 1:
        raise UsageError(
            f"DETR is shown one image, not two (--input {view.inputs})", "use --input image, or a dense_ recipe"
        )
    if weights is not None:
        model, report = load_detector(
            DetrForObjectDetection,
            weights,
            categories,
            backbone=_BACKBONE,
            class_head="class_labels_classifier",
            auxiliary_loss=True,
        )
    elif config is not None:
        detr_config = with_categories(config(), categories)
        detr_config.auxiliary_loss = True
        model, report = DetrForObjectDetection(detr_config), LoadReport("")
    else:
        raise UsageError("this recipe wants weights to start from", "pass --weights NAME or --weights DIR")
    check_class_head(model, categories)
    _choose_trainable(model, train_early_layers)
    return model, report


def check_class_head(model: DetrForObjectDetection, categories: Categories) -> None:
    """The class head has one output per category, in order, and the no-object class last."""
    assert model.class_labels_classifier.out_features == len(categories) + 1
    assert class_names(model.config) == categories.names


def _choose_trainable(model: DetrForObjectDetection, train_early_layers: bool) -> None:
    """Say for every parameter of the backbone whether it trains.

    Hugging Face means to freeze the stem and first stage, but matches other names than its own ResNet has: that one
    it freezes whole, timm's not at all. Batch norm is frozen inside the model, whatever is chosen here.
    """
    for name, parameter in model.named_parameters():
        if name.startswith(_BACKBONE):
            parameter.requires_grad_(train_early_layers or not _EARLY.match(name))


@torch.no_grad()
def detect(model: DetrForObjectDetection, output: ModelOutput, limit: int = 100) -> list[Detections]:
    """The best `limit` detections of every image: each query's best class, whatever its score.

    Probabilities are taken over all classes and no-object, which is the last and never chosen. Boxes are relative to
    the unpadded image because the labels were.
    """
    scores, labels = output.logits.float().softmax(-1)[..., :-1].max(-1)
    detections = []
    for image in range(len(scores)):
        best = scores[image].argsort(descending=True, stable=True)[:limit]
        detections.append(Detections(output.pred_boxes[image, best].float(), scores[image, best], labels[image, best]))
    return detections
