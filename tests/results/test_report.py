"""Reports: whatever text goes in comes out as text, and the page needs nothing from elsewhere."""

import base64
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdexp.results.report import (
    BulletList,
    Facts,
    FigureBlock,
    Heading,
    Paragraph,
    Preformatted,
    TableBlock,
    html_page,
    markdown_page,
)

NASTY = "<script>alert(\"1\")</script> & 'quotes' | a*b `c` [x](javascript:y)"


class Page(HTMLParser):
    """Elements with attributes, and the text of the body, as a browser would read them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())


def figure(title: str = "gain") -> Figure:
    drawn = Figure(figsize=(3, 2))
    axes = drawn.subplots()
    axes.plot([0, 1], [0, 1])
    axes.set_title(title)
    return drawn


def every_block():
    return [
        Heading(NASTY),
        Paragraph(NASTY),
        BulletList([NASTY, "second"]),
        Facts([(NASTY, NASTY)]),
        Preformatted(NASTY),
        TableBlock(pd.DataFrame({NASTY: [NASTY]}), caption=NASTY),
        FigureBlock(figure(), NASTY),
    ]


def test_every_text_is_shown_as_it_is_and_runs_nothing():
    page = Page(html_page(NASTY, every_block()))
    # title, h1, heading, paragraph, item, a fact's name and text, pre, column, cell, two captions
    assert page.texts.count(NASTY) == 12
    assert [attributes["alt"] for tag, attributes in page.elements if tag == "img"] == [NASTY]
    assert not {"script", "link", "iframe", "a"} & {tag for tag, _ in page.elements}


def test_page_needs_nothing_from_elsewhere():
    page = Page(html_page("title", every_block()))
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag


def test_figures_are_embedded_pictures_and_the_page_is_the_same_each_time():
    first, second = (html_page("title", [FigureBlock(figure(), "a line")]) for _ in range(2))
    assert first == second
    (source,) = [attributes["src"] for tag, attributes in Page(first).elements if tag == "img"]
    kind, _, data = source.partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_cells_show_numbers_briefly_and_missing_values_blank():
    table = pd.DataFrame(
        {
            "name": ["a", None],
            "gain": [0.123456, np.nan],
            "rows": [12345678, 2],
            "mixed": ["x", 1.0],
        }
    )
    page = Page(html_page("t", [TableBlock(table)]))
    assert page.texts[-10:] == [*table.columns, "a", "0.1235", "12345678", "x", "2", "1"]
    classes = [attributes.get("class") for tag, attributes in page.elements if tag == "td"]
    assert classes == [None, "number", "number", None] * 2
    assert markdown_page("t", [TableBlock(table)]).splitlines()[2:] == [
        "| name | gain   | rows     | mixed |",
        "| ---- | ------ | -------- | ----- |",
        "| a    | 0.1235 | 12345678 | x     |",
        "|      |        | 2        | 1     |",
    ]


def test_markdown_tells_of_a_table_above_it():
    table = TableBlock(pd.DataFrame({"a": [1]}), "of tests")
    assert markdown_page("t", [table]).splitlines()[2:] == ["of tests", "", "| a   |", "| --- |", "| 1   |"]


def test_long_tables_and_long_cells_are_shown_whole():
    table = pd.DataFrame({"text": ["x" * 500] * 300})
    assert html_page("t", [TableBlock(table)]).count("x" * 500) == 300


def test_texts_that_read_as_numbers_are_aligned_as_such():
    table = pd.DataFrame({"gain": ["+1.2 [+0.8, +1.6]", ""], "interval": ["[+0.8, +1.6]", ""], "cased": [True, False]})
    cells = [
        attributes.get("class")
        for tag, attributes in Page(html_page("t", [TableBlock(table)])).elements
        if tag == "td"
    ]
    assert cells == ["number", None, None] * 2


def test_facts_are_told_one_a_line():
    facts = Facts([("gain", "+1.00 points"), ("", "one seed")])
    assert markdown_page("t", [facts]).splitlines()[2:] == ["- gain: +1.00 points", "  - one seed"]
    assert "<dt>gain</dt><dd>+1.00 points</dd>" in html_page("t", [facts])


def test_a_table_without_rows_keeps_its_names():
    empty = TableBlock(pd.DataFrame({"pair": [], "gain": []}))
    assert "<th" in html_page("t", [empty])
    assert "| pair | gain |" in markdown_page("t", [empty])


def test_markdown_keeps_text_from_becoming_markup():
    text = markdown_page("t", [Paragraph(NASTY), TableBlock(pd.DataFrame({"a": ["x | y\nz"]}))])
    assert "\\<script>" in text
    assert "a\\*b \\`c\\` [x]\\(javascript" in text
    assert "| x \\| y z |" in text
    assert "[+0.1, +0.3]" in markdown_page("t", [Paragraph("gain [+0.1, +0.3]")])


def test_preformatted_text_with_fences_stays_inside_its_own():
    text = markdown_page("t", [Preformatted("```\ncode\n```")])
    assert text.splitlines()[2:] == ["````", "```", "code", "```", "````"]
