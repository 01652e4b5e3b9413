"""The part of a report page that sets the runs of one group side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd

from trimtab.adapt.data_table import few_records
from trimtab.adapt.dynamics import figures as drawn
from trimtab.adapt.dynamics.calibration import calibration_points, calibration_table
from trimtab.adapt.dynamics.compare import (
    CHANGE,
    KEPT,
    LIMIT,
    comparison_table,
    feasibility_rates,
    feasibility_table,
    kept_word,
    violation_table,
)
from trimtab.adapt.dynamics.figures import COVERS, tone
from trimtab.adapt.record import RunRecord
from trimtab.adapt.roles import LEAST_SCALE_NATS
from trimtab.report.formats import NOTHING, fixed, missing, span
from trimtab.report.page import Gallery, Mark, Picture, Section, Table, Text, gallery, picture, shown

Block = Text | Table | Picture | Gallery | Section
_one, _two = partial(fixed, places=1), partial(fixed, places=2)
_RATES = {
    "feasible on validation": "feasible on validation, of all runs",
    "feasible on validation, kept on test": "feasible on validation and kept on test, of all runs",
    "false feasible": "not kept on test, of those feasible on validation (feasible by luck)",
    "clearly false feasible": "the same, by more than the noise (a whole interval above its tolerance)",
}


def comparison_section(results: Sequence[RunRecord]) -> Section:
    """Several runs side by side: a table, gain against cost, constraints, mixtures, and calibration."""
    blocks: list[Block] = [
        _summary(results),
        Section("Gain against cost", [_gain(results)]),
        *_constraints(results),
        Section("Mixtures side by side", list(_mixtures(results))),
        *_calibration(results),
    ]
    return Section("Comparison", blocks)


def _summary(results: Sequence[RunRecord]) -> Table:
    raw = comparison_table(results)
    columns: dict[str, tuple[Any, ...]] = {
        "run": (str, "run"),
        "status": (_status, "status"),
        "step kept": (int, "step"),
        "target gain, %": (_one, "gain_percent"),
        "95 % interval": (partial(span, places=1), "gain_low", "gain_high"),
    }
    few = [few_records(result) for result in results]
    for name in (str(column).removesuffix(CHANGE) for column in raw.columns if str(column).endswith(CHANGE)):
        raw[f"{name} few"] = pd.Series([records.get(name) for records in few], dtype=object)
        heading = _limited(name, raw[name + LIMIT])
        columns[heading] = (_held, name + CHANGE, name + KEPT, f"{name} few")
    columns |= {
        "training steps, ×": (_two, "training_multiple"),
        "all-in cost, ×": (_two, "all_in_multiple"),
        "seconds": (partial(fixed, places=0), "seconds"),
    }
    caption = (
        f"{len(results)} runs on test; the status is the verdict on validation. "
        "Gain: reduction of perplexity on the targets (geometric mean); the "
        "largest of several is flattered by being picked on these same sequences. Constraints: "
        "change of loss in nats per token, and whether it stays within the tolerance in the heading, with the number "
        "of test records where those are few. Costs are "
        "multiples of one fixed-mixture run on the same evaluation grid: training and probe steps alone, and with "
        f"every evaluation, a forward pass counted as a third of a step. {COVERS}"
    )
    return Table(shown(raw, columns), caption, marked=[0])


def _limited(name: str, limits: pd.Series[float]) -> str:
    known = limits.dropna().unique()
    return f"{name} (≤ {fixed(known[0], signed=True)})" if len(known) == 1 else f"{name} (tolerances differ)"


def _held(change: float, kept: object, few: int | None) -> Mark | None:
    """A change and whether it is kept; unsure where that is judged on few records."""
    if missing(change):
        return None
    word = f"{fixed(change, signed=True)} {kept_word(kept)}"
    if few is None:
        return Mark(word, tone(kept))
    return Mark(f"{word}, on {few} record{'s' * (few != 1)}", "unsure" if kept else tone(kept))


def _status(status: str) -> Mark:
    return Mark(status, {"feasible": "good", "infeasible": "bad", "diverged": "bad"}.get(status, "unsure"))  # type: ignore[arg-type]


def _gain(results: Sequence[RunRecord]) -> Gallery:
    caption = (
        f"n = {len(results)} runs, one training seed each. Up: reduction of test perplexity on the targets (geometric "
        "mean) with its 95 % interval over test records. Along: multiples of one fixed-mixture run; runs of nearly "
        "the same cost are set side by side, lowest gain first. Filled: trained weights that kept every constraint on "
        "test. Named: those of them that no other estimate beats in gain and in cost. Dotted: no gain. An arrow at the "
        "edge with a number is a value outside the axes."
    )
    return gallery(drawn.cost_figures(results), caption)


def _constraints(results: Sequence[RunRecord]) -> Iterator[Section]:
    constraints, violations = feasibility_table(results), violation_table(results)
    if constraints.empty:
        return
    caption = (
        "Change of loss on test in tolerances: 0 (dotted) is the base model, 1 (dashed) the limit; bars are 95 % "
        "intervals over test records, paired with the base model, one training seed per run. An arrow at the edge "
        "with a number is a value outside the axes, which are the same in every panel. The first panel shows, for each "
        "run, the constraint that used most of its tolerance; picked by the same sequences, it leans to the bad side."
    )
    if (constraints["tolerance"] == 0).any():
        caption += f" Where the tolerance is 0, a unit is {LEAST_SCALE_NATS} nats and the limit stays at 1."
    figures = drawn.constraint_figures(constraints, violations)
    yield Section("Constraints side by side", [gallery(figures, caption), _violations(violations)])
    yield Section("Was “feasible” luck?", [_rates(results)])


def _violations(violations: pd.DataFrame) -> Table:
    columns = {
        "run": (str, "run"),
        "feasible on validation": (_yes, "feasible_on_validation"),
        "kept on test": (_yes, "kept_on_test"),
        "over the limit": ("{} of {} constraints".format, "broken", "constraints"),
        "worst constraint": (lambda name: name, "worst"),
        "over its limit by, nats": (partial(fixed, signed=True), "excess_nats"),
        "95 % interval": (partial(span, signed=True), "excess_low", "excess_high"),
        "in tolerances (limit 1)": (_two, "used"),
        "interval": (partial(span, places=2), "used_low", "used_high"),
    }
    caption = (
        "The largest violation of each run on test; below 0 nats there was room left. Where a run was not feasible on "
        "validation the base weights were returned, which keep everything and gain nothing. "
        f"{COVERS}"
    )
    return Table(shown(violations[violations["constraints"] > 0], columns), caption)


def _yes(value: object) -> Mark:
    return Mark(NOTHING if missing(value) else ("yes" if value else "no"), tone(value))


def _rates(results: Sequence[RunRecord]) -> Table:
    columns = {
        "": (_RATES.__getitem__, "rate"),
        "runs": ("{} of {}".format, "k", "n"),
        "share": (_percent, "share"),
        "95 % interval": (_percents, "low", "high"),
    }
    caption = (
        "Checkpoints are chosen on validation sequences and judged again on test sequences that no choice has seen. "
        "A run keeps a constraint when the estimate is within the tolerance. Intervals are Wilson's, as if the runs "
        "were independent; they share data and base model, so they are too narrow."
    )
    return Table(shown(feasibility_rates(results), columns), caption)


def _percent(share: float) -> str:
    return NOTHING if missing(share) else f"{100 * share:.0f} %"


def _percents(low: float, high: float) -> str:
    return NOTHING if missing(low) else f"{_percent(low)} to {_percent(high)}"


def _mixtures(results: Sequence[RunRecord]) -> Iterator[Block]:
    moving, constant = drawn.moving_mixtures(results), drawn.constant_mixtures(results)
    yield picture(
        drawn.mixture_key(results),
        "The same colour is the same training domain in every drawing. Targets are at the bottom (left) in full "
        "colour, other domains pale above (beside) them; the line tops the targets.",
    )
    if moving:
        yield gallery(
            moving,
            f"Runs whose mixture changes, {len(moving)} of {len(results)}: share over training steps, the same axes "
            "for all. Vertical line: the checkpoint kept, where there is one. Settings of the runs, not estimates.",
            small=True,
        )
    if constant is not None:
        yield picture(constant, "At the right of each bar: the share of the targets together.")


def _calibration(results: Sequence[RunRecord]) -> Iterator[Section]:
    points = calibration_points(results)
    if points.empty:
        return
    by_length, by_run = calibration_table(results), calibration_table(results, by="run")
    left_out, n = int(by_length["left_out"].iloc[-1]), int(by_length["n"].iloc[-1])
    runs = by_run["run"].nunique() - 1
    some = f"; {drawn.MOST_POINTS} of them drawn, evenly chosen" if n > drawn.MOST_POINTS else ""
    caption = (
        f"Runs with slopes: {runs}; n = {n} points (intervals between updates × evaluation domains, not independent "
        f"of each other){some}; {left_out} more were not read at both ends and are left out. On the dotted diagonal "
        "the prediction came true. By length: the error of the predictions with its 95 % interval (bootstrap over "
        "whole intervals); the upright stroke is how far the losses moved at all, the error of predicting no change."
    )
    figures = [drawn.calibration_scatter(points)] if n else []
    figures += [drawn.calibration_rows(by_length)] if n else []
    blocks: list[Block] = [gallery(figures, caption), _calibrated(by_length, "length", "interval, steps")]
    if runs > 1:
        blocks.append(Section("By run", [_calibrated(by_run, "run", "run")], collapsed=True))
    yield Section("Did the slopes predict? All runs", blocks)


def _calibrated(table: pd.DataFrame, by: str, heading: str) -> Table:
    four = partial(fixed, places=4)
    columns = {
        heading: (str, by),
        "intervals": (int, "intervals"),
        "points, n": (int, "n"),
        "left out": (int, "left_out"),
        "root mean squared error, nats": (four, "rmse_nats"),
        "its 95 % interval": (partial(span, places=4), "rmse_low", "rmse_high"),
        "realised change, nats": (four, "realised_rms_nats"),
        "correlation": (_two, "correlation"),
        "within ±2 standard errors": (
            lambda k, n, share: f"{k} of {n}: {_percent(share)}",
            "within",
            "judged",
            "within_share",
        ),
        "Wilson 95 %": (_percents, "within_low", "within_high"),
    }
    caption = (
        "Realised change: root mean square, the error of predicting no change. Standard errors are the slopes', "
        "carried to the whole interval; about 95 % within two of them would be honest. The Wilson interval takes "
        "points as independent, which those of one interval are not, so it is too narrow."
    )
    return Table(shown(table, columns), caption, marked=[len(table) - 1])
