"""Sizes as a user writes them: `800:1333`, `480x640`, `longest:640`."""

import re

from dataflow.bridge.padding import TO_LARGEST, Padding, PadToLargest, PadToSize
from dataflow.bridge.resize import FixedSize, KeepSize, LongestEdge, Resize, ResizePolicy
from dataflow.errors import UsageError


def text_to_resize(text: str) -> Resize:
    """`shortest:800:1333`, `longest:640`, `480x640` (height and width) or `keep` as a policy.

    Raises:
        UsageError: it is none of them, or no size.
    """
    if text == "keep":
        return KeepSize()
    if found := re.fullmatch(r"shortest:(\d+):(\d+)", text):
        return ResizePolicy(*map(int, found.groups()))
    if found := re.fullmatch(r"longest:(\d+)", text):
        return LongestEdge(int(found[1]))
    if found := re.fullmatch(r"(\d+)x(\d+)", text):
        return FixedSize(*map(int, found.groups()))
    raise UsageError(f"--resize {text}", "write shortest:800:1333, longest:640, 480x640 (height, width) or keep")


def text_to_padding(text: str) -> Padding:
    """`largest`, `multiple:32` or `480x640` (height and width) as a padding.

    Raises:
        UsageError: it is none of them, or no size.
    """
    if text == "largest":
        return TO_LARGEST
    if found := re.fullmatch(r"multiple:(\d+)", text):
        return PadToLargest(int(found[1]))
    if found := re.fullmatch(r"(\d+)x(\d+)", text):
        return PadToSize(*map(int, found.groups()))
    raise UsageError(f"--pad {text}", "write largest, multiple:32 or 480x640 (height, width)")
