"""Words that differ from another text are marked, and all of the text is still there."""

from __future__ import annotations

import re
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from page_script import without_script
from trimtab.report.page import Page, Section, Table, changed_words

WORDS = st.lists(st.sampled_from(["a", "b", "c", "<b>", "&"]), max_size=9).map(" ".join)


def cells(before: str, after: str) -> list[str]:
    """The cells of a page's row of both texts, as they are in its HTML."""
    table = Table(
        pd.DataFrame({"before": [changed_words(before, before)], "after": [changed_words(before, after)]})
    )
    html = without_script(Page("", "", [Section("", [table])]).render())
    return re.findall(r"<t[hd] (?:scope=\"row\" )?class=\"[^\"]*\">(.*?)</t[hd]>", html, re.DOTALL)


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("the pig bites", "the hen bites", "the <mark>hen</mark> bites"),
        ("the pig", "the pig bites a rat", "the pig <mark>bites a rat</mark>"),
        ("the pig bites", "pig bites", "pig bites"),
        ("", "all new", "<mark>all new</mark>"),
        ("a b", "b a", "<mark>b</mark> a"),
        (
            "x",
            "<script>alert(1)</script> &\u202e",
            "<mark>&lt;script&gt;alert(1)&lt;/script&gt; &amp;�</mark>",
        ),
        ("two\nlines", "two   lines", "two lines"),
    ],
)
def test_words_that_differ_are_marked(before: str, after: str, shown: str) -> None:
    untouched, changed = cells(before, after)
    assert changed == shown
    assert "<mark>" not in untouched


@given(WORDS, WORDS)
def test_what_is_not_marked_is_common_and_nothing_is_lost(before: str, after: str) -> None:
    passage = changed_words(before, after)
    assert passage.text == after
    old = iter(before.split())
    left = [word for text, marked in passage.parts if not marked for word in text.split()]
    assert all(word in old for word in left)  # in the same order
    assert all(one[1] != two[1] for one, two in pairwise(passage.parts))


@given(WORDS)
def test_a_text_does_not_differ_from_itself(text: str) -> None:
    assert not any(marked for _, marked in changed_words(text, text).parts)
