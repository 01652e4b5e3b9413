"""Real naming data: figures of the benchmark come out; skipped where the data is not there."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

DATA = Path(os.environ.get("TRIMTAB_DATA", ""))
BENCHMARKS = Path(__file__).parents[3] / "benchmarks" / "names"
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        not (DATA / "manynames_en.parquet").is_file(),
        reason="TRIMTAB_DATA names no folder with the naming data",
    ),
]


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(f"names_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_figures_of_a_pilot_lie_within_the_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    manynames = loaded("manynames", monkeypatch)
    told = manynames.people_audit(manynames.answers(DATA), 300)["audit"]
    pilot = manynames.PILOT
    men, women = told["rates"]
    assert men["low"] < pilot["men"] < men["high"]
    assert women["low"] < pilot["women"] < women["high"]
    assert -told["gap"]["high"] < pilot["gap"] < -told["gap"]["low"]
    at = told["standardised"][1]
    assert -at["high"] < pilot["at_the_womens_mix"] < -at["low"]


def test_listeners_of_mandarin_succeed_as_often_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    chinese = loaded("chinese", monkeypatch)
    for row in chinese.success(chinese.read_table(DATA / "colors_zh.csv.gz")):
        assert row["success"] == pytest.approx(row["published"], abs=5e-4)
