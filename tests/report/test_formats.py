from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.report.formats import NOTHING, fixed, missing, number, percent, span


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (3.14159, "3.14"),
        (0.00031234, "0.000312"),
        (1.2e-9, "1.20e−9"),
        (123456.7, "123457"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (None, NOTHING),
    ],
)
def test_a_number_keeps_three_digits(value: float | None, expected: str) -> None:
    assert number(value) == expected


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_what_is_written_reads_back_within_its_digits(value: float) -> None:
    text = number(value, signed=True)
    assert float(text.replace("−", "-")) == pytest.approx(value, rel=6e-3, abs=0)
    assert text.startswith("+") == (value > 0)


def test_zero_has_no_sign() -> None:
    assert fixed(-0.0001) == fixed(0.0001, signed=True) == "0.000"


def test_an_interval_without_an_end_is_a_dash() -> None:
    assert span(-0.5, 0.25, 2, signed=True) == "−0.50 to +0.25"
    assert span(0.1, math.nan) == NOTHING


def test_what_is_missing() -> None:
    assert all(missing(value) for value in (None, math.nan, pd.NA, pd.NaT))
    assert not any(missing(value) for value in (0, 0.0, "", False, math.inf))


@given(st.floats(min_value=0, max_value=1))
def test_only_none_is_no_per_cent_and_only_all_a_hundred(share: float) -> None:
    text = percent(share)
    assert (text == "0 %") == (share == 0)
    assert (text == "100 %") == (share == 1)
    assert abs(float(text.strip("<> %")) - 100 * share) <= 1


def test_a_share_that_is_missing_is_a_dash() -> None:
    assert percent(None) == percent(math.nan) == NOTHING
