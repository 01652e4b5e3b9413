"""From kept records to one row per method, scenario and seed; a search over several runs counts as one method."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from methods import MARGINS, RANDOM, REFINED, SWEEP

from trimtab.adapt.dynamics.compare import percent_gain

FIVE = tuple(f"fixed {mass}" for mass in SWEEP)
EIGHT = FIVE + tuple(f"fixed {mass}" for mass in REFINED)
SEARCHES: dict[str, Sequence[str]] = {
    "best of five fixed": FIVE,
    "best of eight fixed": EIGHT,
    f"best of {RANDOM} random": tuple(f"random {k}" for k in range(RANDOM)),
    **{f"best of five, {told}": tuple(f"{name}, {told}" for name in FIVE[1:]) for told in MARGINS},
}
"""Searches choose among their runs on validation and pay for all of them."""
HINDSIGHT = "best of five, by test"
"""What nobody can do: the best of the five fixed runs that kept all constraints on test, chosen on test."""


def outcomes(folder: Path) -> pd.DataFrame:
    """One row per scenario, seed and method.

    Columns: scenario, seed, method, role; gain (fall of target perplexity on test in per cent, whatever was broken);
    claimed (a checkpoint was returned as feasible); kept (every constraint, on test; base weights keep all);
    constrained (the gain if kept, else 0); smooth (see `smooth_gain`); excess (largest change beyond a tolerance on
    test, nats, negative inside); steps, all_in (multiples of one fixed run); seconds; relaxed (share of updates); step
    (of the checkpoint); run (whose outcome it is: for a search, the run that it chose, but `smooth` is the best of
    all its runs).
    """
    rows: list[dict[str, Any]] = []
    for block in blocks(folder):
        scenario, seed, runs = block["scenario"]["name"], block["seed"], block["runs"]
        own = {
            name: {"run": name, **outcome(run, block["scenario"]["targets"])} for name, run in runs.items()
        }
        own |= dict(_searches(own))
        rows += [{"scenario": scenario, "seed": seed, "method": name, **row} for name, row in own.items()]
    return pd.DataFrame(rows).drop(columns="validation")


def blocks(folder: Path) -> list[dict[str, Any]]:
    """The result files, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*-[0-9]*.json"))]


def outcome(run: Mapping[str, Any], targets: Sequence[str]) -> dict[str, Any]:
    """What one run came to on test; `validation` is the target change by which a search chooses."""
    test = {row["domain"]: row for row in run["test"]}
    limited = [row for row in test.values() if row["role"] == "constraint"]
    excess = max(row["change"] - row["tolerance"] for row in limited)
    gain = percent_gain(_mean(test[name]["change"] for name in targets))
    kept = excess <= 0
    read = run["validation"].get(str(run["step"])) if run["step"] else None
    return {
        "role": run["role"],
        "gain": gain,
        "claimed": run["step"] > 0,
        "step": run["step"],
        "kept": kept,
        "constrained": gain if kept else 0.0,
        "smooth": smooth_gain(run["validation"].values(), targets, limited),
        "excess": excess,
        "steps": run["cost"]["training_multiple"],
        "all_in": run["cost"]["all_in_multiple"],
        "seconds": run["seconds"],
        "relaxed": run["relaxed"] / run["updates"] if run["updates"] else math.nan,
        "validation": _mean(read[name] for name in targets) if read else 0.0,
    }


def smooth_gain(
    readings: Iterable[Mapping[str, float | None]],
    targets: Sequence[str],
    limited: Sequence[Mapping[str, Any]],
) -> float:
    """The most that a run gained on validation within all tolerances, per cent, had it been read all the time.

    Between two readings of which one keeps all constraints and one does not, losses are taken to move in a straight
    line, up to where the largest excess (in tolerances) is 0. The best of these crossings and of all readings that
    keep everything; at least 0, as base weights do. A constrained gain moves with the reading that a checkpoint
    falls on; this does not, but it is of validation, and chosen there.

    Args:
        readings: changes by domain, nats per token, in the order of steps; one that lacks a loss is left out.
        targets: domains to improve.
        limited: rows of constraints with `domain` and `tolerance`.
    """
    points = [(0.0, -1.0)]
    for read in readings:
        fall = [read.get(name) for name in targets]
        rise = [(read.get(row["domain"]), row["tolerance"]) for row in limited]
        if all(one is not None for one in (*fall, *(change for change, _ in rise))):
            excess = max((change - most) / (most or 1.0) for change, most in rise)  # type: ignore[operator]
            points.append((_mean(one for one in fall if one is not None), excess))
    falls = [change for change, excess in points if excess <= 0]
    for (before, e), (after, f) in itertools.pairwise(points):
        if (e <= 0) != (f <= 0):
            falls.append(before + (after - before) * e / (e - f))
    return percent_gain(min(falls))


def _searches(own: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, members in SEARCHES.items():
        runs = [own[member] for member in members if member in own]
        if len(runs) == len(members):
            yield name, _paid(min(runs, key=lambda run: run["validation"]), runs)
    five = [own[member] for member in FIVE if member in own]
    if len(five) == len(FIVE):
        yield HINDSIGHT, _paid(max(five, key=lambda run: run["constrained"]), five)


def _paid(best: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    costs = {name: sum(run[name] for run in runs) for name in ("steps", "all_in", "seconds")}
    return {**best, "role": "search", "smooth": max(run["smooth"] for run in runs), **costs}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)
