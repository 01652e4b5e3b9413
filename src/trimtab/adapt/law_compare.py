"""The law of forgetting beside the forms it has to beat, on the runs it was fitted to and on runs it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from trimtab.adapt.law_fit import fit_form, projected
from trimtab.adapt.law_forms import FORMS, Centre
from trimtab.adapt.law_points import Points, points_of
from trimtab.errors import DataError, ShapeError, explain
from trimtab.numerics.resample import Interval, bootstrap, mean, ratio_of_sums

COLUMNS = ("params", "tokens", "inject", "loss_pt", "loss_pt0")
NOTHING_FORGOTTEN = "nothing forgotten"
_OPEN = Interval(math.nan, math.nan, math.nan, 0)


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
    inside, outside = _part(points, ~out), _part(points, out)
    least = max(len(form.coefficients) for form in FORMS.values()) + 3
    if (~out).sum() < least:
        raise DataError(explain(f"{(~out).sum()} runs to fit", f"at least {least}"))
    centre, rows = Centre.of(inside), []
    first = [{"C": start["A"], "gamma": start["alpha"], **start} for start in projected(inside, centre)]
    law: np.ndarray | float | None = None
    for name, form in FORMS.items():
        found = fit_form(form, inside, centre, "squared", first=first, seed=seed)
        rise = form.rise(centre.inputs(outside), **found.coefficients)
        rows.append(_row(name, len(form.coefficients), found.residuals, outside, rise, law))
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


def _part(points: Points, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in points.items()}


def _row(
    name: str,
    count: int,
    residuals: np.ndarray,
    outside: Points,
    rise: Float[np.ndarray, " n"] | float,
    law: Float[np.ndarray, " n"] | float | None,
) -> dict[str, object]:
    real = outside["loss_pt"] - outside["loss_pt0"]
    off, there = np.abs(real - rise), len(real) > 0
    loss = bootstrap(mean, off / outside["loss_pt"]) if there else _OPEN
    risen = bootstrap(ratio_of_sums, off, np.abs(real), paired=True) if there else _OPEN
    more = _OPEN
    if there and law is not None:
        more = bootstrap(ratio_of_sums, off - np.abs(real - law), np.abs(real), paired=True)
    return {
        "form": name,
        "coefficients": count,
        "aicc": aicc(residuals, count),
        "n_fitted": len(residuals),
        "n_held_out": len(real),
        "loss_error": loss.value,
        "loss_low": loss.low,
        "loss_high": loss.high,
        "rise_error": risen.value,
        "rise_low": risen.low,
        "rise_high": risen.high,
        "rise_more": more.value,
        "more_low": more.low,
        "more_high": more.high,
    }
