"""Pictures of a training: what is drawn where."""

import torch

from dataflow.bridge.batches import Batch, Target
from trainers.detectors.detections import Detections
from trainers.training.validation import draw

GREEN, RED = [0, 230, 0], [255, 70, 70]


def batch(channels: int = 3) -> Batch:
    """One image of 40x80 px in a canvas of 48x96 px, with one object from (10, 10) to (30, 30) px."""
    pixels = torch.zeros((1, channels, 48, 96), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    pixels[..., :40, :80] = 90
    mask = pixels[:, 0] > 0
    target = Target(torch.tensor([[20 / 80, 20 / 40, 20 / 80, 20 / 40]]), torch.tensor([0]))
    return Batch(pixels, mask, (target,), ("one",), torch.tensor([[40, 80]]), torch.tensor([[40, 80]]))


def found(*boxes: tuple[float, float, float, float], scores: tuple[float, ...]) -> Detections:
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    return Detections(torch.tensor(boxes).view(-1, 4), torch.tensor(scores), labels)


def test_objects_are_green_and_detections_red_where_they_are_and_small_images_are_magnified() -> None:
    shown = draw(batch(), 0, found((60 / 80, 20 / 40, 20 / 80, 20 / 40), scores=(0.75,)))
    assert shown.shape == (3, 8 * 40, 8 * 80)  # Without the padding.
    assert shown.dtype == torch.uint8
    for x, y in ((10, 20), (30, 20), (20, 10), (20, 30)):
        assert shown[:, 8 * y, 8 * x].tolist() == GREEN
    for x, y in ((50, 20), (70, 20), (60, 30)):
        assert shown[:, 8 * y, 8 * x].tolist() == RED
    assert shown[:, 8 * 20, 8 * 20].tolist() == [90] * 3
    above = shown[:, 8 * 10 - 16 : 8 * 10, 8 * 50 : 8 * 50 + 40]
    assert (above[0] > 200).sum() > 20  # The score.


def test_unsure_detections_are_left_out_and_what_is_no_box_harms_nothing() -> None:
    plain = draw(batch(), 0, found(scores=()))
    assert torch.equal(draw(batch(), 0, found((0.5, 0.5, 0.2, 0.2), scores=(0.29,))), plain)
    strange = found((0.5, 0.5, 0.0, 0.0), (float("nan"),) * 4, (0.5, 0.5, 1e9, 1e9), scores=(0.9, 0.8, 0.7))
    assert draw(batch(), 0, strange).shape == plain.shape


def test_two_images_stand_beside_each_other_with_all_boxes_and_the_batch_stays_as_it_is() -> None:
    pair = batch(channels=6)
    shown = draw(pair, 0, found((60 / 80, 20 / 40, 20 / 80, 20 / 40), scores=(0.75,)))
    assert shown.shape == (3, 8 * 40, 2 * 8 * 80)
    assert torch.equal(shown[..., : 8 * 80], shown[..., 8 * 80 :])
    assert set(pair.pixel_values.unique().tolist()) == {0, 90}
