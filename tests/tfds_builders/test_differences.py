"""Differences of pairs from a camera that moved: aligned, with boxes carried along, or refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataflow.boxes import pairwise_iou
from dataflow.errors import UsageError
from dataflow.findings import Code
from dataflow.images import RgbImage, decode_rgb, encode_png
from dataflow.pairs.camera_motion import Movement, shake
from dataflow.pairs.image_diff import difference
from dataflow.pairs.motion_models import carry_boxes
from dataflow.pairs.registration import Method
from dataflow.prepared import PreparedDataset
from dataflow.records import FramePair
from tests.factories import Picture, Thing, prepare, write, write_mot
from tests.tfds_builders.broken_sources import load_json
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.mot import open_mot
from tfds_builders.sources.pairing import PairOptions

PETS = Path(__file__).parents[2].parent / "shared" / "data" / "pets09_s2l1"
SIZE = (240, 320)


def scene(seed: int = 0) -> RgbImage:
    """A textured background."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (SIZE[0] // 8, SIZE[1] // 8, 3))
    return np.clip(np.kron(coarse, np.ones((8, 8, 1))) + rng.normal(0, 3, (*SIZE, 3)), 0, 255).astype(np.uint8)


def with_thing(frame: RgbImage, x: int, y: int) -> RgbImage:
    shown = frame.copy()
    shown[y : y + 40, x : x + 20] = (250, 20, 20)
    return shown


def pairs(root: Path, before: RgbImage, after: RgbImage, old: Thing, new: Thing) -> PreparedDataset:
    """A pair dataset of one pair: an object that moved."""
    write_mot(root / "s", [Picture("walk/000001", *SIZE, (old,)), Picture("walk/000002", *SIZE, (new,))])
    for number, frame in ((1, before), (2, after)):
        path = root / "s" / "walk" / "img1" / f"00000{number}"
        path.with_suffix(".jpg").unlink()
        write(path.with_suffix(".png"), encode_png(frame))
    return prepare(open_mot(root / "s", PairOptions(1)), root / "out", "pairs")


def differences(dataset: PreparedDataset, align: Method) -> PreparedDataset:
    out = dataset.path.parents[1]
    return DifferencesBuilder(dataset, name=f"d_{align}", out=out, align=align, image_format="png").prepare()


def only(dataset: PreparedDataset) -> FramePair:
    [pair] = dataset.pairs("train")
    return pair


@pytest.mark.parametrize("align", ["features", "ecc"])
def test_a_moved_camera_is_undone(align: Method, tmp_path: Path) -> None:
    movement = Movement(7.3, -4.6, rotation=1.2, zoom=1.01, exposure=1.1)
    old, new = Thing(0, (60, 60, 80, 100)), Thing(0, (200, 120, 220, 160))
    shaken = shake(with_thing(scene(), 200, 120), movement)
    [after_box] = carry_boxes([new.box], shaken.homography).tolist()
    dataset = pairs(tmp_path, with_thing(scene(), 60, 60), shaken.pixels, old, replace(new, box=tuple(after_box)))
    plain, aligned = differences(dataset, "none"), differences(dataset, align)
    assert aligned.manifest["options"]["align"] == align
    pair = only(aligned)
    assert pair.alignment_score > 0.6
    np.testing.assert_allclose(pair.homography, shaken.homography, atol=0.7)
    assert pair.objects.in_before.tolist() == [True, False]
    # The old place is where the background it stood on now is; the new place stays as the after frame has it.
    truth = carry_boxes([old.box], shaken.homography)
    assert pairwise_iou(pair.objects.boxes[:1], truth)[0, 0] > 0.95
    np.testing.assert_allclose(pair.objects.boxes[1], after_box, atol=1e-2)
    change, seen = (decode_rgb(next(iter(d.records("train"))).image) for d in (plain, aligned))
    outside = np.ones(SIZE, bool)
    for x0, y0, x1, y1 in pair.objects.boxes.astype(int).tolist():
        outside[y0 - 3 : y1 + 4, x0 - 3 : x1 + 4] = False
    assert seen[outside].mean() < 0.5 * change[outside].mean()
    assert seen[~outside].mean() > 3 * seen[outside].mean()


def test_a_steady_camera_gives_the_same_as_no_alignment(tmp_path: Path) -> None:
    old, new = Thing(0, (60, 60, 80, 100)), Thing(0, (200, 120, 220, 160))
    before, after = with_thing(scene(), 60, 60), with_thing(scene(), 200, 120)
    dataset = pairs(tmp_path, before, after, old, new)
    pair = only(differences(dataset, "features"))
    np.testing.assert_array_equal(pair.homography, np.eye(3))
    [record] = PreparedDataset(tmp_path / "out" / "d_features" / "1.0.0").records("train")
    np.testing.assert_array_equal(decode_rgb(record.image), difference(before, after, "absolute"))


def test_what_cannot_be_aligned_is_a_finding(tmp_path: Path) -> None:
    thing = Thing(0, (60, 60, 80, 100))
    good = [Picture(f"walk/{i:06d}", *SIZE, (thing,)) for i in (1, 2, 3)]
    write_mot(tmp_path / "s", good)
    for number, seed in ((1, 1), (2, 1), (3, 2)):  # The third shows another scene.
        path = tmp_path / "s" / "walk" / "img1" / f"00000{number}"
        path.with_suffix(".jpg").unlink()
        write(path.with_suffix(".png"), encode_png(scene(seed)))
    dataset = prepare(open_mot(tmp_path / "s", PairOptions(1)), tmp_path / "out", "pairs")
    made = differences(dataset, "features")
    audit = load_json(made.path / "audit.json")
    assert [(f["code"], f["image_id"]) for f in audit["findings"]] == [(Code.PAIR_UNALIGNED, "walk/000002-000003")]
    assert (audit["images_in"], audit["images_prepared"], audit["images_quarantined"]) == (2, 1, 1)


@pytest.mark.skipif(not PETS.is_dir(), reason="shared/data/pets09_s2l1 is not beside the checkout")
def test_pets_with_a_steady_camera_is_left_as_it_is(tmp_path: Path) -> None:
    dataset = prepare(open_mot(PETS, PairOptions(50)), tmp_path, "pairs")
    made = differences(dataset, "features")
    assert made.splits == dataset.splits
    for pair in made.pairs("train"):
        np.testing.assert_array_equal(pair.homography, np.eye(3))
        assert pair.alignment_score > 0.6


def test_boxes_of_unknown_frames_are_not_carried(tmp_path: Path) -> None:
    """Pairs of schema version 1 do not say which boxes are of the before frame."""
    thing = Thing(0, (60, 60, 80, 100))
    dataset = pairs(tmp_path, scene(), scene(), thing, thing)
    dataset.layout = replace(dataset.layout, knows_frames=False)
    with pytest.raises(UsageError, match="does not say which boxes are of the before frame; ingest the pairs again"):
        DifferencesBuilder(dataset, name="d", out=tmp_path, align="features")
    assert DifferencesBuilder(dataset, name="d", out=tmp_path).prepare().splits == {"train": 1}
