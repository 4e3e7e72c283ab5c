"""Text becomes markup by being escaped, whatever it is and wherever it stands."""

from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pages import HOSTILE, check_page
from tfds_builders.pages.markup import Markup, el, legible, markup, path_text, plural
from tfds_builders.pages.page import Card, Section, cards, facts, note, page
from tfds_builders.pages.tables import Cell, Shade, count, figure, number, scrolling, shaded, signed, table, words

TEXT = st.text(st.characters(), max_size=60) | st.sampled_from([HOSTILE, "<!--", "]]>", "<b", "&#60;", "\0"])


class Read(HTMLParser):
    """The elements, attributes and text that a parser finds."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values: list[Any] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@given(TEXT, TEXT)
def test_any_text_is_read_as_it_is(text: str, value: str) -> None:
    drawn = el("p", text, el("b", [text]), title=value)
    read = Read(drawn)
    assert read.tags == ["p", "b"] and read.values == [legible(value)] and read.text == 2 * legible(text)
    # As XML, which the charts in files of their own are.
    assert "".join(ElementTree.fromstring(drawn).itertext()) == read.text


@given(TEXT)
def test_what_is_joined_to_markup_is_text_again(text: str) -> None:
    for joined in (el("b", "x") + text, f"{el('b', 'x')}{text}", " ".join([el("b"), text])):
        assert not isinstance(joined, Markup)
        assert Read(el("p", joined)).tags == ["p"]
    assert Read(markup(el("b", "x"), text)).text == "x" + legible(text)


@given(TEXT)
def test_a_path_breaks_after_its_slashes_only(text: str) -> None:
    assert Read(path_text(text)).text == legible(text)
    assert set(Read(path_text(text)).tags) <= {"wbr"}


def test_elements_and_attributes() -> None:
    assert el("input", type="radio", checked=True, hidden=False, value=None) == '<input type="radio" checked>'
    assert el("rect", class_="a", data_x=2.5, y=3, x=1.004) == '<rect class="a" data-x="2.5" y="3" x="1"/>'
    assert el("td", viewBox="0 0 1 1") == '<td viewBox="0 0 1 1"></td>'
    assert el("p", None, ["a", el("br")], "<") == "<p>a<br>&lt;</p>"
    assert legible("x" * 601) == "x" * 400 + "…" + "x" * 199
    assert (plural(1, "box"), plural(2, "box"), plural(1234, "image")) == ("1 box", "2 boxes", "1,234 images")


def test_figures_as_they_are_read() -> None:
    assert (number(None), number(float("nan")), number(0.12345), number(1234.5, 0)) == ("–", "–", "0.123", "1,234")
    assert (signed(None), signed(-0.0001), signed(-0.5), signed(12345, 0)) == ("–", "0.000", "\u22120.500", "+12,345")


def every_part(text: str) -> str:
    """A page that has `text` wherever there may be some."""
    row = [words(text), count(3), figure(0.5, bar=True), Cell(text, text, drawn=note(text))]
    shades = scrolling(text, shaded([text], [(text, [Shade(text, 1.0, framed=True)])], figure=text))
    content = (table(text, [text, "a", "b", text], [row, row]), shades, facts([(text, text)]))
    sections = [Section("one", text, content, link=text, beside=text), None, Section("two", text, text, kind="")]
    return page(text, text, cards([Card(text, text, text, text)]), sections, note(text, path_text(text)))


@given(TEXT.filter(bool))
def test_any_text_leaves_a_page_whole(text: str) -> None:
    """The elements are those of a page about nothing in particular, but for the places where paths may be broken."""
    found, expected = (check_page(every_part(said)) for said in (text, "x"))
    assert [tag for tag, _ in found.elements if tag != "wbr"] == [tag for tag, _ in expected.elements]


@pytest.mark.parametrize("heads", [("a", "b"), ("", "b")])
def test_a_table_of_one_row_does_not_sort(heads: tuple[str, str]) -> None:
    assert "<button>" not in table("t", heads, [[words("x"), count(1)]])
    assert table("t", heads, [[words("x"), count(1)]] * 2).count("<button>") == sum(map(bool, heads))
