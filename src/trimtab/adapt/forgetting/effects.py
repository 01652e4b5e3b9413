"""Effects of injection, measured on runs: forgetting, the share of it removed, and the cost to the target.

`compare_forms` puts the law of forgetting beside the forms it has to beat, on runs that it was not fitted to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from trimtab.adapt.forgetting.fitting import FORMS, Centre, Points, fit_form, numeric, points_of, projected
from trimtab.errors import ConfigError, DataError, ShapeError, explain
from trimtab.numerics.bootstrap import Interval, bootstrap, check_numbers, mean, ratio_of_sums

SETTING = ("params", "tokens", "seed")
"""Runs that agree in these (and in `domain`, where there is one) differ in the share alone."""


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t tests (Schuirmann 1987) that a mean difference lies within a margin of 0.

    Attributes:
        value: mean difference.
        low, high: its 90 % interval; equivalent at 5 % where that lies inside the margin.
        margin: what counts as no difference, to either side.
        p: the larger of both p values; nan for fewer than two differences.
        n: differences.
    """

    value: float
    low: float
    high: float
    margin: float
    p: float
    n: int

    @property
    def equivalent(self) -> bool:
        """Whether a difference as large as the margin is refuted at 5 %, to both sides."""
        return self.p < 0.05


def equivalence(differences: Float[np.ndarray, " n"], margin: float) -> Equivalence:
    """Equivalence test: is the mean of these differences 0, up to a margin? nan where there are fewer than two.

    >>> equivalence(np.array([0.01, -0.01, 0.0, 0.01]), 0.05).equivalent
    True
    """
    if not margin > 0:
        raise ConfigError(f"margin: {explain(margin, 'a number above 0')}")
    n, value = len(differences), float(np.mean(differences)) if len(differences) else math.nan
    if n < 2:
        return Equivalence(value, math.nan, math.nan, margin, math.nan, n)
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    half = float(stdtrit(n - 1, 0.95)) * error
    sides = (margin - value, margin + value)
    p = 0.0 if min(sides) > 0 else 1.0
    if error:
        p = max(float(stdtr(n - 1, -side / error)) for side in sides)
    return Equivalence(value, value - half, value + half, margin, p, n)


def beside_none(frame: pd.DataFrame, inject: float) -> pd.DataFrame:
    """Pairs of runs, with a share of pretraining data and without any, otherwise the same.

    Args:
        frame: columns params, tokens, inject, loss_pt, loss_pt0, loss_ft; seed and domain where there are several.
        inject: the share.

    Returns:
        One row per pair: the columns that pair them; rise and rise_none (nats per token), loss_ft and loss_ft_none.

    Raises:
        DataError: a column is missing or holds what it cannot, or nothing can be paired.
    """
    frame = numeric(frame, ("params", "tokens", "inject", "loss_pt", "loss_pt0", "loss_ft"))
    by = [name for name in (*SETTING, "domain") if name in frame]
    runs = frame.assign(rise=frame["loss_pt"] - frame["loss_pt0"])[[*by, "inject", "rise", "loss_ft"]]
    mixed, none = (runs[np.isclose(runs["inject"], share)].drop(columns="inject") for share in (inject, 0.0))
    pairs = mixed.merge(none, on=by, suffixes=("", "_none"))
    if inject <= 0 or not len(pairs):
        got = f"no run at {inject:g} beside one at 0 of the same {', '.join(by)}"
        raise DataError(f"inject: {explain(got, 'at least one such pair')}")
    return pairs


def share_removed(pairs: pd.DataFrame, *, n_boot: int = 2000, seed: int = 0) -> Interval:
    """The share of forgetting that injection removed: 1 - sum of rises with it / sum without, over pairs of runs.

    Below 0 where more was forgotten with injection; nan where nothing was forgotten without.
    """
    check_numbers("n_boot", n_boot)
    rise, none = pairs["rise"].to_numpy(dtype=float), pairs["rise_none"].to_numpy(dtype=float)
    if none.sum() <= 0:
        return Interval(math.nan, math.nan, math.nan, len(pairs))
    left = bootstrap(ratio_of_sums, rise, none, paired=True, n_boot=n_boot, seed=seed)
    return Interval(1 - left.value, 1 - left.high, 1 - left.low, left.n)


def target_equivalence(pairs: pd.DataFrame, margin: float = 0.01) -> Equivalence:
    """Equivalence of the fine-tuning loss: differences of log losses against a margin, over pairs of runs."""
    differences = np.log(pairs["loss_ft"].to_numpy(dtype=float) / pairs["loss_ft_none"].to_numpy(dtype=float))
    return equivalence(differences, margin)


def forgetting_shown(frame: pd.DataFrame, *, n_boot: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Forgetting without injection: the mean rise, and how many runs rose by more than noise.

    Returns:
        rise: `Interval` of the mean rise of runs without injection, nats per token; runs; clear: how many of them rose
        by more than the noise of their own test sequences (`rise_low` above 0; None where the frame does not say).
    """
    none = frame[frame["inject"] == 0]
    if not len(none):
        return {"rise": Interval(math.nan, math.nan, math.nan, 0), "runs": 0, "clear": None}
    rises = (none["loss_pt"] - none["loss_pt0"]).to_numpy(dtype=float)
    clear = int((none["rise_low"] > 0).sum()) if "rise_low" in none else None
    return {"rise": bootstrap(mean, rises, n_boot=n_boot, seed=seed), "runs": len(none), "clear": clear}


def injected_sequences(frame: pd.DataFrame) -> pd.DataFrame:
    """Injected sequences: pretraining sequences per run, by share.

    Returns:
        Columns inject, runs, mean, least, most, below_one (runs in which less than one sequence is expected); empty
        where the frame has no column `injected`.
    """
    columns = ["inject", "runs", "mean", "least", "most", "below_one"]
    if "injected" not in frame:
        return pd.DataFrame(columns=columns)
    injected = frame[frame["inject"] > 0].assign(below_one=frame["injected"] < 1).groupby("inject")
    table = injected["injected"].agg(["size", "mean", "min", "max"]).assign(below=injected["below_one"].sum())
    return table.reset_index().set_axis(columns, axis=1)


COLUMNS = ("params", "tokens", "inject", "loss_pt", "loss_pt0")
NOTHING_FORGOTTEN = "nothing forgotten"


def compare_forms(
    frame: pd.DataFrame, held_out: Sequence[bool] | None = None, *, seed: int = 0
) -> pd.DataFrame:
    """Fit every form by least squares of log losses to some runs, and judge it on the others.

    The error of the loss looks small even for a form by which nothing is forgotten, as most of a loss is that of the
    base model; the error of the rise does not.

    Args:
        frame: columns params, tokens, inject, loss_pt, loss_pt0; one row per run.
        held_out: per row, whether it is kept from the fits; none is if None.
        seed: of the starts.

    Returns:
        One row per form, and one for "nothing forgotten": form, coefficients (how many), aicc (smaller is better; of
        the runs fitted), n_fitted, n_held_out; loss_error and rise_error: mean absolute error on the held-out runs,
        of the loss as a share of the loss and of the rise as a share of the mean absolute rise there, each with the
        ends of its 95 % interval over these runs (loss_low, loss_high, rise_low, rise_high); rise_more: rise_error less
        that of the law ("injection"), with its interval over the same runs, paired (more_low, more_high): above 0 where
        the law errs less. nan where no run is held out, and for the law beside itself.

    Raises:
        DataError: a column is missing or holds what it cannot, or too few runs are left to fit.
        ShapeError: not one mark per run.

    Source of the criterion: Hurvich and Tsai 1989.
    """
    points = points_of(frame, COLUMNS)
    out = np.zeros(len(frame), dtype=bool) if held_out is None else np.asarray(held_out, dtype=bool)
    if out.shape != (len(frame),):
        raise ShapeError(f"held_out: {explain(f'shape {out.shape}', f'({len(frame)},), one mark per run')}")
    inside, outside = ({name: x[rows] for name, x in points.items()} for rows in (~out, out))
    least = max(len(form.coefficients) for form in FORMS.values()) + 3
    if (~out).sum() < least:
        raise DataError(explain(f"{(~out).sum()} runs to fit", f"at least {least}"))
    centre, rows = Centre.of(inside), []
    first = [{"C": start["A"], "gamma": start["alpha"], **start} for start in projected(inside, centre)]
    law: np.ndarray | float | None = None
    for name, form in FORMS.items():
        fit = fit_form(form, inside, centre, "squared", first=first, seed=seed)
        rise = form.rise(centre.inputs(outside), **fit.coefficients)
        rows.append(_row(name, len(form.coefficients), fit.residuals, outside, rise, law))
        law = rise if name == "injection" else law
    still = np.log(inside["loss_pt"]) - np.log(inside["loss_pt0"])
    return pd.DataFrame([*rows, _row(NOTHING_FORGOTTEN, 0, still, outside, 0.0, law)])


def aicc(residuals: Float[np.ndarray, " n"], coefficients: int) -> float:
    """Akaike's criterion for normal residuals, corrected for few points; their spread counts as a coefficient."""
    n, k = len(residuals), coefficients + 1
    spread = float(residuals @ residuals) / n
    if spread == 0 or n <= k + 1:
        return -math.inf if spread == 0 else math.nan
    return n * math.log(spread) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def _row(
    name: str,
    count: int,
    residuals: np.ndarray,
    outside: Points,
    rise: Float[np.ndarray, " n"] | float,
    law: Float[np.ndarray, " n"] | float | None,
) -> dict[str, object]:
    real = outside["loss_pt"] - outside["loss_pt0"]
    off = np.abs(real - rise)
    loss = risen = more = Interval(math.nan, math.nan, math.nan, 0)
    if len(real):
        loss = bootstrap(mean, off / outside["loss_pt"])
        risen = bootstrap(ratio_of_sums, off, np.abs(real), paired=True)
    if len(real) and law is not None:
        more = bootstrap(ratio_of_sums, off - np.abs(real - law), np.abs(real), paired=True)
    row: dict[str, object] = {"form": name, "coefficients": count, "aicc": aicc(residuals, count)}
    row |= {"n_fitted": len(residuals), "n_held_out": len(real)}
    errors = (("loss_error", "loss", loss), ("rise_error", "rise", risen), ("rise_more", "more", more))
    for value, ends, error in errors:
        row |= {value: error.value, f"{ends}_low": error.low, f"{ends}_high": error.high}
    return row
