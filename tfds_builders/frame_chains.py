"""Pairs in such an order that each frame is decoded once, and few decoded frames are in memory at a time.

In a sequence a frame is the later one of a pair and the earlier one of the next. Pairs lie in shards in an order that
hashes decide, though, so they are taken in windows: of each, pairs are worked on chain by chain, and what comes out is
put back into the order in which they came.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

F = TypeVar("F", bound=Hashable)
D = TypeVar("D")
R = TypeVar("R")
T = TypeVar("T")

Link = tuple[F, F]
"""The frames of a pair: before, after."""


def windows(items: Iterable[T], size_of: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Consecutive `items` of at most `limit` in size together, or a single larger one.

    Where reading them fails, those that came before are handed on first, and then the error is.
    """
    window, size = list[T](), 0
    try:
        for item in items:
            if window and size + size_of(item) > limit:
                yield window
                window, size = [], 0
            window.append(item)
            size += size_of(item)
    except Exception:
        if window:
            yield window
        raise
    if window:
        yield window


def chain_order(links: Sequence[Link[F]]) -> list[int]:
    """The pairs as indices, those that share a frame near each other; each once.

    A breadth-first walk (as Cuthill and McKee 1969 number a matrix, to keep its band narrow), which begins where
    chains do, at frames that are no pair's later one: the frame that was met first is done with first.
    """
    touching: dict[F, list[int]] = {}
    for index, link in enumerate(links):
        for frame in set(link):
            touching.setdefault(frame, []).append(index)
    later = {after for _, after in links}
    starts = sorted(range(len(links)), key=lambda index: links[index][0] in later)
    order: dict[int, None] = {}
    for start in starts:
        met = deque([links[start][0]] if start not in order else [])
        while met:
            frame = met.popleft()
            for index in touching.pop(frame, ()):
                if index not in order:
                    order[index] = None
                    before, after = links[index]
                    met.append(before if after == frame else after)
    return list(order)


def work_in_chains(
    pairs: Sequence[T],
    links: Sequence[Link[F]],
    decode: Callable[[F], D],
    work: Callable[[T, Callable[[], D], Callable[[], D]], R],
    threads: int,
) -> Iterator[R]:
    """What `work` makes of each of `pairs`, whose frames are `links`, in order.

    Both functions run in `threads` threads. `work` gets the pair and two functions that return its decoded frames, or
    raise what decoding them raised. Each distinct frame is decoded once, and forgotten when its last pair is done. The
    number of threads changes nothing but time, as long as `decode` and `work` depend on their arguments alone.

    At most `threads` + 1 pairs are under way, and of chains one frame more is decoded; results wait for their turn.
    """
    frames = _Frames(links, decode)
    made: dict[int, R] = {}
    turn = 0
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[tuple[int, Future[R]]] = deque()
        for index in [*chain_order(links), None]:
            if index is not None:
                # Frames come into the queue before the pair that waits for them, so no thread waits for ever.
                before, after = (frames.take(frame, pool) for frame in links[index])
                under_way.append((index, pool.submit(work, pairs[index], before.result, after.result)))
                del before, after
            while under_way and (index is None or len(under_way) > threads):
                done, result = under_way.popleft()
                made[done] = result.result()
                del result
                while turn in made:
                    yield made.pop(turn)
                    turn += 1


class _Frames(Generic[F, D]):
    """The decoded frames that pairs to come still need."""

    def __init__(self, links: Sequence[Link[F]], decode: Callable[[F], D]) -> None:
        self._decode = decode
        self._uses = Counter(frame for link in links for frame in link)
        self._decoded: dict[F, Future[D]] = {}

    def take(self, frame: F, pool: ThreadPoolExecutor) -> Future[D]:
        """A frame, decoded or about to be; after its last use it is the taker's alone."""
        if frame not in self._decoded:
            self._decoded[frame] = pool.submit(self._decode, frame)
        self._uses[frame] -= 1
        return self._decoded[frame] if self._uses[frame] else self._decoded.pop(frame)
