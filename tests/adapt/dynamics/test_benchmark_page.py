"""The benchmark's page of results: rules on made-up evidence, and a page that says what made-up runs came to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_1samp

from benchmark_scripts import BENCHMARKS, scripts
from test_results_pages import parts_of, typed

FILES = ("pages", "verdicts", "scenarios", "outcomes", "table", "groups", "claims", "sections", "page")
SEEDS = (10, 11, 12)
FALLS = {
    **{f"fixed {mass}": 0.5 for mass in (0.0, 0.2, 0.5, 0.8, 1.0)},
    "ours": 0.9,
    "ours, no lean": 1.0,
    "shuffled": 0.3,
    "feedback": 0.6,
    "early-stopped target": 0.4,
}
"""Nats by which a method lowers the target, on validation and on test."""
ROLES = {"ours": "ours", "ours, no lean": "ablation", "shuffled": "control"}


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The benchmark's files by name."""
    with scripts("dynamics", *FILES) as found:
        named = dict(zip(FILES, found, strict=True))
        named["claims"].SCENARIOS = named["page"].ENOUGH = 2  # planted runs are of two
        yield named


def one(low: float | None, high: float | None, value: float = 0.0, n: int = 6) -> dict[str, Any]:
    return {"what": "", "value": value, "low": low, "high": high, "n": n}


@pytest.mark.parametrize(
    ("ends", "above", "below", "not_below"),
    [
        ([(1, 2)], "held", "did not hold", "held"),
        ([(0, 2)], "open", "open", "held"),
        ([(-1, 2)], "open", "open", "open"),
        ([(-2, -1)], "did not hold", "held", "did not hold"),
        ([(1, 2), (-2, -1)], "partly", "partly", "partly"),
        ([(-1, 1), (-2, -1)], "did not hold", "partly", "did not hold"),
        ([(None, None)], "open", "open", "open"),
    ],
)
def test_a_verdict_follows_the_intervals(
    modules: dict[str, ModuleType], ends: list[Any], above: str, below: str, not_below: str
) -> None:
    rules = modules["verdicts"]
    evidence = [one(*pair) for pair in ends]
    found = (rules.above(evidence), rules.below(evidence), rules.not_below(evidence))
    assert found == (above, below, not_below)


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((-0.9, 2), "held"),
        ((-1.1, 2), "open"),
        ((-2, -0.9), "open"),
        ((-2, -1.1), "did not hold"),
        ((None, None), "open"),
    ],
)
def test_no_worse_leaves_a_point(modules: dict[str, ModuleType], ends: Any, verdict: str) -> None:
    assert modules["claims"].no_worse(one(*ends)) == verdict
    assert modules["claims"].no_worse(one(*ends, n=0)) == "not measured"


def test_shares_costs_and_coverage_are_judged(modules: dict[str, ModuleType]) -> None:
    claims = modules["claims"]
    shares = [one(0.8, 1, 23 / 24), one(0.7, 0.99, 17 / 18), one(0.3, 0.9, 0.6), one(None, None, 0, n=0)]
    assert list(map(claims.reaches, shares)) == ["held", "open", "did not hold", "not measured"]
    costs = [claims.within({"steps": cost}, "steps", 1.3) for cost in (1.0, 1.304, 1.31)]
    assert costs == ["held", "held", "did not hold"]
    reach = [[one(0.5, high) for high in several] for several in ([0.95], [0.96, 0.94], [0.94])]
    assert list(map(claims.covered, reach)) == ["held", "partly", "did not hold"]


def test_a_smooth_gain_is_read_where_a_constraint_meets_its_tolerance(modules: dict[str, ModuleType]) -> None:
    limited = [{"domain": "a", "tolerance": 0.05}, {"domain": "b", "tolerance": 0.1}]

    def nats(*readings: tuple[float | None, float, float]) -> float:
        read = [{"t": -fall if fall else fall, "a": a, "b": b} for fall, a, b in readings]
        percent: float = modules["outcomes"].smooth_gain(read, ["t"], limited)
        return -math.log(1 - percent / 100)

    assert nats((0.2, 0.01, 0.0), (0.4, 0.05, 0.0)) == pytest.approx(0.4)
    assert nats((0.2, 0.025, 0.0), (0.4, 0.075, 0.0)) == pytest.approx(0.3)
    assert nats((0.2, 0.0, 0.05), (0.4, 0.0, 0.2)) == pytest.approx(0.2 + 0.2 / 3)
    assert nats((0.2, 0.1, 0.0)) == pytest.approx(0.1)
    assert nats((0.2, 0.1, 0.0), (0.4, 0.0, 0.0)) == pytest.approx(0.4)
    assert nats((0.2, 0.04, 0.0), (None, 0.0, 0.0)) == pytest.approx(0.2)
    assert nats((-0.2, 0.0, 0.0)) == 0


def block(scenario: str, seed: int, moved: Mapping[tuple[str, str, int], float]) -> dict[str, Any]:
    """A made-up result file: every method lowers the target, each constraint rises by a fifth of the tolerance.

    `moved` names other rises of the first constraint on test, by method, scenario and seed.
    """
    runs = {}
    for name, fall in FALLS.items():
        changes = {"fonts": -fall - 0.01 * seed, "python": 0.01, "tests": 0.01}
        there = changes | {"python": moved.get((name, scenario, seed), 0.01)}
        test = [
            {
                "domain": domain,
                "role": "target" if domain == "fonts" else "constraint",
                "tolerance": None if domain == "fonts" else 0.05,
                "change": change,
                "change_low": change - 0.02,
                "change_high": change + 0.02,
            }
            for domain, change in there.items()
        ]
        runs[name] = {
            "role": "sweep" if name.startswith("fixed") else ROLES.get(name, "rival"),
            "family": {"ours": "ours", "feedback": "adaptive"}.get(name, "fixed"),
            "rate": 1e-4,
            "mixer": {"lean": 0.0 if "lean" in name else None},
            "step": 128,
            "test": test,
            "validation": {"0": dict.fromkeys(changes, 0.0), "128": changes},
            "relaxed": 0,
            "updates": 0,
            "calibration": [],
            "cost": {"training_multiple": 1.0, "all_in_multiple": 1.2},
            "seconds": 1.0,
        }
    return {
        "date": "2026-01-01",
        "scenario": {
            "name": scenario,
            "why": "made up",
            "train": ["fonts", "python"],
            "targets": ["fonts"],
            "constraints": {"python": 0.05, "tests": 0.05},
            "lora": 0,
            "rates": [1e-4, 2e-4],
        },
        "seed": seed,
        "model": {"parameters": 1234},
        "fit": {"steps": 128, "batch_size": 8, "seq_len": 64, "eval_sequences": 32, "test_sequences": 96},
        "runs": runs,
    }


def made(
    modules: dict[str, ModuleType],
    folder: Path,
    moved: Mapping[tuple[str, str, int], float] = {},
    without: Mapping[tuple[str, int], str] = {},
    pairs: Any = tuple((scenario, seed) for scenario in ("proxies", "two targets") for seed in SEEDS),
) -> str:
    """The page of made-up runs; `without` names a method that a pair lacks."""
    for scenario, seed in pairs:
        facts = block(scenario, seed, moved)
        facts["runs"].pop(without.get((scenario, seed)), None)
        (folder / f"{scenario.replace(' ', '-')}-{seed}.json").write_text(json.dumps(facts))
    page: str = modules["page"].page(folder)
    return page


def row(page: str, start: str) -> list[str]:
    """The cells of the first row of a table that begins with these words."""
    line = next(line for line in page.split("\n") if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def flat(page: str) -> str:
    return " ".join(page.split())


def gain(fall: float) -> float:
    return sum(100 * (1 - math.exp(-fall - 0.01 * seed)) for seed in SEEDS) / len(SEEDS)


@pytest.fixture(scope="module")
def page(modules: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> str:
    return made(modules, tmp_path_factory.mktemp("runs"))


def test_the_page_says_what_runs_came_to(page: str) -> None:
    cells = row(page, "**DynaMiCS, defaults**")
    assert cells[1:3] == ["6", "6 of 6 (-0.0400)"]
    assert cells[3].startswith(f"{gain(0.9):.1f} [")
    assert cells[4].startswith(f"{gain(0.9):.1f} [")
    assert cells[5].startswith(f"{gain(0.9) - gain(0.5):+.1f} [")
    assert cells[6].startswith(f"{gain(0.9) - gain(0.6):+.1f} [")
    assert cells[7] == "1.00 x (1.20)"
    five = row(page, "best of five fixed runs")
    assert (five[5], five[7]) == ("-", "5.00 x (6.00)")
    assert row(page, "DynaMiCS, defaults: constraints")[3:] == ["6 of 6: 100 % [61, 100]", "**held**"]
    for text in ("they gain no less than the best", "they gain no less than Feedback"):
        assert row(page, text)[-1] == "**held**", text
    assert row(page, "where the other domains matter")[-1] == "**open**"  # one scenario of them
    cost = "In the mean of 6 runs the defaults took 1.00 times the steps of one fixed run, and 1.20 times all-in."
    assert cost in flat(page)
    assert row(page, "slopes matter: they beat a run with shuffled")[-1] == "**held**"
    assert row(page, "slopes matter for the rest")[3:] == ["-", "**not measured**"]
    assert row(page, "`lean=0`")[2].startswith(f"{gain(1.0) - gain(0.9):+.1f} [")
    assert f"{gain(0.9):.1f} / {gain(0.9):.1f}" in row(page, "`proxies`")
    sides = "Against Feedback: above on every seed in `proxies` and `two targets`; below in none. On these scenarios"
    assert f"{sides}, over seeds alone: {gain(0.9) - gain(0.6):+.1f} [" in flat(page)
    assert "`fixed 0.5` chose that of `fixed`: of 2 scenarios in 2 the lowest rate." in flat(page)
    assert "1,234 parameters" in page
    assert "128 steps of 8 x 64 tokens" in flat(page)
    assert "Not run yet: `helper`" in page


def test_few_scenarios_leave_verdicts_open(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules["claims"], "SCENARIOS", 6)
    monkeypatch.setattr(modules["page"], "ENOUGH", 6)
    page = made(modules, tmp_path)
    assert row(page, "they gain no less than Feedback")[-1] == "**open**"
    assert "With fewer than 6 scenarios a verdict on the defaults is open." in flat(page)


def test_a_part_of_the_scenarios_is_open_though_all_are_enough(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules["claims"], "SCENARIOS", 6)
    pairs = [(scenario, seed) for scenario in modules["scenarios"].SCENARIOS for seed in SEEDS]
    page = made(modules, tmp_path, pairs=pairs)
    assert row(page, "they gain no less than Feedback")[-1] == "**held**"
    assert row(page, "where the other domains matter")[-1] == "**open**"


def test_a_broken_limit_turns_what_is_said(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    page = made(modules, tmp_path, {("ours", "proxies", 11): 0.06})
    assert row(page, "DynaMiCS, defaults: constraints")[3:] == ["5 of 6: 83 % [44, 97]", "**open**"]
    assert row(page, "they gain no less than the best")[-1] == "**open**"
    assert row(page, "**DynaMiCS, defaults**")[2] == "5 of 6 (+0.0100)"
    assert (
        "| **DynaMiCS, defaults** | `proxies`, 11 | python | +0.060 [+0.040, +0.080] | 0.05 | +0.010 |"
        in page
    )
    assert "1 of 6 (DynaMiCS, defaults)" in flat(page)
    assert "The interval holds the limit in 1 of 1 rows." in flat(page)
    assert "in 1 of 6 pairs (`proxies` 11 (-" in flat(page)


def test_slopes_that_do_not_help_are_said_so(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FALLS, "shuffled", 1.2)
    page = made(modules, tmp_path)
    assert row(page, "slopes matter: they beat a run with shuffled")[-1] == "**did not hold**"


def test_what_a_search_did_that_is_ahead_is_told(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    monkeypatch.setitem(FALLS, "fixed 0.8", 1.1)
    ahead = flat(made(modules, tmp_path, {("fixed 0.8", "two targets", 11): 0.06}))
    assert "the search took" not in page
    assert "On `proxies` the search took a target share of 0.80 and kept step 128; the defaults kept" in ahead
    assert "On `two targets` the search" not in ahead


def test_differences_are_over_common_pairs(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    page = made(modules, tmp_path, without={("proxies", 10): "shuffled", ("two targets", 12): "feedback"})
    assert row(page, "defaults, shuffled slopes (control)")[1] == "5"
    for text in ("they gain no less than Feedback", "slopes matter: they beat a run with shuffled"):
        assert ", n = 5; smooth +" in row(page, text)[3]


def test_a_single_pair_makes_a_page(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    page = made(modules, tmp_path, pairs=[("tight", 11)])
    assert "Pairs of scenario and seed: 1. Scenarios: 1. Seeds: 11." in flat(page)
    assert row(page, "they gain no less than the best")[-1] == "**open**"
    assert row(page, "where the other domains matter")[3:] == ["-", "**not measured**"]


def test_without_results_nothing_is_claimed(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules["pages"], "RESULTS", tmp_path)
    page = modules["page"].page(tmp_path)
    assert "##" not in page
    assert row(page, "DynaMiCS, defaults: constraints")[3:] == ["-", "**not measured**"]
    assert "Made by `python benchmarks/dynamics/page.py --write`." in page


def test_sentences_are_short_and_hold_no_typed_number(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    pairs = [(scenario, seed) for scenario in modules["scenarios"].SCENARIOS for seed in SEEDS]
    moved = {("ours", "proxies", 11): 0.06, ("feedback", "tight", 10): 0.08}
    page = made(modules, tmp_path, moved, pairs=pairs)
    assert "Not run yet" not in page
    assert [one for one in parts_of(page) if len(re.findall(r"[A-Za-z][\w'-]*", one)) > 25] == []
    for script in ("groups", "claims", "sections"):
        assert typed(BENCHMARKS / "dynamics" / f"{script}.py") == []


def test_the_former_benchmark_has_a_section(page: str) -> None:
    former = page.partition("## The published form and planned mixtures")[2]
    assert row(page, "it gains no less than the best")[1::3] == ["paper", "**open**"]
    assert row(former, "DynaMiCS as published")[1:3] == ["first seeds", "6 of 6: 100 % [61, 100]"]
    assert row(former, "published")[1] == "up to 8"


def test_a_search_is_the_run_that_it_chose(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    made(modules, tmp_path, {("fixed 0.0", "proxies", 12): 0.07})
    group = modules["groups"].read_group(tmp_path)
    (breach,) = group.breaches(["best of five fixed"])
    assert (breach["scenario"], breach["seed"], breach["domain"]) == ("proxies", 12, "python")
    assert breach["validation"] == 0.01
    less = group.part(["proxies"]).difference("ours", "best of five fixed", "gain")
    assert less["n"] == len(SEEDS)
    assert less["low"] <= less["value"] <= less["high"]
    alone = group.difference("ours", "nobody")
    assert (alone["value"], alone["low"], alone["n"]) == (None, None, 0)


def test_a_mean_over_scenarios_has_them_as_units_and_over_seeds_their_scatter(
    modules: dict[str, ModuleType],
) -> None:
    """Against SciPy on the means of scenarios, and least squares with a term for each scenario."""
    table = modules["table"]
    units = pd.DataFrame({"scenario": ["a", "a", "b", "b", "b", "c", "c"]})
    values = pd.Series([1.0, 2.0, 4.0, 6.0, 5.0, -1.0, 0.5])
    found, means = table.interval(units, values), [1.5, 5.0, -0.25]
    expected = ttest_1samp(means, 0.0).confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(means), *expected))
    assert found.n == 3
    seeds, within = table.over_seeds(units, values), [-0.5, 0.5, -1, 1, 0, -0.75, 0.75]
    half = student_t.ppf(0.975, 4) * math.sqrt(np.square(within).sum() / 4 / 7)
    assert (seeds.low, seeds.high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert (seeds.value, seeds.n) == (pytest.approx(values.mean()), 7)
    single = table.over_seeds(units[:1], values[:1])
    assert math.isnan(single.low)
    pairs = table.interval(units[:5], values[:5])
    assert pairs.n == 5


def test_the_summary_that_others_read_is_of_the_runs_that_are_there(modules: dict[str, ModuleType]) -> None:
    folder = BENCHMARKS / "results" / "dynamics" / "lab"
    blocks = [[b["scenario"]["name"], b["seed"], b["date"]] for b in modules["outcomes"].blocks(folder)]
    path = folder / "summary.json"
    assert blocks == (json.loads(path.read_text())["blocks"] if path.is_file() else [])
