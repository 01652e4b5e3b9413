from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.lab.models import END, train_tokenizer

TEXTS = ["def f(x):\n    return x\n" * 20, "the cat sat on the mat, the cat did\n" * 20]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 280)


def test_has_the_size_asked_for(tokenizer):
    assert len(tokenizer) == 280
    assert sorted(tokenizer.get_vocab().values()) == list(range(280))
    assert tokenizer.decode([tokenizer.eos_token_id]) == END
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_learns_what_is_frequent(tokenizer):
    assert len(tokenizer("the cat the")["input_ids"]) <= 5
    assert len(tokenizer("zqj wvk zqj")["input_ids"]) == 11


@given(st.text())
def test_any_text_comes_back(text):
    made = _MADE
    assert made.decode(made(text)["input_ids"]) == text


_MADE = train_tokenizer(TEXTS, 280)


def test_order_of_texts_does_not_matter(tokenizer):
    other = train_tokenizer(TEXTS[::-1], 280)
    assert other.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
