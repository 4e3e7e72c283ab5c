"""The dense detector that compares the frames of a pair, against the same detector on each frame alone."""

from pathlib import Path

import pytest
import torch
from torchvision.ops import box_convert, box_iou
from transformers import AutoConfig, AutoModelForObjectDetection

from dataflow.bridge.view import View
from dataflow.errors import UsageError
from tests.trainers.small_dense import CATEGORIES, check_same, make_model, overfit, padded, random_labels, small
from trainers.detectors.dense import DenseDetector, build_dense

PAIR = {"num_channels": 6, "compares_frames": True}


def maps_under_the_pyramid(model: DenseDetector, pixels: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    """What the pyramid gets from below, finest first."""
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: seen.insert(0, inputs[0])) for layer in model.pyramid.lateral
    ]
    with torch.no_grad():
        model(pixels, mask)
    for hook in hooks:
        hook.remove()
    return seen


def two_frames(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Before and after frames (2, 3, 64, 97) of two sizes, and their mask."""
    torch.manual_seed(seed)
    frames = [padded([torch.randn(3, 50, 97), torch.randn(3, 64, 70)], 64, 97) for _ in range(2)]
    return frames[0][0], frames[1][0], frames[0][1]


def test_the_pyramid_gets_the_maps_of_the_after_frame_less_those_of_the_before_frame():
    pair, single = make_model(**PAIR), make_model()
    single.load_state_dict(pair.state_dict())
    before, after, mask = two_frames()
    found = maps_under_the_pyramid(pair, torch.cat([before, after], dim=1), mask)
    left, arrived = (maps_under_the_pyramid(single, frame, mask) for frame in (before, after))
    assert [level.shape[1] for level in found] == [8, 16, 16]
    for difference, old, new in zip(found, left, arrived, strict=True):
        assert difference.abs().max() > 0.1
        torch.testing.assert_close(difference, new - old, rtol=1e-4, atol=1e-5)


def test_swapping_the_frames_negates_the_difference():
    model = make_model(**PAIR)
    before, after, mask = two_frames()
    forth = maps_under_the_pyramid(model, torch.cat([before, after], dim=1), mask)
    back = maps_under_the_pyramid(model, torch.cat([after, before], dim=1), mask)
    for one, other in zip(forth, back, strict=True):
        assert one.abs().max() > 0.1
        torch.testing.assert_close(other, -one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_frames_that_are_the_same_say_nothing_whatever_they_show(layout):
    model = make_model(**PAIR)
    first, second, mask = two_frames()
    logits = []
    for frame in (first, second):
        pixels = torch.cat([frame, frame], dim=1).contiguous(memory_format=layout)
        for level in maps_under_the_pyramid(model, pixels, mask):
            torch.testing.assert_close(level, torch.zeros_like(level), rtol=0, atol=1e-5)
        with torch.no_grad():
            logits.append(model(pixels, mask).logits)
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        moved = model(torch.cat([first, second], dim=1), mask).logits
    assert (moved - logits[0]).abs().max() > 0.1


@pytest.mark.parametrize("shown", ["before", "after"])
def test_gradients_reach_the_backbone_from_either_frame(shown: str):
    """A blank frame gives the stem's weights none, so what is there comes from the other."""
    model = make_model(**PAIR).train()
    torch.manual_seed(1)
    frame, blank = torch.randn(2, 3, 64, 96), torch.zeros(2, 3, 64, 96)
    frames = [frame, blank] if shown == "before" else [blank, frame]
    model(torch.cat(frames, dim=1), labels=random_labels(3, 2)).loss.backward()
    gradients = {name: p.grad for name, p in model.backbone.named_parameters()}
    assert all(g is not None and bool(g.isfinite().all()) and float(g.abs().sum()) > 0 for g in gradients.values())


def test_saved_and_loaded_it_still_compares_frames(tmp_path: Path):
    model = make_model(**PAIR)
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).compares_frames is True
    loaded = AutoModelForObjectDetection.from_pretrained(tmp_path)
    before, after, mask = two_frames()
    pixels = torch.cat([before, after], dim=1)
    with torch.no_grad():
        check_same(model.detect(model(pixels, mask)), loaded.detect(loaded(pixels, mask)))


@pytest.mark.parametrize("num_channels", [1, 3, 5, 12])
def test_other_than_six_channels_are_no_two_frames(num_channels: int):
    with pytest.raises(UsageError, match=f"compares_frames with num_channels={num_channels}; give num_channels=6"):
        small(num_channels=num_channels, compares_frames=True)


@pytest.mark.parametrize(("trained", "wanted"), [("image", "frames"), ("frames", "image")])
def test_a_detector_of_single_images_and_one_of_pairs_start_from_each_other(tmp_path: Path, trained, wanted):
    start, _ = build_dense(CATEGORIES, None, small, view=View(trained))
    start.save_pretrained(tmp_path)
    model, report = build_dense(CATEGORIES, str(tmp_path), view=View(wanted))
    assert report.reinitialised == report.left_over == ()
    for name, value in start.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    for detector, inputs in ((start, trained), (model, wanted)):
        assert detector.config.compares_frames == (inputs == "frames")
        assert detector.backbone.stem.conv.in_channels == (6 if inputs == "stack" else 3)
        assert detector.config.num_channels == View(inputs).channels
        assert len(detector(torch.randn(1, View(inputs).channels, 40, 48)).logits) == 1


@pytest.mark.parametrize("inputs", ["image", "frames"])
def test_a_stem_for_six_channels_does_not_fit_other_inputs(tmp_path: Path, inputs):
    build_dense(CATEGORIES, None, small, view=View("stack"))[0].save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"of another shape, such as backbone\.stem\.conv\.weight"):
        build_dense(CATEGORIES, str(tmp_path), view=View(inputs))


def test_it_learns_arrivals_and_neither_departures_nor_what_stays():
    torch.manual_seed(0)
    model = DenseDetector(small(**PAIR)).train()
    places = torch.tensor([[8.0, 8, 32, 32], [60, 8, 84, 32], [36, 36, 60, 60]])
    orders = [(0, 1, 2), (1, 0, 2), (2, 1, 0)]  # Where an object left, where it arrived, where one stays.
    pixels, labels = torch.zeros(3, 6, 64, 96), []
    for image, (left, arrived, stays) in enumerate(orders):
        for place, channels in ((left, slice(0, 3)), (arrived, slice(3, 6)), (stays, slice(0, 6))):
            x0, y0, x1, y1 = places[place].int().tolist()
            pixels[image, channels, y0:y1, x0:x1] = 3
        relative = box_convert(places[[arrived]], "xyxy", "cxcywh") / torch.tensor([96, 64, 96, 64])
        labels.append({"class_labels": torch.tensor([0]), "boxes": relative})
    overfit(model, pixels, labels)
    with torch.no_grad():
        found = model.eval().detect(model(pixels))
    for (_, arrived, _), detections in zip(orders, found, strict=True):
        boxes = box_convert(detections.boxes, "cxcywh", "xyxy") * torch.tensor([96, 64, 96, 64])
        confident = box_iou(boxes[detections.scores > detections.scores[0] / 2], places)
        assert confident[0, arrived] > 0.7
        assert (confident.argmax(dim=1) == arrived).all()
