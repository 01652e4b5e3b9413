"""The summary of the DynaMiCS benchmark, from whatever results there are: `summary.json` beside them.

    python benchmarks/dynamics/table.py [--results lab]
    python benchmarks/dynamics/page.py --write

Intervals are of 95 %: Wilson's of a share, Student's of a mean. Over three scenarios or more the units of a mean are
scenarios, each the mean of its seeds, so that seeds of one do not pass for independent evidence; else pairs of scenario
and seed. A bootstrap over eight scenarios would hold the mean in 89 % of cases.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from outcomes import HINDSIGHT, SEARCHES, blocks, outcomes
from scipy.stats import t

from trimtab.numerics.bootstrap import Interval, student, wilson
from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import to_json

RESULTS = Path(__file__).parents[1] / "results" / "dynamics"
YARDSTICK, FEEDBACK = "best of five fixed", "feedback"
CONTROLS = ("ours, first rest", "shuffled")
"""Runs of the defaults whose rest keeps its first shares, or that obey wrong slopes."""
LENGTHS = (8, 16, 32, 64, 128)
"""Upper ends, in steps, of the classes of interval length in the calibration table."""


def summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per method over all its units, best constrained gain first."""
    rows = [_row(str(name), own, table) for name, own in table.groupby("method", sort=False)]
    return sorted(rows, key=lambda row: -row["constrained"]["value"])


def _row(name: str, own: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    claimed = own[own["claimed"].astype(bool)]
    kept = int(claimed["kept"].sum())
    return {
        "method": name,
        "role": own["role"].iloc[0],
        "n": len(own),
        "kept": told(wilson(int(own["kept"].sum()), len(own))),
        "kept_of_claimed": told(wilson(kept, len(claimed))),
        "false_feasible": told(wilson(len(claimed) - kept, len(claimed))),
        "constrained": told(interval(own, own["constrained"])),
        "smooth": told(interval(own, own["smooth"])),
        "gain": told(interval(own, own["gain"])),
        "over_best_of_five": less(table, name, YARDSTICK),
        "over_feedback": less(table, name, FEEDBACK),
        "worst_excess_nats": float(own["excess"].max()),
        "steps": float(own["steps"].mean()),
        "all_in": float(own["all_in"].mean()),
        "seconds": float(own["seconds"].mean()),
    }


def less(
    table: pd.DataFrame,
    first: str,
    second: str,
    of: str = "constrained",
    by: Callable[[pd.DataFrame, pd.Series], Interval] | None = None,
) -> dict[str, Any]:
    """The first method less the second over the pairs of scenario and seed that both were run on; by `interval`."""
    pair = ["scenario", "seed"]
    own, other = (table[table["method"] == one][[*pair, of]] for one in (first, second))
    both = own.merge(other, on=pair, suffixes=("", " other"))
    return told((by or interval)(both, (both[of] - both[f"{of} other"]).astype(float)))


def interval(units: pd.DataFrame, values: pd.Series) -> Interval:
    if values.empty:
        return Interval(math.nan, math.nan, math.nan, 0)
    means = values.astype(float).groupby(units["scenario"].to_numpy()).mean()
    return student((means if len(means) > 2 else values).to_numpy(dtype=float))


def over_seeds(units: pd.DataFrame, values: pd.Series) -> Interval:
    """The mean over these very scenarios, whatever others would show: Student's interval over seeds within scenarios.

    The variance is pooled over scenarios; n counts pairs. Without a second seed anywhere the ends are nan.
    """
    by_scenario = values.astype(float).groupby(units["scenario"].to_numpy())
    n, free = len(values), len(values) - by_scenario.ngroups
    if free < 1:
        return Interval(float(values.mean()), math.nan, math.nan, n)
    spread = math.sqrt(float(((values - by_scenario.transform("mean")) ** 2).sum()) / free / n)
    centre, half = float(values.mean()), float(t.ppf(0.975, free)) * spread
    return Interval(centre, centre - half, centre + half, n)


def told(one: Interval) -> dict[str, Any]:
    ends = {"value": one.value, "low": one.low, "high": one.high}
    return {**{end: None if math.isnan(at) else at for end, at in ends.items()}, "n": one.n}


def calibration(folder: Path) -> list[dict[str, Any]]:
    """Predicted against realised change of a loss per interval, by method and interval length."""
    rows = [
        (name, *point)
        for block in blocks(folder)
        for name, run in block["runs"].items()
        for point in run["calibration"]
    ]
    points = pd.DataFrame(rows, columns=["method", "horizon", "predicted", "standard_error", "realised"])
    points["longest"] = [next((n for n in LENGTHS if h <= n), math.inf) for h in points["horizon"]]
    return [
        {"method": name, "up_to_steps": longest, **_calibrated(own)}
        for (name, longest), own in points.groupby(["method", "longest"])
    ]


def _calibrated(points: pd.DataFrame) -> dict[str, Any]:
    off = (points["predicted"] - points["realised"]).to_numpy(dtype=float)
    within = wilson(int((np.abs(off) <= 2 * points["standard_error"]).sum()), len(points))
    return {
        "n": len(points),
        "rmse_nats": float(np.sqrt(np.mean(off**2))),
        "realised_rms_nats": float(np.sqrt(np.mean(points["realised"] ** 2))),
        "correlation": float(points["predicted"].corr(points["realised"])),
        "within_two_errors": told(within),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", default="lab", help="a folder in the results")
    results = RESULTS / parser.parse_args().results
    table = outcomes(results)
    whole = summary(table)
    parts = {str(name): summary(own) for name, own in table.groupby("scenario", sort=False)}
    record = {
        "command": "python benchmarks/dynamics/table.py",
        "units": "pairs of scenario and seed",
        "blocks": [[b["scenario"]["name"], b["seed"], b["date"]] for b in blocks(results)],
        "searches": {**SEARCHES, HINDSIGHT: "the five fixed runs, chosen on test"},
        "all": whole,
        "less_controls": {name: less(table, "ours", name) for name in CONTROLS},
        "by_scenario": parts,
        "calibration": calibration(results),
    }
    write_atomic(results / "summary.json", to_json(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
