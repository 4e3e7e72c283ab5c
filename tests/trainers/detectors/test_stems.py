"""Stems for two images, from the weights of one."""

from pathlib import Path

import pytest
import torch

from dataflow.bridge.view import View
from dataflow.errors import UsageError
from tests.trainers.small_detrs import CATEGORIES, EVERY, SIZE, labels_of, noisy, pictures, small_detector
from trainers.detectors.detectors import load_trained
from trainers.detectors.detr import ARCHITECTURES, build_detr
from trainers.detectors.stems import channels_of, set_channels, stem_of

STACK, FRAMES = View("stack", "signed"), View("frames")


@pytest.mark.parametrize(("view", "after"), [(STACK, slice(0, 3)), (FRAMES, slice(3, 6))])
@pytest.mark.parametrize("architecture", EVERY)
def test_widened_it_does_with_the_after_frame_what_it_did_with_its_image(architecture, view, after, tmp_path: Path):
    one = noisy(small_detector(architecture))
    one.save_pretrained(tmp_path / "one")
    two, report = build_detr(CATEGORIES, str(tmp_path / "one"), architecture=architecture, view=view)
    name = stem_of(two)
    assert report.widened == (name,)
    assert report.reinitialised == report.left_over == ()
    assert f"1 widened to more channels ({name})" in str(report)
    assert channels_of(one.config) == 3
    assert channels_of(two.config) == 6
    pixels, mask = pictures(SIZE, (100, 150), channels=6)
    with torch.no_grad():
        wide = two(pixel_values=pixels, pixel_mask=mask)
        narrow = one(pixel_values=pixels[:, after], pixel_mask=mask)
    torch.testing.assert_close(wide.logits, narrow.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wide.pred_boxes, narrow.pred_boxes, rtol=1e-4, atol=1e-5)
    # The other image's weights are not stuck at zero.
    two.train()(pixel_values=pixels, pixel_mask=mask, labels=labels_of(2, 1)).loss.backward()
    gradient = two.get_parameter(stem_of(two)).grad
    assert gradient is not None
    assert all(bool(gradient[:, part].abs().sum() > 0) for part in (slice(0, 3), slice(3, 6)))


def test_six_channels_are_kept_by_save_and_load(tmp_path: Path):
    model = noisy(small_detector("rt_detr_v2", view=STACK))
    model.save_pretrained(tmp_path)
    again, report = build_detr(CATEGORIES, str(tmp_path), architecture="rt_detr_v2", view=STACK)
    assert report.widened == report.reinitialised == ()
    for loaded in (again, load_trained(tmp_path)):
        assert torch.equal(loaded.get_parameter(stem_of(loaded)), model.get_parameter(stem_of(model)))


def test_a_stem_of_two_images_is_not_cut_to_one(tmp_path: Path):
    small_detector("d_fine", view=STACK).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"takes 6 channels, images have 3; choose weights and --input that belong"):
        build_detr(CATEGORIES, str(tmp_path), architecture="d_fine")


@pytest.mark.parametrize("architecture", [name for name in EVERY if ARCHITECTURES[name].freezes_early_layers])
def test_a_stem_of_two_images_trains_where_that_of_one_is_frozen(architecture, tmp_path: Path):
    small_detector(architecture).save_pretrained(tmp_path)
    for view, trains in ((View(), False), (STACK, True)):
        model, _ = build_detr(CATEGORIES, str(tmp_path), architecture=architecture, view=view)
        assert model.get_parameter(stem_of(model)).requires_grad is trains


def test_every_mention_of_the_channels_is_changed():
    config = small_detector("d_fine").config
    set_channels(config, 6)
    assert config.backbone_config.num_channels == 6
    assert config.backbone_config.stem_channels == [6, 16, 16]
