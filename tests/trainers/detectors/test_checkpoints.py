"""What the report of loaded weights says."""

import re

from hypothesis import given
from hypothesis import strategies as st

from trainers.detectors.checkpoints import LoadReport


def report(*left_over: str) -> str:
    return str(LoadReport("somewhere", loaded=("a", "b"), left_over=left_over))


def test_few_tensors_are_named_and_many_by_their_modules():
    assert report() == "weights: 2 tensors loaded from somewhere"
    assert report("head.weight", "x") == "weights: 2 tensors loaded from somewhere; 2 left over (head.weight, x)"
    names = [f"model.layers.{i}.{part}" for i in (0, 1, 2, 5, 10) for part in ("fc.weight", "fc.bias")]
    assert report(*names, "head.weight", "head.bias", "scale").endswith(
        "; 13 left over (head, model.layers.{0-2,5,10}, scale)"
    )


@given(st.sets(st.integers(0, 60), min_size=5))
def test_ranges_hold_just_the_numbers_there_were(numbers: set[int]):
    found = re.search(r"blocks\.\{(.*)\}\)$", report(*(f"blocks.{number}.weight" for number in numbers)))
    assert found is not None
    told: list[int] = []
    for run in found[1].split(","):
        first, _, last = run.partition("-")
        told += range(int(first), int(last or first) + 1)
    assert told == sorted(numbers)
