"""Encodings: the largest values of next-token distributions, and the features that an attacker makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from trimtab.errors import DataError, explain, nearest, refusal

Served = Literal["sorted", "served"]
"""Encodings of what a server sends."""
FLOOR_NATS = 1.0
"""How far below the smallest value that a row served its other tokens are put, in nats."""
LEAST_ROWS = 2
"""Rows in which a token must be served to have a column: one row alone teaches an attacker nothing about others."""


@dataclass(frozen=True, eq=False)
class TopTokens:
    """Top tokens: the k most likely tokens of each of n answers, with their logits or log-probabilities.

    Attributes:
        ids: (n, k) tokens, those of a row all different; -1 where it served fewer.
        values: (n, k) in nats, falling; nan where ids are -1, and only there.
        vocabulary: text of each token, of a transcript; None where ids are a model's.

    Raises:
        DataError: shapes that differ, values that rise or are infinite, a token twice in a row, gaps before the end.
    """

    ids: Int[np.ndarray, "n k"]
    values: Float[np.ndarray, "n k"]
    vocabulary: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check(self.ids, self.values, self.vocabulary)

    def __len__(self) -> int:
        """Number of answers."""
        return len(self.ids)

    @property
    def k(self) -> int:
        """Most tokens of an answer."""
        return int(self.ids.shape[1])

    def top(self, k: int) -> TopTokens:
        """The first k tokens of each answer.

        Raises:
            DataError: k is not in 1 to `self.k`.

        >>> TopTokens(np.array([[7, 3]]), np.array([[-0.1, -2.5]])).top(1).ids.tolist()
        [[7]]
        """
        if not 1 <= k <= self.k:
            raise refusal("top", k, f"a number from 1 to {self.k}, the tokens that there are")
        return TopTokens(self.ids[:, :k], self.values[:, :k], self.vocabulary)

    def rows(self, rows: Int[np.ndarray, " m"]) -> TopTokens:
        """Some of the answers, in this order."""
        return TopTokens(self.ids[rows], self.values[rows], self.vocabulary)


def _check(ids: np.ndarray, values: np.ndarray, vocabulary: tuple[str, ...] | None) -> None:
    if ids.ndim != 2 or ids.shape != values.shape or ids.shape[1] < 1:
        got = f"ids of shape {ids.shape} and values of shape {values.shape}"
        raise refusal("top tokens", got, "both (n, k), with k at least 1")
    if not np.issubdtype(ids.dtype, np.integer) or not np.issubdtype(values.dtype, np.floating):
        raise refusal(
            "top tokens", f"ids of {ids.dtype} and values of {values.dtype}", "integers and numbers"
        )
    absent = ids < 0
    if bool((absent != np.isnan(values)).any()):
        row = int((absent != np.isnan(values)).any(1).argmax())
        got = f"a token without a value, or a value without a token, in row {row}"
        raise refusal("top tokens", got, "-1 and nan together")
    if bool(np.isinf(values).any()):
        raise refusal(
            "top tokens", f"infinity in row {int(np.isinf(values).any(1).argmax())}", "finite values"
        )
    if bool((absent[:, :-1] & ~absent[:, 1:]).any()):
        row = int((absent[:, :-1] & ~absent[:, 1:]).any(1).argmax())
        raise refusal("top tokens", f"a gap in row {row}", "missing tokens at the end of a row")
    with np.errstate(invalid="ignore"):
        rising = values[:, 1:] > values[:, :-1]
    if bool(rising.any()):
        row = int(rising.any(1).argmax())
        raise refusal("top tokens", f"values that rise in row {row}", "falling values", "sorting each row")
    ordered = np.sort(ids, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if bool(twice.any()):
        row = int(twice.any(1).argmax())
        raise refusal("top tokens", f"a token twice in row {row}", "different tokens in a row")
    if vocabulary is not None and ids.size and int(ids.max()) >= len(vocabulary):
        got = f"token {int(ids.max())} of a vocabulary of {len(vocabulary)}"
        raise refusal("top tokens", got, "a text for each token")


def encode(top: TopTokens, encoding: Served) -> Float[np.ndarray, "n d"]:
    """Features of served tokens, in single precision; no label is looked at.

    `sorted`: (n, k) values by rank, without their tokens. `served`: (n, columns), a column for each token that at least
    two answers served (one that only one answer served says nothing about others), by rising id. An answer's value
    stands at its tokens; at all other columns it has a floor of its own, one nat below its smallest value: whoever sees
    the top k knows that other tokens are below it. Ranks that a row did not serve have the same floor when `sorted`.
    Values that rounding made equal are apart when `served`, since their order is served too: see `untied`.

    Args:
        top: values in nats.
        encoding: "sorted" or "served".

    Raises:
        DataError: another encoding, an answer without any token, or (`served`) no token that two answers share.

    >>> top = TopTokens(np.array([[7, 3], [3, 7]]), np.array([[-0.5, -2.0], [-0.25, -1.0]]))
    >>> encode(top, "served").tolist()
    [[-2.0, -0.5], [-0.25, -1.0]]
    """
    if encoding not in get_args(Served):
        hint = nearest(str(encoding), get_args(Served))
        raise DataError(explain(repr(encoding), "'sorted' or 'served'", hint))
    if len(top) and bool((top.ids[:, 0] < 0).any()):
        row = int((top.ids[:, 0] < 0).argmax())
        raise refusal("top tokens", f"no token in row {row}", "at least one token in every row")
    values = top.values.astype(np.float32)
    floor = np.nanmin(values, axis=1) - np.float32(FLOOR_NATS) if len(top) else np.zeros(0, np.float32)
    if encoding == "sorted":
        return np.where(top.ids < 0, floor[:, None], values)
    columns = served_columns(top)
    if not len(columns):
        got = f"{len(top)} answers that share no token"
        raise refusal("top tokens", got, f"tokens that at least {LEAST_ROWS} answers served", "a larger k")
    values, features = untied(values), np.repeat(floor[:, None], len(columns), axis=1)
    for rank in range(top.k):  # a rank at a time: nothing of (n, k, columns) is made
        places = np.searchsorted(columns, top.ids[:, rank]).clip(max=len(columns) - 1)
        rows = np.flatnonzero(columns[places] == top.ids[:, rank])
        features[rows, places[rows]] = values[rows, rank]
    return features


def untied(values: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Falling values of which equal ones of a row are spread evenly over the unit of their rounding, in their order.

    A server that rounds still sends the likelier token first. Nothing changes where values are not all rounded to at
    most three decimals; finer ones hide no order that matters.

    >>> untied(np.array([[-0.5, -2.0, -2.0]])).round(3).tolist()
    [[-0.5, -1.975, -2.025]]
    """
    known = values[~np.isnan(values)].astype(np.float64)
    units = [
        10.0**-places for places in range(4) if np.allclose(known, known.round(places), rtol=0, atol=1e-5)
    ]
    if not units:
        return values
    place, size = np.zeros(values.shape), np.ones(values.shape)
    for rank in range(1, values.shape[1]):
        place[:, rank] = (place[:, rank - 1] + 1) * (values[:, rank] == values[:, rank - 1])
    for rank in range(values.shape[1] - 1, -1, -1):
        last = rank + 1 == values.shape[1]
        more = np.zeros(len(values), dtype=bool) if last else place[:, rank + 1] > 0
        size[:, rank] = np.where(more, 0 if last else size[:, rank + 1], place[:, rank] + 1)
    spread: Float[np.ndarray, "n k"] = (values + units[0] * ((size - 1) / 2 - place) / size).astype(
        values.dtype
    )
    return spread


def served_columns(top: TopTokens) -> Int[np.ndarray, " d"]:
    """Tokens that have a column when `served`: those that at least two answers served, by rising id.

    >>> served_columns(TopTokens(np.array([[7, 3], [3, 9]]), np.array([[-0.5, -2.0], [-0.25, -1.0]]))).tolist()
    [3]
    """
    ids, counts = np.unique(top.ids[top.ids >= 0], return_counts=True)
    columns: Int[np.ndarray, " d"] = ids[counts >= LEAST_ROWS]
    return columns


def one_hot(ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
    """Indicators of tokens, a column for each token that at least two rows have, by rising id: the answer alone.

    Tokens of one row each share no column and have a row of zeros; where all do there is one column of zeros.

    >>> one_hot(np.array([4, 2, 4, 9, 2])).tolist()
    [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    """
    tokens, counts = np.unique(ids, return_counts=True)
    columns = tokens[counts >= LEAST_ROWS]
    if not len(columns):
        return np.zeros((len(ids), 1), dtype=np.float32)
    features: Float[np.ndarray, "n d"] = (ids[:, None] == columns[None, :]).astype(np.float32)
    return features
