"""What a steering reads of a record: the model's tokens, and those of the response."""

from __future__ import annotations

from typing import Any

import pytest

import templates
from tiny_models import chat_tokenizer, tokenizer
from trimtab.data.records import parse
from trimtab.data.rows import record_rows
from trimtab.errors import DataError, ModelError

SYSTEM = {"role": "system", "content": "Be kind."}
HI, HO = {"role": "user", "content": "Hi, you"}, {"role": "assistant", "content": "Ho! Ho"}
SURE = {"role": "assistant", "content": "sure "}
TEMPLATES = {
    name: text for name, text in vars(templates).items() if name.isupper() and not name.startswith("_")
}


def row_of(words: Any, raw: Any, **options: Any) -> Any:
    (row,) = record_rows(words, [parse(raw, "x")], "source", **options)
    return row


def said(words: Any, row: Any) -> str:
    return str(words.decode([one for one, counts in zip(row.ids, row.response, strict=True) if counts]))


@pytest.mark.parametrize("with_bos", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_are_those_of_the_chat_template(name: str, with_bos: bool) -> None:
    words = chat_tokenizer(TEMPLATES[name], with_bos=with_bos)
    talk = [HI, HO]
    row = row_of(words, {"messages": talk})
    assert list(row.ids) == words.apply_chat_template(talk, tokenize=True, return_dict=False)
    assert "Ho! Ho" in said(words, row)
    assert "Hi, you" not in said(words, row)
    if name not in ("ENCODES", "ESCAPES"):  # what closes a turn there is no special token
        assert said(words, row).endswith("Ho! Ho")
    prompt = row_of(words, {"messages": [HI]})
    expected = words.apply_chat_template([HI], tokenize=True, return_dict=False, add_generation_prompt=True)
    assert (list(prompt.ids), prompt.response) == (expected, None)


def test_all_turns_of_the_assistant_count_but_those_that_are_only_read() -> None:
    words, talk = chat_tokenizer(templates.DEFAULT_SYSTEM), [SYSTEM, HI, HO, HI, SURE]
    assert said(words, row_of(words, {"messages": talk})) == "Ho! Hosure"
    for raw in (
        {"messages": [SYSTEM, HI, {**HO, "weight": 0}, HI, SURE]},
        {"prompt": talk[:-1], "completion": talk[-1:]},
    ):
        assert said(words, row_of(words, raw)) == "sure"
    assert row_of(words, {"messages": [HI, HO, HI]}).response is None


def test_texts_and_completions_have_the_tokenizer_s_own_tokens() -> None:
    words = chat_tokenizer(templates.DEFAULT_SYSTEM, with_bos=True)
    text = row_of(words, "Hi, you")
    assert (list(text.ids), text.response) == (words("Hi, you")["input_ids"], None)
    row = row_of(words, {"prompt": "Hi, ", "completion": "you"})
    assert list(row.ids) == words("Hi, you")["input_ids"]
    assert said(words, row) == "you"


def test_longer_rows_are_cut_where_a_response_is_left() -> None:
    words = chat_tokenizer(None)
    row = row_of(words, {"prompt": "abc", "completion": "def"}, max_tokens=4)
    assert (words.decode(row.ids), said(words, row)) == ("abcd", "d")
    match = (
        "source, record 0: got a response that begins after 3 tokens, .* within 3 tokens; try max_tokens=6"
    )
    with pytest.raises(DataError, match=match):
        row_of(words, {"prompt": "abc", "completion": "def"}, max_tokens=3)
    cut = row_of(chat_tokenizer(templates.PARTS), {"messages": [HI]}, max_tokens=5)
    assert (len(cut.ids), cut.response) == (5, None)


@pytest.mark.parametrize(
    ("template", "raw", "error", "match"),
    [
        (
            None,
            {"messages": [HI, HO]},
            ModelError,
            "source, record 0: got messages for a tokenizer without a",
        ),
        (None, {"messages": [HI]}, ModelError, "source, record 0: got messages for a tokenizer without a"),
        (
            templates.ALTERNATES,
            {"messages": [SYSTEM, HI, HO]},
            DataError,
            "source, record 0: messages .* got Conversation roles must alternate, .*; try other roles or order",
        ),
        (
            templates.PARTS,
            {"messages": [HI, {"role": "assistant", "content": None}]},
            DataError,
            "source, record 0: got a response without tokens, expected one that says something",
        ),
        (None, {"prompt": "a", "completion": ""}, DataError, "record 0: got a response without tokens"),
    ],
)
def test_what_has_no_response_is_refused(
    template: str | None, raw: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        row_of(chat_tokenizer(template), raw)


def test_a_tokenizer_of_letters_gives_the_same(make_tokenizer: Any) -> None:
    """Where tokens straddle the border, the one that holds the response's first letter belongs to it."""
    words = make_tokenizer(template=templates.DEFAULT_SYSTEM, with_bos=True)
    row = row_of(words, {"prompt": "the c", "completion": "at sat"})
    assert list(row.ids) == words("the cat sat")["input_ids"]
    assert said(words, row).endswith("cat sat")
    assert tokenizer().chat_template is None
