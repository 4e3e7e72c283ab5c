"""The heads against torchvision's own models, and against themselves in other batches."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, box_convert

from dataflow.errors import UsageError
from dataflow.records import Categories
from tests.trainers.small_backbones import KINDS
from tests.trainers.small_dense import HEADS, check_same, each_input, make_model, padded, random_labels, small
from trainers.detectors.dense import DenseDetector, Head, build_dense
from trainers.detectors.dense_heads import Levels
from trainers.detectors.detectors import load_trained

each_head = pytest.mark.parametrize("head", HEADS)


def sample_everything(model: DenseDetector) -> None:
    """Let Faster R-CNN train on all anchors and proposals, so that nothing is drawn."""
    if model.config.head == "faster_rcnn":
        for sampler in (model.head.rpn.fg_bg_sampler, model.head.roi.fg_bg_sampler):
            sampler.batch_size_per_image, sampler.positive_fraction = 10**6, 0.5


class _Features(nn.Module):
    """A backbone that gives what it was given, for torchvision's own models."""

    out_channels = 32

    def __init__(self, features: list[torch.Tensor]) -> None:
        super().__init__()
        self.features = features

    def forward(self, _: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        return OrderedDict((str(i), level) for i, level in enumerate(self.features))


def torchvision_twin(model: DenseDetector, features: list[torch.Tensor], size: tuple[int, int]) -> nn.Module:
    """torchvision's whole model, resizing to the size that the images have, on given features."""
    shape = {"min_size": min(size), "max_size": max(size), "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    if model.config.head == "fcos":
        return FCOS(
            _Features(features), 3, anchor_generator=AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3),
            head=model.head.fcos.head, score_thresh=0.01, nms_thresh=0.6, **shape,
        )  # fmt: skip
    if model.config.head == "retinanet":
        sizes = tuple(tuple(4 * stride * 2 ** (third / 3) for third in range(3)) for stride in (8, 16, 32))
        return RetinaNet(
            _Features(features), 3, anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3),
            head=model.head.retinanet.head, score_thresh=0.01, nms_thresh=0.6, detections_per_img=100, **shape,
        )  # fmt: skip
    sizes = tuple((4 * stride, 8 * stride) for stride in (8, 16, 32))
    twin = FasterRCNN(
        _Features(features), rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3),
        rpn_head=model.head.rpn.head, box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, 2),
        box_head=model.head.roi.box_head, box_predictor=model.head.roi.box_predictor,
        box_score_thresh=0.01, box_nms_thresh=0.6, **shape,
    )  # fmt: skip
    for sampler in (twin.rpn.fg_bg_sampler, twin.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image, sampler.positive_fraction = 10**6, 0.5
    return twin


@each_head
def test_loss_and_detections_equal_torchvisions_on_the_same_features(head: Head):
    model, size = make_model(head), (96, 128)
    sample_everything(model)
    images, labels = torch.rand(2, 3, *size), random_labels(4, 7)
    sizes = torch.tensor([size, size])
    with torch.no_grad():
        features, masks = model.pyramid(model.backbone(images, sizes), sizes, size)
        assert masks == [None, None, None]
        twin = torchvision_twin(model, features, size)
        scale = torch.tensor([size[1], size[0], size[1], size[0]])
        shift = 1 if head == "faster_rcnn" else 0  # torchvision's Faster R-CNN counts the background as class 0.
        targets = [
            {"boxes": box_convert(each["boxes"], "cxcywh", "xyxy") * scale, "labels": each["class_labels"] + shift}
            for each in labels
        ]
        expected_losses = twin.train()(list(images), targets)
        expected = twin.eval()(list(images))
        training = model.train()(images, labels=labels)
        output = model.eval()(images, labels=labels)
    assert set(output.loss_dict) == set(expected_losses)
    for name, value in expected_losses.items():
        assert value > 0
        assert training.loss_dict[name].item() == pytest.approx(value.item(), rel=1e-4)
    for got, want in zip(model.detect(output), expected, strict=True):
        assert len(want["boxes"]) > 10
        torch.testing.assert_close(
            box_convert(got.boxes, "cxcywh", "xyxy") * scale, want["boxes"], rtol=1e-4, atol=1e-2
        )
        torch.testing.assert_close(got.scores, want["scores"], rtol=1e-4, atol=1e-6)
        assert torch.equal(got.labels + shift, want["labels"])


@each_head
@each_input
@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 100)])
def test_losses_and_gradients_are_finite_whatever_the_number_of_objects(head: Head, inputs, counts):
    model = make_model(head, **inputs).train()
    output = model(torch.randn(2, inputs["num_channels"], 64, 96), labels=random_labels(*counts))
    output.loss.backward()
    assert all(bool(value.isfinite()) for value in output.loss_dict.values())
    assert output.loss.item() == pytest.approx(sum(value.item() for value in output.loss_dict.values()))
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert any(float(p.grad.abs().sum()) > 0 for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("head", ["retinanet", "faster_rcnn"])
@pytest.mark.parametrize("size", [(64, 96), (50, 77), (8, 8), (65, 31)])
@pytest.mark.parametrize("canvas", [(128, 160), (97, 131)])
@each_input
def test_padding_changes_neither_detections_nor_loss(head: Head, size, canvas, inputs):
    model = make_model(head, score_threshold=0.0, **inputs)
    sample_everything(model)
    torch.manual_seed(1)
    image, larger = torch.randn(inputs["num_channels"], *size), torch.randn(inputs["num_channels"], *canvas)
    labels = random_labels(5)
    with torch.no_grad():
        alone = model(image[None], labels=labels)
        together = model(*padded([image, larger], *canvas))
        in_padding = model(*padded([image], *canvas), labels=labels)
    for name, value in alone.loss_dict.items():
        torch.testing.assert_close(in_padding.loss_dict[name], value, rtol=1e-3, atol=1e-5)
    want = model.detect(alone)[0]
    for got in (model.detect(together)[0], model.detect(in_padding)[0]):
        assert len(got.scores) == len(want.scores)
        torch.testing.assert_close(got.scores, want.scores, rtol=1e-3, atol=1e-5)
        # Scores that are equal but for rounding may change places.
        apart = (got.boxes[:, None] - want.boxes[None]).abs().amax(dim=2)
        assert apart.amin(dim=1).max() < 1e-3


def test_the_score_of_an_anchor_in_the_padding_is_none():
    model = make_model("faster_rcnn")
    with torch.no_grad():
        output = model(*padded([torch.randn(3, 24, 40)], 128, 160))
    boxes = output.anchors[0]
    assert (boxes[:, 2] <= 40).all()
    assert (boxes[:, 3] <= 24).all()


@each_head
def test_saved_and_loaded_after_a_step_it_predicts_the_same(head: Head, tmp_path):
    model = make_model(head).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(2, 3, 64, 96), labels=random_labels(3, 1)).loss.backward()
    optimizer.step()
    model.eval().save_pretrained(tmp_path)
    loaded = load_trained(tmp_path)
    assert loaded.config.head == head
    pixels, mask = padded([torch.randn(3, 40, 70), torch.randn(3, 64, 64)], 64, 70)
    with torch.no_grad():
        check_same(model.detect(model(pixels, mask)), loaded.detect(loaded(pixels, mask)))


@pytest.mark.parametrize(
    ("head", "layers"),
    [
        ("retinanet", ["retinanet.head.classification_head.cls_logits"]),
        ("faster_rcnn", ["roi.box_predictor.bbox_pred", "roi.box_predictor.cls_score"]),
    ],
)
@pytest.mark.parametrize("names", [("cat",), ("cat", "cow", "hen")])
def test_other_classes_start_the_class_head_afresh(head: Head, layers: list[str], names, tmp_path):
    make_model(head).save_pretrained(tmp_path)
    other, report = build_dense(Categories(names), str(tmp_path), lambda: small(head=head))
    assert report.reinitialised == tuple(f"head.{layer}.{what}" for layer in layers for what in ("bias", "weight"))
    for layer in layers:
        weight = other.head.get_submodule(layer).weight
        assert bool(weight.isfinite().all())
        assert 0.0005 < weight.std() < 0.02  # The model above has five times the usual.


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ({}, {"head": "retinanet"}, "with the head 'fcos', this recipe builds one with the head 'retinanet'"),
        ({"head": "faster_rcnn"}, {}, "with the head 'faster_rcnn', this recipe builds one with the head 'fcos'"),
        (
            {"body": KINDS["beit"]},
            {"body": KINDS["deit"]},
            r"with a backbone of transformers \(beit\), this recipe builds one with a backbone of timm",
        ),
        (
            {"body": KINDS["resnet"]},
            {"body": KINDS["beit"]},
            r"of transformers \(resnet\), this recipe builds one with a backbone of transformers \(beit\)",
        ),
        (
            {"body": KINDS["convnext"]},
            {"body": KINDS["timm resnet"]},
            r"of timm \(convnext\), this recipe builds one with a backbone of timm \(resnet\)",
        ),
        ({}, {"body": KINDS["deit"]}, "with a residual network of its own, this recipe builds one with a backbone of"),
    ],
)
def test_a_dense_detector_of_another_kind_is_refused(there, here, said: str, tmp_path):
    DenseDetector(small(**there)).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=f"{said}.*; choose weights and recipe that belong together"):
        build_dense(Categories(("cat",)), str(tmp_path), lambda: small(**here))


def test_an_unknown_head_lists_the_alternatives():
    with pytest.raises(UsageError, match="no head 'yolo'; choose among fcos, retinanet, faster_rcnn"):
        small(head="yolo")


def test_weights_that_lack_a_part_do_not_load_as_a_trained_model(tmp_path):
    """Such as those from before the parts had their names: a random detector would predict and never say so."""
    model = make_model("fcos")
    state = {f"fcos.{name}": tensor for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UsageError, match=r"lacks \d+ of the model's tensors, such as backbone\.stages"):
        load_trained(tmp_path)


@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_anchors_lie_around_the_centres_of_cells(centre: float):
    features = [torch.zeros(1, 8, 3, 4), torch.zeros(1, 8, 2, 2)]
    levels = Levels(features, [None, None], (8, 16), centre, (24, 32), torch.tensor([[24, 32]]))
    first, second = levels.anchors([4.0, 8.0])
    assert (len(first), len(second)) == (3 * 4 * 6, 2 * 2 * 6)
    middle = (first[:, :2] + first[:, 2:]) / 2
    assert middle[0].tolist() == [8 * centre] * 2
    assert middle[-1].tolist() == [8 * (3 + centre), 8 * (2 + centre)]
    areas = (second[:, 2:] - second[:, :2]).prod(dim=1)
    assert (areas / torch.tensor([64.0**2, 128.0**2] * 3).repeat(4)).sub(1).abs().max() < 0.02  # Whole pixels.


@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_regions_are_pooled_where_they_are(centre: float):
    """Features that say which pixel their cell is centred on; regions of the finest and the middle level."""
    head = make_model("faster_rcnn").head
    grids, strides = [(64, 64), (32, 32), (16, 16)], (8, 16, 32)
    features = []
    for (height, width), stride in zip(grids, strides, strict=True):
        y, x = ((torch.arange(count) + centre) * stride for count in (height, width))
        features.append(torch.stack(torch.meshgrid(x, y, indexing="xy"))[None].float())
    levels = Levels(features, [None] * 3, strides, centre, (512, 512), torch.tensor([[512, 512]]))
    regions = torch.tensor([[100.0, 200, 140, 290], [40, 60, 340, 300]])
    pooled = head.pool(levels, [regions]).mean(dim=(2, 3))
    torch.testing.assert_close(pooled, (regions[:, :2] + regions[:, 2:]) / 2, rtol=1e-5, atol=1e-2)


def test_faster_rcnn_on_a_plain_backbone_is_independent_of_padding():
    torch.manual_seed(0)
    config = small(head="faster_rcnn", box_head_width=32, body=KINDS["beit"], score_threshold=0.0)
    model = DenseDetector(config).eval()
    image, larger = torch.randn(3, 50, 77), torch.randn(3, 64, 97)
    with torch.no_grad():
        want, got = model.detect(model(image[None]))[0], model.detect(model(*padded([image, larger], 64, 97)))[0]
    torch.testing.assert_close(got.scores, want.scores, rtol=1e-3, atol=1e-5)
