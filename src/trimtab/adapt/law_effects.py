"""What injection did, read off the runs themselves and not off any law: forgetting, its cure, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from trimtab.adapt.law_points import points_of
from trimtab.errors import ConfigError, DataError, explain
from trimtab.numerics.resample import Interval, bootstrap, mean, ratio_of_sums
from trimtab.numerics.statistics import check_numbers

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
    """Is the mean of these differences 0, up to a margin? nan where there are fewer than two.

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
    if error == 0:
        p = 0.0 if min(sides) > 0 else 1.0
    else:
        p = max(float(stdtr(n - 1, -side / error)) for side in sides)
    return Equivalence(value, value - half, value + half, margin, p, n)


def beside_none(frame: pd.DataFrame, inject: float) -> pd.DataFrame:
    """Runs with a share of pretraining data beside those without any and otherwise the same.

    Args:
        frame: columns params, tokens, inject, loss_pt, loss_pt0, loss_ft; seed and domain where there are several.
        inject: the share.

    Returns:
        One row per pair: the columns that pair them; rise and rise_none (nats per token), loss_ft and loss_ft_none.

    Raises:
        DataError: a column is missing or holds what it cannot, or nothing can be paired.
    """
    points_of(frame, ("params", "tokens", "inject", "loss_pt", "loss_pt0", "loss_ft"))
    by = [name for name in (*SETTING, "domain") if name in frame]
    told = frame.assign(rise=frame["loss_pt"] - frame["loss_pt0"])[[*by, "inject", "rise", "loss_ft"]]
    some, none = (told[np.isclose(told["inject"], share)].drop(columns="inject") for share in (inject, 0.0))
    pairs = some.merge(none, on=by, suffixes=("", "_none"))
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
    """Does the fine-tuning loss stay where it was? Differences of log losses against a margin, over pairs of runs."""
    differences = np.log(pairs["loss_ft"].to_numpy(dtype=float) / pairs["loss_ft_none"].to_numpy(dtype=float))
    return equivalence(differences, margin)


def forgetting_shown(frame: pd.DataFrame, *, n_boot: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Was anything forgotten without injection, so that there is something to fit?

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
    """Pretraining sequences injected per run, by share: what a small share comes to.

    Returns:
        Columns inject, runs, mean, least, most, below_one (runs in which less than one sequence is expected); empty
        where the frame has no column `injected`.
    """
    columns = ["inject", "runs", "mean", "least", "most", "below_one"]
    if "injected" not in frame:
        return pd.DataFrame(columns=columns)
    some = frame[frame["inject"] > 0]
    rows = [_counted(share, own["injected"]) for share, own in some.groupby("inject")]
    return pd.DataFrame(rows, columns=columns)


def _counted(share: Any, injected: pd.Series[float]) -> Mapping[str, Any]:
    return {
        "inject": float(share),
        "runs": len(injected),
        "mean": float(injected.mean()),
        "least": float(injected.min()),
        "most": float(injected.max()),
        "below_one": int((injected < 1).sum()),
    }
