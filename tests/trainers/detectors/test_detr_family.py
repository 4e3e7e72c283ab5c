"""Every architecture of the DETR family: losses, class heads, saving, and plain Hugging Face code as the reference."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForObjectDetection,
    ConditionalDetrImageProcessor,
    DeformableDetrForObjectDetection,
    DeformableDetrImageProcessor,
    DetrImageProcessor,
    RTDetrImageProcessor,
    YolosImageProcessor,
)

from dataflow.bridge.view import View
from dataflow.errors import UsageError
from dataflow.records import Categories
from tests.trainers.small_detrs import CATEGORIES, EVERY, SIZE, labels_of, noisy, pictures, small_detector
from trainers.detectors.checkpoints import class_names, with_categories
from trainers.detectors.detectors import detect, load_trained
from trainers.detectors.detr import ARCHITECTURES, build_detr, check_class_head
from trainers.detectors.detr_configs import small_deformable_detr_config

PROCESSORS = {
    "detr": DetrImageProcessor,
    "conditional_detr": ConditionalDetrImageProcessor,
    "deformable_detr": DeformableDetrImageProcessor,
    "rt_detr_v2": RTDetrImageProcessor,
    "d_fine": RTDetrImageProcessor,
    "yolos": YolosImageProcessor,
}


@pytest.fixture(params=EVERY)
def architecture(request: pytest.FixtureRequest):
    return request.param


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 100), (0, 320)])
def test_losses_and_gradients_are_finite_whatever_the_number_of_objects(architecture, counts):
    """More objects than queries: as many as there are queries are matched, the others left out."""
    model = small_detector(architecture).train()
    pixels, mask = pictures(SIZE, (100, 150))
    output = model(pixel_values=pixels, pixel_mask=mask, labels=labels_of(*counts))
    output.loss.backward()
    assert all(isinstance(value, torch.Tensor) for value in output.loss_dict.values())
    assert all(bool(value.isfinite()) for value in output.loss_dict.values())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_trained_for_a_step_saved_and_loaded_it_predicts_the_same(architecture, tmp_path: Path):
    model = small_detector(architecture).train()
    pixels, mask = pictures(SIZE, (100, 150))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model(pixel_values=pixels, pixel_mask=mask, labels=labels_of(2, 1)).loss.backward()
    untrained = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    # Of D-FINE's estimate of quality, which only its last layer's is used in the end.
    assert all("lqe_layers.0" in name for name in untrained)
    optimiser.step()
    model.eval().save_pretrained(tmp_path)
    with torch.no_grad():
        before = detect(model, model(pixel_values=pixels, pixel_mask=mask), limit=10)
        loaded = load_trained(tmp_path)
        after = detect(loaded, loaded(pixel_values=pixels, pixel_mask=mask), limit=10)
    assert type(loaded) is type(model)
    assert class_names(loaded.config) == CATEGORIES.names
    for a, b in zip(before, after, strict=True):
        assert len(a.boxes) == 10
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.labels, b.labels)
        assert (a.scores[:-1] >= a.scores[1:]).all()


def test_loss_and_detections_equal_plain_hugging_face_code(architecture, tmp_path: Path):
    """The same images, without padding, through our detector and through HF's model and its post-processing."""
    noisy(small_detector(architecture)).save_pretrained(tmp_path)
    ours, theirs = load_trained(tmp_path), AutoModelForObjectDetection.from_pretrained(tmp_path).eval()
    pixels, mask = pictures(SIZE, SIZE)
    labels = labels_of(2, 1)
    with torch.no_grad():
        output = ours(pixel_values=pixels, pixel_mask=mask, labels=labels)
        # Some of theirs put what they think of labels into the dictionaries.
        expected = theirs(pixel_values=pixels, labels=[dict(label) for label in labels])
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert output.loss_dict.keys() == expected.loss_dict.keys()
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.pred_boxes, expected.pred_boxes)
    # Of scores that are alike, each implementation lists another first.
    output.logits = expected.logits = torch.randn(expected.logits.shape)
    sizes = [(480, 640), (300, 200)]
    reference = PROCESSORS[architecture]().post_process_object_detection(expected, threshold=0.0, target_sizes=sizes)
    for found, want, (height, width) in zip(detect(ours, output, limit=20), reference, sizes, strict=True):
        best = want["scores"].argsort(descending=True)[:20]
        torch.testing.assert_close(found.scores, want["scores"][best])
        assert torch.equal(found.labels, want["labels"][best])
        cx, cy, w, h = (found.boxes * torch.tensor([width, height, width, height])).unbind(1)
        xyxy = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
        torch.testing.assert_close(xyxy, want["boxes"][best], rtol=1e-4, atol=1e-2)


def test_the_class_head_is_kept_for_the_same_classes_only(architecture, tmp_path: Path):
    model = noisy(small_detector(architecture))
    model.save_pretrained(tmp_path)
    same, report = build_detr(CATEGORIES, str(tmp_path), architecture=architecture)
    assert report.reinitialised == report.left_over == ()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in same.state_dict().items())
    for names in (("cat", "cow", "hen"), ("cat",), ("person", "car <b>", "dog", "hen")):
        other, report = build_detr(Categories(names), str(tmp_path), architecture=architecture)
        check_class_head(other, Categories(names))
        state, stored = other.state_dict(), model.state_dict()
        assert set(report.loaded) | set(report.reinitialised) == set(state)
        assert {name.split(".")[-1] for name in report.reinitialised} == {"weight", "bias"}
        assert all("class" in name or "score" in name for name in report.reinitialised)
        assert all(torch.equal(state[name], stored[name]) for name in report.loaded)
        for name in report.reinitialised:
            assert bool(state[name].isfinite().all())
            assert state[name].abs().max() < 6
            assert state[name].shape != stored[name].shape or not torch.equal(state[name], stored[name])
            if name.endswith("bias") and not ARCHITECTURES[architecture].no_object:
                torch.testing.assert_close(state[name].sigmoid(), torch.full_like(state[name], 0.01))


def test_proposals_that_nothing_would_train_are_refused(tmp_path: Path):
    def two_stage():
        config = small_deformable_detr_config()
        config.two_stage = True
        config.two_stage_num_proposals = 20
        return config

    with pytest.raises(UsageError, match="is a two-stage Deformable DETR, whose proposals nothing trains"):
        build_detr(CATEGORIES, None, two_stage, architecture="deformable_detr")
    config = with_categories(two_stage(), CATEGORIES)
    DeformableDetrForObjectDetection(config).save_pretrained(tmp_path)
    build_detr(CATEGORIES, str(tmp_path), architecture="deformable_detr")
    with pytest.raises(UsageError, match="is a two-stage Deformable DETR"):
        build_detr(Categories(("cat",)), str(tmp_path), architecture="deformable_detr")


def test_two_images_are_seen_as_six_channels(architecture, tmp_path: Path):
    view = View("stack", "signed")
    model = small_detector(architecture, view=view).train()
    pixels, mask = pictures(SIZE, SIZE, channels=6)
    model(pixel_values=pixels, pixel_mask=mask, labels=labels_of(2, 1)).loss.backward()
    noisy(model).save_pretrained(tmp_path)
    loaded = load_trained(tmp_path)
    with torch.no_grad():
        both = loaded(pixel_values=pixels, pixel_mask=mask).logits
        assert torch.equal(both, model(pixel_values=pixels, pixel_mask=mask).logits)
        pixels[:, 3:] = 0
        assert not torch.allclose(both, loaded(pixel_values=pixels, pixel_mask=mask).logits, atol=1e-7)


def test_fresh_weights_do_not_let_the_signal_vanish(architecture):
    """What comes out depends on the picture, from the first step on."""
    model = small_detector(architecture).eval()
    pixels, _ = pictures(SIZE, SIZE)
    with torch.no_grad():
        logits = model(pixel_values=pixels).logits
    assert (logits[0] - logits[1]).abs().max() > 1e-4


@pytest.mark.parametrize("architecture", ["rt_detr_v2", "d_fine"])
def test_fresh_boxes_start_at_the_anchors(architecture):
    """Twentieths of the picture around the cells' centres, as the authors have it."""
    model = small_detector(architecture).eval()
    pixels, _ = pictures(SIZE)
    with torch.no_grad():
        boxes = model(pixel_values=pixels).pred_boxes[0]
    shares = torch.tensor([0.05, 0.1, 0.2])
    assert (boxes[:, 2:, None] - shares).abs().min(-1).values.max() < 1e-3
    cells = boxes[(boxes[:, 2] - 0.05).abs() < 1e-3, 0] * SIZE[1] / 8
    assert len(cells)
    torch.testing.assert_close(cells.frac(), torch.full_like(cells, 0.5), atol=0.02, rtol=0)
