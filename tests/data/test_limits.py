"""The first tokens of a domain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import ByT5Tokenizer

from trimtab import Domain
from trimtab.data.encode import encode
from trimtab.data.records import Text
from trimtab.data.tokens import first_tokens
from trimtab.errors import ConfigError, DataError, ModelError
from worlds import tokenizer

TEXTS = ["cdef", "ghi jkl", "mnopqr"]


@pytest.mark.parametrize(
    ("tokens", "kept"), [(5, ["cdef"]), (3, ["cd"]), (6, ["cdef"]), (8, ["cdef", "gh"]), (20, TEXTS)]
)
def test_records_are_taken_in_order_and_the_last_is_cut(tokens: int, kept: list[str]) -> None:
    """Every byte is a token, and each record is closed by one more."""
    whole = Domain("letters", train=TEXTS, validation=["xyz"])
    some = first_tokens(whole, tokenizer(), tokens)
    assert [item.text for item in some.items("train")] == kept
    assert [item.text for item in some.items("validation")] == ["xyz"]
    assert sum(len(text) + 1 for text in kept) <= tokens


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (
            lambda: first_tokens(Domain("a", train=TEXTS), tokenizer(), 22),
            DataError,
            "got 20 tokens, expected 22 or more",
        ),
        (lambda: first_tokens(Domain("a", train=TEXTS), tokenizer(), 1), ConfigError, "at least 2"),
        (lambda: first_tokens(Domain("a", test=TEXTS), tokenizer(), 5), DataError, "train"),
        (
            lambda: first_tokens(Domain("a", train=[{"prompt": "a", "completion": "b"}]), tokenizer(), 5),
            DataError,
            "got Completion, expected plain texts",
        ),
    ],
)
def test_what_has_no_first_tokens_is_refused(
    ask: Callable[[], Domain], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ask()


@pytest.mark.parametrize("texts", [["the cat", "a dog sat"], ["<bos>the cat<eos>", "the dog<eos>"]])
def test_what_is_counted_is_what_is_written(make_tokenizer, texts: list[str]) -> None:
    """With a token before each text, and with texts that have their special tokens already."""
    words = make_tokenizer(with_bos=True)
    whole = sum(len(row.ids) for row in encode(map(Text, texts), words))
    for tokens in range(5, whole + 1):
        some = first_tokens(Domain("a", train=texts), words, tokens)
        written = sum(len(row.ids) for row in encode(some.items("train"), words))
        assert tokens - 2 <= written <= tokens


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(ModelError, match="got ByT5Tokenizer, expected a fast tokenizer"):
        first_tokens(Domain("a", train=TEXTS), ByT5Tokenizer(), 5)
