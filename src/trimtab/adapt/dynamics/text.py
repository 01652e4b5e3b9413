"""Fine-tuning runs as plain text: one run by domain, several as a table, both in 80 columns."""

from __future__ import annotations

from typing import Any

import pandas as pd

from trimtab.adapt.dynamics.compare import (
    CHANGE,
    GAIN_COLUMNS,
    KEPT,
    LIMIT,
    constraints_of,
    kept_word,
    target_gain,
)
from trimtab.adapt.record import RunRecord
from trimtab.report.formats import NOTHING, fixed, missing, short, short_names
from trimtab.report.page import written
from trimtab.report.text import plain_table


def text_table(frame: pd.DataFrame) -> str:
    """A comparison as plain text of 80 columns; minus signs and dashes are ASCII, so that any terminal shows them.

    Constraints for which there is no room stand in tables below, the runs named again.

    Args:
        frame: from `comparison_table`. Costs are multiples of a fixed-mixture run: training and probe steps alone /
            with every evaluation.
    """
    runs = short_names([str(label) for label in frame["run"]], 22)
    head: dict[str, Any] = {"run": "run", "status": "status", "step": ("step", str)}
    head["target gain % [95 %]"] = (*GAIN_COLUMNS, lambda *ends: _gain_text(*ends))
    kept: dict[str, Any] = {}
    for name, brief in zip(constraints_of(frame), short_names(constraints_of(frame), 10), strict=True):
        limits = frame[name + LIMIT].dropna().unique()
        limit = f"<= {fixed(limits[0])}" if len(limits) == 1 else "limits differ"
        kept[f"{brief} {limit}"] = (name + CHANGE, name + KEPT, "step", _kept_text)
    costs = ("training_multiple", "all_in_multiple")
    tail: dict[str, Any] = {
        "cost x steps/all": (*costs, lambda steps, every: f"{fixed(steps, 2)}/{fixed(every, 2)}"),
        "seconds": ("seconds", ".0"),
    }
    cells = written(frame.assign(run=runs), head | tail | kept)
    return plain_table(cells, left=("status",))


def _gain_text(value: float, low: float, high: float) -> str:
    return f"{fixed(value, 1)} [{fixed(low, 1)},{fixed(high, 1)}]"


def _kept_text(change: float, kept: object, step: int) -> str:
    """The change and whether it is within the limit; base weights keep everything by doing nothing."""
    word = "" if missing(kept) else (" kept" if kept else " OVER")
    return fixed(change, signed=True) + (word if step else " base")


def run_text(result: RunRecord) -> str:
    """One run as plain text of 80 columns: what was kept, gain and cost, and a row per domain."""
    words = ({"run": short(result.label, 60)} if result.label else {}) | headline(result)
    lines = [f"{name:<8}{text}" for name, text in words.items()]
    frame = result.to_frame()
    columns: dict[str, Any] = {"role": "role", "change": ("change", "+.3"), "95 % interval": "interval"}
    columns |= {"limit": ("tolerance", ".3"), "n": ("n", lambda n: NOTHING if missing(n) else f"{n:.0f}")}
    columns[""] = ("kept", lambda kept: "" if kept == "" else (kept_word(kept) if result.step else "base"))
    cells = written(frame.assign(domain=short_names(list(frame["domain"]))), {"domain": "domain", **columns})
    return "\n".join([*lines, "", plain_table(cells, left=("role",))])


def headline(result: RunRecord) -> dict[str, str]:
    """The result of a run in a few words each: its status, gain with interval, constraints kept on test, and cost."""
    constraints = result.final.loc[result.final["role"] == "constraint", "kept"]
    held = sum(not missing(kept) and bool(kept) for kept in constraints)
    gain = _gain_text(*target_gain(result)).replace("−", "-").replace(NOTHING, "-").replace("[", "% [")
    cost = f"{fixed(result.cost.training_multiple, 2)}x steps, {fixed(result.cost.all_in_multiple, 2)}x all"
    words = {"status": f"{result.status}, step {result.step}", "gain": gain}
    words |= {"kept": f"{held} of {len(constraints)}"} if len(constraints) and result.step else {}
    return words | {"cost": cost}
