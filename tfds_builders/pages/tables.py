"""Tables of pages: sorted by a press on their heads, with bars in their cells, or shaded by their values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfds_builders.pages.markup import Content, Markup, el

MINUS = "\u2212"


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where it is not defined."""
    return "–" if value is None or np.isnan(value) else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign, nothing but a plain zero where it rounds to none."""
    if value is None or np.isnan(value):
        return "–"
    text = f"{value:+,.{digits}f}".replace("-", MINUS)
    return text[1:] if not any(digit in text for digit in "123456789") else text


def share(part: int, whole: int) -> str:
    """A part in percent of the whole."""
    return f"{100 * part / whole:.0f} %" if whole else "–"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is read, what is sorted by, how much a bar fills (0 to 1), and what is drawn before."""

    text: str
    key: float | str | None = None
    bar: float | None = None
    words: bool = False
    drawn: Content = None


def words(text: str) -> Cell:
    """A cell that is read rather than compared."""
    return Cell(text, words=True)


def figure(value: float | None, *, bar: bool = False, digits: int = 3) -> Cell:
    """A cell with a figure between 0 and 1."""
    known = value is not None and not np.isnan(value)
    return Cell(number(value, digits), value if known else None, value if bar and known else None)


def count(value: int) -> Cell:
    """A cell with a count."""
    return Cell(f"{value:,}", value)


def table(
    label: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, sorts: bool = True, tall: bool = False
) -> Markup:
    """A table called `label`, each row headed by its first cell.

    Columns sort where `sorts` says so and there is something to sort; `tall` tables scroll under their heads.
    """
    sorts = sorts and len(rows) > 1
    are_words = [bool(rows) and rows[0][i].words for i in range(len(heads))]
    named = [
        el("th", el("button", head) if sorts and head else head, scope="col", class_="words" if is_text else None)
        for head, is_text in zip(heads, are_words, strict=True)
    ]
    body = [el("tr", [_cell(cell, place == 0) for place, cell in enumerate(row)]) for row in rows]
    return scrolling(
        label,
        el("table", el("thead", el("tr", named)), el("tbody", body), class_="sorts" if sorts else None),
        tall=tall,
    )


def scrolling(label: str, content: Content, *, tall: bool = False) -> Markup:
    """What scrolls by itself where it is too wide, or, if `tall`, too high; keys reach it."""
    return el("div", content, class_="scroll tall" if tall else "scroll", tabindex=0, role="group", aria_label=label)


def _cell(cell: Cell, heads: bool) -> Markup:
    key = cell.text if cell.words and cell.key is None else "" if cell.key is None else str(cell.key)
    kinds = [kind for kind, is_so in (("bar", cell.bar is not None), ("words", cell.words)) if is_so]
    return el(
        "th" if heads else "td",
        cell.drawn,
        cell.text,
        scope="row" if heads else None,
        data_v=key,
        class_=" ".join(kinds) or None,
        style=None if cell.bar is None else f"--v:{100 * min(max(cell.bar, 0), 1):.0f}%",
    )


@dataclass(frozen=True)
class Shade:
    """A cell of a shaded table: what is read, how dark it is (0 to 1), and whether it is framed."""

    text: str
    value: float = 0.0
    framed: bool = False


def shaded(
    heads: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Shade]]],
    *,
    figure: str | None = None,
    hidden: bool = False,
) -> Markup:
    """A table of shaded cells, each row with its name; `figure` is what tabs call it by. To be put into `scrolling`."""
    named = el("tr", el("td"), [el("th", el("span", head), scope="col") for head in heads])
    body = [
        el(
            "tr",
            el("th", name, scope="row"),
            [el("td", s.text, class_="top" if s.framed else None, style=f"--v:{100 * s.value:.0f}%") for s in shades],
        )
        for name, shades in rows
    ]
    return el("table", el("thead", named), el("tbody", body), class_="heat", data_figure=figure, hidden=hidden)
