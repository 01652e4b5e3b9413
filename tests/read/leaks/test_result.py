"""Result of an audit: its bound, headline and summary, its files and its page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trimtab.read.leaks.recommendation import recommend
from trimtab.read.leaks.result import ACCOUNTING, CONTROLS, TABLE, LeaksResult


def row(level: str, bits: float, half: float = 0.1, **more: Any) -> dict[str, Any]:
    of = {
        "attribute": "colour",
        "role": "unmentioned",
        "level": level,
        "lens": "",
        "encoding": "",
        "setting": "",
    }
    numbers = dict.fromkeys(TABLE[6:], 0.5) | {
        "k": np.nan,
        "layer": np.nan,
        "n": 60,
        "groups": 30,
        "classes": 2,
    }
    return (
        of
        | numbers
        | {"bits": bits, "low": bits - half, "high": bits + half, "classifier": "logistic"}
        | more
    )


ROWS = [
    row("hidden", 0.9, layer=2.0),
    row("logprobs", 0.3, k=5.0, encoding="served"),
    row("logprobs", 0.2, k=1.0, encoding="served"),
    row("answer", 0.05),
]
RESULT = LeaksResult(
    table=pd.DataFrame(ROWS, columns=list(TABLE)),
    controls=pd.DataFrame(
        [
            dict.fromkeys(CONTROLS, 0.5)
            | {"attribute": "colour", "role": "unmentioned", "control": "majority", "level": ""}
        ]
    ),
    accounting=pd.DataFrame([("questions", 60, "in"), ("questions", 60, "used")], columns=list(ACCOUNTING)),
    facts={"prompts": 60},
    findings=("One.", "Two."),
)


@pytest.mark.parametrize(
    ("max_bits", "passed", "rows"), [(None, True, 0), (0.25, True, 0), (0.15, False, 1), (0.0, False, 2)]
)
def test_a_bound_is_exceeded_where_the_lower_end_is_above_it(
    max_bits: float, passed: bool, rows: int
) -> None:
    result = replace(RESULT, max_bits=max_bits)
    assert result.passed is passed
    assert len(result.exceeded) == rows


def test_a_bound_of_zero_is_exceeded_by_a_shown_leak_alone() -> None:
    barely = RESULT.table.assign(bits=0.0003, low=0.0002, high=0.0004)
    assert replace(RESULT, table=barely, max_bits=0.0).passed


NOT_MEASURED = ("not measured: logprobs served k 5: got 1 class", "not measured: answer: got 1 class")


@pytest.mark.parametrize("pair", [("city", "background"), ("colour", "mentioned"), ("a (b)", "unmentioned")])
@pytest.mark.parametrize("in_table", [False, True])  # a row without an interval, or no row at all
def test_an_attribute_that_was_never_measured_passes_no_bound(
    pair: tuple[str, str], in_table: bool, tmp_path: Path
) -> None:
    where, rows = f"{pair[0]} ({pair[1]})", [*ROWS]
    if in_table:
        rows.append(
            row("logprobs", 0.0, np.nan, k=5.0, encoding="served") | {"attribute": pair[0], "role": pair[1]}
        )
    # A hidden state, a control or one served row of the others does not matter.
    rows.append(row("hidden", 0.5) | {"attribute": pair[0], "role": pair[1]})
    lost = [(where, np.nan, why) for why in NOT_MEASURED]
    lost += [("colour (unmentioned)", np.nan, "not measured: text: got nothing")]
    accounting = pd.concat([RESULT.accounting, pd.DataFrame(lost, columns=list(ACCOUNTING))])
    result = replace(
        RESULT, table=pd.DataFrame(rows, columns=list(TABLE)), accounting=accounting, max_bits=0.25
    )
    assert result.exceeded.empty
    assert result.unmeasured == [pair]
    assert not result.passed
    assert replace(result, max_bits=None).passed
    assert f"Not measured at what is served: {where}. The bound of 0.25 bits was not" in result.summary()
    assert "bound" not in replace(result, max_bits=None).summary()
    told = recommend(result.table, result.mitigations, 0.25, result.unmeasured)
    assert f"Not measured at what is served: {where}. The bound of 0.25 bits was not tested there" in told
    assert any(line.startswith(where) and "not measured" in line for line in result.to_text().splitlines())
    page = LeaksResult.page([result], "leaks")
    assert page.count(where) > 1
    assert "so the audit did not pass" in page
    assert LeaksResult.load(result.save(tmp_path)).unmeasured == [pair]


def test_rows_without_an_interval_pass_no_bound() -> None:
    blind = RESULT.table.assign(low=np.nan, high=np.nan)
    result = replace(RESULT, table=blind, max_bits=0.25)
    assert not result.passed
    assert replace(RESULT, max_bits=0.25).passed


def test_hidden_states_exceed_no_bound_and_nothing_served_passes_none() -> None:
    hidden = replace(RESULT, table=RESULT.table[RESULT.table["level"] == "hidden"])
    assert replace(hidden, max_bits=None).passed
    assert not replace(hidden, max_bits=9.0).passed


def test_the_headline_is_the_strongest_row_of_each_level() -> None:
    frame = RESULT.to_frame()
    assert frame["level"].tolist() == ["hidden", "logprobs", "answer"]
    assert frame["k"].tolist()[1] == 5.0
    assert RESULT.headline() == {"colour (unmentioned)": "+0.300 [+0.200, +0.400] bits"}
    assert LeaksResult(table=RESULT.table[:0]).headline() == {"leaks": "none measured"}
    assert LeaksResult(table=RESULT.table[:0]).summary() == "No cell could be measured."


def test_the_summary_is_the_recommendation_where_there_is_one() -> None:
    assert "colour (unmentioned): most at the level hidden, +0.900" in RESULT.summary()
    told = replace(RESULT, recommendation="Serve the answer alone.")
    assert told.summary() == "Serve the answer alone."
    text = told.to_text()
    assert text.endswith("Serve the answer alone.")
    assert "+0.300 [+0.200, +0.400]" in text
    every = [line for line in text.splitlines() if line.startswith("colour")]  # of folded tables too
    assert {line.partition("  ")[0] for line in every} == {
        "colour (unmentioned)",
        *(
            f"colour (unmentioned): {words}"
            for words in ("hidden state 2", "top 5, ids with values", "the answer alone")
        ),
    }


def test_it_comes_back_from_its_files(tmp_path: Path) -> None:
    result = replace(RESULT, max_bits=0.25, config={"seed": 3}, recommendation="None.")
    result.save(tmp_path)
    loaded = LeaksResult.load(tmp_path)
    for name in ("table", "controls", "accounting"):
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(result, name), check_dtype=False)
    assert (loaded.facts, loaded.max_bits, loaded.findings) == (result.facts, 0.25, ("One.", "Two."))
    assert loaded.passed


def test_the_page_and_the_figure_are_drawn() -> None:
    page = LeaksResult.page([RESULT], "leaks")
    assert "colour (unmentioned): most at the level hidden" in page
    assert "unmentioned" in page
    assert RESULT.figure().axes


def test_json_has_whole_numbers_of_tokens_and_layers() -> None:
    rows = [
        {**dict.fromkeys(TABLE, 0.5), "k": 20.0, "layer": np.nan},
        {**dict.fromkeys(TABLE, 0.5), "k": np.nan, "layer": 3.0},
    ]
    told = json.loads(LeaksResult(table=pd.DataFrame(rows)).to_json())["table"]
    assert [(row["k"], row["layer"]) for row in told] == [(20, None), (None, 3)]
    assert [type(row["k"] or row["layer"]) for row in told] == [int, int]
