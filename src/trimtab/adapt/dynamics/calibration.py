"""Did the slopes predict? Predicted against realised loss changes, of one run and of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.adapt.dynamics.compare import unique_labels
from trimtab.adapt.record import RunRecord, SlopeUpdate
from trimtab.numerics.bootstrap import bootstrap, ratio_of_sums, wilson
from trimtab.report.formats import fixed, number

POINT_COLUMNS = ("run", "step", "horizon", "domain", "predicted", "standard_error", "realised")
TABLE_COLUMNS = (
    "intervals",
    "n",
    "left_out",
    "rmse_nats",
    "rmse_low",
    "rmse_high",
    "realised_rms_nats",
    "correlation",
    "within",
    "judged",
    "within_share",
    "within_low",
    "within_high",
)
ALL = "all"
"""The row of a calibration table that pools every interval."""

_SHORTEST = 8
_ERRORS = 2


def calibration(result: RunRecord, label: str = "") -> pd.DataFrame:
    """What each update's slopes predicted for its interval, and what happened.

    The prediction is H * sum_j S_ij w_j, without the solver's safety margin; a column without slopes counts only
    if it has weight. What happened is the difference of the validation losses read at the interval's two ends, on
    the same sequences; nan where an end was not read.

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
        moved, errors = predicted_change(update)
        end = update.step + update.horizon
        for name, change, error in zip(update.slopes.index, moved, errors, strict=True):
            realised = read.get((end, name), math.nan) - read.get((update.step, name), math.nan)
            where = (label or result.label, update.step, update.horizon, str(name))
            rows.append((*where, float(change), float(error), realised))
    return pd.DataFrame(rows, columns=list(POINT_COLUMNS))


def calibration_points(results: Sequence[RunRecord]) -> pd.DataFrame:
    """The rows of `calibration` of several runs, with the length class of each interval.

    Returns:
        The columns of `calibration`, and length: "1–8", "9–16", "17–32", ... steps, doubling.
    """
    parts = [
        calibration(result, label) for result, label in zip(results, unique_labels(results), strict=True)
    ]
    filled = [part for part in parts if len(part)]
    points = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(POINT_COLUMNS))
    return points.assign(length=[_length(int(horizon)) for horizon in points["horizon"]])


def calibration_table(results: Sequence[RunRecord], by: Literal["length", "run"] = "length") -> pd.DataFrame:
    """How well slopes predicted, pooled over the runs, by the interval's length or by run.

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
    names = list(dict.fromkeys(points.sort_values("horizon")[by] if by == "length" else points[by]))
    groups = [(name, points[points[by] == name]) for name in names]
    rows = [{by: name, **_row(group)} for name, group in [*groups, (ALL, points)] if len(group)]
    return pd.DataFrame(rows, columns=[by, *TABLE_COLUMNS])


def predicted_change(update: SlopeUpdate) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The change that an update predicts for every evaluation domain over its horizon, and its standard error."""
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
        starts = zip(update.slopes.index, moved, strict=True)
        read |= {(update.step, name): update.predicted[name] - float(change) for name, change in starts}
    own = result.losses[result.losses["split"] == "validation"]
    grid = zip(own["step"], own["domain"], own["loss_nats"], strict=True)
    return read | {(int(step), name): float(loss) for step, name, loss in grid}


def calibration_sentence(points: pd.DataFrame) -> str:
    """How far the predictions were off: n, the median absolute error and the correlation."""
    known = _known(points)
    n, left_out = len(known), len(points) - len(known)
    if n == 0:
        return "No interval was read at both of its ends, so nothing can be compared."
    error = float((known["predicted"] - known["realised"]).abs().median())
    tail = f" {left_out} more were not read at both ends." if left_out else ""
    return (
        f"n = {n} (intervals × domains, not independent of each other): median absolute error "
        f"{number(error, 2)} nats, correlation {fixed(_correlation(known), 2)}.{tail}"
    )


def _row(points: pd.DataFrame) -> dict[str, Any]:
    known = _known(points)
    return {
        "intervals": len(known.groupby(["run", "step"])),
        "n": len(known),
        "left_out": len(points) - len(known),
        **_error(known),
        "realised_rms_nats": _root_mean_square(known["realised"]),
        "correlation": _correlation(known),
        **_coverage(known),
    }


def _error(known: pd.DataFrame) -> dict[str, float]:
    """The root mean squared error; its interval is that of the mean square, resampled by interval."""
    squares = (known["predicted"] - known["realised"]) ** 2
    totals = squares.groupby([known["run"], known["step"]]).agg(["sum", "count"])
    totals = totals.sort_values(["sum", "count"])  # the order of runs must not move the resamples
    if totals.empty:
        return dict.fromkeys(("rmse_nats", "rmse_low", "rmse_high"), math.nan)
    sums, counts = totals["sum"].to_numpy(dtype=float), totals["count"].to_numpy(dtype=float)
    found = bootstrap(ratio_of_sums, sums, counts, paired=True)
    return {
        "rmse_nats": math.sqrt(found.value),
        "rmse_low": math.sqrt(found.low),
        "rmse_high": math.sqrt(found.high),
    }


def _coverage(known: pd.DataFrame) -> dict[str, float]:
    """How many realised changes lie within two standard errors of the prediction."""
    judged = known[np.isfinite(known["standard_error"])]
    off = (judged["predicted"] - judged["realised"]).abs()
    within = int((off <= _ERRORS * judged["standard_error"]).sum())
    share = wilson(within, len(judged))
    return {
        "within": within,
        "judged": len(judged),
        "within_share": share.value,
        "within_low": share.low,
        "within_high": share.high,
    }


def _known(points: pd.DataFrame) -> pd.DataFrame:
    numbers = points.astype({"predicted": float, "realised": float, "standard_error": float})
    known: pd.DataFrame = numbers[np.isfinite(numbers["predicted"]) & np.isfinite(numbers["realised"])]
    return known


def _correlation(known: pd.DataFrame) -> float:
    varied = len(known) > 2 and known["predicted"].std() > 0 and known["realised"].std() > 0
    return float(known["predicted"].corr(known["realised"])) if varied else math.nan


def _root_mean_square(values: pd.Series[float]) -> float:
    return math.sqrt(float(np.square(values).mean())) if len(values) else math.nan


def _length(horizon: int) -> str:
    """The class of an interval's length: up to 8 steps, then doubling."""
    top = max(_SHORTEST, 1 << (horizon - 1).bit_length())
    return f"{1 if top == _SHORTEST else top // 2 + 1}–{top}"
