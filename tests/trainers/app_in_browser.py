"""A page in a headless Chromium, driven over its DevTools."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Page:
    """What is shown at an address."""

    def __init__(self, port: int, url: str) -> None:
        import websocket

        request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?{url}", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            target = json.load(answer)["webSocketDebuggerUrl"]
        self._socket = websocket.create_connection(target, timeout=120, suppress_origin=True)
        self._number = 0

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and wait for its answer."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                return message.get("result", {})

    def run(self, script: str) -> Any:
        """The value of an expression in the page; None while there is none."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True).get("result", {}).get("value")

    def wait_for(self, script: str, seconds: float = 300) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"{script}: not within {seconds} s; shown: {self.text()[:2000]}"
            time.sleep(0.5)
        return value

    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    def click(self, selector: str) -> None:
        """Press and release the mouse in the middle of an element."""
        box = self.wait_for(
            f"(() => {{const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def click_until(self, selector: str, script: str, seconds: float = 120) -> None:
        """Click until an expression is true: a page that is still being laid out may miss a click."""
        end = time.monotonic() + seconds
        while True:
            self.click(selector)
            try:
                self.wait_for(script, 5)
                return
            except AssertionError:
                if time.monotonic() > end:
                    raise

    def click_text(self, text: str, script: str) -> None:
        """Click what has exactly this text, and wait for an expression to be true."""
        leaf = f"[...document.querySelectorAll('*')].find(e => !e.children.length && e.innerText == {json.dumps(text)})"
        self.wait_for(f"({leaf})?.click() === undefined && !!({leaf})")
        self.wait_for(script)

    def save(self, path: Path) -> bytes:
        """A screenshot, as PNG."""
        picture = base64.b64decode(self.call("Page.captureScreenshot")["data"])
        path.write_bytes(picture)
        return picture


@contextmanager
def browser(profile: Path) -> Iterator[int]:
    """A headless Chromium; gives the port of its DevTools."""
    port = free_port()
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [
        "--window-size=1600,1000",
        f"--remote-debugging-port={port}",
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 180
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/json/version", timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None, f"Chromium ended with {process.returncode}"
                    assert time.monotonic() < end, "Chromium does not answer"
                    time.sleep(0.3)
            yield port
        finally:
            process.terminate()
