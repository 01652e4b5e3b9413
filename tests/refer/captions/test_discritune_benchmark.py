"""The benchmark of DiscriTune: intervals, rules of verdicts, and a page that says what the result file says."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "benchmarks" / "captions"
RESULT = ROOT / "benchmarks" / "results" / "captions" / "discritune.json"
PAGE = ROOT / "docs" / "results" / "discritune.md"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The benchmark's files by name; they import each other as scripts do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    found = {}
    for name in ("arms", "claims", "discritune_page"):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        found[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, found[name])
        spec.loader.exec_module(found[name])
    return found


MEASURES = (
    *(
        f"{exam} P@1 {kind}, {role}"
        for exam in ("test", "cross")
        for kind in ("random", "hard")
        for role in ("listener", "independent")
    ),
    *(f"{exam} {kind}" for exam in ("test", "cross") for kind in ("hallucinated", "omitted", "named")),
    *(f"{exam} CIDEr-D {dialect}" for exam in ("test", "cross") for dialect in ("terse", "full")),
    *(f"test {name}" for name in ("length", "vocabulary", "repetition")),
    *("test nats terse", "test nats full", "seconds"),
)
SEEDS = range(5)


def runs(modules: dict[str, ModuleType], gain: float = 0.2, **special: float) -> list[Any]:
    """Runs of every arm, each tuned one above the start by the same gain in every measure but those that are named."""
    arms = modules["arms"]
    listed = []
    for arm in (*arms.main_arms(), *arms.ablations()):
        for seed in SEEDS:
            means = dict.fromkeys(MEASURES, 1.0 + 0.1 * seed)
            if arm.tuning is not None and not arm.shuffled:
                means = {name: value + special.get(name, gain) for name, value in means.items()}
            items = {name: [means[name]] * 4 for name in MEASURES if "P@1" in name}
            listed.append((seed, arm.key, means, items))
    return listed


def result(modules: dict[str, ModuleType], listed: list[Any]) -> dict[str, Any]:
    there = {arm for _, arm, *_ in listed}
    arms = modules["arms"]
    every = [arm.key for arm in (*arms.main_arms(), *arms.ablations())]
    return {
        "command": "python benchmark.py",
        "cpu_minutes": 1.0,
        "seeds": list(SEEDS),
        "sizes": {"steps": 60, "training": 10, "test": 4, "cross": 4},
        "not_run": [name for name in every if name not in there],
        "examples": [{"item": "test-0000", **dict.fromkeys(every, "a red circle")}],
        **modules["claims"].summary(listed),
    }


def test_an_interval_over_seeds_is_students(modules: dict[str, ModuleType]) -> None:
    values = [0.1, 0.4, 0.2, 0.7, 0.3]
    found = modules["claims"].over_seeds(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert found == pytest.approx({"value": np.mean(values), "low": low, "high": high, "n": 5})
    assert modules["claims"].over_seeds([1.0]) == {"value": 1.0, "low": None, "high": None, "n": 1}


def test_differences_are_paired_by_seed(modules: dict[str, ModuleType]) -> None:
    """Seeds differ by more than the gain, and the interval of the gain is still a point."""
    claims = modules["claims"]
    found = claims.Runs(runs(modules)).difference("20 %: greedy", "20 %: start", "test P@1 hard, listener")
    assert (found["low"], found["high"]) == pytest.approx((0.2, 0.2))
    relative = claims.Runs(runs(modules)).difference(
        "20 %: greedy", "20 %: start", "test CIDEr-D terse", relative=True
    )
    assert relative["value"] == pytest.approx(np.mean([0.2 / (1 + 0.1 * seed) for seed in SEEDS]))


@pytest.mark.parametrize(
    ("rule", "ends", "expected"),
    [
        ("above_zero", [(0.1, 0.2), (0.01, 0.3)], "held"),
        ("above_zero", [(0.1, 0.2), (-0.01, 0.3)], "partly"),
        ("above_zero", [(-0.1, 0.2), (-0.01, 0.3)], "did not hold"),
        ("at_least_most_lost", [(-0.19, -0.05)], "held"),
        ("at_least_most_lost", [(-0.3, -0.1)], "partly"),
        ("at_least_most_lost", [(-0.4, -0.21)], "did not hold"),
        ("at_most_most_rise", [(-0.1, 0.05)], "held"),
        ("at_most_most_rise", [(0.0, 0.06)], "partly"),
        ("at_most_most_rise", [(0.06, 0.2)], "did not hold"),
    ],
)
def test_rules(
    modules: dict[str, ModuleType], rule: str, ends: list[tuple[float, float]], expected: str
) -> None:
    found = [{"value": (low + high) / 2, "low": low, "high": high, "n": 5} for low, high in ends]
    assert getattr(modules["claims"], rule)(found) == expected


def verdicts(found: dict[str, Any]) -> list[str]:
    return [row["verdict"] for row in found["claims"] if row["arm"] == "leave-one-out"]


def test_verdicts_follow_the_numbers(modules: dict[str, ModuleType]) -> None:
    rises = result(modules, runs(modules, gain=0.2))
    assert verdicts(rises) == ["held", "held", "held", "held", "held", "did not hold"]
    falls = result(modules, runs(modules, gain=-0.9))
    assert verdicts(falls) == ["did not hold"] * 5 + ["held"]
    alone = {name: 0.0 for name in MEASURES if "independent" in name}
    assert verdicts(result(modules, runs(modules, **alone)))[:5] == [
        "held",
        "did not hold",
        "held",
        "held",
        "partly",
    ]


def test_the_share_of_hallucinated_attributes_is_of_the_named_ones(modules: dict[str, ModuleType]) -> None:
    means = {"test named": 4.0, "test hallucinated": 1.0, "cross named": 0.0, "cross hallucinated": 0.0}
    assert modules["claims"].with_shares(means) == {**means, "test share": 0.25}


def test_what_was_not_run_has_no_verdict_and_is_named(modules: dict[str, ModuleType]) -> None:
    listed = [run for run in runs(modules) if run[1] in ("20 %: start", "20 %: true full captions")]
    found = result(modules, listed)
    assert set(verdicts(found)) == {"not measured"}
    page = modules["discritune_page"].page(found)
    assert "10 %: self-critical" in " ".join(page.partition("## Left out")[2].split())
    assert "\n| leave-one-out |" not in page.partition("## P@1")[2]


def test_a_control_that_gains_is_called_a_fault(modules: dict[str, ModuleType]) -> None:
    listed = runs(modules)
    page = modules["discritune_page"].page(result(modules, listed))
    assert "gains nothing, as it must" in " ".join(page.split())
    for _, arm, means, _ in listed:
        if arm == "20 %: shuffled pictures":
            means["test P@1 random, listener"] += 0.1
    page = modules["discritune_page"].page(result(modules, listed))
    assert "gains, which is a fault" in " ".join(page.split())


def test_every_number_on_the_page_moves_with_the_runs(modules: dict[str, ModuleType]) -> None:
    page = modules["discritune_page"].page
    one, other = (page(result(modules, runs(modules, gain=gain))) for gain in (0.2, 0.3))
    assert "+0.20 [+0.20, +0.20]" in one
    assert "+0.20 [" not in other
    assert one.count("\n") == other.count("\n")


@pytest.mark.parametrize(
    ("value", "digits", "sign", "expected"),
    [
        (0.5, 2, "", "0.50"),
        (-0.5, 2, "", "-0.50"),
        (-0.001, 2, "+", "+0.00"),
        (12.34, 1, "", "12.3"),
        (0.999, 2, "", "1.00"),
        (10.04, 1, "+", "+10.0"),
        (None, 2, "", "-"),
        (-0.4, 0, "", "0"),
    ],
)
def test_numbers(
    modules: dict[str, ModuleType], value: float | None, digits: int, sign: str, expected: str
) -> None:
    assert modules["discritune_page"].number(value, digits, sign) == expected


def test_a_figure_shows_every_speaker(modules: dict[str, ModuleType]) -> None:
    svg = modules["discritune_page"].figure(result(modules, runs(modules)))
    assert svg.startswith("<svg")
    assert "true full captions" in svg
    assert "independent" in svg


def test_the_page_is_what_the_result_file_says(modules: dict[str, ModuleType]) -> None:
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == modules["discritune_page"].page(found)
    assert found["seeds"] == list(SEEDS)
    assert all(row["n"] == len(SEEDS) for row in found["table"]["20 %: leave-one-out"].values())
