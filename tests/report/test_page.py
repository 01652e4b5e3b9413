from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from page_script import without_script
from trimtab.report.charts import line_band
from trimtab.report.figures import to_svg
from trimtab.report.page import Gallery, Mark, Page, Passage, Picture, Section, Table, Text, page_script

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>{{ 7*7 }}$x$\x00" + "é" * 200
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_part_of_a_cell_is_marked_and_nothing_in_it_is_markup() -> None:
    texts = [Passage("3 old ", "cats", " ran"), Passage(HOSTILE, HOSTILE, HOSTILE, HOSTILE)]
    frame = pd.DataFrame({"n": ["a", "b"], "text": texts})
    html = without_script(Page("x", "", [Section("x", [Table(frame)])]).render())
    assert '3 old <mark title="">cats</mark> ran</td>' in html
    reader = Reader(html)
    assert reader.tags.count("mark") == 2
    assert "img" not in reader.tags
    (told,) = [value for tag, key, value in reader.attributes if (tag, key) == ("mark", "title") and value]
    assert told.startswith("<script>alert(1)</script>\"'&<img src=x")
    assert '<td class="number' not in html  # a text that begins with a number is no number


@pytest.fixture
def hostile_page() -> str:
    frame = pd.DataFrame({HOSTILE: [HOSTILE, None], "value": [1.0, math.nan]})
    figure = line_band([0, 1], [0, 1], [0, 1], [0, 1], title=HOSTILE, label=HOSTILE)
    picture = Picture(to_svg(figure), HOSTILE)
    blocks = [
        Text(HOSTILE, "bad"),
        Table(frame, HOSTILE, {"value": lambda value: Mark(f"{value}{HOSTILE}", "good")}),
        picture,
        Gallery([], HOSTILE),
        Section(HOSTILE, [Text(HOSTILE)], collapsed=True),
    ]
    return Page(HOSTILE, HOSTILE, [Section(HOSTILE, blocks)]).render()


def test_hostile_text_stays_text(hostile_page: str) -> None:
    read = Reader(without_script(hostile_page))
    assert not {"script", "img", "iframe", "object", "foreignobject"} & set(read.tags)
    assert not [key for _, key, _ in read.attributes if key.startswith("on")]
    assert "49" not in "".join(read.words).replace(HOSTILE, "")
    assert "\x00" not in hostile_page
    assert sum("<script>alert(1)</script>" in word for word in read.words) >= 10
    assert not re.search("<script", without_script(hostile_page))
    assert read.open == []


def test_a_page_needs_nothing_else(hostile_page: str) -> None:
    read = Reader(hostile_page)
    outside = [
        value for _, key, value in read.attributes if key in ("src", "href", "data", "action", "srcset")
    ]
    assert all(value.startswith(("#", "data:")) for value in outside)
    style = "".join(re.findall(r"<style>(.*?)</style>", hostile_page, re.S))
    assert "@import" not in style
    assert "url(" not in style
    policy = next(value for tag, _, value in read.attributes if tag == "meta" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert sorted(part.split()[0] for part in policy.split("; ")) == [
        *("base-uri", "default-src", "form-action", "img-src", "script-src", "style-src"),
    ]
    assert not re.search(
        "fetch|XMLHttp|import|eval|innerHTML|insertAdjacent|document.write", page_script()[0]
    )


def test_headings_go_down_one_at_a_time() -> None:
    nested = Section("a", [Section("b", [Section("c", [Text("d")], collapsed=True)])])
    levels = [
        int(tag[1]) for tag in Reader(Page("t", "s", [nested]).render()).tags if re.fullmatch("h[1-6]", tag)
    ]
    assert levels == [1, 2, 3, 4]


def rows(table: Table) -> list[list[str]]:
    html = Page("t", "s", [Section("a", [table])]).render()
    body = html[html.index("<tbody>") : html.index("</tbody>")]
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.S)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in found]


def test_cells_are_written_for_a_reader() -> None:
    frame = pd.DataFrame(
        {
            "name": ["a", "b"],
            "float": [0.041871, math.nan],
            "integer": [1024, 7],
            "flag": [True, False],
            "mark": [Mark("kept", "good"), None],
            "numpy": [np.bool_(True), np.float32(0.5)],
        },
        dtype=object,
    )
    assert rows(Table(frame)) == [
        ["a", "0.0419", "1024", "yes", "kept", "yes"],
        ["b", "–", "7", "no", "–", "0.500"],
    ]


def test_a_format_never_sees_a_missing_value() -> None:
    frame = pd.DataFrame({"n": ["x", "y"], "a": [2.0, math.nan]})
    assert rows(Table(frame, formats={"a": lambda value: f"{value:.0f} s"})) == [["x", "2 s"], ["y", "–"]]


def test_columns_of_the_same_name_are_all_shown() -> None:
    frame = pd.DataFrame([[1, 2, 3]], columns=["a", "a", "a"])
    assert rows(Table(frame)) == [["1", "2", "3"]]


def test_an_empty_table_has_its_head() -> None:
    html = Page("t", "s", [Section("a", [Table(pd.DataFrame({"x": []}))])]).render()
    assert ">x</th>" in html
    assert rows(Table(pd.DataFrame({"x": []}))) == []


def test_tone_and_row_marks_repeat_what_the_words_say() -> None:
    frame = pd.DataFrame({"n": ["a", "b"], "k": [Mark("kept", "good"), Mark("not kept", "bad")]})
    html = Page("t", "s", [Section("a", [Table(frame, marked=[1])])]).render()
    assert re.search(r'<td class="good">kept</td>', html)
    assert re.search(r'<tr class="marked">.*?<td class="bad">not kept</td>', html, re.S)


def test_a_gallery_of_small_pictures_says_so() -> None:
    shown = [Page("t", "s", [Section("a", [Gallery([], small=small)])]).render() for small in (True, False)]
    assert ['class="gallery small"' in html for html in shown] == [True, False]
