"""Large arrays that are used again, because fresh memory costs the system a page fault for every 4 KiB of it."""

import math
import weakref
from typing import Any

import numpy as np


class ArrayRing:
    """Hands out uninitialised arrays, and takes the memory of each back when nothing refers to that array any more.

    A tensor made with `torch.from_numpy` refers to its array for as long as any tensor shares its storage, so a batch
    may be kept for any time and is never overwritten.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
        self._capacity = 1

    def take(self, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray[Any, Any]:
        """An array of this shape and dtype with arbitrary content."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > self._capacity:  # Rounded up, for larger arrays to come: what nobody touches takes no memory.
            self._capacity = 1 << (size - 1).bit_length()
        memory = None
        while self._free and memory is None:
            memory = self._free.pop()
            if len(memory) < size:  # Left over from smaller batches: let it go.
                memory = None
        if memory is None:
            memory = np.empty(self._capacity, np.uint8)
        array = memory[:size].view(dtype).reshape(shape)
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array
