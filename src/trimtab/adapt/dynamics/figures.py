"""Figures of fine-tuning runs: mixture, slopes, losses and predictions of one, and several runs side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trimtab.adapt.dynamics.compare import (
    ALL,
    RMSE_COLUMNS,
    USED_COLUMNS,
    calibration,
    calibration_sentence,
    comparison_table,
    kept_all,
    unique_labels,
)
from trimtab.adapt.record import RunRecord, domain_of, share_column
from trimtab.report import charts, intervals
from trimtab.report.charts import Band
from trimtab.report.figures import PALETTE
from trimtab.report.formats import fixed, missing, number, percent
from trimtab.report.intervals import Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GREEN, _RED, _GREY = PALETTE[2], PALETTE[4], PALETTE[6]
KEPT = Look("kept", _GREEN)
BROKEN = Look("over the limit", _RED, "X")
BASE = Look("base weights returned", _GREY, "s", filled=False)
UNKNOWN = Look("not known", _GREY, "d", filled=False)
FEASIBLE = Look("kept every constraint on test", _GREEN)
NOT_FEASIBLE = Look("did not, or base weights", _RED, "s", filled=False)
ERROR = Look("root mean squared error", PALETTE[0])

MOST_POINTS = 600
"""Points drawn in a scatter; more make a page heavy and are not distinguishable."""
_USED_SHOWN = (-2.0, 4.0)


def mixture_figure(result: RunRecord, label: str = "") -> Figure:
    """The share of each training domain from update to update, stacked; the kept checkpoint is marked."""
    mixtures = result.mixtures.sort_values("step")
    shares = {domain_of(str(name)): mixtures[name].to_list() for name in mixtures.columns if name != "step"}
    steps = mixtures["step"].to_list()
    last = _listed({name: values[-1] for name, values in shares.items()} if steps else {})
    alt = f"{label or result.label}: mixture over training steps. At the end: {last}."
    end = max([last_step(result), *steps])
    return charts.stacked_area(
        steps, shares, end=end, marked=result.step, title="Mixture over time", label=alt
    )


def slope_figures(result: RunRecord, label: str, updates: Sequence[int]) -> list[Figure]:
    """One heat map per named update, on the colour scale of all updates, in thousandths of a nat per step.

    Domains that have no slopes in any update have no row.
    """
    without = set(unread(result))
    rows = [name for name in result.slopes[0].slopes.index if name not in without]
    slopes = [update.slopes.loc[rows].to_numpy(dtype=float) for update in result.slopes]
    sizes = np.concatenate([np.zeros(0), *(np.abs(each).ravel() for each in slopes)])
    finite = sizes[np.isfinite(sizes)]
    maps = []
    for place in updates:
        update = result.slopes[place]
        steps = f"{update.horizon} step{'' if update.horizon == 1 else 's'}"
        columns = [str(name) for name in update.slopes.columns]
        mixture = f"for the next {steps}, mixture {_listed(update.weights)}"
        drawn = charts.heat_map(
            1e3 * slopes[place],
            [str(name) for name in rows],
            columns,
            errors=1e3 * update.standard_errors.loc[rows].to_numpy(dtype=float),
            notes=[percent(update.weights.get(name)) for name in columns],
            limit=1e3 * float(finite.max()) if finite.size else None,
            title=f"Step {update.step}, for {steps} ({update.solver_status})",
            label=f"{label}: slopes at step {update.step} {mixture}.",
        )
        maps.append(drawn)
    return maps


def unread(result: RunRecord) -> list[str]:
    """Evaluation domains without slopes at any update, as the mixer did not read them; none where no other has some."""
    slopes = [update.slopes for update in result.slopes]
    without = [name for name in slopes[0].index if all(one.loc[name].isna().all() for one in slopes)]
    return [] if len(without) == len(slopes[0]) else without


def loss_figures(result: RunRecord, label: str) -> list[Figure]:
    """One panel per evaluation domain: validation loss with the interval of its change, reference and limit.

    The shaded steps are the same in every panel: those at which every constraint holds.
    """
    spans, losses = feasible_spans(result), validation(result)
    panels = []
    for final in result.final.to_dict("records"):
        rows, who = losses[losses["domain"] == final["domain"]], f"{final['domain']} ({final['role']})"
        read = rows["loss_nats"].to_list()
        base = (rows["loss_nats"] - rows["change"]).median() if read else math.nan
        ends = f"from {fixed(read[0])} to {fixed(read[-1])} nats" if read else "none"
        drawn = charts.line_band(
            rows["step"].to_list(),
            read,
            (base + rows["change_low"]).to_list(),
            (base + rows["change_high"]).to_list(),
            reference=base,
            limit=base + float(final["tolerance"]),
            spans=spans,
            marked=result.step,
            axis="nats per token",
            about=str(final["domain"]),
            title=who,
            label=f"{label}: validation loss of {who}, {ends}.",
        )
        panels.append(drawn)
    return panels


def calibration_figure(result: RunRecord, label: str) -> Figure:
    """Predicted against realised loss change, one point per interval and evaluation domain."""
    points = calibration(result)
    pairs = points.dropna(subset=["predicted", "realised"])
    alt = f"{label}: predicted against realised loss change, {len(pairs)} points. {calibration_sentence(points)}"
    return charts.scatter_identity(
        points["predicted"].to_list(),
        points["realised"].to_list(),
        points["domain"].to_list(),
        errors=points["standard_error"].to_list(),
        title="Predicted against realised change",
        label=alt,
    )


def feasible_spans(result: RunRecord) -> list[tuple[float, float]]:
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
    spans: list[tuple[float, float]] = []
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


def _listed(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {percent(share)}" for name, share in shares.items())


def evenly(places: Sequence[int], most: int) -> list[int]:
    """At most so many of the places, at even distances, both ends among them.

    >>> evenly(range(10), 4), evenly(range(2), 4), evenly([], 4)
    ([0, 3, 6, 9], [0, 1], [])
    """
    chosen = np.linspace(0, len(places) - 1, min(len(places), most)).round().astype(int)
    return [places[number] for number in chosen.tolist()]


def mixture_key(results: Sequence[RunRecord]) -> Figure:
    """The colours of the training domains in every mixture of the group."""
    bands = _bands(results)
    named = [replace(band, note="target") if band.solid else band for band in bands]
    listed = ", ".join(f"{band.name} (target)" if band.solid else band.name for band in bands)
    return charts.key(named, f"Colours of the mixtures: {listed}.")


def moving_mixtures(results: Sequence[RunRecord]) -> list[Figure]:
    """One small stacked area per run whose mixture changes, all on the same axes."""
    bands, limit = _bands(results), max(map(last_step, results), default=1.0)
    areas = []
    for result, label in zip(results, unique_labels(results), strict=True):
        if is_constant(result):
            continue
        rows = result.mixtures.sort_values("step")
        filled = _filled(bands, rows)
        drawn = charts.small_area(
            rows["step"].to_list(),
            filled,
            end=last_step(result),
            limit=limit,
            marked=result.step or None,
            title=label,
            label=f"{label}: mixture over training steps, targets {_on_targets(filled, -1)} at the end.",
        )
        areas.append(drawn)
    return areas


def constant_mixtures(results: Sequence[RunRecord]) -> Figure | None:
    """One bar per run whose mixture never changes; None without such a run."""
    labelled = zip(unique_labels(results), results, strict=True)
    first = {label: result.mixtures.head(1) for label, result in labelled if is_constant(result)}
    if not first:
        return None
    bands = _filled(_bands(results), pd.concat(list(first.values()), ignore_index=True))
    notes = [_on_targets(bands, row) for row in range(len(first))]
    shares = ", ".join(f"{name} {note}" for name, note in zip(first, notes, strict=True))
    alt = f"Constant mixtures, share of the targets: {shares}."
    return charts.share_bars(list(first), bands, notes=notes, title="Mixtures that never change", label=alt)


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
    used = constraints[list(USED_COLUMNS)].to_numpy(dtype=float)
    finite = used[np.isfinite(used)]
    least, most = float(finite.min(initial=0.0)), float(finite.max(initial=1.0))
    bounds = (max(least, _USED_SHOWN[0]) - 0.15, min(most, _USED_SHOWN[1]) + 0.15)
    on_base = set(judged.loc[judged["step"] == 0, "run"])
    panels = [("The worst of all constraints", judged.assign(kept=judged["kept_on_test"]))]
    panels += [(str(name), rows) for name, rows in constraints.groupby("constraint", sort=False)]
    figures = []
    for title, rows in panels:
        marks = [UNKNOWN if missing(kept) else (KEPT if kept else BROKEN) for kept in rows["kept"]]
        looks = [BASE if run in on_base else look for run, look in zip(rows["run"], marks, strict=True)]
        value, low, high = (rows[name].to_list() for name in USED_COLUMNS)
        drawn = intervals.interval_rows(
            rows["run"].to_list(),
            value,
            low,
            high,
            looks,
            bounds=bounds,
            limit=1.0,
            axis="change on test, in tolerances",
            title=title,
            label=f"{title}: {looks.count(BROKEN)} of {len(rows)} runs over the limit on test.",
        )
        figures.append(drawn)
    return figures


def cost_figures(results: Sequence[RunRecord]) -> list[Figure]:
    """Target gain on test against both costs; the runs that no other beats on both are named."""
    table = comparison_table(results)
    feasible = [feasible_on_test(result) for result in results]
    gain, low, high = (table[f"gain_{part}"].to_list() for part in ("percent", "low", "high"))
    axes = {"training_multiple": ("training cost", "training and probe steps, ×")}
    axes["all_in_multiple"] = ("all-in cost", "with evaluations, ×")
    figures = []
    for column, (title, along) in axes.items():
        cost = table[column].to_list()
        front = unbeaten(cost, gain, feasible)
        best = ", ".join(f"{table['run'][k]} {number(gain[k])} % at {number(cost[k])}" for k in front)
        drawn = intervals.gain_against_cost(
            cost,
            gain,
            low,
            high,
            [FEASIBLE if one else NOT_FEASIBLE for one in feasible],
            names=[str(run) if k in front else "" for k, run in enumerate(table["run"])],
            of=[str(run) for run in table["run"]],
            floor=-max(5.0, 0.35 * float(np.nanmax([*high, *gain, 0.0]))),
            axes_names=(along, "target gain on test, %"),
            title=f"Gain against {title}",
            label=f"Target gain on test against {along}. Not beaten: {best or 'no run'}.",
        )
        figures.append(drawn)
    return figures


def feasible_on_test(result: RunRecord) -> bool:
    """Whether a run returned trained weights that are known to keep every constraint on test."""
    return result.step > 0 and kept_all(result)


def unbeaten(cost: Sequence[float], gain: Sequence[float], allowed: Sequence[bool]) -> list[int]:
    """The Pareto front of the allowed: no other allowed one costs no more and gains no less, one of both strictly.

    >>> unbeaten([1.0, 1.0, 2.0, 3.0], [5.0, 7.0, 9.0, 8.0], [True, True, True, True])
    [1, 2]
    """
    runs = [k for k in range(len(cost)) if allowed[k] and math.isfinite(cost[k]) and math.isfinite(gain[k])]
    beaten = {
        k
        for k in runs
        for j in runs
        if cost[j] <= cost[k] and gain[j] >= gain[k] and (cost[j], gain[j]) != (cost[k], gain[k])
    }
    return [k for k in runs if k not in beaten]


def calibration_scatter(points: pd.DataFrame) -> Figure:
    """Predicted against realised change of all runs, by the interval's length; at most `MOST_POINTS` are drawn.

    Args:
        points: from `calibration_points`.
    """
    pairs = points.dropna(subset=["predicted", "realised"]).sort_values(["predicted", "realised"])
    pairs = pairs.iloc[evenly(range(len(pairs)), MOST_POINTS)].sort_values("horizon", kind="stable")
    return charts.scatter_identity(
        pairs["predicted"].to_list(),
        pairs["realised"].to_list(),
        [f"{length} steps" for length in pairs["length"]],
        title="Predicted against realised change",
        label=f"All runs: predicted against realised loss change, {len(pairs)} points, by interval length.",
    )


def calibration_rows(table: pd.DataFrame) -> Figure:
    """The error of predictions by interval length, beside how far the losses moved at all.

    Args:
        table: from `calibration_table`.
    """
    read = table[table["n"] > 0]
    names = [f"{name} steps" if name != ALL else "all intervals" for name in read["length"]]
    errors, low, high, moved = (read[name].to_list() for name in RMSE_COLUMNS)
    highest = float(np.nanmax([*errors, *high, *moved, 0.0]))
    each = ", ".join(f"{name} {number(error, 2)}" for name, error in zip(names, errors, strict=True))
    return intervals.interval_rows(
        names,
        errors,
        low,
        high,
        [ERROR] * len(read),
        bounds=(0.0, 1.08 * highest or 1.0),
        beside=moved,
        beside_name="realised change",
        axis="root mean square, nats",
        title="Error by length of the interval",
        label=f"Root mean squared error of predictions, nats: {each}.",
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


def _filled(bands: Sequence[Band], rows: pd.DataFrame) -> list[Band]:
    """The bands with the shares of mixtures; 0 where a run does not train on a domain."""
    columns = [share_column(band.name) for band in bands]
    shares = rows.reindex(columns=columns).fillna(0.0)
    return [replace(band, shares=shares[name].to_list()) for band, name in zip(bands, columns, strict=True)]


def _on_targets(bands: Sequence[Band], row: int) -> str:
    """The share of all targets together in a row of a mixture."""
    shares = [band.shares[row] for band in bands if band.solid and len(band.shares)]
    return percent(sum(shares) if shares else math.nan)
