"""The canvas of the DETR family: what padding may change, and in which frame boxes are."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dataflow.errors import UsageError
from tests.trainers.published_layouts import write_detr
from tests.trainers.small_detrs import MASKED, SIZE, UNMASKED, labels_of, noisy, pictures, small_detector
from trainers.detectors.detectors import load_trained
from trainers.detectors.detr import ARCHITECTURES

SIZES = ((100, 130), (33, 65), (128, 64), (97, 191))
"""Whole strides and none, of an image beside a larger one."""


def test_whatever_heeds_the_mask_is_held_to_it():
    assert MASKED == ("detr", "conditional_detr", "deformable_detr")
    assert UNMASKED == ("rt_detr_v2", "d_fine", "yolos")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("architecture", MASKED)
def test_padding_changes_neither_detections_nor_loss(architecture, size):
    """An image alone, as plain Hugging Face code has it, and beside a larger one on a larger canvas."""
    model = noisy(small_detector(architecture))
    pixels, mask = pictures(size, (150, 220), canvas=(161, 250))
    labels = labels_of(3, 2)
    with torch.no_grad():
        together = model(pixel_values=pixels, pixel_mask=mask)
        lost = model(pixel_values=pixels[:1], pixel_mask=mask[:1], labels=labels[:1])
        model._forward_pre_hooks.clear(), model._forward_hooks.clear()  # Only then is it what Hugging Face made it.
        for layer in model.modules():
            layer._forward_pre_hooks.clear(), layer._forward_hooks.clear()
        alone = model(pixel_values=pixels[:1, :, : size[0], : size[1]], labels=labels[:1])
        plain = model(pixel_values=pixels, pixel_mask=mask)
    torch.testing.assert_close(together.logits[:1], alone.logits, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(together.pred_boxes[:1], alone.pred_boxes, rtol=1e-4, atol=2e-5)
    assert lost.loss.item() == pytest.approx(alone.loss.item(), rel=1e-4)
    # Plain Hugging Face code lets padding in: this test can fail.
    assert (plain.logits[0] - alone.logits[0]).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", MASKED)
def test_padding_changes_no_gradient(architecture):
    gradients = []
    model = noisy(small_detector(architecture)).train()
    picture, labels = pictures((100, 130))[0], labels_of(3)
    for canvas in ((100, 130), (161, 250)):
        pixels, mask = pictures((100, 130), canvas=canvas)
        pixels[:, :, :100, :130] = picture
        model.zero_grad()
        model(pixel_values=pixels, pixel_mask=mask, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    largest = max(float(gradient.abs().max()) for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-6 * largest)


def test_padding_changes_nothing_in_a_checkpoint_of_the_published_layout(tmp_path: Path):
    """timm's ResNet with bottlenecks, as in facebook/detr-resnet-50."""
    model = load_trained(write_detr(tmp_path))
    pixels, mask = pictures((70, 90), (150, 220))
    with torch.no_grad():
        together = model(pixel_values=pixels, pixel_mask=mask)
        alone = model(pixel_values=pixels[:1, :, :70, :90], pixel_mask=mask[:1, :70, :90])
    torch.testing.assert_close(together.logits[:1], alone.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.pred_boxes[:1], alone.pred_boxes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", UNMASKED)
def test_what_takes_padding_for_picture_has_its_boxes_carried_to_the_image(architecture):
    """The exceptions: padding changes their detections. But labels and boxes are those of the image in either frame,
    and a canvas that is all image, as the recipes have it, is left alone."""
    model = noisy(small_detector(architecture))
    pixels, mask = pictures((96, 144), canvas=SIZE)
    share = torch.tensor([144 / 192, 96 / 128, 144 / 192, 96 / 128])
    on_image = labels_of(3)
    on_canvas = [{**label, "boxes": label["boxes"] * share} for label in on_image]
    with torch.no_grad():
        padded = model(pixel_values=pixels, pixel_mask=mask, labels=on_image)
        picture = model(pixel_values=pixels, labels=on_canvas)
        cut = model(pixel_values=pixels[..., :96, :144])
    torch.testing.assert_close(padded.pred_boxes * share, picture.pred_boxes)
    assert padded.loss.item() == pytest.approx(picture.loss.item(), rel=1e-6)
    assert torch.equal(on_canvas[0]["boxes"], on_image[0]["boxes"] * share)  # Labels themselves are left alone.
    assert not torch.allclose(padded.pred_boxes, cut.pred_boxes, atol=1e-3)


@pytest.mark.parametrize("architecture", UNMASKED)
def test_a_batch_of_one_size_changes_no_detection(architecture):
    # In double precision: which cells become queries hangs on scores that single precision may order either way.
    model = noisy(small_detector(architecture)).double()
    pixels, mask = pictures(SIZE, SIZE)
    pixels = pixels.double()
    with torch.no_grad():
        together = model(pixel_values=pixels, pixel_mask=mask)
        alone = model(pixel_values=pixels[:1], pixel_mask=mask[:1])
    torch.testing.assert_close(together.logits[:1], alone.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.pred_boxes[:1], alone.pred_boxes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", [*MASKED, *UNMASKED])
def test_sides_that_are_no_whole_strides_are_rounded_up(architecture):
    """RT-DETR's and D-FINE's pyramids raise an error in plain Hugging Face code; YOLOS leaves out what is over."""
    model = noisy(small_detector(architecture))
    seen: list[tuple[int, ...]] = []
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[-2:])))
    pixels, mask = pictures((115, 163))
    with torch.no_grad():
        boxes = model(pixel_values=pixels, pixel_mask=mask).pred_boxes
    stride = ARCHITECTURES[architecture].multiple_of
    assert seen == [(-(-115 // stride) * stride, -(-163 // stride) * stride)]
    assert bool(boxes.isfinite().all())


@pytest.mark.parametrize("architecture", ["rt_detr_v2", "d_fine"])
def test_fewer_cells_than_queries_is_said_so(architecture):
    model = small_detector(architecture)
    pixels, mask = pictures((32, 32))
    with pytest.raises(UsageError, match="picks 300 queries among the 21 cells of 32x32 px; resize to more pixels"):
        model(pixel_values=pixels, pixel_mask=mask)
