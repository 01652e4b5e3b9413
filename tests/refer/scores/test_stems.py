"""Stems against the sample that Snowball's page prints, and words that are exceptions there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.refer.scores.stems import stem

SNOWBALL = """
consign consign, consigned consign, consigning consign, consignment consign, consist consist, consisted consist,
consistency consist, consistent consist, consistently consist, consisting consist, consists consist,
consolation consol, consolations consol, consolatory consolatori, console consol, consoled consol, consoles consol,
consolidate consolid, consolidated consolid, consolidating consolid, consoling consol, consolingly consol,
consols consol, consonant conson, consort consort, consorted consort, consorting consort, conspicuous conspicu,
conspicuously conspicu, conspiracy conspiraci, conspirator conspir, conspirators conspir, conspire conspir,
conspired conspir, conspiring conspir, constable constabl, constables constabl, constance constanc,
constancy constanc, constant constant, knack knack, knackeries knackeri, knacks knack, knag knag, knave knave,
knaves knave, knavish knavish, kneaded knead, kneading knead, knee knee, kneel kneel, kneeled kneel,
kneeling kneel, kneels kneel, knees knee, knell knell, knelt knelt, knew knew, knick knick, knif knif,
knife knife, knight knight, knightly knight, knights knight, knit knit, knits knit, knitted knit, knitting knit,
knives knive, knob knob, knobs knob, knock knock, knocked knock, knocker knocker, knockers knocker,
knocking knock, knocks knock, knopp knopp, knot knot, knots knot
"""
"""Words with their stems, from the page of the English stemmer."""
RULES = """
skis ski, skies sky, dying die, lying lie, tying tie, idly idl, gently gentl, ugly ugli, early earli, only onli,
news news, atlas atlas, inning inning, outing outing, herring herring, exceed exceed, succeeds succeed,
hopping hop, hoped hope, hoping hope, caresses caress, ponies poni, ties tie, dies die, gas gas, this this, kiwis kiwi,
generate generat, generously generous, communism communism, arsenal arsenal, cry cri, by by, say say, youth youth,
boyish boyish, flying fli, agreed agre, feed feed, luxuriated luxuri, disabled disabl, realization realiz,
rational ration, relational relat, hopefulness hope, electricity electr, adjustment adjust, adoption adopt, owed owe,
controlling control, rolled roll, bed bed, shred shred, is is, a a
"""
"""Words for each rule of its definition, with what the rule gives."""


@pytest.mark.parametrize("pair", [one.split() for one in f"{SNOWBALL},{RULES}".replace("\n", " ").split(",")])
def test_published_stems(pair: list[str]) -> None:
    assert stem(pair[0]) == pair[1]


def test_possessives_lose_their_mark() -> None:
    assert [stem(word) for word in ("dog's", "dogs'", "'tis", "dogs\u2019", "'s", "n't")] == (
        ["dog", "dog", "tis", "dog", "'s", "n't"]
    )


@given(st.text("abcdeghilnorstuyz'", max_size=12))
def test_a_stem_is_no_longer_than_its_word_and_no_error(word: str) -> None:
    assert len(stem(word)) <= len(word) + 1
    assert stem(word) == stem(word).lower()
