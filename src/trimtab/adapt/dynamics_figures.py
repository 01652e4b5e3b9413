"""The figures of a fine-tuning run: its mixture, its slopes, its losses, and how well the slopes predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trimtab.adapt.calibration import calibration, calibration_sentence
from trimtab.adapt.result import domain_of
from trimtab.report import charts
from trimtab.report.numbers import fixed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trimtab.adapt.result import FinetuneResult, SlopeUpdate

Span = tuple[float, float]


def mixture_figure(result: FinetuneResult, label: str = "") -> Figure:
    """The share of each training domain from update to update, stacked; the kept checkpoint is marked."""
    mixtures = result.mixtures.sort_values("step")
    shares = {domain_of(str(name)): mixtures[name].to_list() for name in mixtures.columns if name != "step"}
    steps = mixtures["step"].to_list()
    last = {name: values[-1] for name, values in shares.items()} if steps else {}
    alt = f"{label or result.label}: mixture over training steps. At the end: {_listed(last)}."
    end = max([last_step(result), *steps])
    return charts.stacked_area(
        steps, shares, end=end, marked=result.step, title="Mixture over time", label=alt
    )


def slope_figures(result: FinetuneResult, label: str, updates: Sequence[int]) -> list[Figure]:
    """One heat map per named update, on the colour scale of all updates, in thousandths of a nat per step."""
    scale = largest_slope(result)
    return [_slope_figure(result.slopes[number], label, 1e3 * scale) for number in updates]


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
    return charts.scatter_identity(
        points["predicted"].to_list(),
        points["realised"].to_list(),
        points["domain"].to_list(),
        errors=points["standard_error"].to_list(),
        title="Predicted against realised change",
        label=alt,
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
    return charts.heat_map(
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
    return charts.line_band(
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
