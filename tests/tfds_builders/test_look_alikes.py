"""The search for look-alikes against brute force, and how it behaves where nearly all pictures are alike."""

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfds_builders import look_alikes as module
from tfds_builders.look_alikes import ENOUGH, NEAR_BITS, Hashes, Indices, look_alikes

Rng = np.random.Generator


def random_looks(rng: Rng, count: int) -> Hashes:
    return rng.integers(0, 2**64, (count, 2), np.uint64)


def flipped(look: npt.NDArray[np.uint64], places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """A look with these of its 128 bits turned over."""
    changed = look.copy()
    for place in places.tolist():
        changed[place // 64] ^= np.uint64(1) << np.uint64(place % 64)
    return changed


def search(
    looks: Hashes, rng: Rng, splits: int = 2, scenes: int = 0, contents: int = 0
) -> tuple[set[tuple[int, int]], bool]:
    """What is found, compared with all pairs."""
    count = len(looks)
    split = rng.integers(0, splits, count)
    scene = rng.integers(0, scenes, count) if scenes else np.arange(count)
    content = rng.integers(1, contents or 2**62, count).astype(np.uint64)
    found = look_alikes(looks, split, scene, content)
    pairs = [(int(a), int(b)) for a, b in found.pairs]
    assert pairs == sorted(set(pairs))
    wanted = {pair for pair in combinations(range(count), 2) if is_pair(looks, split, scene, content, pair)}
    missed = wanted - set(pairs)
    assert set(pairs) <= wanted and not (missed and found.are_all)
    degree = np.bincount(np.array(sorted(wanted), np.int64).reshape(-1), minlength=count)
    assert all(degree[a] > ENOUGH and degree[b] > ENOUGH for a, b in missed), "few look-alikes are all found"
    return set(pairs), found.are_all


def is_pair(looks: Hashes, split: Indices, scene: Indices, content: Hashes, pair: tuple[int, int]) -> bool:
    """By the definition."""
    a, b = pair
    bits = sum((int(x) ^ int(y)).bit_count() for x, y in zip(looks[a], looks[b], strict=True))
    differ = split[a] != split[b] and scene[a] != scene[b] and content[a] != content[b]
    return bool(bits <= NEAR_BITS and differ and looks[a].any() and looks[b].any())


@pytest.mark.parametrize("bits", range(13))
def test_planted_neighbours(bits: int) -> None:
    """Those of up to 7 bits are found wherever the bits are; those of 8 and more are none."""
    rng = np.random.default_rng(bits)
    count = 3000
    looks = random_looks(rng, 2 * count)
    for i in range(count):
        looks[count + i] = flipped(looks[i], rng.choice(128, bits, replace=False))
    order = rng.permutation(2 * count)
    place = np.argsort(order)
    split = np.r_[np.zeros(count, np.int64), np.ones(count, np.int64)]
    found = look_alikes(looks[order], split[order], np.arange(2 * count), np.arange(1, 2 * count + 1).astype(np.uint64))
    planted = {tuple(sorted((int(place[i]), int(place[count + i])))) for i in range(count)}
    assert found.are_all and {(int(a), int(b)) for a, b in found.pairs} == (planted if bits <= NEAR_BITS else set())


def test_one_bit_in_each_of_seven_bands() -> None:
    """The worst case: one band alone agrees, whichever it is."""
    rng = np.random.default_rng(0)
    for band in range(8):
        look = random_looks(rng, 1)[0]
        other = flipped(look, np.array([16 * other + int(rng.integers(16)) for other in range(8) if other != band]))
        found = look_alikes(np.stack([look, other]), np.array([0, 1]), np.array([0, 1]), np.array([1, 2], np.uint64))
        assert found.pairs.tolist() == [[0, 1]] and found.are_all


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 60),
    distinct=st.integers(1, 30),
    most_bits=st.integers(0, 12),
    kinds=st.tuples(st.integers(1, 3), st.sampled_from([0, 1, 3, 20]), st.sampled_from([0, 2, 20])),
)
def test_against_brute_force(seed: int, count: int, distinct: int, most_bits: int, kinds: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    base = random_looks(rng, distinct)
    base[rng.random(distinct) < 0.1] = 0
    looks = base[rng.integers(0, distinct, count)]
    for i in range(count):
        looks[i] = flipped(looks[i], rng.choice(128, rng.integers(most_bits + 1), replace=False))
    search(looks, rng, *kinds)


@given(seed=st.integers(0, 2**32), budget=st.sampled_from([0, 10, 1000]))
def test_a_search_that_is_cut_short_says_so(seed: int, budget: int) -> None:
    rng = np.random.default_rng(seed)
    base = random_looks(rng, 4)
    looks = np.array([flipped(base[i % 4], rng.choice(128, i % 6, replace=False)) for i in range(80)], np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BUDGET", budget)
        patch.setattr(module, "_NEXT", 3)
        count = len(looks)
        split = rng.integers(0, 2, count)
        found = look_alikes(looks, split, np.arange(count), np.arange(1, count + 1).astype(np.uint64))
    everything = np.arange(count), np.arange(1, count + 1).astype(np.uint64)
    for a, b in found.pairs.tolist():
        assert is_pair(looks, split, *everything, (a, b))
    assert not found.are_all
    assert len(np.unique(found.pairs)) >= 0.9 * count, "nearly every picture is named all the same"


def test_pictures_that_all_look_alike() -> None:
    rng = np.random.default_rng(0)
    count = 300
    looks = np.repeat(random_looks(rng, 1), count, axis=0)
    pairs, are_all = search(looks, rng)
    assert not are_all and {index for pair in pairs for index in pair} == set(range(count))
    assert len(pairs) < count * (ENOUGH + 2), "not all the 22,000 that there are"


def searched(looks: Hashes, share: float = 0.2) -> module.LookAlikes:
    rng = np.random.default_rng(1)
    count = len(looks)
    split = (rng.random(count) < share).astype(np.int64)
    contents = rng.integers(1, 2**63, count).astype(np.uint64)
    return look_alikes(looks, split, np.arange(count), contents)


@pytest.mark.parametrize("kind", ["equal", "a camera that stands still", "white margins"])
def test_many_alike(kind: str) -> None:
    rng = np.random.default_rng(0)
    count = 20_000
    looks = np.repeat(random_looks(rng, 1), count, axis=0)
    if kind == "a camera that stands still":
        looks = np.array([flipped(look, rng.choice(128, 3, replace=False)) for look in looks])
    elif kind == "white margins":
        looks = random_looks(rng, count)
        looks[:, 0] = 0
    found = searched(looks)
    if kind == "white margins":
        assert len(found.pairs) == 0 and not found.are_all
    else:
        assert len(np.unique(found.pairs)) == count, "all of them are named"


def test_one_picture_of_another_split_among_many() -> None:
    """As long as that is to be done in full, all that look like it are found."""
    looks = np.repeat(random_looks(np.random.default_rng(0), 1), 5000, axis=0)
    split = np.zeros(5000, np.int64)
    split[1234] = 1
    found = look_alikes(looks, split, np.arange(5000), np.arange(1, 5001).astype(np.uint64))
    assert set(np.unique(found.pairs).tolist()) == set(range(5000)) and len(found.pairs) == 4999


@pytest.mark.slow
def test_a_million_pictures() -> None:
    found = searched(random_looks(np.random.default_rng(0), 1_000_000))
    assert found.are_all and len(found.pairs) == 0
