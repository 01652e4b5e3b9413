"""The page of the benchmark in TRL says what its result says."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PAGE = runpy.run_path(str(ROOT / "benchmarks" / "captions" / "in_trl_page.py"))


def test_the_page_is_what_the_result_says() -> None:
    result: dict[str, Any] = PAGE["read"](PAGE["RESULT"])
    text = PAGE["PAGE"].read_text(encoding="utf-8")
    first, last = PAGE["MARKS"]
    assert text.partition(first)[2].partition(last)[0] == PAGE["section"](result)
    for arm, row in result["arms"].items():
        runs = [run["measures"]["random"] for run in result["runs"] if run["asked"]["arm"] == arm]
        assert row["random"]["value"] == pytest.approx(sum(runs) / len(runs))
        assert row["random"]["n"] == len(runs)
