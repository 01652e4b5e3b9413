"""Tokenisers: the tokens of Stanford's program, written down here, and laws of both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import ConfigProblems
from trimtab.refer.scores.tokenisers import DROPPED, TOKENISERS, Tokeniser, _kept, ptb, tokeniser, words

STANFORD = {
    "The dog's bone isn't John's.": "the dog 's bone is n't john 's",
    "I can't, cannot, won't, he'd, they're, I've, we'll, I'm": (
        "i ca n't can not wo n't he 'd they 're i 've we 'll i 'm"
    ),
    "dogs' bones 'quoted' \"double\"": "dogs bones quoted double",
    "U.S. army in the U.S.": "u.s. army in the u.s.",
    "it is 5 p.m.": "it is 5 p.m.",
    "Mr. Smith and Mrs. X etc. and so on": "mr. smith and mrs. x etc. and so on",
    "a T.V. Then": "a t.v. then",
    "plan b. The man": "plan b the man",
    "plan b. the man": "plan b. the man",
    "J. Smith": "j. smith",
    "fork.A man": "fork.a man",
    "$5.00 and 50% off #1 @home a*b": "$ 5.00 and 50 % off # 1 @home a * b",
    "he (she) [it] {x}": "he -lrb- she -rrb- -lsb- it -rsb- -lcb- x -rcb-",
    "well-made - made -- it---so": "well-made made it so",
    "wait...what .. ok": "wait what ok",
    "hello,world a,b 1,000 1,000,000": "hello world a b 1,000 1,000,000",
    "6:30 a:b a;b": "6:30 a b a b",
    "M&M M&Ms AT&T a & b": "m&m m&m s at&t a & b",
    "and/or 1/2 cow/bull/dog a / b": "and/or 1/2 cow/bull/dog a / b",
    "O'Reilly o'clock '90s ma'am y'all": "o'reilly o'clock '90s ma'am y' all",
    "gonna wanna gotta gimme lemme 'twas": "gon na wan na got ta gim me lem me 't was",
    "5th 1960s 20mph 12:45pm 2.5kg": "5th 1960s 20mph 12:45 pm 2.5 kg",
    "15,000-pound 2/3rds": "15,000-pound 2/3rds",
    "don\u2019t it\u2019s \u201cquoted\u201d x \u2013 y": "do n't it 's quoted x y",
    "what?! what?? no!!": "what ?! what ?? no !!",
    "http://x.com www.x.com x.com": "http://x.com www.x.com x.com",
    "No. 5 and no. The end": "no. 5 and no the end",
    "caf\u00e9 na\u00efve \U0001f600": "caf\u00e9 na\u00efve",
    "mother-in-law's": "mother-in-law 's",
    "Feb. 3 and Sat. or Sun.": "feb. 3 and sat or sun",
    "": "",
    " \n\t": "",
    "...": "",
}
"""Text -> its tokens by edu.stanford.nlp.process.PTBTokenizer 3.4.1 -preserveLines -lowerCase, less punctuation."""


@pytest.mark.parametrize("text", STANFORD)
def test_the_tokens_of_the_java_program(text: str) -> None:
    assert ptb(text) == STANFORD[text].split()


def test_words_are_runs_of_letters() -> None:
    assert words("A dog's close-up, 1,000 m\u00fcde K\u00f6ter (isn\u2019t it?)") == (
        ["a", "dog's", "close", "up", "1", "000", "m\u00fcde", "k\u00f6ter", "isn't", "it"]
    )


CAPTION = st.text("aAbTthe .,'-/?&()5nN\u2019\u00e9", max_size=30)


@given(CAPTION)
def test_chunks_by_themselves_have_the_tokens_of_the_text(text: str) -> None:
    assert ptb(text) == list(_kept(text.replace("\u2019", "'")))


@given(st.text(max_size=40))
def test_no_token_is_blank_dropped_or_upper_case(text: str) -> None:
    for split in (ptb, words):
        found = split(text)
        assert all(token.strip() and not set(token) & set(" \n\t") for token in found)
        assert not set(found) & DROPPED
        assert found == [token.lower() for token in found]


def test_a_tokeniser_by_name_or_of_ones_own() -> None:
    assert {name: one.signature for name, one in TOKENISERS.items()} == {"ptb": "ptb.1", "words": "words.1"}
    own = Tokeniser("letters", 3, list)
    assert tokeniser(own) is own
    assert own.signature == "letters.3"
    with pytest.raises(ConfigProblems, match="tokeniser: got 'pbt', expected 'ptb' or 'words'; try 'ptb'"):
        tokeniser("pbt")
