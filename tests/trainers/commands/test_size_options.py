"""Sizes as a user writes them are the policies that they name, and nothing else is a size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.bridge.padding import TO_LARGEST, PadToLargest, PadToSize
from dataflow.bridge.resize import FixedSize, KeepSize, LongestEdge, ResizePolicy
from dataflow.errors import UsageError
from trainers.commands.size_options import text_to_padding, text_to_resize

edges = st.integers(1, 5000)


@given(edges, edges)
def test_a_size_written_out_is_the_policy_that_it_names(one: int, other: int) -> None:
    short, long = sorted((one, other))
    assert text_to_resize(f"shortest:{short}:{long}") == ResizePolicy(shortest_edge=short, longest_edge=long)
    assert text_to_resize(f"longest:{long}") == LongestEdge(long)
    assert text_to_resize(f"{one}x{other}") == FixedSize(height=one, width=other)
    assert text_to_resize("keep") == KeepSize()
    assert text_to_padding(f"multiple:{one}") == PadToLargest(one)
    assert text_to_padding(f"{one}x{other}") == PadToSize(height=one, width=other)
    assert text_to_padding("largest") == TO_LARGEST


@pytest.mark.parametrize(
    "text", ["", "640", "640x", "x480", "-1x480", "480 x640", "480X640", "shortest:800", "longest:1:2", "Keep", "1e3x9"]
)
def test_what_is_no_size_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(UsageError, match=r"--resize .*; write shortest:800:1333, longest:640, 480x640 .* or keep"):
        text_to_resize(text)
    with pytest.raises(UsageError, match=r"--pad .*; write largest, multiple:32 or 480x640"):
        text_to_padding(text)


@pytest.mark.parametrize("text", ["0x640", "640x0", "longest:0", "shortest:0:10", "shortest:800:600"])
def test_a_size_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        text_to_resize(text)


@pytest.mark.parametrize("text", ["0x640", "640x0", "multiple:0"])
def test_a_padding_to_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        text_to_padding(text)
