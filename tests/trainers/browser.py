"""Pages in headless Chromium."""

import base64
import hashlib
import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dataflow.images import decode_rgb

_OPTIONS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"


def in_browser(text: str, script: str, folder: Path, width: int = 390) -> Any:
    """What `script` put into the object `results` and wrote into an element of that id, as its last statements do.

    The page keeps its policy, which is only told of this script as well.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "script-src 'sha256-" in text
    text = text.replace("script-src 'sha256-", f"script-src 'sha256-{digest}' 'sha256-", 1)
    page = folder / "page.html"
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    done = _chromium(folder, f"--window-size={width},900", "--dump-dom", page.as_uri())
    return json.loads(html.unescape(re.search(r'<pre id="results">(.*?)</pre>', done, re.DOTALL)[1]))


def screenshot(page: Path, folder: Path, size: tuple[int, int], *, dark: bool = False) -> npt.NDArray[np.uint8]:
    """What a window of `size` (width, height) shows of a page, (H, W, 3) RGB, to who prefers light or dark."""
    out = folder / f"{page.stem}-{size[0]}-{'dark' if dark else 'light'}.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    options = ("--hide-scrollbars", scheme, f"--window-size={size[0]},{size[1]}", f"--screenshot={out}")
    _chromium(folder, *options, page.as_uri())
    return decode_rgb(out.read_bytes())


def _chromium(folder: Path, *words: str) -> str:
    command = ["chromium", *_OPTIONS.split(), "--disable-component-update", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
