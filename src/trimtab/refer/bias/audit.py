"""Naming bias: the gap of two groups in the rate of a kind of name, raw and at a common mix of strata.

Statistics are functions of totals, intervals resample clusters, and p-values permute group labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from trimtab.data.tables import Label
from trimtab.numerics import cluster_bootstrap as clustered
from trimtab.numerics.bootstrap import Resampling, p_value, wilson
from trimtab.refer.bias.objects import POOLED, Columns, Objects, objects_of
from trimtab.refer.bias.result import Estimate, NamingBias

SUMMARY = ("gap", "odds_ratio", "risk_ratio", "mantel_haenszel", "mantel_haenszel_risk")
FIRST_MIX = len(SUMMARY)
FIRST_RATE = FIRST_MIX + 9
"""Places in what `statistics` returns: 3 mixes by gap, composition and its share; then two rates; then by stratum."""


def yes_and_n(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and numbers (..., 2, strata) of totals (..., 2 x strata, 2); sums stay between 0 and n."""
    split = totals.reshape(*totals.shape[:-2], 2, -1, totals.shape[-1])
    yes, n = split[..., 0], split[..., -1]
    yes = np.where(yes.real < 0, 0.0, np.where(yes.real > n.real, n, yes))
    return yes, n


def statistics(totals: np.ndarray) -> np.ndarray:
    """Vector of estimates: `SUMMARY`; by mix: gap, composition, its share; rates; by stratum: gap and rates."""
    yes, n = yes_and_n(totals)
    raw, *at = np.moveaxis(clustered.gaps(yes, n), -1, 0)
    parts = [getattr(clustered, name)(yes, n) for name in SUMMARY]
    parts += [*at, *(raw - one for one in at), *(clustered.quotient(raw - one, raw) for one in at)]
    by_stratum = clustered.quotient(yes, n)
    reference, other = by_stratum[..., 0, :], by_stratum[..., 1, :]
    together = [clustered.means(yes, n), other - reference, reference, other]
    return np.concatenate([np.stack(parts, axis=-1), *together], axis=-1)


def gaps_of(totals: np.ndarray) -> np.ndarray:
    """Raw gap, and the standardised gaps at each mix."""
    return clustered.gaps(*yes_and_n(totals))


def estimate_at(intervals: clustered.Intervals, place: int) -> Estimate:
    """Estimate with its interval, of the statistic at one place of the vector."""
    value, low, high = (float(ends[place]) for ends in (intervals.values, intervals.low, intervals.high))
    return Estimate(value, low, high, n=intervals.n)


def object_units(objects: Objects) -> clustered.Units:
    """Bootstrap units: clusters with the totals of their objects' shares, spread within cells, and their numbers."""
    table, cells = objects.table, objects.cells
    shares = clustered.spread(table["share"].to_numpy(), cells, table["cluster"].to_numpy())
    values = np.column_stack([shares, np.ones(len(table))])
    return clustered.units_of(values, cells, 2 * len(objects.strata), table["cluster"].to_numpy())


def p_values(objects: Objects, draws: Resampling) -> tuple[float, np.ndarray]:
    """Permutation p-values: of the raw gap, labels dealt out among all; of the gaps at each mix, within strata.

    What bears a label is all objects of one group in one cluster (and, within strata, one stratum).
    """
    k, table = len(objects.strata), objects.table
    rng = np.random.default_rng([draws.seed, 1])
    both = (table["share"], np.ones(len(table)))
    sums = [np.bincount(objects.cells, weights=one, minlength=2 * k) for one in both]
    observed = gaps_of(np.stack(sums, axis=-1))
    blocks = table["cluster"] * 2 + table["group"]
    dealt = _dealt(table, blocks, k, draws.n_boot, rng)
    within = np.zeros((draws.n_boot, 2, k, 2))
    for place in range(k):
        members = table[table["stratum"] == place].assign(stratum=0)
        within[:, :, place] = _dealt(members, blocks[members.index], 1, draws.n_boot, rng)[:, :, 0]
    raw, at = gaps_of(np.stack([dealt, within]).reshape(2, draws.n_boot, -1, 2))
    columns = np.concatenate([raw[:, :1], at[:, 1:]], axis=-1).T
    finite = [column[np.isfinite(column)] for column in columns]
    pairs = zip(map(float, observed), finite, strict=True)
    p = [p_value(value, drawn) if np.isfinite(value) and len(drawn) else np.nan for value, drawn in pairs]
    return p[0], np.array(p[1:])


def _dealt(
    table: pd.DataFrame, blocks: pd.Series[int], k: int, n_perm: int, rng: np.random.Generator
) -> np.ndarray:
    """Permuted totals (n_perm, 2, k, 2), after dealing out the group labels of blocks."""
    values = np.column_stack([table["share"], np.ones(len(table))])
    # The label is a cell of its own kind, so that blocks are merged with blocks of the same label only.
    cells = (table["group"] * k + table["stratum"]).to_numpy()
    units = clustered.units_of(values, cells, 2 * k, blocks.to_numpy())
    other = units.totals[:, k:, 1].sum(axis=1) > 0
    totals = units.totals[:, :k] + units.totals[:, k:]
    labelled = np.where(other[:, None], [0, 1], [1, 0]) * units.counts[:, None]
    dealt = clustered.dealt_totals(totals.reshape(len(totals), -1), labelled, n_perm, rng)
    return dealt.reshape(n_perm, 2, k, 2)


POWER = 0.8


def rates_table(objects: Objects, intervals: clustered.Intervals, draws: Resampling) -> pd.DataFrame:
    """Rate of each group with its interval, the reference first."""
    rows = []
    for number, group in enumerate(objects.groups):
        members = objects.table[objects.table["group"] == number]
        rate = _bounded_rate(estimate_at(intervals, FIRST_RATE + number), members, draws)
        rows.append((group, rate.value, rate.low, rate.high, len(members), int(members["tokens"].sum())))
    return pd.DataFrame(rows, columns=["group", "rate", "low", "high", "n_objects", "n_tokens"])


def _bounded_rate(rate: Estimate, members: pd.DataFrame, draws: Resampling) -> Estimate:
    """Rate of some objects, with an interval within [0, 1] that is nan for fewer than two clusters.

    Where all shares are 0, or all 1, no resample can vary, so the interval is Wilson's.
    """
    n = int(members["cluster"].nunique())
    if n < 2:
        return Estimate(rate.value, np.nan, np.nan, n=n)
    if members["share"].min() == members["share"].max() and members["share"].iloc[0] in (0, 1):
        share = wilson(n if members["share"].iloc[0] else 0, n, confidence=draws.confidence)
        return Estimate(rate.value, share.low, share.high, n=n)
    return Estimate(rate.value, max(rate.low, 0.0), min(rate.high, 1.0), n=n)


def steadied(gap: Estimate, rates: pd.DataFrame) -> Estimate:
    """Gap with an interval by those of the rates where a rate is 0 or 1 (Newcombe 1998, method 10)."""
    value, low, high = (rates[name].to_numpy() for name in ("rate", "low", "high"))
    if np.isnan(low).any():
        return Estimate(gap.value, np.nan, np.nan, n=gap.n)
    if not np.isin(value, (0.0, 1.0)).any():
        return gap
    down = np.hypot(value[1] - low[1], high[0] - value[0])
    up = np.hypot(high[1] - value[1], value[0] - low[0])
    return Estimate(gap.value, gap.value - float(down), gap.value + float(up), n=gap.n)


def standardised_table(
    objects: Objects, intervals: clustered.Intervals, mixes: tuple[str, ...], p_within: np.ndarray
) -> pd.DataFrame:
    """Standardised gaps (Kitagawa 1955): the gap at each mix, the composition effect, and the support of the mix."""
    n = np.bincount(objects.cells, minlength=2 * len(objects.strata)).reshape(2, -1).astype(float)
    both = clustered.shared(n)
    ordinary = intervals.low[0] > 0 or intervals.high[0] < 0
    rows = []
    for number, (mix, weights) in enumerate(zip(mixes, clustered.mixes_of(n), strict=True)):
        gap, composition, share = (estimate_at(intervals, FIRST_MIX + number + 3 * k) for k in range(3))
        share = share if ordinary else Estimate(np.nan, np.nan, np.nan, n=share.n)
        support = float((weights * both).sum() / weights.sum())
        n_objects = int((weights * both).sum())
        parts = (*composition.ends(), *share.ends())
        rows.append((mix, *gap.ends(), p_within[number], *parts, support, n_objects))
    names = ["mix", "gap", "low", "high", "p", "composition", "composition_low", "composition_high"]
    names += ["explained", "explained_low", "explained_high", "support", "n_objects"]
    return pd.DataFrame(rows, columns=names)


def strata_table(objects: Objects, intervals: clustered.Intervals, draws: Resampling) -> pd.DataFrame:
    """Numbers, rates and gap of each stratum."""
    k, first = len(objects.strata), FIRST_RATE + 2
    reference, other = objects.groups
    rows = []
    for place, stratum in enumerate(objects.strata):
        stratum_rows = objects.table[objects.table["stratum"] == place]
        sides = [stratum_rows[stratum_rows["group"] == number] for number in (0, 1)]
        at = first + k + place
        rates = [
            _bounded_rate(estimate_at(intervals, at + number * k), side, draws)
            for number, side in enumerate(sides)
        ]
        frame = pd.DataFrame([rate.ends() for rate in rates], columns=["rate", "low", "high"])
        gap = steadied(estimate_at(intervals, first + place), frame)
        rows.append((stratum, *map(len, sides), *rates[0].ends(), *rates[1].ends(), *gap.ends()))
    names = [f"n_{reference}", f"n_{other}"]
    for group in objects.groups:
        names += [f"rate_{group}", f"low_{group}", f"high_{group}"]
    return pd.DataFrame(rows, columns=["stratum", *names, "gap", "low", "high"])


def representation_table(objects: Objects, draws: Resampling) -> pd.DataFrame:
    """Representation: the share of each group among the objects, over all and by stratum, with Wilson's intervals."""
    rows, table = [], objects.table
    parts = [("all", table), *((s, table[table["stratum"] == k]) for k, s in enumerate(objects.strata))]
    for stratum, part in parts if len(objects.strata) > 1 else parts[:1]:
        for number, group in enumerate(objects.groups):
            members = int((part["group"] == number).sum())
            share = wilson(members, len(part), confidence=draws.confidence)
            rows.append((stratum, group, members, share.value, share.low, share.high))
    return pd.DataFrame(rows, columns=["stratum", "group", "n_objects", "share", "low", "high"])


def power_table(intervals: clustered.Intervals, mixes: tuple[str, ...], draws: Resampling) -> pd.DataFrame:
    """Minimum detectable gap: the smallest true gap that a test at this confidence finds with a power of .8."""
    factor = float(ndtri((1 + draws.confidence) / 2) + ndtri(POWER))
    places = {"raw": 0, **{f"at the mix of {mix}": FIRST_MIX + k for k, mix in enumerate(mixes)}}
    errors = intervals.errors[list(places.values())]
    columns = {"gap": list(places), "standard_error": errors, "detectable": factor * errors}
    return pd.DataFrame(columns | {"power": POWER})


def naming_bias(
    frame: pd.DataFrame,
    *,
    object: str = "referent",
    outcome: str | Callable[[str], bool],
    group: str,
    strata: str | None = None,
    cluster: str | None = None,
    weight: str | None = None,
    reference: Label,
    name: str = "name",
    among: Callable[[str], bool] | None = None,
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> NamingBias:
    """Naming bias: the rates of a kind of name in two groups, their gap, and how much of it the strata explain.

    An object's share is the part of its names that have the outcome; a group's rate is the mean share of its objects.
    The standardised gaps are what the gap would be if both groups came in the same mix of strata: that of the reference
    group, of the other one, or of both together.

    Args:
        frame: one row per object and name.
        object: column of the objects (referents).
        outcome: a column of true and false (or 1 and 0), or a function of names such as a `WordList`.
        group: column of labels, one per object. Missing, "unknown" and "mixed" ones are set aside and counted. Labels
            may be texts, numbers or truth values; the result has them as texts.
        strata: column of situations to compare within, one per object, such as the sport; None: no strata.
        cluster: column of what is drawn together, such as the photograph; None: each object.
        weight: column of counts; None: one per row.
        reference: label of the reference group; 0, "0" and 0.0 mean the same. The gap is the other one's minus its.
        name: column of names, for functions of names.
        among: which names count at all, such as names of people; None: every name. The rest are counted as set aside.
        n_boot: resamples of clusters, and rearrangements of group labels.
        confidence: of the intervals, in (0, 1).
        seed: the same seed gives the same numbers.

    Returns:
        Rates, gap, ratios, standardised gaps, strata, representation, power and an accounting that adds up to the
        objects given. Intervals are percentile bootstrap intervals over clusters, corrected for cells of few objects
        (see `numerics.cluster_bootstrap`: `spread`, `bootstrap_totals`); they are nan for groups seen in fewer than
        two clusters.

    Raises:
        DataError: a column is missing (the nearest is named) or there twice, a count is no whole number from 0 on or
            too large to be exact, an outcome is not true or false, a name holds names with their counts, a group has no
            members, an object stands in several clusters.
        ConfigError: n_boot below 1, confidence outside (0, 1), or a seed below 0.

    Source: Harrison, Gualdoni and Boleda 2023, arXiv 2305.14468, for the question; Kitagawa 1955 for standardisation.

    >>> frame = pd.DataFrame({"referent": range(8), "gender": ["m", "f"] * 4, "sporty": [True, False, True, True] * 2})
    >>> result = naming_bias(frame, outcome="sporty", group="gender", reference="m", n_boot=100)
    >>> result.gap.value, result.accounting["n_objects"].tolist()
    (-0.5, [8])
    """
    start = time.perf_counter()
    columns, draws = (
        Columns(object, group, strata, cluster, weight, name),
        Resampling(n_boot, confidence, seed),
    )
    objects = objects_of(frame, columns, outcome, reference, among)
    called = getattr(outcome, "title", getattr(outcome, "__name__", "a function"))
    settings = {"object": object, "group": group, "strata": strata, "cluster": cluster, "weight": weight}
    settings |= {"outcome": outcome if isinstance(outcome, str) else called, "reference": objects.groups[0]}
    names = {"groups": list(objects.groups), "strata_names": list(objects.strata)}
    intervals = clustered.bootstrap_totals(statistics, object_units(objects), **vars(draws))
    rates, mixes = rates_table(objects, intervals, draws), (*objects.groups, POOLED)
    summary: dict[str, Any] = {name: estimate_at(intervals, place) for place, name in enumerate(SUMMARY)}
    p_raw, p_within = p_values(objects, draws)
    summary["gap"] = replace(steadied(summary["gap"], rates), p=p_raw)
    return NamingBias(
        **summary,
        rates=rates,
        standardised=standardised_table(objects, intervals, mixes, p_within),
        strata=strata_table(objects, intervals, draws),
        representation=representation_table(objects, draws),
        power=power_table(intervals, mixes, draws),
        accounting=objects.accounting,
        notes=objects.notes,
        config={**settings, **vars(draws), **names},
        seconds=time.perf_counter() - start,
    )
