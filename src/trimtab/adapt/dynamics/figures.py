"""The figures of a fine-tuning run: its mixture, its slopes, its losses, and how well the slopes predicted.

The figures of a group of runs: mixtures, constraints, gain against cost, calibration.

What the sections of a run's page and of a group's page share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.adapt.dynamics.calibration import ALL, calibration, calibration_sentence
from trimtab.adapt.dynamics.compare import comparison_table, unique_labels
from trimtab.adapt.record import RunRecord, SlopeUpdate, domain_of, share_column
from trimtab.report import charts, intervals
from trimtab.report import charts as shares
from trimtab.report.charts import Band
from trimtab.report.figures import PALETTE
from trimtab.report.formats import fixed, missing, number
from trimtab.report.intervals import Look
from trimtab.report.page import Tone

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Span = tuple[float, float]


def mixture_figure(result: RunRecord, label: str = "") -> Figure:
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


def slope_figures(result: RunRecord, label: str, updates: Sequence[int]) -> list[Figure]:
    """One heat map per named update, on the colour scale of all updates, in thousandths of a nat per step."""
    scale = largest_slope(result)
    return [_slope_figure(result.slopes[number], label, 1e3 * scale) for number in updates]


def loss_figures(result: RunRecord, label: str) -> list[Figure]:
    """One panel per evaluation domain: validation loss with the interval of its change, reference and limit.

    The shaded steps are the same in every panel: those at which every constraint holds.
    """
    spans = feasible_spans(result)
    names = [str(name) for name in result.final["domain"]]
    return [_loss_figure(result, name, spans, label) for name in names]


def calibration_figure(result: RunRecord, label: str) -> Figure:
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


def feasible_spans(result: RunRecord) -> list[Span]:
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


def validation(result: RunRecord) -> pd.DataFrame:
    """The rows of the run's losses that its choices were made on."""
    return result.losses[result.losses["split"] == "validation"].sort_values("step")


def last_step(result: RunRecord) -> float:
    """The last step that the run's frames know of."""
    steps = [frame["step"].max() for frame in (result.mixtures, result.losses) if len(frame)]
    return float(max([*steps, result.cost.training_steps, 1]))


def largest_slope(result: RunRecord) -> float:
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


def _loss_figure(result: RunRecord, name: str, spans: list[Span], label: str) -> Figure:
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


COVERS = (
    "Intervals are 95 % over the choice of test records, paired with the base model on the same sequences; "
    "each run is one training seed, so they do not cover the seed."
)


def tone(kept: object) -> Tone:
    """The tone of whether something was kept; none where there is no answer."""
    return "" if missing(kept) else ("good" if kept else "bad")


def setting(result: RunRecord, *path: str) -> Any:
    """A value of the run's config; None where it has none."""
    value: Any = result.config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def evenly(places: Sequence[int], most: int) -> list[int]:
    """At most so many of the places, at even distances, both ends among them.

    >>> evenly(range(10), 4), evenly(range(2), 4), evenly([], 4)
    ([0, 3, 6, 9], [0, 1], [])
    """
    chosen = np.linspace(0, len(places) - 1, min(len(places), most)).round().astype(int)
    return [places[number] for number in chosen.tolist()]


_GREEN, _RED, _GREY = PALETTE[2], PALETTE[4], PALETTE[6]
KEPT = Look("kept", _GREEN)
BROKEN = Look("over the limit", _RED, "X")
BASE = Look("base weights returned", _GREY, "s", filled=False)
UNKNOWN = Look("not known", _GREY, "d", filled=False)
FEASIBLE = Look("kept every constraint on test", _GREEN)
NOT_FEASIBLE = Look("did not, or base weights", _RED, "s", filled=False)
ERROR = Look("root mean squared error", PALETTE[0])

MOST_POINTS = 600
"""Points drawn in a scatter; more make a page heavy and are not told apart."""
_USED_SHOWN = (-2.0, 4.0)


def mixture_key(results: Sequence[RunRecord]) -> Figure:
    """The colours of the training domains in every mixture of the group."""
    bands = [
        Band(f"{band.name} (target)" if band.solid else band.name, (), *_style(band))
        for band in _bands(results)
    ]
    return shares.key(bands, f"Colours of the mixtures: {', '.join(band.name for band in bands)}.")


def moving_mixtures(results: Sequence[RunRecord]) -> list[Figure]:
    """One small stacked area per run whose mixture changes, all on the same axes."""
    bands, limit = _bands(results), max(map(last_step, results), default=1.0)
    found = []
    for result, label in zip(results, unique_labels(results), strict=True):
        if is_constant(result):
            continue
        rows = result.mixtures.sort_values("step")
        own = [Band(band.name, _shares(rows, band.name), *_style(band)) for band in bands]
        at_end = f"targets {_percent(_on_targets(own, -1))} at the end"
        found.append(
            shares.small_area(
                rows["step"].to_list(),
                own,
                end=last_step(result),
                limit=limit,
                marked=result.step or None,
                title=label,
                label=f"{label}: mixture over training steps, {at_end}.",
            )
        )
    return found


def constant_mixtures(results: Sequence[RunRecord]) -> Figure | None:
    """One bar per run whose mixture never changes; None without such a run."""
    labels = unique_labels(results)
    own = [(label, result) for label, result in zip(labels, results, strict=True) if is_constant(result)]
    if not own:
        return None
    rows = pd.concat([result.mixtures.head(1) for _, result in own], ignore_index=True)
    bands = [Band(band.name, _shares(rows, band.name), *_style(band)) for band in _bands(results)]
    notes = [_percent(_on_targets(bands, row)) for row in range(len(own))]
    names = [label for label, _ in own]
    told = ", ".join(f"{name} {note}" for name, note in zip(names, notes, strict=True))
    alt = f"Constant mixtures, share of the targets: {told}."
    return shares.share_bars(names, bands, notes=notes, title="Mixtures that never change", label=alt)


def is_constant(result: RunRecord) -> bool:
    """Whether a run has one mixture from beginning to end."""
    shares = result.mixtures.drop(columns="step").to_numpy(dtype=float)
    return bool(len(shares)) and bool(np.allclose(shares, shares[:1], atol=1e-9, equal_nan=True))


def constraint_figures(constraints: pd.DataFrame, violations: pd.DataFrame) -> list[Figure]:
    """Used tolerance per run: first the worst constraint of each run, then one panel per constraint.

    Args:
        constraints: from `feasibility_table`.
        violations: from `violation_table`.
    """
    judged = violations[violations["constraints"] > 0]
    if judged.empty:
        return []
    bounds = _used_bounds(constraints)
    kept = judged.assign(kept=judged["kept_on_test"])
    found = [_used_figure(kept, judged, "The worst of all constraints", bounds)]
    for name in dict.fromkeys(constraints["constraint"]):
        own = constraints[constraints["constraint"] == name]
        found.append(_used_figure(own, judged, str(name), bounds))
    return found


def cost_figures(results: Sequence[RunRecord]) -> list[Figure]:
    """Target gain on test against both costs; the runs that no other beats on both are named."""
    table = comparison_table(results)
    good = [feasible_on_test(result) for result in results]
    axes = (("training_multiple", "training and probe steps, ×"), ("all_in_multiple", "with evaluations, ×"))
    return [_cost_figure(table, good, column, along) for column, along in axes]


def feasible_on_test(result: RunRecord) -> bool:
    """Whether a run returned trained weights that are known to keep every constraint on test."""
    own = result.final.loc[result.final["role"] == "constraint", "kept"]
    return result.step > 0 and all(not missing(kept) and bool(kept) for kept in own)


def unbeaten(cost: Sequence[float], gain: Sequence[float], allowed: Sequence[bool]) -> list[int]:
    """Those of the allowed that no other allowed one beats: costs no more and gains no less, and one of both strictly.

    >>> unbeaten([1.0, 1.0, 2.0, 3.0], [5.0, 7.0, 9.0, 8.0], [True, True, True, True])
    [1, 2]
    """
    runs = [k for k in range(len(cost)) if allowed[k] and math.isfinite(cost[k]) and math.isfinite(gain[k])]
    return [
        k
        for k in runs
        if not any(
            cost[j] <= cost[k] and gain[j] >= gain[k] and (cost[j] < cost[k] or gain[j] > gain[k])
            for j in runs
        )
    ]


def calibration_scatter(points: pd.DataFrame) -> Figure:
    """Predicted against realised change of all runs, by the interval's length; at most `MOST_POINTS` are drawn.

    Args:
        points: from `calibration_points`.
    """
    known = points.dropna(subset=["predicted", "realised"]).sort_values(["predicted", "realised"])
    known = known.iloc[evenly(range(len(known)), MOST_POINTS)].sort_values("horizon", kind="stable")
    return charts.scatter_identity(
        known["predicted"].to_list(),
        known["realised"].to_list(),
        [f"{length} steps" for length in known["length"]],
        title="Predicted against realised change",
        label=f"All runs: predicted against realised loss change, {len(known)} points, by interval length.",
    )


def calibration_rows(table: pd.DataFrame) -> Figure:
    """The error of predictions by interval length, beside how far the losses moved at all.

    Args:
        table: from `calibration_table`.
    """
    own = table[table["n"] > 0]
    names = [f"{name} steps" if name != ALL else "all intervals" for name in own["length"]]
    highest = float(np.nanmax([*own["rmse_nats"], *own["rmse_high"], *own["realised_rms_nats"], 0.0]))
    told = ", ".join(
        f"{name} {number(value, 2)}" for name, value in zip(names, own["rmse_nats"], strict=True)
    )
    return intervals.interval_rows(
        names,
        own["rmse_nats"].to_list(),
        own["rmse_low"].to_list(),
        own["rmse_high"].to_list(),
        [ERROR] * len(own),
        bounds=(0.0, 1.08 * highest or 1.0),
        beside=own["realised_rms_nats"].to_list(),
        beside_name="realised change",
        axis="root mean square, nats",
        title="Error by length of the interval",
        label=f"Root mean squared error of predictions, nats: {told}.",
    )


def _used_figure(own: pd.DataFrame, judged: pd.DataFrame, title: str, bounds: tuple[float, float]) -> Figure:
    steps = dict(zip(judged["run"], judged["step"], strict=True))
    looks = [_look(kept, steps[run]) for run, kept in zip(own["run"], own["kept"], strict=True)]
    over = sum(look is BROKEN for look in looks)
    return intervals.interval_rows(
        own["run"].to_list(),
        own["used"].to_list(),
        own["used_low"].to_list(),
        own["used_high"].to_list(),
        looks,
        bounds=bounds,
        limit=1.0,
        axis="change on test, in tolerances",
        title=title,
        label=f"{title}: {over} of {len(own)} runs over the limit on test.",
    )


def _look(kept: object, step: int) -> Look:
    if step == 0:
        return BASE
    return UNKNOWN if missing(kept) else (KEPT if kept else BROKEN)


def _used_bounds(constraints: pd.DataFrame) -> tuple[float, float]:
    """An axis for all panels: room for the limit, and for what is not absurdly far from it."""
    values = constraints[["used", "used_low", "used_high"]].to_numpy(dtype=float).ravel()
    finite = values[np.isfinite(values)]
    low, high = float(finite.min(initial=0.0)), float(finite.max(initial=1.0))
    return max(low, _USED_SHOWN[0]) - 0.15, min(high, _USED_SHOWN[1]) + 0.15


def _cost_figure(table: pd.DataFrame, good: Sequence[bool], column: str, along: str) -> Figure:
    cost, gain = table[column].to_list(), table["gain_percent"].to_list()
    front = unbeaten(cost, gain, good)
    highest = float(np.nanmax([*table["gain_high"], *gain, 0.0]))
    told = ", ".join(f"{table['run'][k]} {number(gain[k])} % at {number(cost[k])}" for k in front)
    return intervals.gain_against_cost(
        cost,
        gain,
        table["gain_low"].to_list(),
        table["gain_high"].to_list(),
        [FEASIBLE if one else NOT_FEASIBLE for one in good],
        names=[str(run) if k in front else "" for k, run in enumerate(table["run"])],
        floor=-max(5.0, 0.35 * highest),
        axes_names=(along, "target gain on test, %"),
        title="Gain against " + ("training cost" if column == "training_multiple" else "all-in cost"),
        label=f"Target gain on test against {along}. Not beaten: {told or 'no run'}.",
    )


def _bands(results: Sequence[RunRecord]) -> list[Band]:
    """Every training domain of the group, what is a target in any run first; colours as in the first run's mixture."""
    columns = dict.fromkeys(str(name) for result in results for name in result.mixtures.columns)
    names = [domain_of(name) for name in columns if name != "step"]
    targets = {
        str(name)
        for result in results
        for name in result.final.loc[result.final["role"] == "target", "domain"]
    }
    bands = [Band(name, (), number, name in targets) for number, name in enumerate(names)]
    return sorted(bands, key=lambda band: not band.solid)


def _style(band: Band) -> tuple[int, bool]:
    return band.number, band.solid


def _shares(rows: pd.DataFrame, name: str) -> list[float]:
    column = share_column(name)
    return rows[column].fillna(0.0).to_list() if column in rows else [0.0] * len(rows)


def _on_targets(bands: Sequence[Band], row: int) -> float:
    own = [band.shares[row] for band in bands if band.solid and len(band.shares)]
    return sum(own) if own else math.nan


def _percent(share: float) -> str:
    return "–" if missing(share) else f"{100 * share:.0f} %"
