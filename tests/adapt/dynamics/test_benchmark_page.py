"""The benchmark's page of results: rules on made-up evidence, and a page that says what made-up runs came to."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
FOLDER = BENCHMARKS / "dynamics"
FILES = ("controls", "methods", "scenarios", "outcomes", "table", "groups", "claims", "sections", "page")
SEEDS = (0, 1, 2)
FALLS = {
    **{f"fixed {mass}": 0.5 for mass in (0.0, 0.2, 0.5, 0.8, 1.0)},
    "ours": 0.9,
    "ours, robust": 1.0,
    "shuffled": 0.3,
    "feedback": 0.9,
    "paper light": 0.4,
}
"""Nats by which a method lowers the target, on validation and on test."""
ROLES = {"fixed": "sweep", "shuffled": "control", "feedback": "rival", "paper light": "paper"}


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The benchmark's files by name; they import each other as scripts do."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for folder, names in ((BENCHMARKS, ("pages", "verdicts")), (FOLDER, FILES)):
            patch.syspath_prepend(str(folder))
            for name in names:
                spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
                assert spec is not None
                assert spec.loader is not None
                found[name] = importlib.util.module_from_spec(spec)
                patch.setitem(sys.modules, name, found[name])
                spec.loader.exec_module(found[name])
        yield found


def one(low: float | None, high: float | None, value: float = 0.0, **rest: Any) -> dict[str, Any]:
    return {"what": "", "value": value, "low": low, "high": high, "n": 6, **rest}


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


def test_shares_costs_and_coverage_are_judged(modules: dict[str, ModuleType]) -> None:
    rules, claims = modules["verdicts"], modules["claims"]
    shares = [rules.all_do([one(0, 1, share)]) for share in (1, 0.5, 0)]
    assert shares == ["held", "partly", "did not hold"]
    costs = [[one(None, None, cost) for cost in several] for several in ([1.5], [1.0, 1.6], [1.6])]
    assert list(map(claims.at_most_goal, costs)) == ["held", "partly", "did not hold"]
    reach = [[one(0.5, high) for high in several] for several in ([0.95], [0.96, 0.94], [0.94])]
    assert list(map(claims.covered, reach)) == ["held", "partly", "did not hold"]


def block(scenario: str, seed: int, moved: Mapping[tuple[str, str, int], float]) -> dict[str, Any]:
    """A made-up result file: every method lowers the target, each constraint rises by a fifth of the tolerance.

    `moved` names other rises of the first constraint, by method, scenario and seed.
    """
    runs = {}
    for name, fall in FALLS.items():
        rise = moved.get((name, scenario, seed), 0.01)
        changes = {"fonts": -fall - 0.01 * seed, "python": rise, "tests": 0.01}
        test = [
            {
                "domain": domain,
                "role": "target" if domain == "fonts" else "constraint",
                "tolerance": None if domain == "fonts" else 0.05,
                "change": change,
                "change_low": change - 0.02,
                "change_high": change + 0.02,
            }
            for domain, change in changes.items()
        ]
        mixer = {"solver": "robust" if "robust" in name else None}
        steps = 2.5 if name == "paper light" else 1.0
        runs[name] = {
            "role": ROLES.get(name.split(" ")[0], ROLES.get(name, "ablation" if "," in name else "ours")),
            "family": "kept" if name.startswith("ours") else "other",
            "mixer": mixer,
            "step": 128,
            "test": test,
            "validation": {"128": changes},
            "relaxed": 0,
            "updates": 0,
            "calibration": [[8, 0.0, 0.01, 0.01], [120, 0.3, 0.01, 0.1]] if name == "paper light" else [],
            "cost": {"training_multiple": steps, "all_in_multiple": steps},
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
            "rates": [1e-4],
        },
        "seed": seed,
        "model": {"parameters": 1234},
        "fit": {"steps": 128, "batch_size": 8, "seq_len": 64, "eval_sequences": 32, "test_sequences": 96},
        "runs": runs,
    }


def made(
    modules: dict[str, ModuleType], folder: Path, moved: Mapping[tuple[str, str, int], float] = {}
) -> str:
    """The page of made-up runs of two scenarios."""
    for scenario in ("fonts", "three targets"):
        for seed in SEEDS:
            path = folder / f"{scenario.replace(' ', '-')}-{seed}.json"
            path.write_text(json.dumps(block(scenario, seed, moved)))
    table = modules["table"]
    frame = modules["outcomes"].outcomes(folder)
    record = {
        "all": table.summary(frame),
        "by_scenario": {name: table.summary(own) for name, own in frame.groupby("scenario")},
        "calibration": table.calibration(folder),
    }
    (folder / "summary.json").write_text(json.dumps(record))
    page: str = modules["page"].page(folder)
    return page


def row(page: str, start: str) -> list[str]:
    """The cells of the first row of a table that begins with these words."""
    line = next(line for line in page.split("\n") if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def flat(page: str) -> str:
    return " ".join(page.split())


@pytest.fixture(scope="module")
def page(modules: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> str:
    return made(modules, tmp_path_factory.mktemp("runs"))


def test_the_page_says_what_runs_came_to(page: str) -> None:
    def gain(fall: float) -> float:
        return sum(100 * (1 - math.exp(-fall - 0.01 * seed)) for seed in SEEDS) / len(SEEDS)

    cells = row(page, "**DynaMiCS, defaults**")
    assert cells[1] == "6 of 6 (-0.0400)"
    assert cells[2].startswith(f"{gain(0.9):.1f} [")
    assert cells[3].startswith(f"{gain(0.9) - gain(0.5):+.1f} [")
    assert cells[3].endswith("] above")
    assert cells[4] == "1.00 x (1.00)"
    assert row(page, "best of five fixed runs")[3:] == ["-", "5.00 x (5.00)"]
    assert row(page, "the defaults keep every constraint")[3:] == ["6 of 6: 100 % [61, 100]", "**held**"]
    assert row(page, "published form: one run")[3:] == ["2.50 x, n = 6", "**did not hold**"]
    assert row(page, "the defaults reach the goal")[3:] == ["6 of 6: 100 % [61, 100]", "**held**"]
    assert row(page, "slopes matter")[-1] == "**held**"
    assert '1 of 1 (`solver="robust"`) lie above the defaults.' in flat(page)
    assert "1,234 parameters" in page
    assert "128 steps of 8 x 64 tokens" in flat(page)


def test_a_broken_limit_turns_what_is_said(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    page = made(modules, tmp_path, {("ours", "fonts", 1): 0.06})
    assert row(page, "the defaults keep every constraint")[3:] == ["5 of 6: 83 % [44, 97]", "**partly**"]
    assert row(page, "the defaults gain what")[-1] == "**open**"
    cells = row(page, "**DynaMiCS, defaults**")
    assert cells[1] == "5 of 6 (+0.0100)"
    assert cells[3].endswith("]")
    assert "- `fonts`, seed 1: python rose by 0.0600 [0.0400, 0.0800] nats, limit 0.05." in page
    assert "the defaults reach the goal in 5 of 6 pairs. The others:" in flat(page)


def test_slopes_that_do_not_help_are_said_so(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FALLS, "shuffled", 1.2)
    page = made(modules, tmp_path)
    assert row(page, "slopes matter")[-1] == "**did not hold**"
    assert row(page, "defaults with shuffled slopes")[3].endswith("] above")


def test_errors_of_predictions_are_root_mean_squares(page: str) -> None:
    assert row(page, "published | up to 8")[2:4] == ["6", "0.010 [0.010, 0.010]"]
    assert row(page, "published | 65 to 128")[3:] == [
        "0.200 [0.200, 0.200]",
        "0.100 [0.100, 0.100]",
        "0 [0, 39]",
    ]
    assert "off by 0.200 [0.200, 0.200] nats, above the tolerance of 0.05" in flat(page)
    assert row(page, "until the next update")[-1] == "**partly**"


def test_what_has_no_result_is_left_out(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules["pages"], "RESULTS", tmp_path)
    page = made(modules, tmp_path)
    assert "fresh seeds" not in page
    assert "## What limits" not in page
    (tmp_path / "summary.json").unlink()
    title, made_by = modules["page"].page(tmp_path).split("\n\n")
    assert title == "# Results: DynaMiCS"
    assert "Made by `python benchmarks/dynamics/page.py --write`." in made_by


def test_a_search_is_the_run_that_it_chose(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    made(modules, tmp_path, {("fixed 0.0", "fonts", 2): 0.07})
    group = modules["groups"].read_group(tmp_path)
    (breach,) = group.breaches(["best of five fixed"])
    assert (breach.scenario, breach.seed, breach.domain) == ("fonts", 2, "python")
    assert breach.validation == 0.07
    less = group.difference("ours", "best of five fixed", "gain", "fonts")
    assert less["n"] == len(SEEDS)
    assert less["low"] <= less["value"] <= less["high"]
    alone = group.difference("ours", "nobody")
    assert (alone["value"], alone["low"], alone["n"]) == (None, None, 0)
