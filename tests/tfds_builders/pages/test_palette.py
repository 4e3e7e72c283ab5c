"""Everything can be read, in light and in dark."""

import re

import numpy as np
import pytest

from tfds_builders.pages.page import style_or_script

LIGHT, DARK = style_or_script("palette.css").splitlines()


def luminance(colour: np.ndarray) -> float:
    """WCAG 2.2, "relative luminance", of a colour (3,) from 0 to 1."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """WCAG 2.2, "contrast ratio"."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read(palette: str) -> None:
    """WCAG 2.2, 1.4.3: text stands out 4.5 times, which is more than 1.4.11 asks of lines."""
    found = dict(re.findall(r"--(\w+):(#\w{6})", palette))
    colours = {name: np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for name, code in found.items()}
    for name in ("ink", "soft", "c1", "c2", "c3", "bad"):
        for behind in ("page", "paper"):
            assert contrast(colours[name], colours[behind]) >= 4.5, (name, behind)
    for name in ("ink", "soft"):
        assert contrast(colours[name], colours["wash"]) >= 4.5
    style = style_or_script("page.css")
    # The darkest that a shaded cell, and the bar of a cell, can be behind what is written there.
    darkest = float(re.search(r"\.heat td \{[^}]*calc\(var\(--v\) \* ([\d.]+)\)", style)[1])  # type: ignore[index]
    bar = float(re.search(r"\.bar \{[^}]*var\(--c1\) (\d+)%", style)[1]) / 100  # type: ignore[index]
    for share in (darkest, bar):
        behind = share * colours["c1"] + (1 - share) * colours["paper"]
        assert contrast(colours["ink"], behind) >= 4.5
