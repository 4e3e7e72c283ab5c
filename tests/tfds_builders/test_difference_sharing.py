"""Differences of pairs that share frames: the same as each pair by itself, with each frame decoded once."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataflow.boxes import Size
from dataflow.findings import Code
from dataflow.images import decode_rgb, encode_jpeg, encode_png
from dataflow.pairs.aligned_pair import align_pair
from dataflow.pairs.camera_motion import random_movement, shake
from dataflow.pairs.frame import Frame
from dataflow.pairs.image_diff import difference
from dataflow.pairs.valid_pixels import encode_mask
from dataflow.records import FramePair, ImageRecord, no_objects
from tests.factories import photograph, pixels
from tests.tfds_builders.shaken_frames import SIZE, scene
from tfds_builders import differences
from tfds_builders.differences import DifferenceLoader

FRAMES = [encode_jpeg(pixels(seed=seed)) for seed in range(12)]


def pairs_of(frames: Sequence[bytes], gap: int = 2, size: Size = (48, 64)) -> list[FramePair]:
    """Frame i with frame i + `gap`, the even ones first, then the odd ones from the last to the first."""
    starts = list(range(len(frames) - gap))
    return [_pair(frames, i, i + gap, size) for i in starts[::2] + starts[1::2][::-1]]


def _pair(frames: Sequence[bytes], first: int, second: int, size: Size) -> FramePair:
    before, after = (
        ImageRecord(f"{i}", frames[i], *size, no_objects(), "walk", "made", f"{i}.jpg", orientation=1)
        for i in (first, second)
    )
    return FramePair(f"{first}-{second}", before, after, no_objects())


def made(pairs: Sequence[FramePair], threads: int = 2) -> list[tuple[str, bytes | None]]:
    loader = DifferenceLoader(Path(), "absolute", "jpeg")
    outcomes = loader.outcomes(pairs, threads=threads)
    return [(o.image_id, None if o.example is None else o.example["image"]) for o in outcomes]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each frame is decoded."""
    counts: Counter[bytes] = Counter()

    def counting(data: bytes, orientation: int | None) -> Any:
        counts[data] += 1
        return decode_rgb(data, orientation)

    monkeypatch.setattr(differences, "decode_rgb", counting)
    return counts


@pytest.mark.parametrize("threads", [1, 4])
def test_each_frame_is_decoded_once_and_the_differences_are_the_same(decoded: Counter[bytes], threads: int) -> None:
    pairs = pairs_of(FRAMES)
    expected = [
        (p.pair_id, encode_jpeg(difference(decode_rgb(p.before.image), decode_rgb(p.after.image), "absolute")))
        for p in pairs
    ]
    assert made(pairs, threads) == expected
    assert decoded == Counter(FRAMES)


def test_windows_change_nothing_but_how_often_frames_are_decoded(
    decoded: Counter[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pairs_of(FRAMES)
    whole = made(pairs)
    decoded.clear()
    monkeypatch.setattr(differences, "_WINDOW_BYTES", 1)
    assert made(pairs) == whole
    assert decoded == Counter(frame for pair in pairs for frame in (pair.before.image, pair.after.image))


@pytest.mark.parametrize("threads", [1, 4])
def test_aligned_differences_are_those_of_each_pair_by_itself(decoded: Counter[bytes], threads: int) -> None:
    rng = np.random.default_rng(0)
    frames = [encode_png(shake(scene(), random_movement(rng, shift=5)).pixels) for _ in range(8)]
    pairs = pairs_of(frames, size=SIZE)
    outcomes = list(DifferenceLoader(Path(), "signed", "png", "features").outcomes(pairs, threads=threads))
    assert decoded == Counter(frames)
    for pair, outcome in zip(pairs, outcomes, strict=True):
        alone = align_pair(Frame(decode_rgb(pair.before.image)), Frame(decode_rgb(pair.after.image)), "features")
        assert alone.valid is not None and outcome.example is not None
        assert outcome.example["image"] == encode_png(alone.difference("signed"))
        assert outcome.example["valid"] == encode_mask(alone.valid)
        np.testing.assert_array_equal(outcome.example["homography"], alone.alignment.homography)


def test_a_damaged_frame_is_the_finding_of_each_of_its_pairs() -> None:
    frames = [*FRAMES[:4], b"no image", *FRAMES[5:]]
    outcomes = list(DifferenceLoader(Path(), "absolute", "jpeg").outcomes(pairs_of(frames)))
    assert len(outcomes) == 10
    refused = {o.image_id: o.findings for o in outcomes if o.example is None}
    assert sorted(refused) == ["2-4", "4-6"]
    for name, [finding] in refused.items():
        assert (finding.code, finding.image_id) == (Code.IMAGE_UNREADABLE, name)


def test_the_same_bytes_turned_otherwise_are_another_frame(decoded: Counter[bytes]) -> None:
    data = photograph(48, 48)

    def record(name: str, orientation: int) -> ImageRecord:
        return ImageRecord(name, data, 48, 48, no_objects(), "walk", "made", f"{name}.jpg", orientation=orientation)

    [(_, image)] = made([FramePair("p", record("a", 1), record("b", 6), no_objects())])
    assert image is not None and decoded[data] == 2
    upright, turned = decode_rgb(data, 1), decode_rgb(data, 6)
    np.testing.assert_array_equal(decode_rgb(image), decode_rgb(encode_jpeg(difference(upright, turned, "absolute"))))
