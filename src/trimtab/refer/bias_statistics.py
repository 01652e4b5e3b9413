"""The statistics behind an audit of naming bias, as functions of totals, and their p-values by dealing out labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from trimtab.errors import ConfigError, explain
from trimtab.numerics import standardise
from trimtab.numerics.permute import p_value
from trimtab.numerics.statistics import check_numbers
from trimtab.numerics.totals import Intervals, Units, dealt_totals, spread, units_of
from trimtab.refer.bias_objects import Objects
from trimtab.refer.bias_result import Estimate

SUMMARY = ("gap", "odds_ratio", "risk_ratio", "mantel_haenszel", "mantel_haenszel_risk")
FIRST_MIX = len(SUMMARY)
FIRST_RATE = FIRST_MIX + 9
"""Places in what `statistics` returns: 3 mixes by gap, composition and its share; then two rates; then by stratum."""


@dataclass(frozen=True)
class Draws:
    """How intervals and p-values are found."""

    n_boot: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers("n_boot", self.n_boot, self.confidence)
        if self.seed < 0:
            raise ConfigError(explain(f"seed {self.seed}", "a whole number, at least 0"))


def yes_and_n(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Totals (..., 2 x strata, 2) as sums and numbers of shape (..., 2, strata); sums stay between 0 and n."""
    split = totals.reshape(*totals.shape[:-2], 2, -1, totals.shape[-1])
    yes, n = split[..., 0], split[..., -1]
    yes = np.where(yes.real < 0, 0.0, np.where(yes.real > n.real, n, yes))
    return yes, n


def statistics(totals: np.ndarray) -> np.ndarray:
    """All that is estimated: `SUMMARY`; by mix: gap, composition, its share; rates; by stratum: gap and rates."""
    yes, n = yes_and_n(totals)
    raw = standardise.gap(yes, n)
    parts = [getattr(standardise, name)(yes, n) for name in SUMMARY]
    at = [standardise.standardised_gap(yes, n, mix) for mix in mixes_of(n)]
    parts += [*at, *(raw - one for one in at), *(standardise.quotient(raw - one, raw) for one in at)]
    by_stratum = standardise.quotient(yes, n)
    together = [
        standardise.means(yes, n),
        by_stratum[..., 1, :] - by_stratum[..., 0, :],
        by_stratum[..., 0, :],
        by_stratum[..., 1, :],
    ]
    return np.concatenate([np.stack(parts, axis=-1), *together], axis=-1)


def mixes_of(n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mix of strata of the reference, of the other group, and of both."""
    return n[..., 0, :], n[..., 1, :], n.sum(axis=-2)


def gaps_of(totals: np.ndarray) -> np.ndarray:
    """The raw gap and the gaps at each mix."""
    yes, n = yes_and_n(totals)
    at = [standardise.standardised_gap(yes, n, mix) for mix in mixes_of(n)]
    return np.stack([standardise.gap(yes, n), *at], axis=-1)


def found_at(found: Intervals, place: int) -> Estimate:
    """One statistic of several."""
    return Estimate(float(found.values[place]), float(found.low[place]), float(found.high[place]), n=found.n)


def object_units(objects: Objects) -> Units:
    """Clusters with the totals of their objects' shares, spread within cells, and their numbers."""
    table, cells = objects.table, objects.cells
    shares = spread(table["share"].to_numpy(), cells, table["cluster"].to_numpy())
    values = np.column_stack([shares, np.ones(len(table))])
    return units_of(values, cells, 2 * len(objects.strata), table["cluster"].to_numpy())


def p_values(objects: Objects, draws: Draws) -> tuple[float, np.ndarray]:
    """Of the raw gap, labels dealt out among all; and of the gaps at each mix, labels dealt out within strata.

    What bears a label is all objects of one group in one cluster (and, within strata, one stratum).
    """
    k, table = len(objects.strata), objects.table
    rng = np.random.default_rng([draws.seed, 1])
    observed = _observed(objects)
    values = gaps_of(observed)
    blocks = table["cluster"] * 2 + table["group"]
    raw = _dealt(table, blocks, k, draws.n_boot, rng)
    within = np.zeros((draws.n_boot, 2, k, 2))
    for place in range(k):
        own = table[table["stratum"] == place].assign(stratum=0)
        within[:, :, place] = _dealt(own, blocks[own.index], 1, draws.n_boot, rng)[:, :, 0]
    raw_gaps = gaps_of(raw.reshape(draws.n_boot, -1, 2))[:, 0]
    own_gaps = gaps_of(within.reshape(draws.n_boot, -1, 2))[:, 1:]
    return _p(values[0], raw_gaps), np.array(
        [_p(value, own) for value, own in zip(values[1:], own_gaps.T, strict=True)]
    )


def _observed(objects: Objects) -> np.ndarray:
    both = [objects.table["share"].to_numpy(), np.ones(len(objects.table))]
    sums = [np.bincount(objects.cells, weights=one, minlength=2 * len(objects.strata)) for one in both]
    return np.stack(sums, axis=-1)


def _dealt(
    table: pd.DataFrame, blocks: pd.Series[int], k: int, n_perm: int, rng: np.random.Generator
) -> np.ndarray:
    """Totals (n_perm, 2, k, 2) after dealing out the group labels of blocks."""
    values = np.column_stack([table["share"], np.ones(len(table))])
    # The label is a cell of its own kind, so that blocks are merged with blocks of the same label only.
    units = units_of(values, (table["group"] * k + table["stratum"]).to_numpy(), 2 * k, blocks.to_numpy())
    other = units.totals[:, k:, 1].sum(axis=1) > 0
    totals = units.totals[:, :k] + units.totals[:, k:]
    labelled = np.where(other[:, None], [0, 1], [1, 0]) * units.counts[:, None]
    return dealt_totals(totals.reshape(len(totals), -1), labelled, n_perm, rng).reshape(n_perm, 2, k, 2)


def _p(value: float, values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    if not np.isfinite(value) or not len(known):
        return float("nan")
    return p_value(float(value), known)
