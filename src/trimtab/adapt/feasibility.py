"""Which constraints the runs of a group kept on test, by how much, and how often "feasible" was luck."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.adapt.comparison import unique_labels
from trimtab.adapt.roles import LEAST_SCALE_NATS
from trimtab.numerics.proportion import wilson
from trimtab.report.numbers import missing

if TYPE_CHECKING:
    from trimtab.adapt.result import FinetuneResult

CONSTRAINT_COLUMNS = (
    "run",
    "constraint",
    "tolerance",
    "change",
    "change_low",
    "change_high",
    "used",
    "used_low",
    "used_high",
    "kept",
)
VIOLATION_COLUMNS = (
    "run",
    "status",
    "step",
    "feasible_on_validation",
    "kept_on_test",
    "constraints",
    "broken",
    "worst",
    "excess_nats",
    "excess_low",
    "excess_high",
    "used",
    "used_low",
    "used_high",
)


def feasibility_table(results: Sequence[FinetuneResult]) -> pd.DataFrame:
    """One row per run and constraint: how much of the tolerance the returned weights used up, on test.

    Args:
        results: finished runs, in the order of the rows.

    Returns:
        Columns: run, constraint; tolerance, change, change_low, change_high in nats per token (95 % intervals
        over test records); used, used_low, used_high: the change in tolerances, so 1 is the limit and 0 the base
        model. Where the tolerance is 0 a unit is .01 nats and the limit stays at 1: used = 1 + change / .01.
        kept: True, False, or None where there is no answer.
    """
    rows = []
    for result, label in zip(results, unique_labels(results), strict=True):
        own = result.final[result.final["role"] == "constraint"]
        rows += [_constraint_row(label, row) for row in own.to_dict("records")]
    return _objects(pd.DataFrame(rows, columns=list(CONSTRAINT_COLUMNS)), "kept")


def violation_table(results: Sequence[FinetuneResult]) -> pd.DataFrame:
    """One row per run: whether it kept its constraints on validation and on test, and its worst one on test.

    The worst constraint is the one that used most of its tolerance. It is picked by the same sequences that
    measure it, so its numbers lean towards the bad side.

    Returns:
        Columns: run, status, step; feasible_on_validation (True where the run chose a checkpoint, as it chooses
        only among those that kept every constraint and improved the targets; False where it returned the base
        weights; None without constraints); kept_on_test (False if any is known to be broken, None if none is and
        one is not known; trivially True of the base weights);
        constraints and broken (counts); worst (its name; None where a change is not known); excess_nats, excess_low,
        excess_high: its change less its tolerance, above 0 where it is broken; used, used_low, used_high: the
        same in tolerances, 1 being the limit.
    """
    every = feasibility_table(results)
    rows = []
    for result, label in zip(results, unique_labels(results), strict=True):
        own = every[every["run"] == label]
        chosen = result.step > 0 if len(own) else None
        head = {"run": label, "status": result.status, "step": result.step, "feasible_on_validation": chosen}
        rows.append({**head, **_worst(own)})
    frame = pd.DataFrame(rows, columns=list(VIOLATION_COLUMNS))
    return _objects(frame, "feasible_on_validation", "kept_on_test", "worst")


def feasibility_rates(results: Sequence[FinetuneResult]) -> pd.DataFrame:
    """How often the runs were feasible, and how often "feasible" on validation was luck.

    Runs without constraints are left out everywhere; a run whose test result is not known, where test counts.

    Returns:
        Columns: rate, k, n, share, low, high (Wilson, 95 %, as if runs were independent). Rows:
        "feasible on validation" and "feasible on validation, kept on test", of all runs; "false feasible", those
        not kept on test among those feasible on validation; "clearly false feasible", those of which a whole
        interval lies above a tolerance, among the same.
    """
    frame = violation_table(results)
    frame = frame[frame["constraints"] > 0]
    chosen = frame["feasible_on_validation"].eq(True)
    known = frame["kept_on_test"].notna()
    held = frame["kept_on_test"].eq(True)
    every = feasibility_table(results)
    over = set(every.loc[every["used_low"] > 1, "run"])
    judged = chosen & known
    return pd.DataFrame(
        [
            _rate("feasible on validation", chosen),
            _rate("feasible on validation, kept on test", (chosen & held)[known | ~chosen]),
            _rate("false feasible", ~held[judged]),
            _rate("clearly false feasible", frame["run"].isin(over)[judged]),
        ]
    )


def _rate(name: str, succeeded: pd.Series[bool]) -> dict[str, Any]:
    share = wilson(int(succeeded.sum()), len(succeeded))
    counts = {"rate": name, "k": int(succeeded.sum()), "n": share.n}
    return {**counts, "share": share.value, "low": share.low, "high": share.high}


def _constraint_row(label: str, row: dict[Any, Any]) -> dict[str, Any]:
    tolerance = float(row["tolerance"])
    ends = {name: float(row[name]) for name in ("change", "change_low", "change_high")}
    used = {name.replace("change", "used"): _used(value, tolerance) for name, value in ends.items()}
    kept = None if missing(row["kept"]) else bool(row["kept"])
    return {"run": label, "constraint": row["domain"], "tolerance": tolerance, **ends, **used, "kept": kept}


def _used(change: float, tolerance: float) -> float:
    """A change in tolerances, set so that 1 is the limit also where the tolerance is 0."""
    return 1 + (change - tolerance) / (tolerance if tolerance > 0 else LEAST_SCALE_NATS)


def _worst(own: pd.DataFrame) -> dict[str, Any]:
    """Counts and the worst constraint among a run's rows of `feasibility_table`."""
    broken = int(own["kept"].eq(False).sum())
    whole = bool(len(own)) and bool(own["used"].notna().all())
    row: dict[Any, Any] = max(own.to_dict("records"), key=lambda row: row["used"]) if whole else {}
    tolerance = row.get("tolerance", math.nan)
    ends = {end: row.get(f"change{end}", math.nan) - tolerance for end in ("", "_low", "_high")}
    return {
        "kept_on_test": False if broken else (True if len(own) and own["kept"].notna().all() else None),
        "constraints": len(own),
        "broken": broken,
        "worst": row.get("constraint"),
        "excess_nats": ends[""],
        "excess_low": ends["_low"],
        "excess_high": ends["_high"],
        **{name: row.get(name, math.nan) for name in ("used", "used_low", "used_high")},
    }


def _objects(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Columns of True, False and None kept as such: pandas would make None a nan or a number."""
    for name in names:
        values = [None if missing(value) else value for value in frame[name]]
        frame[name] = pd.Series(values, index=frame.index, dtype=object)
    return frame
