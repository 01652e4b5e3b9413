"""Lexicons on the plane of complexity and accuracy, beside the best that any lexicon could do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from trimtab.numerics.bottleneck import Bottleneck, bottleneck, plane

if TYPE_CHECKING:
    from trimtab.refer.lexicon import Lexicon


@dataclass(frozen=True)
class Inefficiency:
    """How far a lexicon is from the frontier.

    Attributes:
        bits: (F_beta[lexicon] - F_beta[best]) / beta at the beta where that is smallest; 0 on the frontier.
        beta: that beta.
    """

    bits: float
    beta: float


@dataclass(frozen=True)
class Frontier:
    """The annealed frontier of some referents.

    Attributes:
        best: the optimal lexicons.
        prior: of the referents.
        meanings: p(u|m).
    """

    best: Bottleneck
    prior: Float[np.ndarray, " referents"]
    meanings: Float[np.ndarray, "referents referents"]

    def to_frame(self) -> pd.DataFrame:
        """Columns beta, complexity_bits, accuracy_bits, words; from coarse to fine."""
        names = ("beta", "complexity_bits", "accuracy_bits", "words")
        frame = pd.DataFrame({name: getattr(self.best, name) for name in names})
        return frame.sort_values("beta", ignore_index=True)

    def inefficiency(self, lexicon: Lexicon | Float[np.ndarray, "referents names"]) -> Inefficiency:
        """How far a lexicon p(w|m) of these referents is from the frontier, in bits.

        Source: Zaslavsky, Kemp, Regier and Tishby 2018, equation 7.
        """
        naming = lexicon if isinstance(lexicon, np.ndarray) else lexicon.naming
        complexity, accuracy = plane(self.prior, naming, self.meanings)
        gaps = (complexity - self.best.beta * accuracy - self.best.objective()) / self.best.beta
        nearest = int(np.argmin(gaps))
        return Inefficiency(float(gaps[nearest]), float(self.best.beta[nearest]))


def frontier(
    prior: Float[np.ndarray, " referents"],
    meanings: Float[np.ndarray, "referents referents"],
    betas: Float[np.ndarray, " n"] | None = None,
) -> Frontier:
    """The frontier of referents with a prior and meanings."""
    return Frontier(bottleneck(prior, meanings, betas=betas), prior, meanings)
