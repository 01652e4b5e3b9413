"""Which units count as experts: above a threshold, the best so many, or below a false discovery rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import false_discovery_control

from trimtab.errors import ConfigError, explain


@dataclass(frozen=True)
class Selection:
    """One way to choose experts; exactly one of the three is given.

    Attributes:
        tau: units whose average precision is above it, in [0, 1).
        top: the so many units of highest average precision; at equal ones the first.
        fdr: units found at this false discovery rate among all units, in (0, 1).
    """

    tau: float | None = None
    top: int | None = None
    fdr: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("tau", "top", "fdr") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of tau, top and fdr"
            raise ConfigError(explain(got, "exactly one of tau, top and fdr", "tau=0.5"))
        if self.tau is not None and not 0 <= self.tau < 1:
            raise ConfigError(f"tau: {explain(self.tau, 'a number in [0, 1)')}")
        if self.top is not None and self.top < 1:
            raise ConfigError(f"top: {explain(self.top, 'at least 1')}")
        if self.fdr is not None and not 0 < self.fdr < 1:
            raise ConfigError(f"fdr: {explain(self.fdr, 'a number in (0, 1)')}")

    def __str__(self) -> str:
        """As a reader says it.

        >>> str(Selection(tau=0.5)), str(Selection(top=200))
        ('AP above 0.5', 'top 200')
        """
        if self.tau is not None:
            return f"AP above {self.tau:g}"
        return f"top {self.top}" if self.top is not None else f"FDR below {self.fdr:g}"

    def of(self, precision: Float[np.ndarray, "c u"]) -> Bool[np.ndarray, "c u"]:
        """The experts by average precision; not for a false discovery rate.

        Raises:
            ConfigError: more units asked for than there are.
        """
        if self.tau is not None:
            return np.asarray(precision > self.tau)
        assert self.top is not None
        if self.top > precision.shape[-1]:
            raise ConfigError(f"top: {explain(self.top, f'at most the {precision.shape[-1]} units')}")
        best = np.argsort(-precision, axis=-1, kind="stable")[..., : self.top]
        chosen = np.zeros(precision.shape, dtype=bool)
        np.put_along_axis(chosen, best, True, axis=-1)
        return chosen


def selection(tau: float | None, top: int | None, fdr: float | None) -> Selection:
    """What the caller asks for; the paper's threshold of .5 when nothing.

    Raises:
        ConfigError: more than one way, or one out of range.

    >>> selection(None, None, None)
    Selection(tau=0.5, top=None, fdr=None)
    """
    return Selection(tau=0.5) if tau is top is fdr is None else Selection(tau, top, fdr)


def q_values(chance: Float[np.ndarray, "*c u"]) -> Float[np.ndarray, "*c u"]:
    """The false discovery rate at which each unit would be found, among all units of its row.

    Source: Benjamini and Hochberg 1995; valid for units that depend on one another positively.

    >>> q_values(np.array([0.01, 0.02, 0.9])).tolist()
    [0.03, 0.03, 0.9]
    """
    return np.asarray(false_discovery_control(chance, axis=-1, method="bh"))
