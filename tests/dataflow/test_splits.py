"""Splits: what is asked for, by the scene, and stable."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.errors import UsageError
from dataflow.splits import DEFAULT, Fractions, FrameRanges, parse_splits, split_of_frame, split_of_group, unit_hash


def test_shares_and_ranges_are_told_apart() -> None:
    assert parse_splits("train=0.8,validation=0.2") == DEFAULT
    assert parse_splits(" train = 0.5 , test = 0.5 ") == Fractions((("train", 0.5), ("test", 0.5)))
    assert parse_splits("train=1") == Fractions((("train", 1.0),))
    ranges = parse_splits("train=1-150,validation=151-200")
    assert ranges == FrameRanges((("train", 1, 150), ("validation", 151, 200)))
    assert ranges.names == ("train", "validation")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "train",
        "train=",
        "=1",
        "train=0.8",
        "train=0.8,validation=0.3",
        "train=0.8,train=0.2",
        "train=1.2,validation=-0.2",
        "train=1,validation=0",
        "train=nan",
        "train=inf",
        "train=1-10,validation=0.5",
        "train=10-1",
        "train=1-10,validation=10-20",
        "a=1-100,b=20-30",
        "Train=1",
        "train 1=1",
        "../x=1",
        "train=0.8,validation=0.2,",
        "train=1-2-3",
        "train=-5-5",
    ],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_splits(text)
    assert f"--splits {text}" in caught.value.message and caught.value.remedy


def test_frames() -> None:
    ranges = FrameRanges((("validation", 20, 30), ("train", 1, 10)))
    found = {frame: split_of_frame(frame, ranges) for frame in (0, 1, 10, 11, 19, 20, 30, 31)}
    assert found == {0: None, 1: "train", 10: "train", 11: None, 19: None, 20: "validation", 30: "validation", 31: None}


def test_hash_by_hand_and_range() -> None:
    digest = hashlib.sha256(b"split\x007\x00scene").digest()
    assert unit_hash("split", 7, "scene") == pytest.approx(int.from_bytes(digest[:8], "big") / 2**64, abs=1e-15)
    assert unit_hash("a", "b") != unit_hash("ab") != unit_hash("a\0b", "")


def test_hash_stays_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest of ones must not round up to 1.0: shard number `count` does not exist."""

    class Ones:
        def digest(self) -> bytes:
            return b"\xff" * 32

    monkeypatch.setattr(hashlib, "sha256", lambda _: Ones())
    assert 0.999 < unit_hash("x") < 1


@given(st.text())
def test_hash_takes_any_text(text: str) -> None:
    assert 0 <= unit_hash(text) < 1


def test_hash_takes_names_that_are_not_utf_8() -> None:
    """Linux file names are bytes; Python shows bytes that are no UTF-8 as lone surrogates."""
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert 0 <= unit_hash("shard", name) < 1
    assert unit_hash(name) != unit_hash("caf")


def test_shares_are_roughly_kept() -> None:
    fractions = Fractions((("train", 0.7), ("validation", 0.2), ("test", 0.1)))
    counts = Counter(split_of_group(f"scene {i}", fractions, seed=0) for i in range(5000))
    # Three standard deviations of a binomial share.
    for name, share in fractions.shares:
        assert counts[name] / 5000 == pytest.approx(share, abs=3 * (share * (1 - share) / 5000) ** 0.5)


def test_scenes_stay_where_they_are_when_others_come() -> None:
    """The split depends on the scene and the seed alone, so adding scenes moves none."""
    before = {name: split_of_group(name, DEFAULT, seed=3) for name in (f"s{i}" for i in range(50))}
    after = {name: split_of_group(name, DEFAULT, seed=3) for name in (f"s{i}" for i in range(100))}
    assert before == {name: after[name] for name in before}


def test_growing_a_share_moves_scenes_only_into_it() -> None:
    small, large = (Fractions((("train", share), ("validation", 1 - share))) for share in (0.6, 0.8))
    names = [f"s{i}" for i in range(200)]
    for name in names:
        if split_of_group(name, small, 0) == "train":
            assert split_of_group(name, large, 0) == "train"


def test_seeds_differ_and_zero_is_a_seed() -> None:
    names = [f"s{i}" for i in range(100)]
    by_seed = [[split_of_group(name, DEFAULT, seed) for name in names] for seed in (0, 1, 2)]
    assert by_seed[0] != by_seed[1] != by_seed[2]


def test_frozen_values() -> None:
    """Prepared datasets of earlier versions must keep their splits: these values may never change."""
    assert "".join(split_of_group(name, DEFAULT, 0)[0] for name in "abcdefghij") == "tttttvttvv"
