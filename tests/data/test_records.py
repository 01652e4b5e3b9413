from __future__ import annotations

import pytest

from trimtab.data.records import Chat, Completion, Text, excerpt, parse
from trimtab.errors import DataError

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_three_kinds_and_plain_text():
    assert parse("a", "x") == Text("a") == parse({"text": "a", "source": "web"}, "x")
    assert parse({"prompt": "p", "completion": "c"}, "x") == Completion("p", "c")
    assert parse({"messages": TALK}, "x") == Chat(tuple(TALK))


def test_columns_without_a_value_do_not_count():
    assert parse({"text": "a", "prompt": None, "messages": None}, "x") == Text("a")


def test_a_digest_is_of_the_content_and_the_kind():
    same = [Text("ab"), Completion("a", "b"), Completion("", "ab"), Chat(tuple(TALK))]
    assert len({item.digest for item in same}) == 4
    assert parse({"id": 1, "text": "a"}, "x").digest == parse("a", "y").digest
    assert len(Text("\ud800").digest) == 32


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (7, "here: got int, expected a text, or a mapping with 'text'"),
        ({}, "here: got an empty mapping"),
        ({"txt": "a"}, "got a mapping with 'txt', expected .*; try renaming 'txt' to 'text'"),
        ({"text": 3}, "here, 'text': got int, expected a text"),
        ({"prompt": "p"}, "here, 'completion': got no value, expected a text"),
        ({"prompt": TALK, "completion": "c"}, "'prompt': got list, expected a text; try .*'messages'"),
        ({"messages": []}, r"here, 'messages': got \[\], expected a list of messages, at least one"),
        ({"messages": "hi"}, "here, 'messages': got str, expected a list"),
        ({"messages": ["hi"]}, "here, message 0: got str, expected a mapping with 'role' and 'content'"),
        (
            {"messages": [*TALK, {"role": "user"}]},
            "here, message 2, 'content': got no value, expected a text",
        ),
    ],
)
def test_malformed_records_say_where_and_what(raw, match):
    with pytest.raises(DataError, match=match):
        parse(raw, "here")


def test_excerpts_of_each_kind():
    assert excerpt(Completion("a" * 50, "b" * 50), length=3) == "'aaa...'"
    assert excerpt(Chat(tuple(TALK))) == "'Hi / Hello'"
