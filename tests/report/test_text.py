"""Tables as plain text of 80 columns."""

from __future__ import annotations

import sys
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from trimtab.report.text import WIDE, plain_table, room


def test_columns_without_room_stand_below_with_the_first_one_again() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], **{f"a_long_column_{k}": [k + 0.5, np.nan] for k in range(14)}})
    text = plain_table(frame)
    assert max(map(len, text.splitlines())) <= WIDE
    tables = text.split("\n\n")
    assert len(tables) > 1
    assert all(table.splitlines()[-2].startswith("a ") for table in tables)
    assert sum(table.splitlines()[-1].count(" -") for table in tables) == 14


def test_names_of_others_break_no_line() -> None:
    frame = pd.DataFrame({"x\ny": ["\x1b[31mred\n", "b" * 300], "n": [1, 2]})
    lines = plain_table(frame).splitlines()
    assert "\x1b" not in "".join(lines)
    assert max(map(len, lines)) <= WIDE
    assert [line.split()[-1] for line in lines[-2:]] == ["1", "2"]


def test_texts_are_set_to_the_left_and_numbers_to_the_right() -> None:
    frame = pd.DataFrame(
        {"what": ["100 best", "all"], "kept": [True, None], "value": [0.123456, -12345678.0]}
    )
    assert plain_table(frame).splitlines() == [
        "what      kept       value",
        "100 best  True      0.1235",
        "all       -     -1.235e+07",
    ]
    assert plain_table(pd.DataFrame()) == ""


def test_a_wide_terminal_holds_a_wide_table(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"name": ["a"], **{f"a_long_column_{k}": [0.5] for k in range(14)}})
    monkeypatch.setenv("COLUMNS", "200")
    assert "\n\n" in plain_table(frame)
    monkeypatch.setattr(sys, "stdout", terminal := StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    assert "\n\n" not in plain_table(frame)
    monkeypatch.setenv("COLUMNS", "40")
    assert room() == WIDE
