"""Recommendations in words: each branch, and no number that is not in the rows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.read.leaks.recommendation import (
    ABOVE,
    BY_ESTIMATE,
    NO_LEAK,
    RISK,
    SHOWN,
    UNKNOWN,
    reads,
    recommend,
    risk_of,
    risk_table,
)

UTILITY = {"same_answer": 1.0, "answer_error_nats": 0.0, "kept": 1.0}


def leak(bits: float, half: float = 0.05, **more: Any) -> dict[str, Any]:
    """A row of the headline table."""
    row = {"attribute": "city", "role": "unmentioned", "level": "logprobs", "lens": "", "encoding": "served"}
    row |= {"setting": "", "k": 20.0, "layer": np.nan, "accuracy": 0.5, "chance": 0.25, "n": 100}
    return row | {"bits": bits, "low": bits - half, "high": bits + half} | more


def tried(mitigation: str, setting: str, bits: float, half: float = 0.05, **more: Any) -> dict[str, Any]:
    """A row of the mitigations."""
    useful = UTILITY | {name: more.pop(name) for name in UTILITY if name in more}
    ends = {f"{name}{end}": value for name, value in useful.items() for end in ("_low", "_high")}
    row = {"mitigation": mitigation, "setting": setting, "attribute": "city", "role": "unmentioned", "n": 100}
    row |= {"change": bits - 0.8, "change_low": bits - 0.8 - half, "change_high": bits - 0.8 + half}
    return row | {"bits": bits, "low": bits - half, "high": bits + half} | useful | ends | more


TABLE = pd.DataFrame(
    [leak(0.8), leak(0.3, k=5.0), leak(2.0, level="hidden", layer=3.0), leak(0.02, level="answer")]
)
NONE = tried("none", "", 0.8)


def test_what_is_not_served_is_no_risk_and_the_strongest_row_is_picked() -> None:
    risks = risk_table(TABLE)
    assert tuple(risks.columns) == RISK
    assert risks[["bits", "served", "looks", "risk"]].values.tolist() == [
        [0.8, "top 20, ids with values", 3, SHOWN]
    ]
    assert risk_table(TABLE, 0.1)["risk"].tolist() == [ABOVE]
    wide = pd.DataFrame([leak(0.5, 0.45), leak(0.4, 0.1, k=5.0), leak(0.3, 0.05, k=2.0)])
    risk = risk_table(wide, 0.2).iloc[0]  # the row of the most bits is above the bound by its estimate alone
    assert (risk["risk"], risk["bits"], risk["looks"]) == (ABOVE, 0.4, 3)
    roles = pd.DataFrame([leak(0.8), leak(-0.01, role="mentioned"), leak(np.nan, role="background")])
    assert risk_table(roles)["risk"].tolist() == [SHOWN, NO_LEAK, UNKNOWN]


@pytest.mark.parametrize(
    ("bits", "half", "bound", "word"),
    [
        (0.3, 0.1, None, SHOWN),
        (0.3, 0.1, 0.2, BY_ESTIMATE),
        (0.3, 0.1, 0.19, ABOVE),
        (0.3, 0.1, 0.35, SHOWN),
        (0.3, 0.4, 0.1, NO_LEAK),
        (3e-7, 1e-7, None, NO_LEAK),
        (3e-7, 1e-7, 0.0, NO_LEAK),
        (0.1, 0.05, 0.0, ABOVE),
        (3e-7, np.nan, None, UNKNOWN),
    ],
)
def test_words_for_a_risk(bits: float, half: float, bound: float | None, word: str) -> None:
    assert risk_of(bits, bits - half, bits + half, bound) == word


def test_the_cheapest_setting_that_reaches_the_bound_is_recommended_with_its_cost() -> None:
    rows = [
        NONE,
        tried("truncate", "top 1", 0.01, kept=0.05),
        tried("round", "0 decimals", 0.03, answer_error_nats=0.25),
        tried("temperature", "t = 2", 0.6, answer_error_nats=0.5),
    ]
    text = recommend(TABLE, pd.DataFrame(rows), 0.1)
    assert "0.80 bits (0.75 to 0.85) by top 20, ids with values, the strongest of 3 served rows." in text
    assert "Above the bound of 0.1 bits are 2 of 3 served rows." in text
    assert "Recommended is truncate (top 1): with it every leak is within 0.1 bits" in text
    assert "The interval that reaches furthest ends at 0.06 bits, of city (unmentioned)." in text
    assert (
        "The first token stays in 100 % (100 to 100) of rows, and 5 % (5 to 5) of the served tokens stay."
        in text
    )
    assert "moves by 0.00 nats (0.00 to 0.00)" in text
    assert "Of the 3 settings tried, 2 reached this" in text
    assert "Intervals of 3 mitigated outputs were compared, without correction" in text


def test_an_estimate_below_the_bound_is_not_enough() -> None:
    text = recommend(TABLE, pd.DataFrame([NONE, tried("truncate", "top 1", 0.08)]), 0.1)
    assert "Nothing that was tried is enough: the only setting misses the goal that every leak is" in text
    assert "Least is left by truncate (top 1): 0.08 bits (0.03 to 0.13) of city (unmentioned)." in text
    assert "Recommended" not in text


def test_a_setting_that_was_not_measured_everywhere_is_never_recommended() -> None:
    rows = [
        NONE,
        NONE | {"attribute": "age"},
        tried("truncate", "top 1", 0.0),
        tried("round", "0 decimals", 0.5),
    ]
    rows += [
        tried("truncate", "top 1", np.nan, attribute="age"),
        tried("round", "0 decimals", 0.5, attribute="age"),
    ]
    for bound in (None, 0.1):
        text = recommend(TABLE, pd.DataFrame(rows), bound)
        assert "Nothing that was tried is enough" in text
        assert "Least is left by round (0 decimals)" in text


def test_what_cannot_be_measured_even_without_a_mitigation_is_named_and_judges_no_setting() -> None:
    unknown = [tried(*setting, np.nan, role="mentioned") for setting in (("none", ""), ("truncate", "top 1"))]
    rows = pd.DataFrame([NONE, tried("truncate", "top 1", 0.01), *unknown])
    for bound in (None, 0.1):
        text = recommend(TABLE, rows, bound)
        assert (
            "Not measured, and so not considered: city (mentioned). Recommended is truncate (top 1)" in text
        )
        nothing = recommend(TABLE, pd.DataFrame(unknown), bound)
        assert nothing.endswith("No mitigated output could be measured, so none is recommended.")


def test_without_a_bound_the_goal_is_what_cannot_be_told_from_0() -> None:
    rows = pd.DataFrame([NONE, tried("truncate", "top 1", 0.04), tried("truncate", "top 5", 0.2)])
    text = recommend(TABLE, rows)
    assert "Recommended is truncate (top 1): with it no leak is distinguishable from 0." in text
    assert "bound" not in text


@pytest.mark.parametrize("bound", [0.0, 0.0004, None])
def test_a_bound_of_zero_asks_for_what_is_shown(bound: float | None) -> None:
    table = pd.DataFrame([leak(0.01)])
    rows = [
        tried("none", "", 0.01),
        tried("round", "0 decimals", -0.02, 0.01),
        tried("truncate", "top 1", 0.0, 0.0),
    ]
    text = recommend(table, pd.DataFrame(rows), bound)
    assert "No mitigation is needed: without one no leak is distinguishable from 0." in text
    assert "Recommended" not in text
    shown = [NONE, *rows[1:], tried("temperature", "t = 2", 0.03, 0.02)]
    text = recommend(TABLE, pd.DataFrame(shown), bound)  # a leak is shown: what brings it to 0 is recommended
    assert "Recommended is round (0 decimals): with it no leak is distinguishable from 0." in text
    assert "Of the 3 settings tried, 2 reached this" in text


def test_a_wider_interval_alone_is_no_remedy() -> None:
    erase = tried("erase", "city", 0.6, 0.7, n=50)
    assert erase["low"] < 0 < erase["change_high"]
    text = recommend(TABLE, pd.DataFrame([NONE, erase, tried("round", "1 decimal", 0.79)]))
    assert "Nothing that was tried is shown to be enough. With erase (city) no leak is dis" in text
    left = "0.60 bits (−0.10 to 1.30) of city (unmentioned)"
    assert f"It leaves {left}, which is not shown to be less than without it." in text
    assert "Recommended" not in text
    less = erase | {"change_high": -0.01}
    assert "Recommended is erase (city)" in recommend(TABLE, pd.DataFrame([NONE, less]))
    unknown = erase | {"change_high": np.nan}
    assert "Recommended" not in recommend(TABLE, pd.DataFrame([NONE, unknown]))


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1), st.floats(-1, 1)), min_size=1, max_size=6),
    st.floats(-0.5, 1.5),
    st.sampled_from([None, 0.0, 0.1, 0.5]),
)
def test_what_is_recommended_follows_from_intervals(
    settings: list[tuple[float, float, float]], plain: float, bound: float | None
) -> None:
    none = tried("none", "", plain)
    rows = [
        tried("round", f"{place} decimals", bits, half) | {"change_high": change}
        for place, (bits, half, change) in enumerate(settings)
    ]
    text = recommend(pd.DataFrame([leak(plain)]), pd.DataFrame([none, *rows]), bound)
    level = bound or 0.0005
    fits = [row["high"] <= bound if bound else row["low"] <= level for row in (none, *rows)]
    lower = [none["low"] <= level or row["change_high"] < 0 for row in rows]
    named = re.search(r"Recommended is round \((\d) decimals\)", text)
    if fits[0]:
        assert "No mitigation is needed" in text
    assert (named is not None) == (not fits[0] and any(a and b for a, b in zip(fits[1:], lower, strict=True)))
    if named is not None:
        assert fits[1:][int(named[1])]
        assert lower[int(named[1])]


@pytest.mark.parametrize("bound", [None, 0.0, 0.1])
def test_a_leak_elsewhere_is_no_sign_that_nothing_is_needed(bound: float | None) -> None:
    table = pd.DataFrame([leak(0.01), leak(0.4, level="answer", k=np.nan)])
    rows = [tried("none", "", 0.01), tried("truncate", "top 1", 0.0)]
    text = recommend(table, pd.DataFrame(rows), bound)
    assert "What mitigations were tried on meets the goal that" in text
    assert "Another served row is shown to miss it, so no mitigation is recommended. The answer alone" in text
    assert "needed" not in text


def test_a_shown_leak_is_told_before_a_larger_one_that_is_not() -> None:
    table = pd.DataFrame([leak(0.5, 0.6), leak(0.4, 0.1, k=5.0), leak(0.9, 1.0, level="answer")])
    table = pd.concat([table, pd.DataFrame([leak(0.2, 0.1, level="answer", attribute="age")])])
    text = recommend(table, pd.DataFrame([NONE, tried("truncate", "top 1", 0.5)]))
    assert text.startswith(
        "Served outputs give away city (unmentioned) most: 0.40 bits (0.30 to 0.50) by top 5"
    )
    assert "The answer alone gives away 0.20 bits (0.10 to 0.30) of age (unmentioned)" in text


def test_noise_is_recommended_only_with_what_asking_again_finds() -> None:
    noise = {"answer_error_nats": 0.4}
    rows = [
        NONE,
        tried("noise", "0.5, 1 query", 0.02, **noise),
        tried("noise", "0.5, 16 queries", 0.7, **noise),
    ]
    text = recommend(TABLE, pd.DataFrame(rows), 0.1)
    assert "Recommended is noise (0.5, 1 query)" in text
    assert "It holds only where the same request always gets the same noise." in text
    assert "fresh noise, 16 queries leave 0.70 bits (0.65 to 0.75) of city (unmentioned)." in text


def test_erasure_says_on_how_many_rows_it_was_tested() -> None:
    text = recommend(TABLE, pd.DataFrame([NONE, tried("erase", "city", 0.0, n=50)]), 0.1)
    assert "Erasure was tested on 50 rows that it was not fitted on" in text


def test_what_the_answer_gives_away_nothing_can_hide() -> None:
    table = pd.DataFrame([leak(0.8), leak(0.4, level="answer")])
    text = recommend(table, pd.DataFrame([NONE, tried("truncate", "top 1", 0.5)]), 0.1)
    assert "The answer alone gives away 0.40 bits (0.35 to 0.45) of city (unmentioned)" in text


def test_where_nothing_leaks_nothing_is_recommended() -> None:
    table, none = pd.DataFrame([leak(0.01)]), tried("none", "", 0.01)
    text = recommend(table, pd.DataFrame([none, tried("truncate", "top 1", 0.0)]))
    assert text.startswith("No leak of served outputs is shown: most is 0.01 bits (−0.04 to 0.06) of city")
    assert "No mitigation is needed" in text
    assert "Recommended" not in text


@pytest.mark.parametrize(
    "table", [TABLE.iloc[:0], TABLE[TABLE["level"] == "hidden"], TABLE.assign(bits=np.nan)]
)
def test_nothing_served_nothing_recommended(table: pd.DataFrame) -> None:
    assert recommend(table, pd.DataFrame([NONE]), 0.1).startswith("Nothing that is served could be measured")


def test_nothing_tried_is_said() -> None:
    assert recommend(TABLE, pd.DataFrame(columns=["mitigation"])).endswith("so none is recommended.")


def test_sentences_are_short() -> None:
    rows = [NONE, tried("noise", "0.5, 1 query", 0.02), tried("noise", "0.5, 16 queries", 0.7)]
    texts = [recommend(TABLE, pd.DataFrame(rows), bound) for bound in (None, 0.01, 0.1)]
    texts.append(
        recommend(pd.DataFrame([leak(0.8), leak(0.4, level="answer")]), pd.DataFrame(rows[::2]), 0.1)
    )
    for sentence in re.split(r"(?<=\.) (?=[A-Z0-9])", " ".join(texts)):
        assert len(sentence.split()) <= 26, sentence


def test_rows_in_words() -> None:
    assert reads(leak(0, decimals=2, setting="2 decimals")) == "top 20, ids with values, 2 decimals"
    assert (
        reads(leak(0, level="trajectory", k=2.0, lens="tuned", encoding=""))
        == "trajectory of top 2, tuned lens"
    )
    assert reads(leak(0, level="logits", k=np.nan, encoding="")) == "all tokens, logits"
    assert reads(leak(0, level="answer", k=np.nan, encoding="")) == "the answer alone"
