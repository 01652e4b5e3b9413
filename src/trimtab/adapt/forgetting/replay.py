"""How much pretraining data to replay: what each share removed in the runs, and the shares that a law plans."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from trimtab.adapt.forgetting import effects
from trimtab.adapt.forgetting.laws import CONFIDENCE, ForgettingLaw
from trimtab.errors import DataError
from trimtab.report.formats import fixed, number, span
from trimtab.report.page import Table

PROMISES = (0.5, 0.25, 0.1)
"""Parts of the rise without injection that a planned share is to keep the rise within."""


@dataclass(frozen=True)
class Promise:
    """A promised rise, and the shares of pretraining data that a law plans for it.

    Attributes:
        part: of the rise without injection.
        rise: nats per token.
        median: share by the fitted coefficients; nan where none below 1 keeps the promise.
        safe: share that keeps the promise in `CONFIDENCE` of the refits; nan likewise.
        kept: share of the refits in which `safe` keeps it.
        beyond: whether `safe` is beyond the shares of the runs.
    """

    part: float
    rise: float
    median: float
    safe: float
    kept: float
    beyond: bool


def promises(law: ForgettingLaw | None) -> list[Promise]:
    """Promises for the largest size and token count of a law's runs.

    None without a law, and by a law that has no refits or a coefficient which the runs do not determine.
    """
    if law is None or law.undetermined or not len(law.fitted.draws):
        return []
    params, tokens = law.ranges["params"][1], law.ranges["tokens"][1]
    without, most = law.rise(params=params, tokens=tokens, inject=0.0), law.ranges["inject"][1]
    found = []
    for part in PROMISES:
        where = {"rise": part * without, "params": params, "tokens": tokens}
        safe, median = law.inject_for(**where), law.inject_for(**where, confidence=0.5)
        kept = law.kept(**where, inject=safe) if not math.isnan(safe) else math.nan
        found.append(Promise(part, where["rise"], median, safe, kept, safe > most))
    return found


def undetermined_sentence(law: ForgettingLaw | None) -> str:
    """What can be concluded where the runs do not determine a coefficient of the law; "" where they determine all."""
    if law is None:
        return ""
    open_ends = law.undetermined
    if not open_ends:
        return ""
    values = [
        f"{name} ({low:.3g} to {high:.3g})"
        for name, (low, high) in law.intervals.items()
        if name in open_ends
    ]
    return (
        f"These runs show what each share of pretraining data did, but do not determine {' and '.join(values)} of the "
        "law: read the measured shares, and plan none beyond them."
    )


def measured_shares(points: pd.DataFrame, *, seed: int = 0) -> Table:
    """Rise at each share of the runs, and the share of forgetting that it removed, over pairs of runs."""
    rows = []
    for inject in sorted(set(points["inject"].astype(float)) - {0.0}):
        try:
            pairs = effects.beside_none(points, inject)
        except DataError:  # no run without injection to compare with
            continue
        removed = effects.share_removed(pairs, seed=seed)
        ends = span(100 * removed.low, 100 * removed.high, 0)
        rises = fixed(float(pairs["rise"].mean())), fixed(float(pairs["rise_none"].mean()))
        rows.append((f"{100 * inject:g} %", *rises, fixed(100 * removed.value, 0), ends, removed.n))
    headings = ["share", "rise, nats", "rise without it", "removed, %", "95 % interval", "pairs"]
    caption = (
        "Measured: mean rise of the pretraining loss over runs that differ in the share alone. Intervals are over "
        "pairs of runs."
    )
    return Table(pd.DataFrame(rows, columns=headings), caption)


def planned_shares(law: ForgettingLaw, promised: Sequence[Promise]) -> Iterator[Table]:
    """Table of what a law plans for the largest size and token count of its runs; nothing where it plans nothing."""
    if not promised:
        return
    params, tokens = law.ranges["params"][1], law.ranges["tokens"][1]
    rows = []
    for one in promised:
        beyond = "" if math.isnan(one.safe) else "yes" if one.beyond else "no"
        planned = (share_text(one.median), share_text(one.safe), one.kept, beyond)
        rows.append((f"{100 * one.part:g} %", one.rise, *planned))
    headings = ["rise kept within", "nats", "median share", f"share kept in {100 * CONFIDENCE:g} % of refits"]
    frame = pd.DataFrame(rows, columns=[*headings, "kept in refits", "beyond the runs"])
    without = law.rise(params=params, tokens=tokens, inject=0.0)
    caption = (
        f"Planned for {number(params)} parameters and {number(tokens)} unique tokens, the largest of the runs. Without "
        f"injection the law predicts a rise of {number(without)} nats. A dash: no share below 100 % keeps the promise "
        "in so many refits."
    )
    yield Table(frame, caption)


def share_text(value: float) -> str | None:
    """A share in percent; None for nan."""
    return None if math.isnan(value) else f"{100 * value:.3g} %"
