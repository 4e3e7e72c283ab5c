"""What the pages for people share: their style, and any text as HTML."""

from html import escape
from importlib.resources import files
from string import Template

from tfds_builders.audit.explanations import legible

_MAX_TEXT = 300


def html_text(text: str) -> str:
    """Any text as HTML: short, escaped, nothing in it invisible."""
    return escape(legible(text, _MAX_TEXT))


def html_path(path: str) -> str:
    """A path as HTML that may be broken after its slashes."""
    return html_text(path).replace("/", "/<wbr>")


def plural(count: int, noun: str) -> str:
    """A number and what it counts."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def fill_page(template: str, **parts: str) -> str:
    """A page of a template, with the style of all pages and its own parts."""
    style = files("tfds_builders.audit").joinpath("style.css").read_text(encoding="utf-8")
    return Template(template).substitute(style=style, **parts)
