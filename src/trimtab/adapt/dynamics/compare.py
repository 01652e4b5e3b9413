"""Comparison of runs: tables of gain, feasibility and cost, rates of false feasible runs, calibration of slopes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, count
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.adapt.record import CHANGE_COLUMNS, RunRecord, SlopeUpdate
from trimtab.adapt.session import LEAST_SCALE_NATS
from trimtab.numerics.bootstrap import bootstrap, ratio_of_sums, wilson
from trimtab.report.formats import NOTHING, fixed, missing, number
from trimtab.train.losses import Change, SequenceLosses

CHANGE, LIMIT, KEPT = " change", " tolerance", " kept"
"""What follows a constraint's name in the columns of a comparison."""

APART = frozenset({"checkpoint", "report"})
"""Parts of a run's time that are no part of its method."""

GAIN_COLUMNS = ("gain_percent", "gain_low", "gain_high")
USED_COLUMNS = ("used", "used_low", "used_high")
CONSTRAINT_COLUMNS = ("run", "constraint", "tolerance", *CHANGE_COLUMNS, *USED_COLUMNS, "kept")
EXCESS_COLUMNS = ("excess_nats", "excess_low", "excess_high")
VERDICT_COLUMNS = ("run", "status", "step", "feasible_on_validation", "kept_on_test")
VIOLATION_COLUMNS = (*VERDICT_COLUMNS, "constraints", "broken", "worst", *EXCESS_COLUMNS, *USED_COLUMNS)
POINT_COLUMNS = ("run", "step", "horizon", "domain", "predicted", "standard_error", "realised")
RMSE_COLUMNS = ("rmse_nats", "rmse_low", "rmse_high", "realised_rms_nats")
WITHIN_COLUMNS = ("within", "judged", "within_share", "within_low", "within_high")
ALL = "all"
"""The row of a calibration table that pools every interval."""

_SHORTEST = 8
_ERRORS = 2


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
    names = list(dict.fromkeys(name for result in results for name in constraint_names(result)))
    columns = ["run", "status", "step", *GAIN_COLUMNS]
    columns += [name + part for name in names for part in (CHANGE, LIMIT, KEPT)]
    columns += ["training_multiple", "all_in_multiple", "seconds"]
    rows = []
    for label, result in zip(unique_labels(results), results, strict=True):
        final = {row["domain"]: row for row in result.final.to_dict("records") if row["role"] == "constraint"}
        cells: list[Any] = []
        for constraint in (final.get(name, {}) for name in names):
            kept = constraint.get("kept")
            cells += [float(constraint.get(part, math.nan)) for part in ("change", "tolerance")]
            cells.append(None if missing(kept) else bool(kept))
        costs = (result.cost.training_multiple, result.cost.all_in_multiple, working_seconds(result))
        rows.append([label, result.status, result.step, *target_gain(result), *cells, *costs])
    return pd.DataFrame(rows, columns=columns).astype({name + KEPT: object for name in names})


def unique_labels(results: Sequence[RunRecord]) -> list[str]:
    """The runs' labels, numbered where two are the same."""
    labels: list[str] = []
    for place, result in enumerate(results, start=1):
        name = result.label or f"run {place}"
        again = (f"{name} ({times})" for times in count(2))
        labels.append(next(label for label in chain([name], again) if label not in labels))
    return labels


def target_gain(result: RunRecord) -> tuple[float, float, float]:
    """Reduction of test perplexity on the targets in per cent, with the ends of its interval; nan without one.

    Errors of several targets are combined as independent, each side of the interval on its own.
    """
    targets = result.final[result.final["role"] == "target"]
    if not len(targets):
        return math.nan, math.nan, math.nan
    change, low, high = (targets[name].to_numpy(dtype=float) for name in CHANGE_COLUMNS)
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


def constraints_of(frame: pd.DataFrame) -> list[str]:
    """The constraints that a frame of `comparison_table` has columns of."""
    return [str(name).removesuffix(CHANGE) for name in frame.columns if str(name).endswith(CHANGE)]


def kept_all(result: RunRecord) -> bool:
    """Whether every constraint is known to be kept on test; true of a run without any."""
    kept = result.final.loc[result.final["role"] == "constraint", "kept"]
    return all(not missing(answer) and bool(answer) for answer in kept)


def working_seconds(result: RunRecord) -> float:
    """Wall-clock seconds of a run without the parts in `APART`, which depend on how often one saves."""
    return float(sum(seconds for part, seconds in result.cost.seconds.items() if part not in APART))


def kept_word(kept: object) -> str:
    """Whether a constraint was kept, as a word; a dash where there is no answer."""
    return NOTHING if missing(kept) else ("kept" if kept else "not kept")


def feasibility_table(results: Sequence[RunRecord]) -> pd.DataFrame:
    """Used tolerance on test, one row per run and constraint: the change of the returned weights in tolerances.

    Args:
        results: finished runs, in the order of the rows.

    Returns:
        Columns: run, constraint; tolerance, change, change_low, change_high in nats per token (95 % intervals
        over test records); used, used_low, used_high: the change in tolerances, so 1 is the limit and 0 the base
        model. Where the tolerance is 0 a unit is .01 nats and the limit stays at 1: used = 1 + change / .01.
        kept: True, False, or None where there is no answer.
    """
    rows = []
    for label, result in zip(unique_labels(results), results, strict=True):
        for row in result.final[result.final["role"] == "constraint"].to_dict("records"):
            tolerance, kept = float(row["tolerance"]), row["kept"]
            unit = tolerance if tolerance > 0 else LEAST_SCALE_NATS
            changes = [float(row[name]) for name in CHANGE_COLUMNS]
            used = [1 + (change - tolerance) / unit for change in changes]
            answer = None if missing(kept) else bool(kept)
            rows.append((label, row["domain"], tolerance, *changes, *used, answer))
    return _objects(pd.DataFrame(rows, columns=list(CONSTRAINT_COLUMNS)), "kept")


def violation_table(results: Sequence[RunRecord]) -> pd.DataFrame:
    """Feasibility on validation and on test, one row per run, with its worst constraint on test.

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
    for label, result in zip(unique_labels(results), results, strict=True):
        constraints = every[every["run"] == label]
        n, broken = len(constraints), int(constraints["kept"].eq(False).sum())
        kept = False if broken else (True if n and constraints["kept"].notna().all() else None)
        measured = n and constraints["used"].notna().all()
        worst: dict[Any, Any] = (
            max(constraints.to_dict("records"), key=lambda row: row["used"]) if measured else {}
        )
        tolerance = worst.get("tolerance", math.nan)
        excess = [worst.get(name, math.nan) - tolerance for name in CHANGE_COLUMNS]
        used = [worst.get(name, math.nan) for name in USED_COLUMNS]
        verdict = (label, result.status, result.step, result.step > 0 if n else None, kept)
        rows.append((*verdict, n, broken, worst.get("constraint"), *excess, *used))
    frame = pd.DataFrame(rows, columns=list(VIOLATION_COLUMNS))
    return _objects(frame, "feasible_on_validation", "kept_on_test", "worst")


def feasibility_rates(results: Sequence[RunRecord]) -> pd.DataFrame:
    """Rates of feasible and of false feasible runs: feasible on validation, and not kept on test.

    Runs without constraints are left out everywhere; a run whose test result is not known, where test counts.

    Returns:
        Columns: rate, k, n, share, low, high (Wilson, 95 %, as if runs were independent). Rows:
        "feasible on validation" and "feasible on validation, kept on test", of all runs; "false feasible", those
        not kept on test among those feasible on validation; "clearly false feasible", those of which a whole
        interval lies above a tolerance, among the same.
    """
    frame, every = violation_table(results), feasibility_table(results)
    frame = frame[frame["constraints"] > 0]
    chosen = frame["feasible_on_validation"].eq(True)
    tested, held = frame["kept_on_test"].notna(), frame["kept_on_test"].eq(True)
    over = frame["run"].isin(every.loc[every["used_low"] > 1, "run"])
    rates = {
        "feasible on validation": chosen,
        "feasible on validation, kept on test": (chosen & held)[tested | ~chosen],
        "false feasible": ~held[chosen & tested],
        "clearly false feasible": over[chosen & tested],
    }
    rows = []
    for name, succeeded in rates.items():
        share = wilson(int(succeeded.sum()), len(succeeded))
        rows.append((name, int(succeeded.sum()), share.n, share.value, share.low, share.high))
    return pd.DataFrame(rows, columns=["rate", "k", "n", "share", "low", "high"])


def _objects(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Columns of True, False and None kept as such: pandas would make None a nan or a number."""
    for name in names:
        values = [None if missing(value) else value for value in frame[name]]
        frame[name] = pd.Series(values, index=frame.index, dtype=object)
    return frame


def calibration(result: RunRecord, label: str = "") -> pd.DataFrame:
    """Calibration: the loss change that each update's slopes predicted for its interval, and the realised one.

    The prediction is H * sum_j S_ij w_j, without the solver's safety margin; a column without slopes counts only
    if it has weight. What happened is the difference of the validation losses read at the interval's two ends, on
    the same sequences; nan where an end was not read. Domains that have no slopes are left out.

    Args:
        result: a run; without slopes the frame is empty.
        label: what the run is called.

    Returns:
        Columns: run, step, horizon (steps to the next update), domain, and in nats per token predicted,
        standard_error (of the prediction, from the slopes') and realised.
    """
    read = readings(result)
    rows = []
    for update in result.slopes:
        end, which = update.step + update.horizon, (label or result.label, update.step, update.horizon)
        # Of a run without a solver; a trial that diverged leaves a solver with gaps, which are counted.
        without = update.slopes.isna().all(axis=1) & (update.solver_status in ("kept", "broken"))
        for name, change, error in zip(update.slopes.index, *predicted_change(update), strict=True):
            if without[name]:
                continue
            realised = read.get((end, name), math.nan) - read.get((update.step, name), math.nan)
            rows.append((*which, str(name), float(change), float(error), realised))
    return pd.DataFrame(rows, columns=list(POINT_COLUMNS))


def calibration_points(results: Sequence[RunRecord]) -> pd.DataFrame:
    """The rows of `calibration` of several runs, with the length class of each interval.

    Returns:
        The columns of `calibration`, and length: "1–8", "9–16", "17–32", ... steps, doubling.
    """
    labelled = zip(results, unique_labels(results), strict=True)
    parts = [part for result, label in labelled if len(part := calibration(result, label))]
    points = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(POINT_COLUMNS))
    tops = [max(_SHORTEST, 1 << (int(horizon) - 1).bit_length()) for horizon in points["horizon"]]
    return points.assign(length=[f"{1 if top == _SHORTEST else top // 2 + 1}–{top}" for top in tops])


def calibration_table(results: Sequence[RunRecord], by: Literal["length", "run"] = "length") -> pd.DataFrame:
    """Calibration error (RMSE, correlation, coverage), pooled over the runs, by the interval's length or by run.

    A point is one interval between updates and one evaluation domain. Points that were not read at both ends, or
    for which nothing was predicted, are left out and counted. Points of one interval share their slopes, so
    they are not independent: the interval of the error resamples whole intervals, the one of the share does
    not and is too narrow.

    Args:
        results: runs in any order; those without slopes add nothing.
        by: "length" (see `calibration_points`) or "run".

    Returns:
        One row per group and one for all, none without slopes. Columns: length or run; intervals (with at least
        one point), n (points), left_out (points); rmse_nats with rmse_low, rmse_high (95 %, bootstrap over
        intervals; nan for fewer than two); realised_rms_nats, the error of predicting no change at all;
        correlation (nan for fewer than three points or none that vary); within, judged, within_share, within_low,
        within_high: how many of the points with a standard error were realised within 2 of them, Wilson 95 %.
    """
    points = calibration_points(results)
    names = dict.fromkeys(points.sort_values("horizon")[by] if by == "length" else points[by])
    groups = [*((name, points[points[by] == name]) for name in names), (ALL, points)]
    rows = [(name, *_accuracy(group)) for name, group in groups if len(group)]
    columns = [by, "intervals", "n", "left_out", *RMSE_COLUMNS, "correlation", *WITHIN_COLUMNS]
    return pd.DataFrame(rows, columns=columns)


def _accuracy(points: pd.DataFrame) -> tuple[float, ...]:
    """A row of `calibration_table`; the interval of the error is that of the mean square, resampled by interval."""
    pairs = _finite_pairs(points)
    off, error = pairs["predicted"] - pairs["realised"], pairs["standard_error"]
    totals = (off**2).groupby([pairs["run"], pairs["step"]]).agg(["sum", "count"])
    totals = totals.sort_values(["sum", "count"])  # the order of runs must not move the resamples
    squares = (math.nan,) * 3
    if len(totals):
        sums, counts = (totals[name].to_numpy(dtype=float) for name in ("sum", "count"))
        mean = bootstrap(ratio_of_sums, sums, counts, paired=True)
        squares = (mean.value, mean.low, mean.high)
    moved = float(np.square(pairs["realised"]).mean())
    judged = np.isfinite(error)
    within = int((judged & (off.abs() <= _ERRORS * error)).sum())
    share = wilson(within, int(judged.sum()))
    return (
        *(len(totals), len(pairs), len(points) - len(pairs)),
        *map(math.sqrt, (*squares, moved)),
        *(_correlation(pairs), within, share.n, share.value, share.low, share.high),
    )


def predicted_change(update: SlopeUpdate) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The predicted change H sum_j S_ij w_j of every evaluation loss over the horizon H, and its standard error."""
    weights = np.array([update.weights.get(name, 0.0) for name in update.slopes.columns])
    used = weights > 0
    moved = update.horizon * (update.slopes.to_numpy(dtype=float)[:, used] @ weights[used])
    spread = update.horizon * update.standard_errors.to_numpy(dtype=float)[:, used] * weights[used]
    return moved, np.sqrt(np.square(spread).sum(axis=1))


def readings(result: RunRecord) -> dict[tuple[int, str], float]:
    """Every validation loss that the run has read, by step and domain: on the evaluation grid and at updates.

    An update reads the losses it starts from; they stand in its prediction, less the change it predicts.
    """
    read: dict[tuple[int, str], float] = {}
    for update in result.slopes:
        moved, _ = predicted_change(update)
        for name, change in zip(update.slopes.index, moved, strict=True):
            read[update.step, name] = update.predicted[name] - float(change)
    grid = result.losses[result.losses["split"] == "validation"]
    for step, name, loss in zip(grid["step"], grid["domain"], grid["loss_nats"], strict=True):
        read[int(step), name] = float(loss)
    return read


def calibration_sentence(points: pd.DataFrame) -> str:
    """Calibration in a sentence: n, the median absolute error and the correlation."""
    pairs = _finite_pairs(points)
    n, left_out = len(pairs), len(points) - len(pairs)
    if n == 0:
        return "No interval was read at both of its ends, so nothing can be compared."
    error = float((pairs["predicted"] - pairs["realised"]).abs().median())
    tail = f" {left_out} more were not read at both ends." if left_out else ""
    return (
        f"n = {n} (intervals × domains, not independent of each other): median absolute error "
        f"{number(error, 2)} nats, correlation {fixed(_correlation(pairs), 2)}.{tail}"
    )


def _finite_pairs(points: pd.DataFrame) -> pd.DataFrame:
    numbers = points.astype({"predicted": float, "realised": float, "standard_error": float})
    pairs: pd.DataFrame = numbers[np.isfinite(numbers["predicted"]) & np.isfinite(numbers["realised"])]
    return pairs


def _correlation(pairs: pd.DataFrame) -> float:
    varied = len(pairs) > 2 and pairs["predicted"].std() > 0 and pairs["realised"].std() > 0
    return float(pairs["predicted"].corr(pairs["realised"])) if varied else math.nan
