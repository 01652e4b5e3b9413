"""Limits of a run on validation: which constraint came nearest to being kept, and from when on they were broken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from trimtab.adapt.record import ROUNDED, RunRecord, domain_of
from trimtab.adapt.session import LEAST_SCALE_NATS
from trimtab.adapt.units import read_counts, units_read
from trimtab.report.formats import fixed


@dataclass(frozen=True)
class Miss:
    """Nearest miss of an infeasible run: the evaluation at which its most broken constraint was least broken.

    Attributes:
        step: of the evaluation.
        domain: the constraint that was most broken then, for its tolerance.
        change: of its validation loss, nats per token.
        reserve: nats that the choice of a checkpoint keeps in reserve for noise (`Fit.margin`).
        tolerance: nats per token by which it may rise.
    """

    step: int
    domain: str
    change: float
    reserve: float
    tolerance: float

    @property
    def excess(self) -> float:
        """Nats per token beyond what a checkpoint may have; 0 or less where rounding alone made it worse."""
        return self.change + self.reserve - self.tolerance


@dataclass(frozen=True)
class Lost:
    """What came after the best checkpoint, where no later evaluation kept every constraint.

    Attributes:
        steps: trained after it.
        evaluations: after it.
        domains: constraints that were broken at each of them; none where they took turns.
    """

    steps: int
    evaluations: int
    domains: tuple[str, ...]


def tolerances(result: RunRecord) -> dict[str, float]:
    """Tolerance of each constraint, nats per token."""
    rows = result.final[result.final["role"] == "constraint"]
    return dict(zip(rows["domain"].map(str), rows["tolerance"].astype(float), strict=True))


def constraint_readings(result: RunRecord) -> pd.DataFrame:
    """Change of each constraint at each evaluation of training, and the reserve that the choice asks for.

    Returns:
        Columns: step, domain, change, reserve, excess (above 0, or nan: not kept), all in nats per token, and scaled
        (the excess in tolerances, of .01 nats at least).
    """
    limits, losses = tolerances(result), result.losses
    used = (losses["split"] == "validation") & (losses["step"] > 0) & losses["domain"].isin(list(limits))
    rows = losses.loc[used, ["step", "domain", "change", "change_high"]].copy()
    fit = result.config.get("fit")
    margin = fit.get("margin") if isinstance(fit, Mapping) else None
    read = read_counts(result, "validation", "read")
    units = {
        name: one.count if one.count > 1 else read[name]
        for name, one in units_read(result, "validation").items()
    }
    students = {name: float(stdtrit(n - 1, 0.975)) for name, n in units.items() if n > 1}
    half = rows["domain"].map(lambda name: students.get(name, 1.96)).astype(float)
    reserve = (margin or 0.0) * (rows["change_high"] - rows["change"]) / half
    limit = rows["domain"].map(limits).astype(float)
    rows["reserve"] = reserve if margin else 0.0
    rows["excess"] = rows["change"] + rows["reserve"] - limit
    rows["scaled"] = rows["excess"] / np.maximum(limit, LEAST_SCALE_NATS)
    return rows.drop(columns="change_high").reset_index(drop=True)


def nearest_miss(result: RunRecord) -> Miss | None:
    """The nearest miss; None without a constraint, or without an evaluation at which every one is a number."""
    worst: dict[int, dict[Any, Any]] = {}
    for step, at in constraint_readings(result).groupby("step"):
        if at["scaled"].notna().all():
            worst[int(str(step))] = max(at.to_dict("records"), key=lambda row: row["scaled"])
    if not worst:
        return None
    step = min(worst, key=lambda step: worst[step]["scaled"])
    row, name = worst[step], str(worst[step]["domain"])
    return Miss(step, name, float(row["change"]), float(row["reserve"]), tolerances(result)[name])


def lost_after(result: RunRecord) -> Lost | None:
    """What came after the best checkpoint; None where a later evaluation kept every constraint, or none was made."""
    rows = constraint_readings(result)
    rows = rows[rows["step"] > result.step]
    broken = ~(rows["excess"] <= 0)
    evaluations = rows["step"].nunique()
    if not result.step or not evaluations or not broken.groupby(rows["step"]).any().all():
        return None
    always = broken.groupby(rows["domain"], sort=False).all()
    steps = int(result.cost.training_steps) - result.step
    return Lost(steps, int(evaluations), tuple(str(name) for name, each in always.items() if each))


def miss_sentence(result: RunRecord) -> str:
    """The nearest miss of an infeasible run and what to do about it, in sentences; "" where nothing is known of it."""
    miss = nearest_miss(result)
    if miss is None:
        return ""
    where = f"at step {miss.step} of {result.cost.training_steps}"
    if miss.excess <= 0:
        rounded = any(note.startswith(ROUNDED) for note in result.notes)
        held = f"The nearest miss: {where} every constraint held, until weights were rounded to the type of their"
        return f"{held} checkpoint. Try a larger tolerance." if rounded else ""
    limit = f"limit {fixed(miss.tolerance)}"
    if miss.reserve:
        limit += f", less {fixed(miss.reserve)} in reserve for noise"
    moved = f"{miss.domain} {fixed(miss.change, signed=True)} nats {where} ({limit})"
    trained = {domain_of(str(column)) for column in result.mixtures.columns[1:]}
    advice = [] if miss.domain in trained else [f"training on {miss.domain}, too"]
    advice += ["a smaller fit.margin"] if miss.change <= miss.tolerance else []
    advice += ["a larger tolerance", "a lower lr"]
    return f"The nearest miss: {moved}. Try {', '.join(advice[:-1])} or {advice[-1]}."


def lost_sentence(result: RunRecord) -> str:
    """From when on nothing was kept, in a sentence; "" where later checkpoints kept every constraint."""
    lost = lost_after(result)
    if lost is None:
        return ""
    names = " and ".join(lost.domains) or "every constraint"
    after = f"none of the {lost.evaluations} evaluations after it kept {names}"
    if lost.evaluations == 1:
        after = f"the one evaluation after it did not keep {names}"
    return (
        f"The best checkpoint is that of step {result.step} of {result.cost.training_steps}: {after}, so "
        f"{lost.steps} steps were for nothing."
    )


def validation_gain(result: RunRecord) -> float:
    """Mean fall of the target losses on validation at the chosen checkpoint, nats per token; nan where not read."""
    targets = result.final.loc[result.final["role"] == "target", "domain"]
    losses = result.losses
    at = (losses["split"] == "validation") & (losses["step"] == result.step) & losses["domain"].isin(targets)
    changes = losses.loc[at, "change"]
    return -float(changes.mean()) if len(changes) == len(targets) else math.nan
