"""Utility of mitigated replies: what an honest caller still has of what was served, with intervals.

The answer itself is the same under every mitigation but erasure; what changes is the distribution that is served with
it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from trimtab.errors import ShapeError, explain
from trimtab.numerics.cluster_bootstrap import bootstrap_totals, units_of, wilson_of_clusters
from trimtab.read.leaks.encodings import TopTokens

MEASURES = ("same_answer", "answer_error_nats", "kept", "answer_brier_error")
"""Measures of utility; each has its interval under the same name with `_low` and `_high`."""


def utility(
    before: TopTokens,
    after: TopTokens,
    answer: Int[np.ndarray, " n"],
    *,
    right: Bool[np.ndarray, " n"] | None = None,
    groups: Int[np.ndarray, " n"] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Utility of mitigated outputs against the unmitigated ones of the same rows, for a caller who asks once.

    Args:
        before: log-probabilities (nats) as they were served.
        after: the same rows, mitigated.
        answer: the id of the token that was answered, of each row.
        right: whether that answer was right; None where nobody knows.
        groups: rows of a group are not independent; None: each row is.
        seed: of the bootstrap.

    Returns:
        By name, each with `_low` and `_high` at 95 % over groups (nan for fewer than two groups):
        same_answer: share of rows whose first served token is the same, in [0, 1].
        answer_error_nats: mean absolute change of the answer's served log-probability, over rows where it is served
            with a value both times; nan where there is none.
        kept: share of the tokens of the unmitigated top k that are still served, with a value, mean over rows.
        answer_brier_error: mean squared error of the answer's served probability against its being right (1) or not
            (0), in [0, 1] (Brier 1950); a probability that noise lifts above 1 counts as 1. nan without `right`.

    Raises:
        ShapeError: the rows do not match.

    >>> top = TopTokens(np.array([[4, 7], [7, 4]]), np.log([[0.75, 0.25], [0.5, 0.25]]))
    >>> first = TopTokens(top.ids[:, :1], top.values[:, :1])
    >>> now = utility(top, first, np.array([4, 7]), right=np.array([True, False]))
    >>> now["same_answer"], now["answer_error_nats"], now["kept"], round(now["answer_brier_error"], 4)
    (1.0, 0.0, 0.5, 0.1562)
    """
    n = len(before.ids)
    sizes = [len(after.ids), len(answer), *(len(each) for each in (right, groups) if each is not None)]
    if any(size != n for size in sizes):
        raise ShapeError(explain(f"{n} rows served and {sizes} of the others", "as many of each"))
    clusters = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)[1]
    same = before.ids[:, 0] == after.ids[:, 0]
    first, then = (answer_values(top, answer) for top in (before, after))
    measures = _share("same_answer", same.astype(float), clusters)
    measures |= _mean("answer_error_nats", np.abs(then - first), clusters, seed)
    measures |= _share("kept", _kept(before, after), clusters)
    was_right = np.full(n, np.nan) if right is None else right.astype(float)
    probability = np.minimum(np.exp(then), 1.0)
    return measures | _mean("answer_brier_error", (probability - was_right) ** 2, clusters, seed)


def answer_values(top: TopTokens, answer: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The served log-probability of each row's answer; nan where it is not served with a value.

    >>> answer_values(TopTokens(np.array([[4, 7]]), np.array([[-0.1, -3.0]])), np.array([7])).tolist()
    [-3.0]
    """
    at = (top.ids == answer[:, None]) & ~np.isnan(top.values)
    found = np.take_along_axis(top.values, at.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.asarray(np.where(at.any(axis=1), found, np.nan))


def _kept(before: TopTokens, after: TopTokens) -> Float[np.ndarray, " n"]:
    """The share of each row's tokens that are still served with a value; nan for a row that served none."""
    served, still = (np.where(np.isnan(top.values), -1, top.ids) for top in (before, after))
    here = (served[:, :, None] == still[:, None, :]).any(axis=2) & (served >= 0)
    count = (served >= 0).sum(axis=1)
    shares = np.full(len(count), np.nan)
    return np.asarray(np.divide(here.sum(axis=1), count, out=shares, where=count > 0))


def _share(name: str, values: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]) -> dict[str, float]:
    """A mean of values in [0, 1] with Wilson's interval over clusters."""
    known = ~np.isnan(values)
    if not known.any():
        return _named(name, np.nan, np.nan, np.nan)
    kept = np.unique(clusters[known], return_inverse=True)[1]
    low, high = wilson_of_clusters(values[known], np.zeros(len(kept), dtype=int), kept, 1)
    return _named(name, float(values[known].mean()), float(low[0]), float(high[0]))


def _mean(
    name: str, values: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"], seed: int
) -> dict[str, float]:
    """A mean of the known values with its bootstrap interval over clusters."""
    known = ~np.isnan(values)
    if not known.any():
        return _named(name, np.nan, np.nan, np.nan)
    rows = np.column_stack([values[known], np.ones(known.sum())])
    units = units_of(rows, np.zeros(len(rows), dtype=int), 1, clusters[known])
    got = bootstrap_totals(lambda totals: totals[..., 0, :1] / totals[..., 0, 1:], units, seed=seed)
    return _named(name, float(got.values[0]), float(got.low[0]), float(got.high[0]))


def _named(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}
