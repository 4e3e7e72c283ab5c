"""HTML and SVG as values: text becomes markup by being escaped, and in no other way.

`el("p", name, el("b", "12"))` escapes `name` and keeps the bold element. What is joined or formatted as a string is
text again, so that a slip shows as `&lt;b&gt;` on the page and never as markup that came from data.
"""

import base64
import re
from collections.abc import Iterable
from html import escape

_MAX_TEXT = 600
"""Longer texts have their middle left out, so that no page grows with what is in the data."""
# What is invisible, breaks lines, turns the direction of text round or is no character: it could hide what a name is.
_INVISIBLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
_VOID = {"br", "input", "meta", "wbr"}
_SHAPES = {"circle", "image", "line", "path", "rect", "use"}


class Markup(str):
    """HTML or SVG in which all text has been escaped."""

    __slots__ = ()


Content = Iterable[str] | None
"""Text, `Markup`, several of them, or nothing."""


def legible(text: str, limit: int = _MAX_TEXT) -> str:
    """`text` with every invisible character as an escape, and its middle left out where it is longer than `limit`."""
    if len(text) > limit:
        head = limit * 2 // 3
        text = f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}"
    return _INVISIBLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def markup(*content: Content) -> Markup:
    """Everything behind each other; what is not `Markup` is escaped."""
    return Markup("".join(_one(piece) for part in content for piece in _pieces(part)))


def el(tag: str, *content: Content, **attributes: str | float | bool | None) -> Markup:
    """An element. `class_` and `for_` give up their underscore, others have a dash for it; True is an attribute without
    a value, False and None are left out.
    """
    given = "".join(_attribute(name, value) for name, value in attributes.items() if value is not None)
    if tag in _VOID:
        return Markup(f"<{tag}{given}>")
    if tag in _SHAPES and not content:
        return Markup(f"<{tag}{given}/>")
    return Markup(f"<{tag}{given}>{markup(*content)}</{tag}>")


def whole(text: str) -> Markup:
    """Text of which nothing is left out, however long it is."""
    return Markup(escape(legible(text, len(text))))


def path_text(path: str) -> Markup:
    """A path that may be broken after its slashes."""
    return Markup(markup(path).replace("/", "/<wbr>"))


def jpeg_address(data: bytes) -> Markup:
    """A JPEG as an address that holds all of it."""
    return Markup(f"data:image/jpeg;base64,{base64.b64encode(data).decode()}")


def plural(count: int, noun: str) -> str:
    """`1 image`, `2 images`, `2 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{count:,} {noun}{ending}"


def _pieces(part: Content) -> Iterable[str]:
    return () if part is None else (part,) if isinstance(part, str) else part


def _one(piece: str) -> str:
    return piece if isinstance(piece, Markup) else escape(legible(piece))


def _attribute(name: str, value: str | float | bool) -> str:
    if isinstance(value, bool):
        return f" {name}" if value else ""
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    text = value if isinstance(value, Markup) else escape(legible(str(value)))
    # SVG's `viewBox` keeps its capital, HTML's names have none.
    return f' {name.rstrip("_").replace("_", "-")}="{text}"'
