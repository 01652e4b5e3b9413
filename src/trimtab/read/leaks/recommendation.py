"""Risk of each attribute at what is served, and the recommended setting, in plain words from measured rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from trimtab.report.formats import fixed, missing, span

SERVED = ("logprobs", "answer")
"""Levels that a caller of a served model sees."""
NO_LEAK, SHOWN, BY_ESTIMATE, ABOVE, UNKNOWN = (
    "no leak shown",
    "leak shown",
    "leak shown, above the bound by its estimate alone",
    "above the bound",
    "not measured",
)
"""Words for a risk."""
UNMITIGATED = "none"
"""What the rows without a mitigation are called among the mitigations."""
RISK = ("attribute", "role", "risk", "bits", "low", "high", "accuracy", "chance", "served", "looks")
"""Columns of the risk table."""


def risk_of(bits: float, low: float, high: float, max_bits: float | None = None) -> str:
    """The word for a leak: by its interval, and by a bound where one is stated.

    A leak is shown where the lower end is above 0, and above the bound where the lower end is above that.

    >>> risk_of(0.1, -0.02, 0.2), risk_of(0.3, 0.2, 0.4, 0.1), risk_of(0.3, 0.2, 0.4)
    ('no leak shown', 'above the bound', 'leak shown')
    """
    if missing(bits) or missing(low) or missing(high):
        return UNKNOWN
    if max_bits is not None and low > max_bits:
        return ABOVE
    if low > 0:
        return BY_ESTIMATE if max_bits is not None and bits > max_bits else SHOWN
    return NO_LEAK


def risk_table(table: pd.DataFrame, max_bits: float | None = None) -> pd.DataFrame:
    """Risk by attribute and role: the strongest leak among the rows that are served, a row each.

    Args:
        table: the headline table of an audit, all levels.
        max_bits: a stated bound.

    Returns:
        Columns `RISK`: bits with interval, accuracy and chance of the row with the most bits; served: what that row
        reads; looks: how many served rows it was picked from.
    """
    rows = []
    for (attribute, role), group in _served(table).groupby(["attribute", "role"], sort=False):
        row = _strongest(group)
        first = group.iloc[0].to_dict() | {"bits": np.nan, "low": np.nan, "high": np.nan, "accuracy": np.nan}
        row = first if row is None else row
        risk = risk_of(row["bits"], row["low"], row["high"], max_bits)
        picked = {name: row[name] for name in ("bits", "low", "high", "accuracy", "chance")}
        looks = int(group["bits"].notna().sum())
        rows.append(
            {"attribute": attribute, "role": role, "risk": risk}
            | picked
            | {"served": reads(row), "looks": looks}
        )
    return pd.DataFrame(rows, columns=list(RISK))


def reads(row: Mapping[str, Any]) -> str:
    """What a row of the headline table reads, in words.

    >>> reads({"level": "logprobs", "k": 20, "encoding": "served"}), reads({"level": "hidden", "layer": 3})
    ('top 20, ids with values', 'hidden state 3')
    """
    level, k = str(row["level"]), row.get("k")
    encoding = ENCODINGS.get(str(row.get("encoding") or ""), str(row.get("encoding") or ""))
    if level == "hidden":
        return f"hidden state {row['layer']:.0f}"
    if level == "trajectory":
        return (
            f"trajectory of top {k:.0f}, {row['lens']} lens"
            if not missing(k)
            else f"trajectory, {row['lens']} lens"
        )
    if level == "answer":
        return "the answer alone"
    size = "all tokens" if missing(k) else f"top {k:.0f}"
    size += " logits" if level == "logits" else ""
    return f"{size}, {encoding}" if encoding else size


ENCODINGS = {
    "served": "ids with values",
    "sorted": "sorted values",
    "fixed": "fixed tokens",
    "random": "random tokens",
}
"""Encodings in words."""


def recommend(table: pd.DataFrame, mitigations: pd.DataFrame, max_bits: float | None = None) -> str:
    """Recommendation in two to six sentences, from measured rows alone.

    What leaks most at what is served; the cheapest setting tried that keeps every attribute and role within the bound
    (upper ends of all intervals), or, without a bound, at a level that cannot be told from 0; its cost in utility; how
    many intervals were looked at. That nothing helped, or nothing was tried, is an answer.

    Args:
        table: the headline table of an audit, all levels.
        mitigations: the rows of `mitigation_rows`; may be empty.
        max_bits: a stated bound on the bits of what is served.
    """
    served = _served(table)
    strongest = _strongest(served)
    if strongest is None:
        return "Nothing that is served could be measured, so nothing is recommended."
    return " ".join([*_leaking(served, strongest, max_bits), *_remedy(served, mitigations, max_bits)])


def _leaking(served: pd.DataFrame, row: Mapping[str, Any], max_bits: float | None) -> Iterator[str]:
    """The strongest leak of what is served, and the verdict on the bound."""
    looks = int(served["bits"].notna().sum())
    bits = f"{fixed(row['bits'], 2)} bits ({span(row['low'], row['high'], 2)})"
    who, picked = f"{row['attribute']} ({row['role']})", f"the strongest of {looks} served rows"
    if not row["low"] > 0:
        yield f"No leak is shown by {picked}: {who} at {bits} from {reads(row)}, not distinguishable from 0."
    else:
        yield f"What is served gives away most of {who}: {bits} from {reads(row)}, {picked}."
    if max_bits is not None:
        shown = int((served["low"].astype(float) > max_bits).sum())
        above = int((served["bits"].astype(float) > max_bits).sum()) - shown
        alone = f", {above} more by the estimate alone" if above > 0 else ""
        yield f"{shown} of {looks} served rows are shown above the bound of {max_bits:g} bits{alone}."


def _remedy(served: pd.DataFrame, mitigations: pd.DataFrame, max_bits: float | None) -> Iterator[str]:
    """The cheapest setting that reaches the goal with its cost, or that there is none."""
    tried = mitigations[mitigations["mitigation"] != UNMITIGATED] if len(mitigations) else mitigations
    if not len(tried):
        yield "No mitigation was tried, so none is recommended."
        return
    pairs = mitigations[["attribute", "role"]].drop_duplicates()
    goal = (
        "cannot be told from 0"
        if max_bits is None
        else f"stays within {max_bits:g} bits with its whole interval"
    )
    if _reaches(mitigations[mitigations["mitigation"] == UNMITIGATED], len(pairs), max_bits):
        yield f"Nothing has to change: without a mitigation every attribute and role {goal}."
        return
    settings = list(tried.groupby(["mitigation", "setting"], sort=False))
    several = f"{len(settings)} settings tried" if len(settings) > 1 else "only setting tried"
    reached = [(key, rows) for key, rows in settings if _reaches(rows, len(pairs), max_bits)]
    if not reached:
        key, rows = min(settings, key=lambda one: _worst(one[1]))
        left = _strongest(rows)
        rest = f"; least is left by {_named(key)}: {_amount(left)}" if left is not None else ""
        yield f"Nothing that was tried is enough: with none of the {several}, every attribute and role {goal}{rest}."
    else:
        key, rows = min(reached, key=lambda one: _price(one[1]))
        left = _strongest(rows)
        yield (
            f"With {len(reached)} of the {several} every attribute and role {goal}; the one that costs a caller least is "
            f"{_named(key)}, with at most {_amount(left)} left."
        )
        yield from _cost(rows.iloc[0])
        yield from _warnings(key, tried, max_bits)
    yield from _answer_alone(served)
    yield f"{len(tried)} intervals of mitigations were looked at, each at 95 %, and none is widened for that."


def _reaches(rows: pd.DataFrame, pairs: int, max_bits: float | None) -> bool:
    """Whether a setting was measured for every attribute and role and keeps each at the goal."""
    known = rows.dropna(subset=["bits", "low", "high"])
    if not len(known) or len(known) < pairs:
        return False
    return bool((known["low"] <= 0).all() if max_bits is None else (known["high"] <= max_bits).all())


def _worst(rows: pd.DataFrame) -> float:
    bits = rows["bits"].astype(float)
    return float(bits.max()) if bits.notna().all() else np.inf


def _price(rows: pd.DataFrame) -> tuple[float, ...]:
    """What a setting costs a caller, to sort by: changed answers, then the answer's error, then tokens lost."""
    means = rows[["same_answer", "answer_error_nats", "kept"]].astype(float).mean()
    return (
        -means["same_answer"],
        float(np.nan_to_num(means["answer_error_nats"], nan=np.inf)),
        -means["kept"],
    )


def _cost(row: Mapping[str, Any]) -> Iterator[str]:
    """The utility of a setting, with intervals."""
    same, kept = (
        f"{100 * row[name]:.0f} % ({100 * row[f'{name}_low']:.0f} to {100 * row[f'{name}_high']:.0f})"
        for name in ("same_answer", "kept")
    )
    yield f"It keeps the first token in {same} of rows and {kept} of the tokens served."
    if not missing(row["answer_error_nats"]):
        ends = span(row["answer_error_nats_low"], row["answer_error_nats_high"], 2)
        yield f"The answer's log-probability moves by {fixed(row['answer_error_nats'], 2)} nats ({ends}) on average."


def _warnings(key: tuple[str, str], tried: pd.DataFrame, max_bits: float | None) -> Iterator[str]:
    """What a setting needs to hold: noise that asking again does not average away, erasure that is tested elsewhere."""
    name, setting = key
    if name == "noise" and setting.endswith("asked once"):
        deviation = setting.partition(",")[0]
        again = tried[(tried["mitigation"] == "noise") & tried["setting"].str.startswith(f"{deviation},")]
        again = again[again["setting"] != setting]
        worse = _strongest(again)
        asked = (
            f"; for one {str(worse['setting']).partition(', ')[2]}, {_amount(worse)} come back"
            if worse
            else ""
        )
        yield f"That holds only if the same request always gets the same noise{asked}."
    if name == "erase":
        rows = int(tried[(tried["mitigation"] == name) & (tried["setting"] == setting)]["n"].max())
        yield f"Erasure was tested on {rows} rows that it was not fitted on; an attacker with more rows may do better."


def _answer_alone(served: pd.DataFrame) -> Iterator[str]:
    """The leak of the answer itself, which no change of what is served beside it can hide."""
    row = _strongest(served[served["level"] == "answer"])
    if row is not None and row["low"] > 0:
        yield f"The answer alone gives away {_amount(row)}, which no change of what is served with it can hide."


def _amount(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "nothing measured"
    return f"{fixed(row['bits'], 2)} bits ({span(row['low'], row['high'], 2)}) of {row['attribute']} ({row['role']})"


def _named(key: tuple[str, str]) -> str:
    name, setting = key
    return f"{name} ({setting})" if setting else name


def _served(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["level"].isin(SERVED)]


def _strongest(rows: pd.DataFrame) -> dict[str, Any] | None:
    """The row with the most bits; None where all are unknown."""
    bits = rows["bits"].astype(float)
    return None if bits.isna().all() else {str(key): value for key, value in rows.loc[bits.idxmax()].items()}
