from __future__ import annotations

import re
from collections.abc import Iterator

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from trimtab.report.anchors import Placed, placed
from trimtab.report.page import Gallery, Page, Picture, Section, Table, Text

TABLE, DRAWING = Table(pd.DataFrame({"a": [1]})), Picture("<svg></svg>")
titles = st.sampled_from(["Cost", "cost!", "Cost 2", "数据", "", "drawing-1", "a.b"]) | st.text(max_size=60)
sections = st.recursive(
    st.builds(
        Section, titles, st.lists(st.sampled_from([TABLE, DRAWING, Text("t"), Gallery([DRAWING] * 2)]))
    ),
    lambda inner: st.builds(Section, titles, st.lists(inner, max_size=4)),
    max_leaves=8,
)


def every(found: list[Placed] | tuple[Placed, ...]) -> Iterator[Placed]:
    for one in found:
        yield one
        yield from every(one.inside)


@given(st.lists(sections, max_size=5))
def test_anchors_are_unique_and_of_letters_that_every_address_may_hold(page: list[Section]) -> None:
    anchors = [one.anchor for one in every(placed(page)) if one.anchor]
    assert len(anchors) == len(set(anchors))
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", anchor) for anchor in anchors)
    assert anchors == [one.anchor for one in every(placed(page)) if one.anchor]


def test_what_is_added_elsewhere_moves_no_anchor() -> None:
    costs = Section(
        "Cost", [Text("x"), TABLE, Gallery([DRAWING, DRAWING]), DRAWING, Section("Cost", [TABLE])]
    )
    found = [one.anchor for one in every(placed([costs]))]
    assert found == [
        *("cost", "", "cost.table-1", "", "cost.drawing-1", "cost.drawing-2", "cost.drawing-3"),
        *("cost.cost", "cost.cost.table-1"),
    ]
    assert [one.anchor for one in every(placed([Section("Losses", [DRAWING]), costs]))][2:] == found


def test_contents_name_sections_and_their_sections_and_link_to_them() -> None:
    deep = Section("<b>", [Section("Inner", [Section("Innermost", [Text("t")])])], collapsed=True)
    html = Page("t", "s", [Section("Cost", [DRAWING]), deep]).render()
    contents = html[html.index("<nav") : html.index("</nav>")]
    assert re.findall(r'<a href="#([^"]+)">([^<]+)</a>', contents) == [
        *(("cost", "Cost"), ("b", "&lt;b&gt;"), ("b.inner", "Inner")),
    ]
    assert {"cost", "b", "b.inner", "b.inner.innermost", "cost.drawing-1"} <= set(
        re.findall(r' id="([^"]+)"', html)
    )


def test_a_page_of_one_section_has_no_contents() -> None:
    assert "<nav" not in Page("t", "s", [Section("a", [Text("t")])]).render()
