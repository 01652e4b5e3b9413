"""The tables of an audit of naming bias."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtri

from trimtab.numerics import standardise
from trimtab.numerics.proportion import wilson
from trimtab.numerics.totals import Intervals
from trimtab.refer.bias_objects import Objects
from trimtab.refer.bias_result import Estimate
from trimtab.refer.bias_statistics import FIRST_MIX, FIRST_RATE, Draws, found_at, mixes_of

POWER = 0.8


def rates_table(objects: Objects, found: Intervals, draws: Draws) -> pd.DataFrame:
    """The rate of each group, the reference first."""
    rows = []
    for number, group in enumerate(objects.groups):
        own = objects.table[objects.table["group"] == number]
        rate = _safe(found_at(found, FIRST_RATE + number), own, draws)
        rows.append((group, rate.value, rate.low, rate.high, len(own), int(own["tokens"].sum())))
    return pd.DataFrame(rows, columns=["group", "rate", "low", "high", "n_objects", "n_tokens"])


def _safe(rate: Estimate, own: pd.DataFrame, draws: Draws) -> Estimate:
    """The rate of some objects, with an interval within [0, 1] that is nan for fewer than two clusters.

    Where all shares are 0, or all 1, no resample can vary, so the interval is Wilson's.
    """
    n = int(own["cluster"].nunique())
    if n < 2:
        return Estimate(rate.value, np.nan, np.nan, n=n)
    if own["share"].min() == own["share"].max() and own["share"].iloc[0] in (0, 1):
        share = wilson(n if own["share"].iloc[0] else 0, n, confidence=draws.confidence)
        return Estimate(rate.value, share.low, share.high, n=n)
    return Estimate(rate.value, max(rate.low, 0.0), min(rate.high, 1.0), n=n)


def steadied(gap: Estimate, rates: pd.DataFrame) -> Estimate:
    """A gap whose interval follows from those of the rates where a rate is 0 or 1 (Newcombe 1998, method 10)."""
    value, low, high = (rates[name].to_numpy() for name in ("rate", "low", "high"))
    if np.isnan(low).any():
        return Estimate(gap.value, np.nan, np.nan, n=gap.n)
    if not np.isin(value, (0.0, 1.0)).any():
        return gap
    down = np.hypot(value[1] - low[1], high[0] - value[0])
    up = np.hypot(high[1] - value[1], value[0] - low[0])
    return Estimate(gap.value, gap.value - float(down), gap.value + float(up), n=gap.n)


def standardised_table(
    objects: Objects, found: Intervals, mixes: tuple[str, ...], p_within: np.ndarray
) -> pd.DataFrame:
    """The gap at each mix, what the mix accounts for, and how much of it can be compared."""
    n = np.bincount(objects.cells, minlength=2 * len(objects.strata)).reshape(2, -1).astype(float)
    both = standardise.shared(n)
    ordinary = found.low[0] > 0 or found.high[0] < 0
    rows = []
    for number, (mix, weights) in enumerate(zip(mixes, mixes_of(n), strict=True)):
        gap, composition, share = (found_at(found, FIRST_MIX + number + 3 * k) for k in range(3))
        share = share if ordinary else Estimate(np.nan, np.nan, np.nan, n=share.n)
        support = float((weights * both).sum() / weights.sum())
        rows.append(
            (
                mix,
                *gap.ends(),
                p_within[number],
                *composition.ends(),
                *share.ends(),
                support,
                int((weights * both).sum()),
            )
        )
    parts = ["gap", "low", "high", "p", "composition", "composition_low", "composition_high"]
    parts += ["explained", "explained_low", "explained_high", "support", "n_objects"]
    return pd.DataFrame(rows, columns=["mix", *parts])


def strata_table(objects: Objects, found: Intervals, draws: Draws) -> pd.DataFrame:
    """Numbers, rates and gap of each stratum."""
    k, first = len(objects.strata), FIRST_RATE + 2
    reference, other = objects.groups
    rows = []
    for place, stratum in enumerate(objects.strata):
        own = objects.table[objects.table["stratum"] == place]
        sides = [own[own["group"] == number] for number in (0, 1)]
        rates = [
            _safe(found_at(found, first + (number + 1) * k + place), side, draws)
            for number, side in enumerate(sides)
        ]
        frame = pd.DataFrame([rate.ends() for rate in rates], columns=["rate", "low", "high"])
        gap = steadied(found_at(found, first + place), frame)
        rows.append((stratum, *map(len, sides), *rates[0].ends(), *rates[1].ends(), *gap.ends()))
    names = [f"n_{reference}", f"n_{other}"]
    for group in objects.groups:
        names += [f"rate_{group}", f"low_{group}", f"high_{group}"]
    return pd.DataFrame(rows, columns=["stratum", *names, "gap", "low", "high"])


def representation_table(objects: Objects, draws: Draws) -> pd.DataFrame:
    """The share of each group among the objects, over all and by stratum, with Wilson's intervals."""
    rows = []
    table = objects.table
    for stratum, own in [
        ("all", table),
        *((s, table[table["stratum"] == k]) for k, s in enumerate(objects.strata)),
    ]:
        for number, group in enumerate(objects.groups):
            members = int((own["group"] == number).sum())
            share = wilson(members, len(own), confidence=draws.confidence)
            rows.append((stratum, group, members, share.value, share.low, share.high))
        if len(objects.strata) == 1:
            break
    return pd.DataFrame(rows, columns=["stratum", "group", "n_objects", "share", "low", "high"])


def power_table(found: Intervals, mixes: tuple[str, ...], draws: Draws) -> pd.DataFrame:
    """The smallest true gap that a test at this confidence would find four times in five, by these standard errors."""
    factor = float(ndtri((1 + draws.confidence) / 2) + ndtri(POWER))
    places = {"raw": 0, **{f"at the mix of {mix}": FIRST_MIX + k for k, mix in enumerate(mixes)}}
    rows = [
        (name, float(found.errors[at]), factor * float(found.errors[at]), POWER)
        for name, at in places.items()
    ]
    return pd.DataFrame(rows, columns=["gap", "standard_error", "detectable", "power"])
