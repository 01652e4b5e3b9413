"""Numbers of the audit's rows with the interval that belongs to their column."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
import pages

ENDS = {
    "value": ("low", "high"),
    "bits": ("low", "high"),
    "share": ("low", "high"),
    "kl_nats": ("kl_low", "kl_high"),
    "logit_kl_nats": ("logit_kl_low", "logit_kl_high"),
    "gain_nats": ("gain_low", "gain_high"),
}
"""Columns of the interval of a column, where they are not the column's name with `_low` and `_high`."""


def span(one: Mapping[str, Any] | None, digits: int = 2, *, of: str = "value", sign: str = "") -> str:
    """A value with its interval."""
    return pages.span(one, digits, of=of, ends=ENDS.get(of, (f"{of}_low", f"{of}_high")), sign=sign)
