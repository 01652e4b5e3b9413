"""Folds of rows: whole groups in one fold, classes spread evenly, the same for a seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped

from trimtab.errors import DataError, explain


def grouped_folds(
    labels: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"], folds: int, seed: int = 0
) -> Int[np.ndarray, " n"]:
    """Stratified group k-fold: the fold of each row, all rows of a group in one fold, classes spread evenly.

    Groups are dealt one by one, the most uneven first and ties in an order drawn from the seed. Each goes to the fold
    in which the class shares of all folds stay closest to each other, and among those to the one with fewest rows.
    The folds depend on which groups there are, not on the order of rows.

    Args:
        labels: class of each row, whole numbers from 0.
        groups: group of each row, any whole numbers.
        folds: how many, at least 2 and at most the number of groups.
        seed: the same seed gives the same folds.

    Returns:
        (n,) fold of each row, in [0, folds); no fold is empty.

    Raises:
        DataError: fewer than two folds, or fewer groups than folds.

    Source: as `sklearn.model_selection.StratifiedGroupKFold`, whose folds depend on the order of rows.

    >>> grouped_folds(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), 2).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """
    names, codes = np.unique(groups, return_inverse=True)
    if not 2 <= folds <= len(names):
        message = explain(f"{folds} folds of {len(names)} groups", "from 2 folds to one for each group")
        raise DataError(message)
    counts = np.zeros((len(names), int(labels.max()) + 1))
    np.add.at(counts, (codes, labels), 1)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    if len(names) == len(labels):
        return _dealt(counts.argmax(axis=1), shuffled, folds)[codes]
    order = shuffled[np.argsort(-counts[shuffled].std(axis=1), kind="stable")]
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    held, sizes, fold = np.zeros((folds, counts.shape[1])), np.zeros(folds), np.empty(len(names), dtype=int)
    for place, group in enumerate(order):
        # Var_f(held_f + e_f s) over folds, up to what is the same for every choice of the fold.
        uneven = (shares[group] * (held - held.mean(axis=0))).sum(axis=1)
        empty = len(order) - place <= (sizes == 0).sum()  # as many groups left as empty folds: fill these
        allowed = (sizes == 0) if empty else np.ones(folds, dtype=bool)
        best = np.lexsort((sizes, uneven.round(12), ~allowed))[0]
        fold[group] = best
        held[best] += shares[group]
        sizes[best] += counts[group].sum()
    return fold[codes]


def _dealt(labels: Int[np.ndarray, " n"], order: Int[np.ndarray, " n"], folds: int) -> Int[np.ndarray, " n"]:
    """Rows of each class dealt to the folds in turn, the next class where the last one stopped."""
    fold = np.empty(len(labels), dtype=int)
    fold[order[np.argsort(labels[order], kind="stable")]] = np.arange(len(labels)) % folds
    return fold


def usable_rows(
    labels: Shaped[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"] | None = None, folds: int = 5
) -> tuple[Bool[np.ndarray, " n"], dict[str, int]]:
    """Rows that an estimate can use: with a label, of a class that stands in at least as many groups as folds.

    Args:
        labels: class of each row, any values; None or nan where a row has none.
        groups: group of each row; None: each row is its own.
        folds: of the cross-validation.

    Returns:
        A mask (n,), and for each reason why rows were set aside their number; empty when all are used.

    >>> mask, reasons = usable_rows(np.array(["a", "a", "b", None], dtype=object), folds=2)
    >>> mask.tolist(), reasons
    ([True, True, False, False], {'no label': 1, "class 'b' in 1 group, fewer than 2 folds": 1})
    """
    column = pd.Series(np.asarray(labels, dtype=object))
    group = pd.Series(np.arange(len(column)) if groups is None else np.asarray(groups))
    mask = column.notna().to_numpy(copy=True)
    reasons = {"no label": int((~mask).sum())} if not mask.all() else {}
    spread = group[mask].groupby(column[mask], sort=True).nunique()
    for label, count in spread[spread < folds].items():
        rows = (column == label).to_numpy()
        noun = "group" if count == 1 else "groups"
        reasons[f"class {label!r} in {count} {noun}, fewer than {folds} folds"] = int(rows.sum())
        mask &= ~rows
    return mask, reasons
