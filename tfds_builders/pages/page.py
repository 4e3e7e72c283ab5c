"""The one skeleton of all pages: a single file that loads nothing and runs one script.

A page's policy lets nothing be loaded and no script run but its own, which it names by hash; so text from data could
not do harm even if it came to be markup. Light or dark is the reader's choice, on paper it is light.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from tfds_builders.pages.markup import Content, Markup, el, markup


@dataclass(frozen=True)
class Section:
    """A section of a page: its title, what is in it, and what stands beside the title and before all of it."""

    key: str
    title: str
    content: Content
    link: str = ""
    """The word that leads to it from the head of the page, if any does."""
    kind: str = "box"
    """Its classes in the style: all in one box, unless its parts have their own."""
    beside: Content = None
    before: Content = None

    def drawn(self) -> Markup:
        """The section as markup."""
        title = el("h2", self.title)
        head = title if self.beside is None else el("div", title, el("span", self.beside), class_="head")
        return markup(self.before, el("section", head, self.content, id=self.key, class_=self.kind or None))


def page(kind: str, title: str, head: Content, sections: Sequence[Section | None], foot: Content) -> str:
    """A whole HTML page.

    Args:
        kind: what pages of its kind are called, above its title.
        title: its own title.
        head: what stands under the title.
        sections: its sections, in order; those that are None are left out.
        foot: what stands at its end.
    """
    shown = [section for section in sections if section is not None]
    links = [el("a", section.link, href=f"#{section.key}") for section in shown if section.link]
    body = markup(
        el("header", el("p", f"Shardbox {kind}", class_="eyebrow"), el("h1", title), head),
        el("nav", links, aria_label="sections") if links else None,
        el("main", [section.drawn() for section in shown]),
        el("footer", foot),
        el("script", Markup(style_or_script("page.js"))),
    )
    style = Markup(chart_style() + style_or_script("page.css"))
    head_of_page = [
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=Markup(_policy())),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{title} · Shardbox {kind}"),
        el("style", style),
    ]
    return f"<!doctype html>\n{el('html', el('head', head_of_page), el('body', body), lang='en')}\n"


def chart_style() -> str:
    """CSS of the colours of pages, light and dark, and of charts; it also makes an SVG file complete."""
    return style_or_script("palette.css") + style_or_script("charts.css")


@cache
def style_or_script(name: str) -> str:
    """The text of a file of this package."""
    return files("tfds_builders.pages").joinpath(name).read_text(encoding="utf-8")


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(style_or_script("page.js").encode()).digest()).decode()
    own = f"img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"


def note(*content: Content) -> Markup:
    """A remark in smaller type."""
    return el("p", *content, class_="note")


@dataclass(frozen=True)
class Card:
    """A headline figure: its name, the figure, what it means, and what is drawn between."""

    name: str
    value: str
    meaning: str = ""
    drawn: Content = None


def cards(shown: Sequence[Card]) -> Markup:
    """Headline figures beside each other, the first of them marked."""
    drawn = [
        el(
            "div",
            el("span", card.name),
            el("b", card.value),
            card.drawn,
            el("small", card.meaning) if card.meaning else None,
            class_="card first" if place == 0 else "card",
        )
        for place, card in enumerate(shown)
    ]
    return el("div", drawn, class_="cards")


def facts(entries: Sequence[tuple[str, Content]], *, flow: bool = False) -> Markup:
    """Names with what they stand for, beneath each other, or behind each other where they `flow`."""
    listed = [el("div", el("dt", name), el("dd", value)) for name, value in entries]
    return el("dl", listed, class_="facts flow" if flow else "facts")


def provenance(entries: Sequence[tuple[str, Content]]) -> Markup:
    """What was looked at, at the end of a page."""
    return markup(el("h2", "What was looked at"), facts(entries))
