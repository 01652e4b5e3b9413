from __future__ import annotations

import json

import pytest

from trimtab.data.domains import Domain
from trimtab.data.records import NOTHING, Chat, Completion, Text, excerpt, parse, unused_of, whole
from trimtab.errors import DataError

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_three_kinds_and_plain_text():
    assert parse("a", "x") == Text("a") == parse({"text": "a", "source": "web"}, "x")
    assert parse({"prompt": "p", "completion": "c"}, "x") == Completion("p", "c")
    assert parse({"messages": TALK}, "x") == Chat(tuple(TALK))


def test_prompts_and_completions_of_messages():
    found = parse({"prompt": TALK[:1], "completion": TALK[1:], "tools": [{"name": "f"}], "id": 1}, "x")
    assert found == Chat(tuple(TALK), {"tools": [{"name": "f"}]}, prompt=1)
    assert unused_of(found) == ("id",)
    assert found.digest != Chat(tuple(TALK), {"tools": [{"name": "f"}]}).digest


def test_columns_without_a_value_do_not_count():
    assert parse({"text": "a", "prompt": None, "messages": None}, "x") == Text("a")


def test_a_digest_is_of_the_content_and_the_kind():
    same = [Text("ab"), Completion("a", "b"), Completion("", "ab"), Chat(tuple(TALK))]
    assert len({item.digest for item in same}) == 4
    assert parse({"id": 1, "text": "a"}, "x").digest == parse("a", "y").digest


BROKEN = "so \ud83d good \ude00"


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (BROKEN, "text"),
        ({"text": BROKEN}, "text"),
        ({"prompt": BROKEN, "completion": "c"}, "prompt"),
        ({"prompt": "p", "completion": BROKEN}, "completion"),
        ({"messages": [{"role": "user", "content": BROKEN}]}, "messages"),
        ({"messages": [{"role": BROKEN, "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a", BROKEN: 1}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a", "x": [{"y": BROKEN}]}]}, "messages"),
        ({"messages": json.dumps([{"role": "user", "content": BROKEN}])}, "messages"),
        ({"messages": TALK, "tools": [{"name": BROKEN}]}, "tools"),
    ],
)
def test_half_of_a_character_is_refused_wherever_it_is_used(raw, key):
    with pytest.raises(
        DataError, match=rf"a:3, '{key}': got half of a character .*, expected whole characters; try"
    ):
        whole(parse(raw, "a:3"))
    with pytest.raises(DataError, match=rf"a:3, '{key}'"):  # told with its first place wherever it is used
        _ = Domain("d", train=[parse(raw, "a:3")]).contents


def test_halves_in_checked_records_are_refused_too():
    for item in (Text(BROKEN), Completion("p", BROKEN), Chat(({"role": "user", "content": BROKEN},))):
        with pytest.raises(DataError, match=r"d, train, record 1, '.*': got half of a character"):
            list(Domain("d", train=["a", item]).items("train"))


def test_whole_characters_and_keys_that_are_not_used_pass():
    assert parse({"text": "caf\u00e9 \U0001f600", BROKEN: BROKEN}, "x") == Text("caf\u00e9 \U0001f600")
    assert parse(json.loads('{"text": "\\ud83d\\ude00"}'), "x") == Text("\U0001f600")


@pytest.mark.parametrize(
    "raw",
    [
        None,
        float("nan"),
        {"text": None},
        {"text": float("nan"), "id": 1},
        {"prompt": "p", "completion": None},
        {"prompt": None, "completion": "c"},
        {"messages": None},
        {"text": None, "prompt": "p"},
    ],
)
def test_what_has_keys_but_no_value_is_nothing(raw):
    assert parse(raw, "x") is NOTHING


def test_one_kind_wins_and_the_rest_is_noted():
    whole = {"id": 1, "text": "t", "prompt": "p", "completion": "c", "messages": TALK, "tag": None}
    found = parse(whole, "x")
    assert found == Chat(tuple(TALK))
    assert set(unused_of(found)) == {"id", "text", "prompt", "completion"}
    del whole["messages"]
    assert parse(whole, "x") == Completion("p", "c")
    assert parse({"text": "t", "prompt": "p"}, "x") == Text("t")


def test_messages_as_json_and_with_the_keys_that_tables_fill_in():
    assert parse({"messages": json.dumps(TALK)}, "x") == Chat(tuple(TALK))
    filled = [{**message, "name": None, "tool_calls": None} for message in TALK]
    assert parse({"messages": filled}, "x").digest == Chat(tuple(TALK)).digest
    with pytest.raises(
        DataError, match=r"x, 'messages': got text that is not JSON .*, expected a list of messages"
    ):
        parse({"messages": "[{]"}, "x")


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (7, "here: got int, expected a text, or a mapping with 'text'"),
        ({}, "here: got an empty mapping"),
        ({"txt": "a"}, "got a mapping with 'txt', expected .*; try renaming 'txt' to 'text', or columns={"),
        ({"Text": "a"}, "; try renaming 'Text' to 'text'"),
        (
            {"question": "a", "id": 1},
            "got a mapping with 'question', 'id', expected a text, .* with 'messages'$",
        ),
        ({"question": "a", "answer": "b"}, "; try columns={'prompt': 'question', 'completion': 'answer'}"),
        ({"prompt": "a", "response": "b"}, "; try columns={'prompt': 'prompt', 'completion': 'response'}"),
        ({"instruction": "a", "input": "", "output": "b"}, "; try columns='alpaca'$"),
        ({"body": "a"}, "; try columns={'text': 'body'}"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "; try columns='sharegpt'$"),
        ({"conversations": TALK}, "; try columns={'messages': 'conversations'}"),
        ({"text": b"a"}, "'text': got bytes, expected a text; try decoding it"),
        ({"text": ["a"]}, "'text': got list, expected a text; try a record for each text"),
        ({f"k{number}": 1 for number in range(500)}, r"'k11' and 488 more, expected"),
        ({"text": 3}, "here, 'text': got int, expected a text"),
        ({"prompt": "p"}, "here, 'completion': got no value, expected a text"),
        (
            {"prompt": TALK, "completion": "c"},
            "here, 'completion': got a text beside messages in 'prompt', expected a list of messages, too",
        ),
        ({"prompt": "p", "completion": TALK}, "here, 'prompt': got a text beside messages in 'completion'"),
        ({"prompt": TALK, "completion": []}, "here, 'prompt': got list, expected a text"),
        ({"prompt": TALK, "completion": [{"role": "user"}]}, "here, message 0, 'content': got no value"),
        (
            {"messages": [{"from": "human", "value": "a"}]},
            "here, message 0: got a turn with 'from', .*; try columns='sharegpt'",
        ),
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
