"""Special tokens: each once, however a tokenizer adds them."""

from __future__ import annotations

import pytest
from tokenizers.processors import TemplateProcessing

import tiny_models
from trimtab.errors import ModelError
from trimtab.models.batches import token_rows
from trimtab.models.tokenizer import Added


def adding(template):
    words = tiny_models.tokenizer()
    added = [("<s>", 0), ("</s>", 1)]
    words.backend_tokenizer.post_processor = TemplateProcessing(template, special_tokens=added)
    return words


@pytest.mark.parametrize(
    ("template", "added"),
    [
        ("$A", Added()),
        ("<s> $A", Added((0,))),
        ("$A </s>", Added((), (1,))),
        ("<s> $A </s>", Added((0,), (1,))),
        ("<s> </s> $A </s>", Added((0, 1), (1,))),
    ],
)
def test_what_a_text_has_already_is_not_added_again(template, added):
    words = adding(template)
    assert Added.of(words) == added
    start, end = "".join(["<s>", "</s>"][token] for token in added.before), "</s>" if added.after else ""
    expected = [*added.before, 3, 4, *added.after]
    for text in ("ab", f"{start}ab", f"ab{end}", f"{start}ab{end}"):
        assert token_rows(words, [text]) == [expected]
        for length in range(len(expected) - 1, len(added.before) + len(added.after), -1):
            (cut,) = token_rows(words, [text], max_tokens=length)
            assert cut == [
                *added.before,
                *[3, 4][: length - len(added.before) - len(added.after)],
                *added.after,
            ]


def test_what_a_text_has_twice_stays_twice():
    assert token_rows(adding("<s> $A"), ["<s><s>a"]) == [[0, 0, 3]]
    assert token_rows(adding("$A"), ["<s><s>a</s>"]) == [[0, 0, 3, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (5, "text 1: got a int, expected a text"),
        (None, "text 1: got a NoneType"),
        ("\ud800", "which the tokenizer cannot encode, expected text in Unicode"),
    ],
)
def test_what_is_no_text(text, message):
    with pytest.raises(ModelError, match=message):
        token_rows(tiny_models.tokenizer(), ["a", text])
