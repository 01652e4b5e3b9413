"""Risk of each attribute at what is served, and the recommended setting, in plain words from measured rows alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
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
WORSE = (UNKNOWN, NO_LEAK, SHOWN, BY_ESTIMATE, ABOVE)
"""Risks by rising weight."""
UNMITIGATED = "none"
"""What the rows without a mitigation are called among the mitigations."""
LEAST_BITS = 0.0005
"""An interval above 0 whose lower end is below this shows no leak: it is 0.000 at three decimals."""
RISK = ("attribute", "role", "risk", "bits", "low", "high", "accuracy", "chance", "served", "looks")
"""Columns of the risk table."""


def risk_of(bits: float, low: float, high: float, max_bits: float | None = None) -> str:
    """The word for a leak: by its interval, and by a bound where one is stated.

    A leak is shown where the lower end is above 0 (more than 0.0005), and above the bound where it is above that too.

    >>> risk_of(0.1, -0.02, 0.2), risk_of(0.3, 0.2, 0.4, 0.1), risk_of(0.3, 0.2, 0.4)
    ('no leak shown', 'above the bound', 'leak shown')
    """
    if missing(bits) or missing(low) or missing(high):
        return UNKNOWN
    if exceeds(low, max_bits):
        return ABOVE
    if low > LEAST_BITS:
        return BY_ESTIMATE if max_bits is not None and bits > max_bits else SHOWN
    return NO_LEAK


def exceeds(low: float, max_bits: float | None) -> bool:
    """Whether a leak with this lower end is shown to be above a bound: a bound of 0 too asks for a leak that is shown.

    >>> exceeds(0.0001, 0.0), exceeds(0.001, 0.0), exceeds(0.001, 0.1), exceeds(0.001, None)
    (False, True, False, False)
    """
    return max_bits is not None and low > max(max_bits, LEAST_BITS)


def unmeasured(table: pd.DataFrame, accounting: pd.DataFrame) -> list[tuple[str, str]]:
    """Attributes with their roles of which nothing that is served was measured, where others were.

    A row without an interval measures nothing. Roles are never pooled: what is known of one says nothing of another.

    Args:
        table: the headline table of an audit, all levels.
        accounting: of the audit; rows that are nan name an attribute with its role, and why it was not measured.

    Returns:
        None where nothing was measured at all.
    """
    known = _pairs(served_rows(table).dropna(subset=["bits", "low", "high"]))
    places = accounting["where"][accounting["rows"].isna()]
    failed = [str(where).removesuffix(")").rpartition(" (") for where in places]
    asked = dict.fromkeys([*_pairs(table), *((attribute, role) for attribute, _, role in failed)])
    return [pair for pair in asked if pair not in known] if known else []


def untested(unknown: Sequence[tuple[str, str]], max_bits: float | None = None) -> Iterator[str]:
    """Sentences on attributes that were not measured, and on a bound that was not tested for them.

    >>> list(untested([("city", "mentioned")], 0.1))[1]
    'The bound of 0.1 bits was not tested there, so the audit did not pass.'
    """
    if unknown:
        yield f"Not measured at what is served: {', '.join(f'{name} ({role})' for name, role in unknown)}."
        if max_bits is not None:
            yield f"The bound of {max_bits:g} bits was not tested there, so the audit did not pass."


def risk_table(
    table: pd.DataFrame, max_bits: float | None = None, unknown: Sequence[tuple[str, str]] = ()
) -> pd.DataFrame:
    """Risk by attribute and role: the strongest leak among the rows that are served, a row each.

    Args:
        table: the headline table of an audit, all levels.
        max_bits: a stated bound.
        unknown: see `unmeasured`; those that have no row in the table stand last.

    Returns:
        Columns `RISK`: bits with interval, accuracy and chance of the row with the most bits among those of the worst
        risk; served: what that row reads; looks: how many served rows it was picked from.
    """
    rows = []
    for (attribute, role), group in served_rows(table).groupby(["attribute", "role"], sort=False):
        risks = [
            risk_of(*ends, max_bits) for ends in zip(group["bits"], group["low"], group["high"], strict=True)
        ]
        worst = max(risks, key=WORSE.index)
        row = _strongest(group[[risk == worst for risk in risks]])
        cells: dict[str, Any] = {"attribute": attribute, "role": role, "risk": worst}
        if row is not None:
            cells |= {name: row[name] for name in ("bits", "low", "high", "accuracy", "chance")}
            cells["served"] = reads(row)
        rows.append(cells | {"looks": int(group["bits"].notna().sum())})
    there = {(row["attribute"], row["role"]) for row in rows}
    absent = [pair for pair in unknown if pair not in there]
    rows += [{"attribute": name, "role": role, "risk": UNKNOWN, "looks": 0} for name, role in absent]
    return pd.DataFrame(rows, columns=list(RISK))


def reads(row: Mapping[Any, Any]) -> str:
    """What a row of the headline table reads, in words.

    >>> reads({"level": "logprobs", "k": 20, "encoding": "served"}), reads({"level": "hidden", "layer": 3})
    ('top 20, ids with values', 'hidden state 3')
    """
    level, k = str(row["level"]), row.get("k")
    size = "all tokens" if missing(k) else f"top {k:.0f}"
    encoding = str(row.get("encoding") or "")
    parts = {
        "hidden": lambda: [f"hidden state {row['layer']:.0f}"],
        "trajectory": lambda: [f"trajectory of {size}", f"{row['lens']} lens"],
        "answer": lambda: ["the answer alone"],
        "logits": lambda: [f"{size}, logits" if missing(k) else f"{size} logits"],
    }.get(level, lambda: [size])()
    return ", ".join(filter(None, [*parts, ENCODINGS.get(encoding, encoding), str(row.get("setting") or "")]))


ENCODINGS = {
    "served": "ids with values",
    "sorted": "sorted values",
    "fixed": "fixed tokens",
    "random": "random tokens",
}
"""Encodings in words."""


def recommend(
    table: pd.DataFrame,
    mitigations: pd.DataFrame,
    max_bits: float | None = None,
    unknown: Sequence[tuple[str, str]] = (),
) -> str:
    """Recommendation in a few sentences, from measured rows alone.

    What leaks most at what is served; the cheapest setting tried that keeps every attribute and role within the bound
    (upper ends of all intervals), or, without a bound or with one of 0, at a level that cannot be told from 0; its cost
    in utility; how many intervals were looked at. The setting must also be shown to leave less, by the paired change,
    of every leak that is shown to miss the goal. That nothing helped, or nothing was tried, is an answer. Attributes
    and roles that could not be measured without a mitigation are named, and no setting is judged by them.

    Args:
        table: the headline table of an audit, all levels.
        mitigations: the rows of `mitigation_rows`; may be empty.
        max_bits: a stated bound on the bits of what is served.
        unknown: see `unmeasured`; they are named.
    """
    served = served_rows(table)
    strongest = _strongest(_shown(served)) or _strongest(served)
    if strongest is None:
        return "Nothing that is served could be measured, so nothing is recommended."
    leaking = [*_leaking(served, strongest, max_bits), *untested(unknown, max_bits)]
    return " ".join([*leaking, *_remedy(served, mitigations, max_bits)])


def _shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose leak is shown."""
    return rows[rows["low"].astype(float) > LEAST_BITS]


def _leaking(served: pd.DataFrame, row: Mapping[str, Any], max_bits: float | None) -> Iterator[str]:
    """The strongest leak of what is served, and the verdict on the bound."""
    looks = int(served["bits"].notna().sum())
    of, how = f"{row['attribute']} ({row['role']})", f"{reads(row)}, the strongest of {looks} served rows"
    bits = f"{fixed(row['bits'], 2)} bits ({span(row['low'], row['high'], 2)})"
    if row["low"] > LEAST_BITS:
        yield f"Served outputs give away {of} most: {bits} by {how}."
    else:
        yield f"No leak of served outputs is shown: most is {bits} of {of} by {how}, not distinguishable from 0."
    if max_bits is not None:
        shown = sum(exceeds(low, max_bits) for low in served["low"].astype(float))
        above = int((served["bits"].astype(float) > max_bits).sum()) - shown
        alone = f", and {above} more by the estimate alone" if above > 0 else ""
        yield f"Above the bound of {max_bits:g} bits are {shown} of {looks} served rows{alone}."


def _remedy(served: pd.DataFrame, mitigations: pd.DataFrame, max_bits: float | None) -> Iterator[str]:
    """The cheapest setting that reaches the goal with its cost, or that there is none."""
    tried = mitigations[mitigations["mitigation"] != UNMITIGATED] if len(mitigations) else mitigations
    if not len(tried):
        yield "No mitigation was tried, so none is recommended."
        return
    if unknown := _unmeasured(mitigations):
        yield f"Not measured, and so not considered: {', '.join(f'{name} ({role})' for name, role in unknown)}."
        mitigations, tried = (
            rows[[pair not in unknown for pair in _pairs(rows)]] for rows in (mitigations, tried)
        )
    if not len(tried):
        yield "No mitigated output could be measured, so none is recommended."
        return
    bound = max_bits if max_bits is not None and max_bits > LEAST_BITS else None
    goal = "no leak is distinguishable from 0"
    if bound is not None:
        goal = f"every leak is within {bound:g} bits by its whole interval"
    plain = mitigations[mitigations["mitigation"] == UNMITIGATED]
    if not _reaches(plain, len({*_pairs(plain)}), bound):
        yield from _settings(tried, plain, bound, goal)
        yield from _answer_alone(served)
        count = f"Intervals of {len(tried)} mitigated outputs were compared"
        yield f"{count}, without correction for multiple comparisons."
    elif (served["low"].astype(float) > (LEAST_BITS if bound is None else bound)).any():
        yield f"What mitigations were tried on meets the goal that {goal}."
        yield "Another served row is shown to miss it, so no mitigation is recommended."
        yield from _answer_alone(served)
    else:
        yield f"No mitigation is needed: without one {goal}."


def _settings(tried: pd.DataFrame, plain: pd.DataFrame, bound: float | None, goal: str) -> Iterator[str]:
    """The cheapest setting that is shown to reach the goal, with its cost; else what comes nearest."""
    settings = [rows for _, rows in tried.groupby(["mitigation", "setting"], sort=False)]
    near = [rows for rows in settings if _reaches(rows, len({*_pairs(plain)}), bound)]
    if reached := [rows for rows in near if not _no_less(rows, plain, bound)]:
        rows = min(reached, key=_price)
        yield f"Recommended is {_named(rows)}: with it {goal}."
        widest = rows.sort_values("high", ascending=False, kind="stable").to_dict("records")[0]
        of = f"{widest['attribute']} ({widest['role']})"
        yield f"The interval that reaches furthest ends at {fixed(widest['high'], 2)} bits, of {of}."
        yield from _cost(rows.to_dict("records")[0])
        yield from _conditions(rows, tried)
        tries = f"{len(settings)} setting{'' if len(settings) == 1 else 's'} tried"
        yield f"Of the {tries}, {len(reached)} reached this; it costs a caller least."
    elif near:
        rows = min(near, key=_price)
        attribute, role = _no_less(rows, plain, bound)[0]
        yield f"Nothing that was tried is shown to be enough. With {_named(rows)} {goal}."
        left = rows[[pair == (attribute, role) for pair in _pairs(rows)]]
        yield f"It leaves {_amount(_strongest(left))}, which is not shown to be less than without it."
    else:
        miss = "the only setting misses" if len(settings) == 1 else f"all {len(settings)} settings miss"
        yield f"Nothing that was tried is enough: {miss} the goal that {goal}."
        rows = min(settings, key=_worst)
        if _worst(rows) < np.inf:
            yield f"Least is left by {_named(rows)}: {_amount(_strongest(rows))}."


def _pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(rows["attribute"], rows["role"], strict=True))


def _unmeasured(mitigations: pd.DataFrame) -> list[tuple[str, str]]:
    """Attributes with their roles whose leak is unknown even without a mitigation: no setting can be judged by them."""
    plain = mitigations[mitigations["mitigation"] == UNMITIGATED]
    return list(dict.fromkeys(_pairs(plain[plain["bits"].isna()])))


def _reaches(rows: pd.DataFrame, pairs: int, max_bits: float | None) -> bool:
    """Whether a setting was measured for every attribute and role and keeps each at the goal."""
    known = rows.dropna(subset=["bits", "low", "high"])
    if not len(known) or len(known) < pairs:
        return False
    return bool((known["low"] <= LEAST_BITS).all() if max_bits is None else (known["high"] <= max_bits).all())


def _no_less(rows: pd.DataFrame, plain: pd.DataFrame, bound: float | None) -> list[tuple[str, str]]:
    """Attributes with their roles that are shown to miss the goal, and of which a setting is not shown to leave less.

    Less is shown where the paired change of bits is below 0 with its whole interval: an interval that merely reaches 0
    may be a wider one, as of fewer rows.
    """
    missed = _pairs(plain[plain["low"].astype(float) > (LEAST_BITS if bound is None else bound)])
    less = _pairs(rows[rows["change_high"].astype(float) < 0])
    return [pair for pair in missed if pair not in less]


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


def _cost(row: Mapping[Hashable, Any]) -> Iterator[str]:
    """The utility of a setting, with intervals."""
    same, kept = (
        f"{100 * row[name]:.0f} % ({100 * row[f'{name}_low']:.0f} to {100 * row[f'{name}_high']:.0f})"
        for name in ("same_answer", "kept")
    )
    yield f"The first token stays in {same} of rows, and {kept} of the served tokens stay."
    if not missing(row["answer_error_nats"]):
        ends = span(row["answer_error_nats_low"], row["answer_error_nats_high"], 2)
        yield f"The answer's log-probability moves by {fixed(row['answer_error_nats'], 2)} nats ({ends}) on average."


ONE_QUERY = "1 query"
"""The end of the setting of noise that is not averaged."""


def _conditions(rows: pd.DataFrame, tried: pd.DataFrame) -> Iterator[str]:
    """What must hold for a setting.

    Rounding: no order among equal values. Noise: asking again does not average it away. Erasure: rows of the same kind.
    """
    name, setting = (str(rows[column].iloc[0]) for column in ("mitigation", "setting"))
    same = tried[tried["mitigation"] == name]
    if name == "noise" and setting.endswith(ONE_QUERY):
        yield "It holds only where the same request always gets the same noise."
        again = same[
            same["setting"].str.startswith(setting.removesuffix(ONE_QUERY)) & (same["setting"] != setting)
        ]
        if (worst := _strongest(again)) is not None:
            queries = str(worst["setting"]).removeprefix(setting.removesuffix(ONE_QUERY))
            yield f"Where each request gets fresh noise, {queries} leave {_amount(worst)}."
    if name == "round":
        yield "It holds only where tokens of equal rounded values are served by id: their order tells the likelier."
    if name == "erase":
        tested = f"{rows['n'].max():.0f} rows that it was not fitted on"
        yield f"Erasure was tested on {tested}; more rows may help an attacker."


def _answer_alone(served: pd.DataFrame) -> Iterator[str]:
    """The leak of the answer itself, which no change of what is served with it can hide."""
    row = _strongest(_shown(served[served["level"] == "answer"]))
    if row is not None:
        yield f"The answer alone gives away {_amount(row)}; no change of what is served with it can hide that."


def _amount(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "nothing measured"
    return f"{fixed(row['bits'], 2)} bits ({span(row['low'], row['high'], 2)}) of {row['attribute']} ({row['role']})"


def _named(rows: pd.DataFrame) -> str:
    name, setting = rows["mitigation"].iloc[0], rows["setting"].iloc[0]
    return f"{name} ({setting})" if setting else name


def served_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the headline table of levels that a caller sees."""
    return table[table["level"].isin(SERVED)]


def _strongest(rows: pd.DataFrame) -> dict[str, Any] | None:
    """The row with the most bits; None where all are unknown."""
    known = rows[rows["bits"].notna()]
    records = known.sort_values("bits", ascending=False, kind="stable").head(1).to_dict("records")
    return {str(key): value for key, value in records[0].items()} if records else None
