"""Pairs worked on chain by chain: each once and in order, each frame decoded once, few frames in memory."""

import gc
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfds_builders.frame_chains import Link, chain_order, windows, work_in_chains

LINKS = st.integers(1, 12).flatmap(
    lambda frames: st.lists(st.tuples(st.integers(0, frames), st.integers(0, frames)), max_size=40)
)


class Pixels:
    """A decoded frame, which knows how many of its kind are alive."""

    def __init__(self, frame: int) -> None:
        self.frame = frame


class Decoder:
    """Decodes, and counts what it decoded and how much of that was alive at once."""

    def __init__(self, damaged: frozenset[int] = frozenset()) -> None:
        self.decoded: Counter[int] = Counter()
        self.alive: weakref.WeakSet[Pixels] = weakref.WeakSet()
        self.most = 0
        self._damaged, self._lock = damaged, threading.Lock()

    def __call__(self, frame: int) -> Pixels:
        pixels = Pixels(frame)
        with self._lock:
            self.decoded[frame] += 1
            self.alive.add(pixels)
            self.most = max(self.most, len(self.alive))
        if frame in self._damaged:
            raise ValueError(f"frame {frame} is damaged")
        return pixels


def describe(index: int, before: Callable[[], Pixels], after: Callable[[], Pixels]) -> tuple[int, int, int]:
    return index, before().frame, after().frame


def shuffled_chains(lengths: list[int], seed: int) -> list[Link[int]]:
    """The links of chains of so many pairs, in no order."""
    links = [(100 * c + i, 100 * c + i + 1) for c, length in enumerate(lengths) for i in range(length)]
    random.Random(seed).shuffle(links)
    return links


@given(links=LINKS, threads=st.integers(1, 4))
@settings(deadline=None)
def test_every_pair_once_in_order_and_every_frame_once(links: list[Link[int]], threads: int) -> None:
    decoder = Decoder()
    made = list(work_in_chains(range(len(links)), links, decoder, describe, threads))
    assert made == [(index, *link) for index, link in enumerate(links)]
    assert decoder.decoded == Counter({frame for link in links for frame in link})
    gc.collect()
    assert not decoder.alive


@given(lengths=st.lists(st.integers(1, 40), max_size=6), seed=st.integers(0, 99), threads=st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_chains_keep_few_frames(lengths: list[int], seed: int, threads: int) -> None:
    links = shuffled_chains(lengths, seed)
    alive = Counter[int]()
    left = Counter(frame for link in links for frame in link)
    most = 0
    for index in chain_order(links):
        for frame in links[index]:
            alive[frame] += 1
        most = max(most, len(alive))
        for frame in links[index]:
            if alive[frame] == left[frame]:
                del alive[frame]
    assert most <= 2, "in order, one after the other"
    decoder = Decoder()
    assert sum(1 for _ in work_in_chains(range(len(links)), links, decoder, describe, threads)) == len(links)
    # Of each pair under way both frames, where chains are short, and as much for ones that are just being forgotten.
    assert decoder.most <= 2 * (threads + 2)


def test_two_gaps_at_once_keep_few_frames() -> None:
    links = [(i, i + gap) for gap in (1, 2) for i in range(200)]
    decoder = Decoder()
    assert len(list(work_in_chains(range(len(links)), links, decoder, describe, 1))) == 400
    assert decoder.most <= 8


def test_one_frame_beside_many_others() -> None:
    links = [(0, i) for i in range(1, 100)] + [(i, 0) for i in range(100, 200)]
    decoder = Decoder()
    assert len(list(work_in_chains(range(len(links)), links, decoder, describe, 1))) == 199
    assert decoder.most <= 6


@given(links=LINKS, damaged=st.frozensets(st.integers(0, 12)), threads=st.integers(1, 3))
@settings(deadline=None)
def test_damage_reaches_each_pair_of_the_frame_and_no_other(
    links: list[Link[int]], damaged: frozenset[int], threads: int
) -> None:
    def work(index: int, before: Callable[[], Pixels], after: Callable[[], Pixels]) -> str:
        try:
            return f"{before().frame} {after().frame}"
        except ValueError as error:
            return str(error)

    decoder = Decoder(damaged)
    for link, made in zip(links, work_in_chains(range(len(links)), links, decoder, work, threads), strict=True):
        hurt = [frame for frame in link if frame in damaged]
        assert made == (f"frame {hurt[0]} is damaged" if hurt else f"{link[0]} {link[1]}")
    assert max(decoder.decoded.values(), default=1) == 1


def test_other_errors_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(work_in_chains([0, 1], [(1, 2), (2, 3)], Decoder(), lambda index, *_: 1 // index, 2))


def test_a_consumer_may_stop() -> None:
    before = set(threading.enumerate())
    results = work_in_chains(range(50), [(i, i + 1) for i in range(50)], Decoder(), describe, 2)
    assert isinstance(results, Iterator) and next(results) == (0, 0, 1)
    results.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before


@given(sizes=st.lists(st.integers(0, 30), max_size=30), limit=st.integers(1, 40))
def test_windows_are_bounded_and_lose_nothing(sizes: list[int], limit: int) -> None:
    cut = list(windows(sizes, lambda size: size, limit))
    assert [size for window in cut for size in window] == sizes
    assert all(window and (sum(window) <= limit or len(window) == 1) for window in cut)
    assert all(sum(first) + second[0] > limit for first, second in pairwise(cut)), "none is short"


def test_what_came_before_an_error_is_handed_on_first() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        raise OSError

    cut = windows(items(), lambda _: 1, 2)
    assert next(cut) == [1, 2] and next(cut) == [3]
    with pytest.raises(OSError):
        next(cut)
