"""Several runs of one group side by side: what each gained, what each kept, what each cost.

Which constraints the runs of a group kept on test, by how much, and how often "feasible" was luck.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import rich.console
import rich.table
from rich.text import Text

from trimtab.adapt.record import RunRecord
from trimtab.adapt.roles import LEAST_SCALE_NATS
from trimtab.numerics.bootstrap import wilson
from trimtab.report.formats import NOTHING, fixed, missing, short_names
from trimtab.train.losses import Change, SequenceLosses

CHANGE, LIMIT, KEPT = " change", " tolerance", " kept"
"""What follows a constraint's name in the columns of a comparison."""

APART = frozenset({"checkpoint", "report"})
"""Parts of a run's time that are no part of its method."""


def comparison_table(results: Sequence[RunRecord]) -> pd.DataFrame:
    """One row per run: target gain, each constraint on test, and cost.

    The gain is the reduction of test perplexity in per cent, 100 (1 - exp(change)), where change is the mean over
    targets of the paired loss change in nats per token; so with several targets it is the geometric mean of their
    perplexity ratios. Its interval treats the targets as independent, covers the choice of test
    sequences and not the training seed.

    Args:
        results: finished runs, in the order of the rows; constraints may differ from run to run.

    Returns:
        Columns: run, status, step, gain_percent, gain_low, gain_high; then for every constraint NAME of any run
        "NAME change" (nats), "NAME tolerance" (nats), "NAME kept" (True, False, None); then training_multiple,
        all_in_multiple, seconds (without checkpoints and reports). nan where a run has no such number.
    """
    labels = unique_labels(results)
    names = list(dict.fromkeys(name for result in results for name in constraint_names(result)))
    rows = [_row(label, result, names) for label, result in zip(labels, results, strict=True)]
    columns = ["run", "status", "step", "gain_percent", "gain_low", "gain_high"]
    columns += [name + part for name in names for part in (CHANGE, LIMIT, KEPT)]
    columns += ["training_multiple", "all_in_multiple", "seconds"]
    return pd.DataFrame(rows, columns=columns).astype({name + KEPT: object for name in names})


def unique_labels(results: Sequence[RunRecord]) -> list[str]:
    """The runs' labels, numbered where two are the same."""
    labels: list[str] = []
    for number, result in enumerate(results, start=1):
        own = label = result.label or f"run {number}"
        again = 1
        while label in labels:
            again += 1
            label = f"{own} ({again})"
        labels.append(label)
    return labels


def target_gain(result: RunRecord) -> tuple[float, float, float]:
    """Reduction of test perplexity on the targets in per cent, with the ends of its interval; nan without one.

    Errors of several targets are combined as independent, each side of the interval on its own.
    """
    targets = result.final[result.final["role"] == "target"]
    if not len(targets):
        return math.nan, math.nan, math.nan
    change, low, high = (
        targets[name].to_numpy(dtype=float) for name in ("change", "change_low", "change_high")
    )
    middle = float(change.mean())
    below = float(np.sqrt(np.square(change - low).sum())) / len(change)
    above = float(np.sqrt(np.square(high - change).sum())) / len(change)
    return percent_gain(middle), percent_gain(middle + above), percent_gain(middle - below)


def gain_difference(one: RunRecord, other: RunRecord) -> Change:
    """Mean change of the target losses of one run less that of another, paired on the same test records.

    Below 0 `one` gained more. Errors of several targets are combined as independent; the interval covers the choice of
    records, not the training seed. nan where the two did not read the same records of the same targets.

    Returns:
        Nats per token, with a standard error, n records, and the 95 % interval of Student's t on the fewest records
        that any target has.
    """
    a, b = one.target_records, other.target_records
    same = ["domain", "record", "tokens"]
    if not len(a) or not a[same].equals(b[same]):
        return Change(math.nan, math.nan, 0, 0)
    parts = [
        SequenceLosses(part["apart"].to_numpy(dtype=float), part["tokens"].to_numpy(dtype=int))
        for _, part in a.assign(apart=a["change"] - b["change"]).groupby("domain", sort=False)
    ]
    error = math.sqrt(math.fsum(part.standard_error**2 for part in parts)) / len(parts)
    mean = math.fsum(part.loss for part in parts) / len(parts)
    return Change(mean, error, len(a), min(len(part.nll) for part in parts))


def percent_gain(change: float) -> float:
    """A loss change in nats as a reduction of perplexity in per cent.

    >>> round(percent_gain(-0.1), 2), percent_gain(0.0)
    (9.52, 0.0)
    """
    return 100 * (1 - math.exp(change)) if math.isfinite(change) else math.nan


def constraint_names(result: RunRecord) -> list[str]:
    """The constraints of a run, in the order of its final table."""
    return [str(name) for name in result.final.loc[result.final["role"] == "constraint", "domain"]]


def working_seconds(result: RunRecord) -> float:
    """Wall-clock seconds of a run without the parts in `APART`, which depend on how often one saves."""
    return float(sum(seconds for part, seconds in result.cost.seconds.items() if part not in APART))


def kept_word(kept: object) -> str:
    """Whether a constraint was kept, as a word; a dash where there is no answer."""
    return NOTHING if missing(kept) else ("kept" if kept else "not kept")


def text_table(frame: pd.DataFrame) -> str:
    """A comparison as plain text; minus signs and dashes are ASCII, so that any terminal shows them.

    Args:
        frame: from `comparison_table`. Costs are multiples of a fixed-mixture run: training and probe steps alone /
            with every evaluation.
    """
    constraints = [
        str(column).removesuffix(CHANGE) for column in frame.columns if str(column).endswith(CHANGE)
    ]
    columns: dict[str, list[str]] = {
        "run": short_names([str(label) for label in frame["run"]], 32),
        "status": frame["status"].to_list(),
        "step": [str(step) for step in frame["step"]],
        "target gain %\n[95 %]": [
            f"{fixed(value, 1)} [{fixed(low, 1)},{fixed(high, 1)}]"
            for value, low, high in zip(
                *(frame[f"gain_{part}"] for part in ("percent", "low", "high")), strict=True
            )
        ],
    }
    for name, brief in zip(constraints, short_names(constraints, 10), strict=True):
        limits = frame[name + LIMIT].dropna().unique()
        limit = f"<= {fixed(limits[0])}" if len(limits) == 1 else "limits differ"
        columns[f"{brief}\n{limit}"] = [
            f"{fixed(change, signed=True)} {'' if missing(kept) else 'kept' if kept else 'OVER'}".strip()
            for change, kept in zip(frame[name + CHANGE], frame[name + KEPT], strict=True)
        ]
    multiples = zip(frame["training_multiple"], frame["all_in_multiple"], strict=True)
    columns["cost x\nsteps/all"] = [
        f"{fixed(training, 2)}/{fixed(all_in, 2)}" for training, all_in in multiples
    ]
    columns["seconds"] = [fixed(value, 0) for value in frame["seconds"]]
    table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in columns:
        left = heading in ("run", "status")
        table.add_column(
            heading, justify="left" if left else "right", no_wrap=left, max_width=None if left else 16
        )
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(Text(cell.replace("−", "-").replace(NOTHING, "-")) for cell in row))
    console = rich.console.Console(file=io.StringIO(), width=40 + 18 * len(columns), color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")


def _row(label: str, result: RunRecord, names: Sequence[str]) -> dict[str, Any]:
    own = {row["domain"]: row for row in result.final.to_dict("records") if row["role"] == "constraint"}
    gain, low, high = target_gain(result)
    row: dict[str, Any] = {
        "run": label,
        "status": result.status,
        "step": result.step,
        "gain_percent": gain,
        "gain_low": low,
        "gain_high": high,
        "training_multiple": result.cost.training_multiple,
        "all_in_multiple": result.cost.all_in_multiple,
        "seconds": working_seconds(result),
    }
    for name in names:
        constraint = own.get(name, {})
        kept = constraint.get("kept")
        row[name + CHANGE] = float(constraint.get("change", math.nan))
        row[name + LIMIT] = float(constraint.get("tolerance", math.nan))
        row[name + KEPT] = None if missing(kept) else bool(kept)
    return row


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


def feasibility_table(results: Sequence[RunRecord]) -> pd.DataFrame:
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


def violation_table(results: Sequence[RunRecord]) -> pd.DataFrame:
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


def feasibility_rates(results: Sequence[RunRecord]) -> pd.DataFrame:
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
