"""DETR against plain Hugging Face code, and its loading from checkpoints of the published layout."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor

from dataflow.boxes import xyxy_to_coco
from dataflow.bridge.batches import normalise
from dataflow.bridge.loader import BatchLoader
from dataflow.errors import UsageError
from dataflow.images import decode_rgb
from dataflow.records import Categories, Objects
from tests.trainers.published_layouts import DETR_BACKBONE, DETR_R50, write_detr
from tests.trainers.small_sets import square_picture, write_dataset
from trainers.detectors import checkpoints
from trainers.detectors.detectors import detect, load_trained
from trainers.detectors.detr import build_detr
from trainers.detectors.detr_configs import small_detr_config
from trainers.recipes.detr import detr_r50, detr_small
from trainers.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD

CATEGORIES = Categories(("person", "car <b>", "dog"), (7, 3, 90))


def tiny_config() -> DetrConfig:
    config = small_detr_config()
    config.backbone_config.embedding_size = 16  # oneDNN corrupts memory below 16.
    config.backbone_config.hidden_sizes = [16, 16, 16, 16]
    config.d_model = config.encoder_ffn_dim = config.decoder_ffn_dim = 32
    config.encoder_layers = 1
    config.num_queries = 30
    return config


def tiny_detr(categories: Categories = CATEGORIES) -> DetrForObjectDetection:
    torch.manual_seed(0)
    return build_detr(categories, None, tiny_config, train_early_layers=True)[0]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory in the layout of facebook/detr-resnet-50."""
    return write_detr(tmp_path_factory.mktemp("detr-resnet-50"))


def test_the_published_layout_loads_with_a_class_head_for_the_dataset(published: Path):
    model, report = build_detr(CATEGORIES, str(published))
    assert report.reinitialised == ("class_labels_classifier.bias", "class_labels_classifier.weight")
    assert report.left_over == ()
    assert report.identity.startswith("sha256:")
    stored = load_file(published / "model.safetensors")
    loaded = model.state_dict()
    assert set(report.loaded) | set(report.reinitialised) == set(loaded)
    for name in ("conv1.weight", "layer3.1.conv3.weight", "layer4.0.downsample.1.running_mean"):
        assert torch.equal(loaded["model.backbone.model." + name], stored[DETR_BACKBONE + name])
    assert torch.equal(
        loaded["model.query_position_embeddings.weight"], stored["model.query_position_embeddings.weight"]
    )
    assert model.class_labels_classifier.out_features == 4
    assert model.config.id2label == {0: "person", 1: "car <b>", 2: "dog"}
    assert model.config.label2id == {"person": 0, "car <b>": 1, "dog": 2}
    assert model.dtype == torch.float32
    labels = [{"class_labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}]
    output = model(pixel_values=torch.randn(1, 3, 64, 64), labels=labels)
    assert "loss_bbox_0" in output.loss_dict  # Of the decoder's first layer: DETR learns much faster so.
    assert output.loss.isfinite()


def test_of_a_pretrained_backbone_all_but_stem_and_first_stage_train(published: Path):
    model, _ = build_detr(CATEGORIES, str(published))
    trains = {name: p.requires_grad for name, p in model.named_parameters()}
    frozen = {name.split(".")[3] for name, trained in trains.items() if not trained}
    assert frozen == {"conv1", "layer1"}
    assert trains["model.backbone.model.layer2.0.conv1.weight"]
    assert all(trained for name, trained in trains.items() if ".backbone." not in name)


def test_hugging_faces_own_resnet_trains_where_it_should():
    trains = {name: p.requires_grad for name, p in tiny_detr().named_parameters()}
    assert all(trains.values())
    model, _ = build_detr(CATEGORIES, None, tiny_config)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert all(".embedder." in name or ".encoder.stages.0." in name for name in frozen)
    assert len(frozen) == 3


def test_a_checkpoint_without_its_backbone_is_refused(published: Path, tmp_path: Path):
    stored = load_file(published / "model.safetensors")
    save_file({k: v for k, v in stored.items() if "layer3" not in k}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(DETR_R50))
    with pytest.raises(UsageError, match=r"does not fit: \d+ tensors of the backbone are missing"):
        build_detr(CATEGORIES, str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "config.json").write_text('{"model_type": "conditional_detr"}'), "of 'conditional_detr', this"),
        (lambda d: (d / "config.json").write_text("{"), "configuration of .* cannot be read"),
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (
            lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
            "no weights in safetensors, only pytorch",
        ),
        (lambda d: (d / "model.safetensors").write_bytes(b"not weights"), "weights of .* cannot be read"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, change, message: str):
    tiny_detr().save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises(UsageError, match=message) as error:
        build_detr(CATEGORIES, str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("weights", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_directory_that_is_not_there_is_said_to_be_missing(weights: str):
    with pytest.raises(UsageError, match="there is no directory"):
        build_detr(CATEGORIES, weights)


def test_a_hub_name_without_a_network_says_how_to_do_without(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(checkpoints.HfApi, "model_info", unreachable)
    monkeypatch.setattr(checkpoints, "try_to_load_from_cache", lambda *_: None)
    recipe = detr_r50()
    with pytest.raises(UsageError, match=r"hub cannot be reached; download it .*pass --weights DIR") as error:
        recipe.build(CATEGORIES, recipe.weights)
    assert "facebook/detr-resnet-50" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_class_head_is_kept_for_the_same_classes_only(tmp_path: Path):
    model = tiny_detr()
    model.save_pretrained(tmp_path)
    same, report = build_detr(CATEGORIES, str(tmp_path))
    assert report.reinitialised == ()
    assert torch.equal(same.class_labels_classifier.weight, model.class_labels_classifier.weight)
    others, report = build_detr(Categories(("cat", "cow", "hen")), str(tmp_path))
    assert report.reinitialised == ("class_labels_classifier.bias", "class_labels_classifier.weight")
    assert not torch.equal(others.class_labels_classifier.weight, model.class_labels_classifier.weight)
    assert others.class_labels_classifier.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert torch.equal(others.bbox_predictor.layers[0].weight, model.bbox_predictor.layers[0].weight)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (30, 100)])
def test_losses_and_gradients_are_finite_whatever_the_number_of_objects(counts):
    model = tiny_detr().train()
    labels = [
        {"class_labels": torch.randint(3, (n,)), "boxes": 0.25 + 0.5 * torch.rand(n, 4)} for n in counts
    ]  # fmt: skip
    output = model(pixel_values=torch.randn(2, 3, 64, 96), pixel_mask=torch.ones(2, 64, 96), labels=labels)
    output.loss.backward()
    assert all(bool(torch.as_tensor(value).isfinite()) for value in output.loss_dict.values())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_loss_and_detections_equal_plain_hugging_face_code(tmp_path: Path):
    """The same stored image through our batches and detector, and through HF's processor, model and post-processing."""
    objects = Objects([[4, 8, 40, 44], [30, 2, 90, 60]], [2, 0])
    record = square_picture("one", (64, 96), objects)
    dataset = write_dataset(tmp_path, {"train": [record]}, CATEGORIES)
    recipe = detr_small()
    checkpoint = tmp_path / "checkpoint"
    tiny_detr().save_pretrained(checkpoint)
    batch = next(iter(BatchLoader(dataset, "train", recipe.resize, 1, training=False)))
    ours = load_trained(checkpoint)
    labels = [{"class_labels": target.category_ids, "boxes": target.boxes} for target in batch.targets]
    with torch.no_grad():
        pixels = normalise(batch.pixel_values, batch.pixel_mask, IMAGENET_MEAN, IMAGENET_STD)
        output = ours(pixel_values=pixels, pixel_mask=batch.pixel_mask, labels=labels)
    found = detect(ours, output)[0]

    processor = DetrImageProcessor(size={"shortest_edge": 256, "longest_edge": 416})
    theirs = DetrForObjectDetection.from_pretrained(checkpoint).eval()
    boxes = xyxy_to_coco(objects.boxes).tolist()
    annotations = [
        {"image_id": 1, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for box, c in zip(boxes, objects.category_ids.tolist(), strict=True)
    ]
    image = Image.fromarray(decode_rgb(record.image))
    encoded = processor(image, annotations={"image_id": 1, "annotations": annotations}, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**encoded)
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert output.loss_dict.keys() == expected.loss_dict.keys()
    want = processor.post_process_object_detection(expected, threshold=0.0, target_sizes=[(64, 96)])[0]
    order = want["scores"].argsort(descending=True, stable=True)
    torch.testing.assert_close(found.scores, want["scores"][order], rtol=1e-5, atol=1e-6)
    assert torch.equal(found.labels, want["labels"][order])
    cx, cy, w, h = (found.boxes * torch.tensor([96, 64, 96, 64])).unbind(1)
    xyxy = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    torch.testing.assert_close(xyxy, want["boxes"][order], rtol=1e-4, atol=1e-2)
    assert len(found.scores) == 30


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path):
    model = tiny_detr().eval()
    model.save_pretrained(tmp_path)
    pixels, mask = torch.randn(2, 3, 64, 96), torch.ones(2, 64, 96, dtype=torch.bool)
    mask[1, 40:] = False
    with torch.no_grad():
        before = detect(model, model(pixel_values=pixels, pixel_mask=mask), limit=10)
        loaded = load_trained(tmp_path)
        after = detect(loaded, loaded(pixel_values=pixels, pixel_mask=mask), limit=10)
    for a, b in zip(before, after, strict=True):
        assert len(a.boxes) == 10
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.labels, b.labels)
        assert (a.scores[:-1] >= a.scores[1:]).all()
