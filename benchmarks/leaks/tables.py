"""Numbers, tables and paragraphs of the page of results, as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

ENDS = {
    "value": ("low", "high"),
    "bits": ("low", "high"),
    "share": ("low", "high"),
    "kl_nats": ("kl_low", "kl_high"),
    "logit_kl_nats": ("logit_kl_low", "logit_kl_high"),
    "gain_nats": ("gain_low", "gain_high"),
}
"""Columns of the interval of a column, where they are not the column's name with `_low` and `_high`."""


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number as text; a dash for none."""
    if value is None:
        return "-"
    told = f"{value:{sign}.{digits}f}"
    return told.replace("-", "+" if sign else "") if float(told) == 0 else told


def span(one: Mapping[str, Any] | None, digits: int = 2, *, of: str = "value", sign: str = "") -> str:
    """A value with its interval."""
    if one is None or one.get(of) is None:
        return "-"
    value, ends = number(one[of], digits, sign), ENDS.get(of, (f"{of}_low", f"{of}_high"))
    low, high = (one.get(end) for end in ends)
    return (
        value
        if low is None or high is None
        else f"{value} [{number(low, digits, sign)}, {number(high, digits, sign)}]"
    )


def lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; nothing where there are no rows."""
    if not rows:
        return ""
    told = [
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(told)


def prose(*sentences: str) -> str:
    """Sentences as one paragraph of lines that fit a screen."""
    return textwrap.fill(
        " ".join(filter(None, sentences)), 118, break_long_words=False, break_on_hyphens=False
    )
