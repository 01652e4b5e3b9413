"""How much pretraining data to replay: what each share removed in the runs, and the shares that a law plans."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from trimtab.adapt.forgetting import effects
from trimtab.adapt.forgetting.laws import CONFIDENCE, ForgettingLaw
from trimtab.errors import DataError
from trimtab.report.formats import fixed, number, span
from trimtab.report.page import Table, Text

PROMISES = (0.5, 0.25, 0.1)
"""Parts of the rise without injection that a planned share is to keep the rise within."""


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


def planned_shares(law: ForgettingLaw) -> Iterator[Text | Table]:
    """Shares that the law plans for the largest size and token count of its runs; none where it has no refits."""
    if not len(law.fitted.draws):
        return
    params, tokens = law.ranges["params"][1], law.ranges["tokens"][1]
    without, most = law.rise(params=params, tokens=tokens, inject=0.0), law.ranges["inject"][1]
    rows = []
    for part in PROMISES:
        where = {"rise": part * without, "params": params, "tokens": tokens}
        safe, median = law.inject_for(**where), law.inject_for(**where, confidence=0.5)
        kept = law.kept(**where, inject=safe) if not math.isnan(safe) else math.nan
        beyond = "yes" if safe > most else ("no" if safe <= most else "")
        rows.append((f"{100 * part:g} %", part * without, _share(median), _share(safe), kept, beyond))
    headings = ["rise kept within", "nats", "median share", f"share kept in {100 * CONFIDENCE:g} % of refits"]
    frame = pd.DataFrame(rows, columns=[*headings, "kept in refits", "beyond the runs"])
    caption = (
        f"Planned for {number(params)} parameters and {number(tokens)} unique tokens, the largest of the runs. Without "
        f"injection the law predicts a rise of {number(without)} nats. A dash: no share below 100 % keeps the promise "
        "in so many refits."
    )
    yield Table(frame, caption)


def _share(value: float) -> str | None:
    return None if math.isnan(value) else f"{100 * value:.3g} %"
