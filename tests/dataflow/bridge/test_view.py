"""What is shown of pairs: differences made on the way into a batch, stacks, both frames, and their augmentation."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dataflow.boxes import cxcywh_to_xyxy
from dataflow.bridge.batches import Batch
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.pair_augmentation import PairAugmentation
from dataflow.bridge.resize import ResizePolicy
from dataflow.bridge.view import INPUTS, View
from dataflow.errors import UsageError
from dataflow.images import RgbImage, decode_rgb, encode_png
from dataflow.pairs.camera_motion import Movement, shake
from dataflow.pairs.image_diff import DIFF_MODES, NO_CHANGE, DiffMode, difference
from dataflow.pairs.motion_models import carry_boxes
from dataflow.pairs.registration import Method
from dataflow.prepared import PreparedDataset
from dataflow.records import FramePair, ImageRecord, Objects, no_objects
from tests.dataflow.detection_sets import make_records, write_ours
from tfds_builders.difference_builder import DifferencesBuilder

SIZE = (120, 160)
WHOLE = ResizePolicy(*SIZE)
"""Leaves the frames as they are."""
MOVEMENT = Movement(shift_x=4, shift_y=-3, rotation=1, zoom=1.01)
OLD, NEW = (30.0, 40.0, 44.0, 64.0), (90.0, 50.0, 104.0, 74.0)


def scene(seed: int) -> RgbImage:
    """A textured background."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (SIZE[0] // 4, SIZE[1] // 4, 3))
    return np.clip(np.kron(coarse, np.ones((4, 4, 1))) + rng.normal(0, 3, (*SIZE, 3)), 0, 255).astype(np.uint8)


def with_thing(frame: RgbImage, box: tuple[float, float, float, float]) -> RgbImage:
    x0, y0, x1, y1 = map(int, box)
    shown = frame.copy()
    shown[y0:y1, x0:x1] = (250, 20, 20)
    return shown


def record(name: str, frame: RgbImage) -> ImageRecord:
    return ImageRecord(name, encode_png(frame), *SIZE, no_objects(), "scene", f"test:{name}", f"{name}.png")


def pair(name: str, before: RgbImage, after: RgbImage, new: tuple[float, ...] = NEW) -> FramePair:
    objects = Objects([OLD, new], [0, 1], in_before=[True, False])
    return FramePair(name, record(f"{name} before", before), record(name, after), objects)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """A steady pair, one from a camera that moved, and one of two scenes, which nothing aligns."""
    still = scene(0)
    moved = shake(with_thing(still, NEW), MOVEMENT)
    [place] = carry_boxes([NEW], moved.homography).tolist()
    listed = [
        pair("steady", with_thing(still, OLD), with_thing(still, NEW)),
        pair("moved", with_thing(still, OLD), moved.pixels, tuple(place)),
        pair("unlike", with_thing(still, OLD), scene(1)),
    ]
    return write_ours(tmp_path_factory.mktemp("data") / "pairs" / "1.0.0", listed, (2, 1), "pairs")


def shown(dataset: PreparedDataset, view: View, **options: object) -> tuple[dict[str, npt.NDArray[np.uint8]], Batch]:
    """The pixels (H, W, C) of every pair as a batch has them, and the batch."""
    loader = BatchLoader(dataset, "train", WHOLE, 3, view=view, **{"training": False, **options})  # type: ignore[arg-type]
    batch = next(iter(loader))
    pixels = batch.pixel_values.permute(0, 2, 3, 1).numpy()
    return dict(zip(batch.image_ids, pixels, strict=True)), batch


def made(pairs: PreparedDataset, out: Path, mode: DiffMode, align: Method) -> PreparedDataset:
    builder = DifferencesBuilder(pairs, name="made", out=out, mode=mode, align=align, image_format="png")
    return builder.prepare()


@pytest.mark.parametrize("align", ["none", "features"])
@pytest.mark.parametrize("mode", DIFF_MODES)
def test_differences_on_the_way_are_those_that_diff_stores(
    pairs: PreparedDataset, tmp_path: Path, mode: DiffMode, align: Method
) -> None:
    stored = made(pairs, tmp_path, mode, align)
    names = ["moved", "steady"] + ["unlike"] * (align == "none")
    for inputs in ("image", "stack"):
        there, there_batch = shown(stored, View(inputs))
        here, here_batch = shown(pairs, View(inputs, mode, align))
        assert sorted(there) == names
        for name in names:
            np.testing.assert_array_equal(here[name], there[name])
            one, other = (batch.targets[batch.image_ids.index(name)] for batch in (here_batch, there_batch))
            # Stored as shares in float32, once more than here.
            torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=1e-6)
            assert torch.equal(one.category_ids, other.category_ids)


@pytest.mark.parametrize("align", ["none", "features"])
def test_both_frames_of_a_difference_are_those_that_it_was_made_of(
    pairs: PreparedDataset, tmp_path: Path, align: Method
) -> None:
    stored, _ = shown(made(pairs, tmp_path, "signed", align), View("frames"))
    here, _ = shown(pairs, View("frames", None, align))
    signed, _ = shown(pairs, View("image", "signed", align))
    for name in stored:
        np.testing.assert_array_equal(here[name], stored[name])
    steady = here["steady"]
    np.testing.assert_array_equal(difference(steady[..., :3], steady[..., 3:], "signed"), signed["steady"])


def test_the_images_of_a_view_are_the_frames_themselves(pairs: PreparedDataset) -> None:
    originals = {p.pair_id: [decode_rgb(frame.image) for frame in (p.before, p.after)] for p in pairs.pairs("train")}
    both, _ = shown(pairs, View("frames"))
    stack, _ = shown(pairs, View("stack", "absolute"))
    for name, (first, second) in originals.items():
        np.testing.assert_array_equal(both[name], np.concatenate([first, second], axis=2))
        np.testing.assert_array_equal(stack[name][..., :3], second)
        np.testing.assert_array_equal(stack[name][..., 3:], absolute_of(first, second))


def absolute_of(before: RgbImage, after: RgbImage) -> RgbImage:
    return np.abs(after.astype(np.int16) - before).astype(np.uint8)


def test_old_places_are_carried_to_the_after_frame(pairs: PreparedDataset) -> None:
    _, batch = shown(pairs, View("image", "absolute", "features"))
    boxes = cxcywh_to_xyxy(batch.targets[batch.image_ids.index("moved")].boxes.numpy(), SIZE)
    [expected] = carry_boxes([OLD], MOVEMENT.homography(SIZE))
    np.testing.assert_allclose(boxes[0], expected, atol=0.5)
    _, unaligned = shown(pairs, View("image", "absolute", "none"))
    left = cxcywh_to_xyxy(unaligned.targets[unaligned.image_ids.index("moved")].boxes.numpy(), SIZE)
    np.testing.assert_allclose(left[0], OLD, atol=1e-3)


def test_a_pair_that_cannot_be_aligned_shows_no_change_and_is_named(
    pairs: PreparedDataset, caplog: pytest.LogCaptureFixture
) -> None:
    for mode in DIFF_MODES:
        pixels, batch = shown(pairs, View("image", mode, "features"))
        assert (pixels["unlike"] == NO_CHANGE[mode]).all()
        assert not len(batch.targets[batch.image_ids.index("unlike")])
    pixels, _ = shown(pairs, View("frames", None, "features"))
    np.testing.assert_array_equal(pixels["unlike"][..., :3], pixels["unlike"][..., 3:])
    loader = BatchLoader(pairs, "train", WHOLE, 1, training=False, view=View("image", "signed", "features"))
    caplog.clear()
    assert len(list(loader) + list(loader)) == 6
    assert list(loader.refused) == ["unlike"]
    assert [record.message for record in caplog.records if "unlike" in record.message] == [
        f"pair unlike shows no change and no objects: it was not aligned ({loader.refused['unlike']})"
    ]


def test_mirroring_and_padding_apply_to_every_channel(pairs: PreparedDataset) -> None:
    view = View("frames")
    plain, _ = shown(pairs, view)
    mirrored, _ = shown(pairs, view, training=True, flip=1.0)
    for name, pixels in mirrored.items():
        np.testing.assert_array_equal(pixels, plain[name][:, ::-1])
    records = [
        FramePair(
            r.image_id, replace(r, image_id="b", objects=no_objects()), replace(r, objects=no_objects()), r.objects
        )
        for r in make_records(5)
    ]
    mixed = write_ours(pairs.path.parents[1] / "mixed" / "1.0.0", records, (5,), "pairs")
    batch = next(iter(BatchLoader(mixed, "train", ResizePolicy(40, 60), 5, training=False, view=view)))
    assert batch.pixel_values.shape[1] == 6
    assert not batch.pixel_values.permute(0, 2, 3, 1)[~batch.pixel_mask].any()
    assert torch.equal(batch.pixel_values[:, :3], batch.pixel_values[:, 3:])


AUGMENTATION = PairAugmentation(scale=1.2, exposure=0.2, noise=2, shake_px=3, rotation=1)


def test_augmentation_depends_on_seed_and_epoch_alone(pairs: PreparedDataset) -> None:
    def stream(**options: object) -> list[Batch]:
        chosen = {"training": True, "augmentation": AUGMENTATION, "view": View("frames"), "seed": 1, **options}
        loader = BatchLoader(pairs, "train", WHOLE, 3, **chosen)  # type: ignore[arg-type]
        return [batch for batch, _ in zip(loader, range(3), strict=False)]

    def same(a: Batch, b: Batch) -> bool:
        return torch.equal(a.pixel_values, b.pixel_values) and all(
            torch.equal(x.boxes, y.boxes) for x, y in zip(a.targets, b.targets, strict=True)
        )

    first = stream()
    assert all(map(same, first, stream(threads=1)))
    assert same(first[2], stream(start_step=2)[0])
    assert not same(first[0], first[1])
    assert not same(first[0], stream(seed=2)[0])
    plain, still = stream(augmentation=None), stream(training=False, limit=3)
    assert not same(first[0], plain[0])
    assert torch.equal(still[0].pixel_values, shown(pairs, View("frames"))[1].pixel_values)


def test_a_shake_before_alignment_is_undone_by_it(pairs: PreparedDataset) -> None:
    shaken = PairAugmentation(shake_px=4, rotation=1)
    rough, _ = shown(pairs, View("image", "absolute"), training=True, augmentation=shaken, seed=1)
    smooth, _ = shown(pairs, View("image", "absolute", "features"), training=True, augmentation=shaken, seed=1)
    assert smooth["steady"].mean() < 0.4 * rough["steady"].mean()


@pytest.mark.parametrize(
    ("targets", "mode"), [("both", "absolute"), ("after", "signed"), ("arrived-and-left", "signed")]
)
def test_what_is_left_open_the_dataset_decides(
    pairs: PreparedDataset, tmp_path: Path, targets: str, mode: DiffMode
) -> None:
    assert View().settled(pairs) == View("image", "absolute", "none")
    shutil.copytree(pairs.path, tmp_path / "pairs" / "1.0.0")
    (tmp_path / "pairs" / "1.0.0" / "manifest.json").write_text(json.dumps({"options": {"targets": targets}}))
    there = PreparedDataset(tmp_path / "pairs" / "1.0.0")
    assert View().settled(there) == View("image", mode, "none")
    assert View("stack", None, "features").settled(there) == View("stack", mode, "features")
    assert View("frames").settled(there) == View("frames", None, "none")
    assert View("image", "ssim").settled(there) == View("image", "ssim", "none")
    assert View("stack").settled(made(pairs, tmp_path, "grey", "features")) == View("stack", "grey", "features")


def test_views_that_a_dataset_does_not_have_are_refused(pairs: PreparedDataset, tmp_path: Path) -> None:
    images = write_ours(tmp_path / "images", make_records(3), (3,))
    stored = made(pairs, tmp_path, "signed", "none")
    cases = (
        (images, View("frames"), "holds single images"),
        (images, View("image", "signed"), "holds single images"),
        (pairs, View("frames", "signed"), "leave out --mode"),
        (stored, View("image", "absolute"), "differences of mode 'signed', not 'absolute'"),
        (stored, View("image", None, "features"), "differences of align 'none', not 'features'"),
    )
    for dataset, view, message in cases:
        with pytest.raises(UsageError, match=message):
            view.settled(dataset)
    with pytest.raises(UsageError, match="a view with inputs 'both'; choose from image, stack, frames"):
        View("both")  # type: ignore[arg-type]
    for dataset, view in ((images, View()), (stored, View()), (stored, View("frames"))):
        with pytest.raises(UsageError, match="cannot be augmented before its frames are compared"):
            BatchLoader(dataset, "train", WHOLE, 2, training=True, view=view, augmentation=AUGMENTATION)


def test_a_view_is_told_in_words_and_kept_as_json(pairs: PreparedDataset) -> None:
    assert [View(inputs).images for inputs in INPUTS] == [1, 2, 2]
    assert [View(inputs).channels for inputs in INPUTS] == [3, 6, 6]
    assert (
        str(View("stack", "signed", "features")) == "after frames with their differences (mode signed, align features)"
    )
    assert str(View("frames").settled(pairs)) == "before and after frames (align none)"
    view = View("image", "ssim", "ecc")
    assert View(**view.to_json()) == view
