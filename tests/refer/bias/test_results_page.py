"""The page of results of naming bias: what it says turns with the numbers of its result file."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
FILES = {"pages": "pages.py", "verdicts": "verdicts.py"} | {
    name: f"names/{name}.py" for name in ("naming_bias_claims", "naming_bias_page")
}
RESULTS = {
    name: json.loads((BENCHMARKS / "results" / name).read_text(encoding="utf-8"))
    for name in ("names/manynames.json", "names/coverage.json")
}


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The files of the page by name; they import each other as scripts do."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("", "names"):
            patch.syspath_prepend(str(BENCHMARKS / folder))
        for name, file in FILES.items():
            spec = importlib.util.spec_from_file_location(name, BENCHMARKS / file)
            assert spec is not None
            assert spec.loader is not None
            found[name] = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, found[name])
            spec.loader.exec_module(found[name])
        yield found


@pytest.fixture
def results(modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Result files that a test may change."""
    changed = deepcopy(RESULTS)
    monkeypatch.setattr(modules["naming_bias_page"], "read", changed.get)
    return changed


def verdicts(modules: dict[str, ModuleType]) -> dict[str, list[str]]:
    """The cells of the table of claims, by claim."""
    rows = [
        line.strip("| ").split(" | ")
        for line in modules["naming_bias_page"].page().split("\n")
        if "**" in line
    ]
    return {row[0]: row[1:] for row in rows}


def text(modules: dict[str, ModuleType]) -> str:
    return " ".join(modules["naming_bias_page"].page().split())


NAMED = "women are named by their sport less often than men"
AS_LARGE = "the gap is as large as the paper's"
SHOWN = "women are shown less often than men"
MODELS = "models that name such people reproduce the gap"
MIXES = "in the same mix of sports the gap is still there"
PARTS = "the sports that are shown account for a part of the gap"
AMPLIFY = "models amplify the gap"


def test_a_claim_turns_with_its_interval(modules: dict[str, ModuleType], results: dict[str, Any]) -> None:
    gap = results["names/manynames.json"]["people"]["audit"]["gap"]
    gap.update(value=-0.11, low=-0.12, high=-0.1, n=4321)
    found = verdicts(modules)
    assert found[NAMED][-2:] == ["-0.110 [-0.120, -0.100], n = 4,321", "**held**"]
    assert found[AS_LARGE][-1] == "**held**"
    gap.update(value=-0.05, low=-0.1, high=0.01)
    found = verdicts(modules)
    assert found[NAMED][-1] == "**open**"
    assert found[AS_LARGE][-1] == "**did not hold**"
    gap.update(value=0.05, low=0.01, high=0.1)
    assert verdicts(modules)[NAMED][-1] == "**did not hold**"


def test_a_share_is_held_against_one_half(modules: dict[str, ModuleType], results: dict[str, Any]) -> None:
    rows = results["names/manynames.json"]["people"]["audit"]["representation"]
    share = next(row for row in rows if (row["stratum"], row["group"]) == ("all", "female"))
    for high, verdict in ((0.49, "**held**"), (0.51, "**open**")):
        share["high"] = high
        assert verdicts(modules)[SHOWN][-1] == verdict


def test_every_mix_and_every_model_counts(modules: dict[str, ModuleType], results: dict[str, Any]) -> None:
    people = results["names/manynames.json"]["people"]["audit"]
    for row in people["standardised"]:
        row.update(composition=-0.05, composition_low=-0.06, composition_high=-0.04)
    found = verdicts(modules)
    assert (found[MIXES][-1], found[PARTS][-1]) == ("**held**", "**held**")
    assert "One number at one mix would hide this." not in text(modules)
    people["standardised"][0].update(gap=0.0, low=-0.01, high=0.01)
    people["standardised"][1].update(composition=0.05, composition_low=0.04, composition_high=0.06)
    found = verdicts(modules)
    assert (found[MIXES][-1], found[PARTS][-1]) == ("**partly**", "**partly**")
    assert "One number at one mix would hide this." in text(modules)


def test_models_are_counted_by_their_intervals(
    modules: dict[str, ModuleType], results: dict[str, Any]
) -> None:
    told = results["names/manynames.json"]["detectors"]["raw answers"]
    rows = [row for row in told["gaps"] if row["gap"] == "raw"]
    for row in rows:
        row.update(model_gap=-0.3, model_low=-0.4, model_high=-0.2)
        row.update(amplification=0.1, amplification_low=-0.1, amplification_high=0.3)
    found = verdicts(modules)
    assert found[MODELS][-2:] == [f"{len(rows)} of {len(rows)} lie below zero", "**held**"]
    assert found[AMPLIFY][-1] == "**open**"
    rows[0].update(model_high=0.1, amplification=-0.2, amplification_low=-0.3, amplification_high=-0.1)
    found = verdicts(modules)
    assert found[MODELS][-2:] == [f"{len(rows) - 1} of {len(rows)} lie below zero", "**partly**"]
    assert found[AMPLIFY][-1] == "**partly**"
    assert f"amplification is told apart from zero in 1 of {len(rows)}." in text(modules)


def test_sports_are_those_where_most_are_shown(
    modules: dict[str, ModuleType], results: dict[str, Any]
) -> None:
    strata = results["names/manynames.json"]["people"]["audit"]["strata"]
    surf = next(row for row in strata if row["stratum"] == "surf")
    surf.update(n_female=500, n_male=3, gap=0.2, low=0.1, high=0.3)
    said = text(modules)
    assert "women are shown in surf and tennis, with 3 and 161 men beside them." in said
    assert "The gap there is +0.200 [+0.100, +0.300] (above zero); +0.007" in said


def test_coverage_is_held_against_what_is_promised(
    modules: dict[str, ModuleType], results: dict[str, Any]
) -> None:
    rows = results["names/coverage.json"]["rows"]
    own = [row for row in rows if row["method"] == "as shipped"]
    claim = "our 95 % intervals hold the truth as often as they say"
    assert verdicts(modules)[claim][-2:] == [f"{len(own)} of {len(own)} do", "**held**"]
    own[0].update(covered=0.9, covered_interval=[0.87, 0.92])
    assert verdicts(modules)[claim][-2:] == [f"{len(own) - 1} of {len(own)} do", "**partly**"]
    assert "- as shipped: 0.900 to" in text(modules)


def test_a_pilot_outside_the_intervals_is_said_so(
    modules: dict[str, ModuleType], results: dict[str, Any]
) -> None:
    assert "5 of 5 figures of the pilot lie within our intervals." in text(modules)
    results["names/manynames.json"]["pilot"]["gap"] = 0.2
    assert "4 of 5 figures of the pilot lie within our intervals." in text(modules)
    assert "| gap | -0.200 | -0.110 [-0.128, -0.094] | no |" in modules["naming_bias_page"].page()


def test_what_has_no_result_is_left_out(modules: dict[str, ModuleType], results: dict[str, Any]) -> None:
    del results["names/coverage.json"]
    assert "hold the truth" not in text(modules)
    results.clear()
    assert text(modules).startswith("# Results: naming bias How it works:")
    assert "|" not in text(modules)
