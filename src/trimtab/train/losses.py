"""Losses per sequence, and the paired change between two readings of the same sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from trimtab.errors import ShapeError, explain


@dataclass(frozen=True)
class SequenceLosses:
    """The loss of one model on the sequences of one domain.

    Attributes:
        nll: summed negative log-likelihood of each sequence, in nats.
        tokens: loss-carrying tokens of each sequence.
        records: which record each sequence is of, or which group where records have groups (`trimtab.data.groups`);
            any numbers. By default each is of its own.
    """

    nll: Float[np.ndarray, " n"]
    tokens: Int[np.ndarray, " n"]
    records: Int[np.ndarray, " m"] = field(default_factory=lambda: np.arange(0))

    def __post_init__(self) -> None:
        """Without records, sequences are independent."""
        if not len(self.records):
            object.__setattr__(self, "records", np.arange(len(self.nll)))

    @property
    def loss(self) -> float:
        """Token-weighted mean loss, nats per token; nan without tokens."""
        total = int(self.tokens.sum())
        return float(self.nll.sum()) / total if total else math.nan

    @property
    def standard_error(self) -> float:
        """Standard error of `loss` over `units` (ratio estimator); nan for fewer than two, or an infinite loss.

        Sequences of one record or group are not independent, so their residuals are added up before they are squared
        (linearised cluster estimator: Binder 1983; Cameron & Miller 2015, section II).
        """
        units, total = self.units, int(self.tokens.sum())
        if units < 2 or not total or not np.isfinite(self.nll).all():
            return math.nan
        residual = self.nll - self.nll.sum() / total * self.tokens
        if units < len(residual):
            residual = np.bincount(np.unique(self.records, return_inverse=True)[1], residual)
        return math.sqrt(units / (units - 1) * float(residual @ residual)) / total

    @property
    def units(self) -> int:
        """The number of independent parts: groups, else records; sequences where all are of a single one."""
        records = len(np.unique(self.records))
        return records if records > 1 else len(self.nll)

    def first(self, n: int) -> SequenceLosses:
        """The losses of the first `n` sequences."""
        return SequenceLosses(self.nll[:n], self.tokens[:n], self.records[:n])


@dataclass(frozen=True)
class Change:
    """A paired change of loss, nats per token, with its 95 % interval.

    Attributes:
        value: the change.
        standard_error: of it, over the units.
        n: sequences.
        units: independent parts, groups or records; the interval is Student's with one degree of freedom less.
    """

    value: float
    standard_error: float
    n: int
    units: int

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - self._half

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + self._half

    @property
    def _half(self) -> float:
        return float(stdtrit(self.units - 1, 0.975)) * self.standard_error if self.units > 1 else math.nan


def change(after: SequenceLosses, before: SequenceLosses) -> Change:
    """Paired change of loss between two readings of the same sequences.

    Pairing removes what makes one sequence harder than another, so the interval is far narrower than that of
    either loss. It covers the choice of records, or of groups, only: not the training seed.

    Raises:
        ShapeError: the two readings are not of the same sequences.

    >>> before = SequenceLosses(np.array([4.0, 6.0]), np.array([2, 2]))
    >>> change(SequenceLosses(np.array([3.0, 5.0]), np.array([2, 2])), before)
    Change(value=-0.5, standard_error=0.0, n=2, units=2)
    """
    if not np.array_equal(after.tokens, before.tokens):
        got = f"{len(after.tokens)} and {len(before.tokens)} sequences with other token counts"
        raise ShapeError(explain(got, "two readings of the same sequences"))
    with np.errstate(invalid="ignore"):  # infinity less infinity: the nan is the answer
        moved = replace(after, nll=after.nll - before.nll)
    return Change(moved.loss, moved.standard_error, len(moved.nll), moved.units)
