"""Pages in headless Chromium."""

import base64
import hashlib
import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

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


def screenshot(page: Path, out: Path, size: tuple[int, int]) -> None:
    """A picture of a page in a window of `size` (width, height)."""
    _chromium(
        out.parent, f"--window-size={size[0]},{size[1]}", "--hide-scrollbars", f"--screenshot={out}", page.as_uri()
    )


def _chromium(folder: Path, *words: str) -> str:
    command = ["chromium", *_OPTIONS.split(), "--disable-component-update", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
