"""The figures of a fine-tuning run: its mixture, its slopes, its losses, and how well the slopes predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from trimtab.report import figures
from trimtab.report.numbers import fixed, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trimtab.adapt.result import FinetuneResult, SlopeUpdate

Span = tuple[float, float]


def mixture_figure(result: FinetuneResult, label: str = "") -> Figure:
    """The share of each training domain from update to update, stacked; the kept checkpoint is marked."""
    mixtures = result.mixtures.sort_values("step")
    shares = {str(name): mixtures[name].to_list() for name in mixtures.columns if name != "step"}
    steps = mixtures["step"].to_list()
    last = {name: values[-1] for name, values in shares.items()} if steps else {}
    alt = f"{label or result.label}: mixture over training steps. At the end: {_listed(last)}."
    end = max([last_step(result), *steps])
    return figures.stacked_area(
        steps, shares, end=end, marked=result.step, title="Mixture over time", label=alt
    )


def slope_figures(result: FinetuneResult, label: str) -> list[Figure]:
    """One heat map per update, all on one colour scale, in thousandths of a nat per step."""
    scale = largest_slope(result)
    return [_slope_figure(update, label, 1e3 * scale) for update in result.slopes]


def loss_figures(result: FinetuneResult, label: str) -> list[Figure]:
    """One panel per evaluation domain: validation loss with the interval of its change, reference and limit.

    The shaded steps are the same in every panel: those at which every constraint holds.
    """
    spans = feasible_spans(result)
    names = [str(name) for name in result.final["domain"]]
    return [_loss_figure(result, name, spans, label) for name in names]


def calibration_figure(result: FinetuneResult, label: str) -> Figure:
    """Predicted against realised loss change, one point per interval and evaluation domain."""
    points = calibration(result)
    known = points.dropna(subset=["predicted", "realised"])
    alt = f"{label}: predicted against realised loss change, {len(known)} points. {calibration_sentence(points)}"
    return figures.scatter_identity(
        points["predicted"].to_list(),
        points["realised"].to_list(),
        points["domain"].to_list(),
        errors=points["standard_error"].to_list(),
        title="Predicted against realised change",
        label=alt,
    )


def calibration(result: FinetuneResult) -> pd.DataFrame:
    """What each update's slopes predicted for its interval, and what happened.

    The prediction is H * sum_j S_ij w_j, without the solver's safety margin; a column without slopes counts only
    if it has weight. What happened is the difference of the validation losses read at the interval's two ends, on
    the same sequences; nan where an end was not read.

    Returns:
        Columns: step, domain, predicted, standard_error, realised; nats per token.
    """
    read = readings(result)
    rows = []
    for update in result.slopes:
        moved, errors = predicted_change(update)
        end = update.step + update.horizon
        for name, change, error in zip(update.slopes.index, moved, errors, strict=True):
            realised = read.get((end, name), math.nan) - read.get((update.step, name), math.nan)
            rows.append((update.step, str(name), float(change), float(error), realised))
    return pd.DataFrame(rows, columns=["step", "domain", "predicted", "standard_error", "realised"])


def predicted_change(update: SlopeUpdate) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The change that an update predicts for every evaluation domain over its horizon, and its standard error."""
    weights = np.array([update.weights.get(name, 0.0) for name in update.slopes.columns])
    used = weights > 0
    moved = update.horizon * (update.slopes.to_numpy(dtype=float)[:, used] @ weights[used])
    spread = update.horizon * update.standard_errors.to_numpy(dtype=float)[:, used] * weights[used]
    return moved, np.sqrt(np.square(spread).sum(axis=1))


def readings(result: FinetuneResult) -> dict[tuple[int, str], float]:
    """Every validation loss that the run has read, by step and domain: on the evaluation grid and at updates.

    An update reads the losses it starts from; they stand in its prediction, less the change it predicts.
    """
    read: dict[tuple[int, str], float] = {}
    for update in result.slopes:
        moved, _ = predicted_change(update)
        starts = zip(update.slopes.index, moved, strict=True)
        read |= {(update.step, name): update.predicted[name] - float(change) for name, change in starts}
    own = validation(result)
    grid = zip(own["step"], own["domain"], own["loss_nats"], strict=True)
    return read | {(int(step), name): float(loss) for step, name, loss in grid}


def calibration_sentence(points: pd.DataFrame) -> str:
    """How far the predictions were off: n, the median absolute error and the correlation."""
    known = points.dropna(subset=["predicted", "realised"])
    n, left_out = len(known), len(points) - len(known)
    if n == 0:
        return "No interval was read at both of its ends, so nothing can be compared."
    error = float((known["predicted"] - known["realised"]).abs().median())
    varied = n > 2 and known["predicted"].std() > 0 and known["realised"].std() > 0
    correlation = float(known["predicted"].corr(known["realised"])) if varied else math.nan
    tail = f" {left_out} more were not read at both ends." if left_out else ""
    return (
        f"n = {n} (intervals × domains, not independent of each other): median absolute error "
        f"{number(error, 2)} nats, correlation {fixed(correlation, 2)}.{tail}"
    )


def feasible_spans(result: FinetuneResult) -> list[Span]:
    """Steps at which every constraint's validation change is within its tolerance.

    Each evaluation speaks for the steps half way to its neighbours. Empty when the run has no constraint.
    """
    limits = result.final.loc[result.final["role"] == "constraint"].set_index("domain")["tolerance"]
    changes = validation(result).pivot_table(index="step", columns="domain", values="change")
    if not len(limits) or not set(limits.index) <= set(changes.columns):
        return []
    steps = changes.index.to_numpy(dtype=float)
    edges = np.concatenate([steps[:1], (steps[:-1] + steps[1:]) / 2, steps[-1:]])
    holds = (changes[limits.index] <= limits).all(axis=1).to_numpy()
    spans: list[Span] = []
    for (start, stop), fine in zip(pairwise(edges), holds, strict=True):
        if fine and spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], float(stop))
        elif fine:
            spans.append((float(start), float(stop)))
    return spans


def validation(result: FinetuneResult) -> pd.DataFrame:
    """The rows of the run's losses that its choices were made on."""
    return result.losses[result.losses["split"] == "validation"].sort_values("step")


def last_step(result: FinetuneResult) -> float:
    """The last step that the run's frames know of."""
    steps = [frame["step"].max() for frame in (result.mixtures, result.losses) if len(frame)]
    return float(max([*steps, result.cost.training_steps, 1]))


def largest_slope(result: FinetuneResult) -> float:
    """The largest finite absolute slope of all updates; nan without one."""
    values = [np.abs(update.slopes.to_numpy(dtype=float)).ravel() for update in result.slopes]
    every = np.concatenate([*values, [math.nan]])
    finite = every[np.isfinite(every)]
    return float(finite.max()) if finite.size else math.nan


def _slope_figure(update: SlopeUpdate, label: str, limit: float) -> Figure:
    columns = [str(name) for name in update.slopes.columns]
    when = f"at step {update.step} for the next {_steps(update.horizon)}"
    alt = f"{label}: slopes {when}, mixture {_listed(update.weights)}"
    return figures.heat_map(
        1e3 * update.slopes.to_numpy(dtype=float),
        [str(name) for name in update.slopes.index],
        columns,
        errors=1e3 * update.standard_errors.to_numpy(dtype=float),
        notes=[f"{100 * update.weights.get(name, math.nan):.0f} %" for name in columns],
        limit=None if math.isnan(limit) else limit,
        title=f"Step {update.step}, for {_steps(update.horizon)} ({update.solver_status})",
        label=alt + ".",
    )


def _loss_figure(result: FinetuneResult, name: str, spans: list[Span], label: str) -> Figure:
    own = validation(result)
    own = own[own["domain"] == name]
    final = next(row for row in result.final.to_dict("records") if row["domain"] == name)
    base = (own["loss_nats"] - own["change"]).median() if len(own) else math.nan
    ends = (
        f"from {fixed(own['loss_nats'].iloc[0])} to {fixed(own['loss_nats'].iloc[-1])} nats"
        if len(own)
        else "none"
    )
    return figures.line_band(
        own["step"].to_list(),
        own["loss_nats"].to_list(),
        (base + own["change_low"]).to_list(),
        (base + own["change_high"]).to_list(),
        reference=base,
        limit=base + float(final["tolerance"]),
        spans=spans,
        marked=result.step,
        axis="nats per token",
        title=f"{name} ({final['role']})",
        label=f"{label}: validation loss of {name} ({final['role']}), {ends}.",
    )


def _steps(count: int) -> str:
    return f"{count} step{'' if count == 1 else 's'}"


def _listed(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
