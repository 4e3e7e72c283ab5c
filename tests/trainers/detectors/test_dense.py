"""The dense detector with FCOS's head against itself in other batches, and against the disk."""

import math
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torchvision.ops import box_convert, box_iou
from transformers import AutoConfig, AutoModelForObjectDetection

from dataflow.errors import UsageError
from dataflow.records import Categories
from tests.trainers.small_dense import CATEGORIES, each_input, make_model, overfit, padded, random_labels, small
from trainers.detectors.areas import group_norm
from trainers.detectors.dense import DenseDetector, build_dense


@pytest.mark.parametrize("size", [(64, 96), (50, 77), (33, 130), (8, 8), (65, 31)])
@pytest.mark.parametrize("canvas", [(128, 160), (97, 131)])
@each_input
def test_padding_changes_neither_detections_nor_loss(size, canvas, inputs):
    """Tolerance: the order of floating-point sums, which convolution chooses by the size of its input."""
    canvas = (max(canvas[0], size[0]), max(canvas[1], size[1]))
    model = make_model(score_threshold=0.0, **inputs)
    torch.manual_seed(1)
    image, larger = torch.randn(inputs["num_channels"], *size), torch.randn(inputs["num_channels"], *canvas)
    labels = random_labels(5)
    with torch.no_grad():
        alone = model(image[None], labels=labels)
        together = model(*padded([image, larger], *canvas))
        in_padding = model(*padded([image], *canvas), labels=labels)
    for name, value in alone.loss_dict.items():
        torch.testing.assert_close(in_padding.loss_dict[name], value, rtol=1e-4, atol=1e-5)
    for raw in ("logits", "regression", "centredness"):
        own = real_cells(getattr(alone, raw), size, size)
        torch.testing.assert_close(real_cells(getattr(together, raw)[:1], canvas, size), own, rtol=1e-3, atol=1e-4)
    want, got = model.detect(alone)[0], model.detect(together)[0]
    torch.testing.assert_close(got.scores[:10], want.scores[:10], rtol=1e-3, atol=1e-4)
    assert len(got.scores) == len(want.scores)


def real_cells(rows: torch.Tensor, canvas: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """The rows (1, A, C) of the cells that belong to an image of `size` on a canvas."""
    parts, start = [], 0
    for stride in (8, 16, 32):
        height, width = (math.ceil(side / stride) for side in canvas)
        level = rows[:, start : start + height * width].reshape(1, height, width, -1)
        parts.append(level[:, : math.ceil(size[0] / stride), : math.ceil(size[1] / stride)].flatten(1, 2))
        start += height * width
    assert start == rows.shape[1]
    return torch.cat(parts, dim=1)


@each_input
def test_padding_changes_no_gradient(inputs):
    model = make_model(**inputs).train()
    torch.manual_seed(2)
    image, labels = torch.randn(inputs["num_channels"], 50, 70), random_labels(4)
    gradients = []
    for pixels, mask in ((image[None], None), padded([image], 96, 97)):
        model.zero_grad()
        model(pixels, mask, labels).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for own, in_padding in zip(*gradients, strict=True):
        torch.testing.assert_close(in_padding, own, rtol=1e-3, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 7), width=st.integers(1, 9), extra=st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_masked_group_norm_is_group_norm_of_the_unmasked_part(height, width, extra):
    norm = nn.GroupNorm(2, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(1, 6, height + extra[0], width + extra[1])
    mask = torch.zeros(1, 1, *x.shape[2:], dtype=torch.bool)
    mask[:, :, :height, :width] = True
    got = group_norm(norm, x, mask)
    torch.testing.assert_close(got[:, :, :height, :width], norm(x[:, :, :height, :width]), rtol=1e-4, atol=1e-5)
    assert not got.masked_select(~mask).any()


def test_pyramid_has_strides_8_16_32():
    model, size = make_model(), torch.tensor([[70, 100]])
    levels, masks = model.pyramid(model.backbone(torch.randn(1, 3, 70, 100), size), size, (70, 100))
    assert model.pyramid.strides == (8, 16, 32)
    assert [tuple(level.shape) for level in levels] == [(1, 32, 9, 13), (1, 32, 5, 7), (1, 32, 3, 4)]
    assert masks == [None, None, None]


def test_saved_it_is_a_model_of_hugging_face(tmp_path: Path):
    make_model().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert type(AutoModelForObjectDetection.from_pretrained(tmp_path)) is DenseDetector
    assert AutoConfig.from_pretrained(tmp_path).widths == [8, 8, 16, 16]


def test_it_starts_with_large_boxes_and_low_scores():
    torch.manual_seed(0)
    model = DenseDetector(small())
    output = model(torch.randn(1, 3, 64, 64))
    assert output.logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.005)
    assert output.regression.mean().item() == pytest.approx(2.0, abs=0.3)


def test_another_number_of_classes_starts_the_class_head_afresh(tmp_path: Path):
    make_model().save_pretrained(tmp_path)
    model, report = build_dense(Categories(("cat",)), str(tmp_path))
    head = "head.fcos.head.classification_head.cls_logits"
    assert report.reinitialised == (f"{head}.bias", f"{head}.weight")
    assert report.left_over == ()
    assert f"{report}".startswith(
        f"weights: {len(report.loaded)} tensors loaded from {tmp_path}; 2 started at random ("
    )
    bias = model.get_submodule(head).bias
    assert bias.detach().tolist() == pytest.approx([-math.log(99)])
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_another_pyramid_under_the_weights_is_refused(tmp_path: Path):
    make_model().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"pyramid_channels": 32', '"pyramid_channels": 64'))
    with pytest.raises(UsageError, match=r"tensors of the backbone are missing or of another shape, such as pyramid\."):
        build_dense(CATEGORIES, str(tmp_path))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path):
    model = make_model()
    torch.nn.init.constant_(model.pyramid.smooth[1].bias, math.inf)
    model.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"damaged: 1 of its tensors .* such as pyramid\.smooth\.1\.bias; give other"):
        build_dense(CATEGORIES, str(tmp_path))


def test_it_overfits_one_batch():
    torch.manual_seed(0)
    model = DenseDetector(small()).train()
    pixels = torch.zeros(2, 3, 64, 96)
    boxes = torch.tensor([[16.0, 12, 40, 44], [56, 20, 80, 56]])
    labels = []
    for i, (box, colour) in enumerate(zip(boxes, (0, 1), strict=True)):
        x0, y0, x1, y1 = box.int().tolist()
        pixels[i, colour, y0:y1, x0:x1] = 3
        relative = box_convert(box[None], "xyxy", "cxcywh") / torch.tensor([96, 64, 96, 64])
        labels.append({"class_labels": torch.tensor([colour]), "boxes": relative})
    overfit(model, pixels, labels)
    for image, detections in enumerate(model.eval().detect(model(pixels))):
        assert detections.labels[0] == image
        best = box_convert(detections.boxes[:1], "cxcywh", "xyxy") * torch.tensor([96, 64, 96, 64])
        assert box_iou(best, boxes[image : image + 1]).item() > 0.7


@each_input
def test_batches_with_channels_last_give_the_same_gradients(inputs):
    """The bridge's batches lie so in memory; a strided 1x1 convolution of few channels would corrupt it there."""
    model = make_model(widths=(8, 8, 8, 8), **inputs)
    pixels, labels = torch.randn(3, inputs["num_channels"], 40, 48), random_labels(1, 2, 3)
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model.zero_grad()
        model(pixels.contiguous(memory_format=layout), labels=labels).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    largest = max(float(gradient.abs().max()) for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5 * largest)
