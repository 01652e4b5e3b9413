"""The page of the benchmark in TRL says what its result says."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PAGE = runpy.run_path(str(ROOT / "benchmarks" / "captions" / "in_trl_page.py"))


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.1, 0.3, "higher"),
        (-0.3, -0.1, "lower"),
        (-0.1, 0.1, "not told apart"),
        (None, None, "not told apart"),
    ],
)
def test_a_difference_is_told_by_its_interval(low: float | None, high: float | None, told: str) -> None:
    value = 0.0 if low is None or high is None else (low + high) / 2
    assert PAGE["verdict"]({"value": value, "low": low, "high": high}) == told


def test_numbers_have_a_zero_before_the_point() -> None:
    found = {"value": 0.25, "low": -0.5, "high": None}
    assert PAGE["span"](found) == "0.25 [-0.50, -]"
    assert PAGE["span"](found, "+") == "+0.25 [-0.50, -]"


def test_the_page_is_what_the_result_says() -> None:
    result: dict[str, Any] = json.loads(PAGE["RESULT"].read_text(encoding="utf-8"))
    text = PAGE["PAGE"].read_text(encoding="utf-8")
    first, last = PAGE["MARKS"]
    assert text.partition(first)[2].partition(last)[0] == PAGE["section"](result)
    for arm, row in result["arms"].items():
        runs = [run["measures"]["random"] for run in result["runs"] if run["asked"]["arm"] == arm]
        assert row["random"]["value"] == pytest.approx(sum(runs) / len(runs))
        assert row["random"]["n"] == len(runs)
