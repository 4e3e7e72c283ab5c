import gc

import numpy as np
import torch

from dataflow.bridge.buffers import ArrayRing


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again_once_nothing_refers_to_it() -> None:
    ring = ArrayRing()
    first = ring.take((4, 5, 3), np.uint8)
    place = address(first)
    second = ring.take((4, 5, 3), np.uint8)
    assert address(second) != place
    del first
    third = ring.take((3, 5, 3), np.uint8)
    assert address(third) == place
    assert third.shape == (3, 5, 3)


def test_memory_is_not_taken_from_a_tensor_that_shares_it() -> None:
    ring = ArrayRing()
    array = ring.take((2, 8, 8, 3), np.uint8)
    array[:] = 7
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
    view = tensor[1:, :, :4]
    place = address(array)
    del array, tensor
    gc.collect()
    for _ in range(3):
        other = ring.take((2, 8, 8, 3), np.uint8)
        other[:] = 0
        assert address(other) != place
    assert (view == 7).all()
    del view
    assert place in {address(ring.take((2, 8, 8, 3), np.uint8)) for _ in range(2)}


def test_larger_arrays_replace_smaller_memory() -> None:
    ring = ArrayRing()
    del (small := [ring.take((10,), np.uint8)])[:]
    large = ring.take((4, 1000), np.bool_)
    large[:] = True
    assert large.dtype == np.bool_
    assert small == []
    place = address(large)
    del large
    assert address(ring.take((10,), np.uint8)) == place
