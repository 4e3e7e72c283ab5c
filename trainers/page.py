"""What `report.html` and `compare.html` are made of: one self-contained page, its numbers and its tables.

The page's policy lets nothing be loaded and no script run but its own, which it names by hash; so text from data could
not do harm even if it came to be markup.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files

import numpy as np

from trainers.charts import PALETTE_DARK, PALETTE_LIGHT, STYLE

MINUS = "\u2212"


@cache
def _part(name: str) -> str:
    return files("trainers").joinpath(name).read_text(encoding="utf-8")


def page(title: str, body: str) -> str:
    """A whole HTML page; `body` is markup, `title` text."""
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    style = f":root{{{PALETTE_LIGHT}}}@media (prefers-color-scheme:dark){{:root{{{PALETTE_DARK}}}}}{STYLE}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{style}{_part('page.css')}</style>\n</head>\n"
        f"<body>\n{body}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where it is not defined."""
    return "–" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign, nothing but a plain zero where it rounds to none."""
    if value is None or np.isnan(value):
        return "–"
    text = f"{value:+.{digits}f}".replace("-", MINUS)
    return text[1:] if not any(digit in text for digit in "123456789") else text


def plural(count: int, noun: str) -> str:
    """`1 image`, `2 images`, `2 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{count:,} {noun}{ending}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is read, what is sorted by, how much of it a bar fills (0 to 1), and markup before it."""

    text: str
    key: float | str | None = None
    bar: float | None = None
    words: bool = False
    drawn: str = ""


def figure(value: float | None, *, bar: bool = False, digits: int = 3) -> Cell:
    """A cell with a figure between 0 and 1."""
    known = value is not None and not np.isnan(value)
    return Cell(number(value, digits), value if known else None, value if bar and known else None)


def count(value: int) -> Cell:
    """A cell with a count."""
    return Cell(f"{value:,}", value)


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, sorts: bool = True, tall: bool = False) -> str:
    """A table whose columns sort where `sorts` says so, `tall` ones scrolling under their heads."""
    words = [bool(rows) and rows[0][i].words for i in range(len(heads))]
    shown = [f"<button>{head}</button>" if sorts and head else head for head in heads]
    named = "".join(
        f'<th scope="col"{" class=words" if is_text else ""}>{head}</th>'
        for head, is_text in zip(shown, words, strict=True)
    )
    drawn = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    kinds = f'<div class="scroll{" tall" if tall else ""}" tabindex="0"><table{" class=sorts" if sorts else ""}>'
    return f"{kinds}<thead><tr>{named}</tr></thead><tbody>{drawn}</tbody></table></div>"


def _cell(cell: Cell) -> str:
    key = cell.text if cell.words and cell.key is None else "" if cell.key is None else cell.key
    kinds = [kind for kind, is_so in (("bar", cell.bar is not None), ("words", cell.words)) if is_so]
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    fill = "" if cell.bar is None else f' style="--v:{100 * min(max(cell.bar, 0), 1):.0f}%"'
    return f'<td data-v="{escape(str(key))}"{kind}{fill}>{cell.drawn}{escape(cell.text)}</td>'


def section(key: str, title: str, note: str, body: str, *, box: bool = True) -> str:
    """A section of a page, that links reach by `key`; `note` and `body` are markup."""
    kind = ' class="box"' if box else ""
    return f'<section{kind} id="{key}"><h2>{title}</h2><p class="note">{note}</p>{body}</section>'


def keys() -> str:
    """The legend of boxes, which also switches them on and off."""
    kinds = (
        ("tp", "right detection"),
        ("fp", "wrong detection"),
        ("fn", "missed object"),
        ("truth", "found object"),
        ("crowd", "does not count"),
    )
    boxes = "".join(
        f'<label><input type="checkbox" value="{kind}" checked><i class="k-{kind}"></i>{name}</label>'
        for kind, name in kinds
    )
    return boxes + '<label><input type="checkbox" value="labels" checked>labels</label>'


def frame_choice(roles: Sequence[str], chosen: str) -> str:
    """Which frame the pictures show, or all beside each other; nothing where there is one frame."""
    if len(roles) < 2:
        return ""
    options = "".join(
        f'<label><input type="radio" name="frame" value="{role}"{" checked" if role == chosen else ""}>'
        f"{'difference' if role == 'diff' else role}</label>"
        for role in ("all", *roles)
    )
    return f'<fieldset class="which"><legend>frame</legend>{options}</fieldset>'


def footer(entries: Sequence[tuple[str, str]]) -> str:
    """What was compared, at the end of a page."""
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in entries)
    return f"<footer><h3>What was compared</h3><dl>{listed}</dl></footer>"
