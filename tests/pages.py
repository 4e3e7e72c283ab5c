"""What a browser, and who listens to a screen reader, find in a page; and what must hold of every page."""

import base64
import hashlib
import re
from html.parser import HTMLParser

HOSTILE = "</script></style><script>alert('x')</script>\"&<b>$body {x} %s\u202e"
"""A name that would do harm where it came to be markup."""
_VOID = {"meta", "input", "br", "wbr"}
_SHAPES = {"image", "rect", "path", "line", "circle", "use"}
_ADDRESSES = ("href", "src", "srcset", "action", "data", "poster", "xlink:href", "formaction")


class Page(HTMLParser):
    """The elements of a page with their attributes and the text in them; all that is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.headings: list[int] = []
        self.labelled: list[bool] = []
        """Of each control that takes a value, whether it says what for."""
        self.script = self.style = self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, f"{self.open} stay open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.elements.append((tag, known))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag in ("input", "select"):
            self.labelled.append("label" in self.open or "aria-label" in known)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _SHAPES, f"HTML has no <{tag}/>"
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.script += data
        elif "style" in self.open:
            self.style += data
        else:
            self.text += data

    def of(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        """The attributes of all elements of a tag that have these words in theirs."""
        return [a for t, a in self.elements if t == tag and all(v in a.get(k, "").split() for k, v in wanted.items())]


def check_page(html: str) -> Page:
    """The page, which loads nothing, runs nothing but its script, and can be read by who hears it or has no pointer."""
    page = Page(html)
    _is_safe(page)
    _is_accessible(page)
    return page


def _is_safe(page: Page) -> None:
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    (policy,) = (a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert len(page.of("script")) == len(page.of("style")) == 1 and "alert" not in page.script + page.style
    assert not re.search(r"@import|url\(", page.html)
    assert not re.search("[\0\r\ud800-\udfff\u202e\u200b]", page.html)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], "nothing runs by itself"
        assert tag not in ("iframe", "object", "embed", "link", "base", "form", "img")
        for address in (attributes[name] for name in _ADDRESSES if name in attributes):
            if address.startswith("#"):
                assert address[1:] in ids, f"{address} leads nowhere"
            else:  # A picture inside the page, or a file beside it.
                assert re.fullmatch(r"data:image/jpeg;base64,[\w+/=]*|[\w-]+\.(json|html)", address), address[:80]


def _is_accessible(page: Page) -> None:
    """WCAG 2.2: 1.1.1, 1.3.1, 2.1.1, 2.4.2, 2.4.6, 3.1.1 and 4.1.2, as far as markup shows it."""
    assert [a.get("lang") for a in page.of("html")] == ["en"] and "<title>" in page.html[: page.html.index("<body>")]
    assert page.headings.count(1) == 1 and page.headings[0] == 1
    assert all(b <= a + 1 for a, b in zip(page.headings, page.headings[1:], strict=False)), "a heading skips a level"
    assert {tag for tag, _ in page.elements} >= {"header", "main", "footer"}
    assert all(page.labelled)
    assert all(a.get("scope") in ("col", "row") for a in page.of("th"))
    assert all(a.get("aria-label") or a.get("aria-hidden") == "true" for a in page.of("svg"))
    assert all(a.get("role") == "img" for a in page.of("svg") if a.get("aria-hidden") != "true")
    scrolling = [a for _, a in page.elements if "scroll" in a.get("class", "").split()]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolling)
    assert len(scrolling) >= bool(page.of("table"))
