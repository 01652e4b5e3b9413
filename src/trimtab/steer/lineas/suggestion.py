"""Suggested strength of a steering: chosen on one half of the held-out texts, confirmed on the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trimtab.report.formats import fixed, missing, span
from trimtab.steer.strength import CurveTexts

LEAST = 4
"""Held-out texts of a side from which there are two in each half, as an interval needs."""
_ENDS = ("", "_low", "_high")
_HALVES = (slice(0, None, 2), slice(1, None, 2))
"""Texts come in an order that was drawn."""


@dataclass(frozen=True)
class Suggestion:
    """Suggested strength, with what it does on texts that did not choose it.

    Attributes:
        budget: nats per token of KL that a steering may cost on neutral text.
        strength: of those above 0 that were tried, that of the largest lean, with a KL within the budget by the upper
            end of its interval and a lean above 0 by the lower end; None where none is so.
        chosen_on: side -> texts that it was chosen on.
        confirmed_on: side -> the other texts, which the numbers below are of.
        lean, lean_low, lean_high: at that strength, with its 95 % interval over texts; nan without one.
        kl, kl_low, kl_high: likewise, on neutral texts.
    """

    budget: float
    strength: float | None
    chosen_on: Mapping[str, int]
    confirmed_on: Mapping[str, int]
    lean: float = math.nan
    lean_low: float = math.nan
    lean_high: float = math.nan
    kl: float = math.nan
    kl_low: float = math.nan
    kl_high: float = math.nan

    @classmethod
    def of(cls, texts: CurveTexts, budget: float) -> Suggestion:
        """Suggestion from one half of the texts, with the numbers of the other half.

        Args:
            texts: measured at each strength, four of each side at least.
            budget: nats per token, above 0.
        """
        first, other = (texts.curve(half) for half in _HALVES)
        chosen_on, confirmed_on = (texts.counts(half) for half in _HALVES)
        fine = (first["strength"] > 0) & (first["kl_high"] <= budget) & (first["lean_low"] > 0)
        if not fine.any():
            return cls(budget, None, chosen_on, confirmed_on)
        chosen = first[fine].sort_values(["lean", "strength"], ascending=[False, True])["strength"].iloc[0]
        row = other[other["strength"] == chosen].iloc[0]
        lean, kl = ([float(row[f"{name}{end}"]) for end in _ENDS] for name in ("lean", "kl"))
        return cls(budget, float(chosen), chosen_on, confirmed_on, *lean, *kl)

    @property
    def confirmed(self) -> bool:
        """Whether the other half agrees: its KL is within the budget, and its lean above 0, by their intervals."""
        return self.kl_high <= self.budget and self.lean_low > 0

    def sentences(self) -> Iterator[str]:
        """The suggestion, what it was chosen on, and what the other half says of it."""
        within = f"a KL within {self.budget:g} nats per token"
        if self.strength is None:
            yield f"No strength is suggested: none has a lean above 0 and {within}, each by its interval."
        else:
            rule = f"with the largest lean at {within}, by the upper end of its interval"
            yield f"Suggested strength: {self.strength:g}, {rule}."
        yield f"That was chosen on {_counted(self.chosen_on)}."
        if self.strength is not None:
            n = _counted(self.confirmed_on)
            lean = f"{fixed(self.lean, signed=True)}{_between(self.lean_low, self.lean_high, signed=True)}"
            kl = f"{fixed(self.kl)}{_between(self.kl_low, self.kl_high)}"
            yield f"On {n} apart the lean is {lean} and KL {kl}."
            yield "That confirms it." if self.confirmed else "That does not confirm it."


def _between(low: float, high: float, *, signed: bool = False) -> str:
    return "" if missing(low) or missing(high) else f" ({span(low, high, signed=signed)})"


def _counted(counts: Mapping[str, int]) -> str:
    """Counts of texts in words.

    >>> _counted({"source": 4, "target": 5, "neutral": 3})
    '4 source, 5 target and 3 neutral texts'
    """
    parts = [f"{n} {side}" for side, n in counts.items()]
    return f"{', '.join(parts[:-1])} and {parts[-1]} texts"
