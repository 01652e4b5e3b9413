"""Losses per sequence, and what can be said about a change between two readings of the same sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from trimtab.errors import ShapeError, explain

Z95 = 1.959963984540054


@dataclass(frozen=True)
class SequenceLosses:
    """The loss of one model on the sequences of one domain.

    Attributes:
        nll: summed negative log-likelihood of each sequence, in nats.
        tokens: loss-carrying tokens of each sequence.
    """

    nll: Float[np.ndarray, " n"]
    tokens: Int[np.ndarray, " n"]

    @property
    def loss(self) -> float:
        """Token-weighted mean loss, nats per token; nan without tokens."""
        total = int(self.tokens.sum())
        return float(self.nll.sum()) / total if total else math.nan

    @property
    def standard_error(self) -> float:
        """Standard error of `loss` over sequences (ratio estimator); nan for fewer than two, or an infinite loss."""
        return _ratio_error(self.nll, self.tokens)

    def first(self, n: int) -> SequenceLosses:
        """The losses of the first `n` sequences."""
        return SequenceLosses(self.nll[:n], self.tokens[:n])


@dataclass(frozen=True)
class Change:
    """A paired change of loss, nats per token, with its 95 % interval over `n` sequences."""

    value: float
    standard_error: float
    n: int

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - Z95 * self.standard_error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + Z95 * self.standard_error


def change(after: SequenceLosses, before: SequenceLosses) -> Change:
    """How much the loss changed between two readings of the same sequences.

    Pairing removes what makes one sequence harder than another, so the interval is far narrower than that of
    either loss. It covers the choice of sequences only: not the training seed.

    Raises:
        ShapeError: the two readings are not of the same sequences.

    >>> before = SequenceLosses(np.array([4.0, 6.0]), np.array([2, 2]))
    >>> change(SequenceLosses(np.array([3.0, 5.0]), np.array([2, 2])), before)
    Change(value=-0.5, standard_error=0.0, n=2)
    """
    if not np.array_equal(after.tokens, before.tokens):
        got = f"{len(after.tokens)} and {len(before.tokens)} sequences with other token counts"
        raise ShapeError(explain(got, "two readings of the same sequences"))
    with np.errstate(invalid="ignore"):  # infinity less infinity: the nan is the answer
        difference = SequenceLosses(after.nll - before.nll, before.tokens)
    return Change(difference.loss, difference.standard_error, len(before.tokens))


def _ratio_error(nll: Float[np.ndarray, " n"], tokens: Int[np.ndarray, " n"]) -> float:
    n, total = len(nll), int(tokens.sum())
    if n < 2 or not total or not np.isfinite(nll).all():
        return math.nan
    residual = nll - nll.sum() / total * tokens
    return math.sqrt(n / (n - 1) * float(residual @ residual)) / total
