"""Result of a leak audit: what each level of a model gives away about its input, with controls and mitigations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from trimtab.data.naming import each_row
from trimtab.job import Result
from trimtab.read.leaks import page
from trimtab.read.leaks.recommendation import exceeds, reads, risk_table, served_rows, unmeasured, untested
from trimtab.report.formats import estimate, fixed
from trimtab.report.page import Section
from trimtab.report.text import plain_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = (
    "attribute", "role", "level", "lens", "encoding", "setting", "k", "layer", "accuracy", "accuracy_low",
    "accuracy_high", "gain", "gain_low", "gain_high", "bits", "low", "high", "n", "groups", "classes", "chance",
    "question_only", "classifier",
)  # fmt: skip
"""Columns of the headline table."""
CONTROLS = (
    "attribute", "role", "control", "level", "k", "accuracy", "accuracy_low", "accuracy_high", "bits", "low", "high",
    "n", "chance",
)  # fmt: skip
"""Columns of the controls."""
CHECKS = ("attribute", "role", "lesser", "greater", "bits", "low", "high", "n", "holds")
"""Columns of the data-processing checks."""
ACCOUNTING = ("where", "rows", "why")
"""Columns of the accounting."""


def empty(columns: tuple[str, ...]) -> pd.DataFrame:
    """A frame of no rows."""
    return pd.DataFrame(columns=list(columns))


@dataclass(frozen=True, repr=False, kw_only=True)
class LeaksResult(Result):
    """Result of a leak audit.

    Roles (mentioned, unmentioned, background) are never pooled. Bits are the reduction in cross-entropy against what
    the question alone tells (against the shares of the classes where no question is known), in bits a question.

    Attributes:
        table: attribute, role, level (hidden, trajectory, logits, logprobs, answer), lens, encoding, setting (such as
            "2 decimals"), k, layer, accuracy, accuracy_low, accuracy_high, gain (accuracy above that of
            the question), gain_low, gain_high, bits, low, high, n, groups, classes, chance (share of the largest
            class), question_only (its accuracy; nan where no question is known), classifier (chosen most often).
            Intervals are at 95 %, over groups.
        controls: attribute, role, control (majority, question-only, answer-only, random tokens, text, pixels, shuffled
            labels, untrained model), level (that it reads; "" for none), k, accuracy, accuracy_low, accuracy_high,
            bits, low, high, n, chance.
        checks: data-processing inequality (top k <= all logits <= final hidden state), by paired differences:
            attribute, role, lesser, greater, bits (of the lesser less those of the greater), low, high, n, holds.
        mitigations: see `trimtab.read.leaks.mitigated.mitigation_rows`; empty where none was tried.
        accounting: where, rows, why: rows in, set aside by reason, used; cells that could not be measured have nan
            rows.
        facts: single numbers by name, such as the accuracy in the task itself.
        max_bits: stated bound on the bits that any served level may give away; None for none.
        recommendation: what to serve, in plain words.
        findings: what a reader should know, one sentence each.
    """

    label: str = "leaks"
    table: pd.DataFrame
    controls: pd.DataFrame = field(default_factory=lambda: empty(CONTROLS))
    checks: pd.DataFrame = field(default_factory=lambda: empty(CHECKS))
    mitigations: pd.DataFrame = field(default_factory=pd.DataFrame)
    accounting: pd.DataFrame = field(default_factory=lambda: empty(ACCOUNTING))
    facts: Mapping[str, Any] = field(default_factory=dict)
    max_bits: float | None = None
    recommendation: str = ""
    findings: tuple[str, ...] = ()

    @property
    def served(self) -> pd.DataFrame:
        """Rows of the table of levels that a caller sees: log-probabilities and the answer."""
        return served_rows(self.table)

    @property
    def exceeded(self) -> pd.DataFrame:
        """Served rows that are shown to give away more than `max_bits`: their lower end is above it.

        A bound of 0 is exceeded by leaks that are shown: those with a lower end above 0.0005.
        """
        served = self.served
        return served[[exceeds(low, self.max_bits) for low in served["low"].astype(float)]]

    @property
    def unmeasured(self) -> list[tuple[str, str]]:
        """Attributes with their roles of which nothing that is served was measured, where others were."""
        return unmeasured(self.table, self.accounting)

    @property
    def passed(self) -> bool:
        """False where a bound is stated and a served row is shown to exceed it, or what it is of was not measured.

        Of every attribute in every role that it has, something that is served must have been measured.
        """
        if self.max_bits is None:
            return True
        known = bool(self.served["low"].notna().any())
        return known and self.exceeded.empty and not self.unmeasured

    def to_frame(self) -> pd.DataFrame:
        """Strongest row of each level, by attribute and role; the whole is `table`."""
        known = self.table[self.table["bits"].notna()].sort_values("bits", ascending=False, kind="stable")
        best = known.drop_duplicates(["attribute", "role", "level"]).sort_index()
        return best.drop(
            columns=["gain", "gain_low", "gain_high", "groups", "classes", "classifier"]
        ).reset_index(drop=True)

    def to_text(self) -> str:
        """Risk by attribute and role, the strongest row of each level, and the summary."""
        risks, levels = risk_table(self.table, self.max_bits, self.unmeasured), self.to_frame()
        names = [f"{row['attribute']} ({row['role']})" for row in risks.to_dict("records")]
        risks = risks.assign(attribute=names).rename(columns={"served": "by", "looks": "picked from"})
        names = [f"{row['attribute']} ({row['role']}): {reads(row)}" for row in levels.to_dict("records")]
        levels.insert(0, "read", names)
        parts = [
            _short(frame)
            for frame in (risks, levels.drop(columns=[*WHAT_IS_READ], errors="ignore"))
            if len(frame)
        ]
        return "\n\n".join(
            [*map(plain_table, (one.drop(columns="role", errors="ignore") for one in parts)), self.summary()]
        )

    def json_values(self) -> dict[str, Any]:
        """Fields for JSON: numbers of tokens and of layers are whole numbers there, missing ones null."""
        values = super().json_values()
        frames = {name: _whole(it) for name, it in values.items() if isinstance(it, pd.DataFrame)}
        return values | frames

    @classmethod
    def from_values(cls, values: dict[str, Any], folder: Path) -> Self:
        """The result that was written; findings are a tuple."""
        return super().from_values(values | {"findings": tuple(values["findings"])}, folder)

    def headline(self) -> dict[str, str]:
        """The attribute and role that the served levels give away most of, in bits."""
        rows = self.served if len(self.served) else self.table
        strongest = _strongest(rows)
        if strongest is None:
            return {"leaks": "none measured"}
        return {f"{strongest['attribute']} ({strongest['role']})": _bits(strongest)}

    def summary(self) -> str:
        """The recommendation; where there is none, the strongest leak of each attribute and role."""
        if self.recommendation:
            return self.recommendation
        sentences = []
        for (attribute, role), group in self.table.groupby(["attribute", "role"], sort=False):
            if (row := _strongest(group)) is not None:
                text = f"{attribute} ({role}): most at the level {row['level']}, {_bits(row)}"
                sentences.append(f"{text}, accuracy {fixed(row['accuracy'])}, chance {fixed(row['chance'])}.")
        sentences += untested(self.unmeasured, self.max_bits)
        return " ".join(sentences) or "No cell could be measured."

    def figure(self) -> Figure:
        """The main figure of the page."""
        return page.figure(self)

    def sections(self) -> Iterator[Section]:
        """Sections of the page, see `trimtab.read.leaks.page`."""
        yield from page.sections(self)


WHAT_IS_READ = ("attribute", "role", "level", "lens", "encoding", "setting", "k", "layer")
"""Columns that say what a row reads; in a terminal one column says it, so that it stands before folded columns too."""


def _whole(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with whole numbers in `k`, `layer` and `rows`, None for missing ones."""
    counts = [name for name in ("k", "layer", "rows") if name in frame]
    told = {name: [None if pd.isna(it) else int(it) for it in frame[name]] for name in counts}
    return frame.assign(**{name: pd.Series(it, index=frame.index, dtype=object) for name, it in told.items()})


def _strongest(rows: pd.DataFrame) -> dict[str, Any] | None:
    """The row with the most bits; None where all are unknown."""
    known = [row._asdict() for row in each_row(rows) if not np.isnan(row.bits)]
    return max(known, key=lambda row: float(row["bits"]), default=None)


def _bits(row: Mapping[str, Any]) -> str:
    return f"{estimate(row['bits'], row['low'], row['high'], signed=True)} bits"


def _short(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its intervals beside their numbers, for a terminal."""
    frame = frame.copy()
    for name, low, high in (("accuracy", "accuracy_low", "accuracy_high"), ("bits", "low", "high")):
        if {name, low, high} <= set(frame.columns):
            ends = zip(*(frame[column].astype(float) for column in (name, low, high)), strict=True)
            frame[name] = [estimate(*each, signed=name == "bits") for each in ends]
            frame = frame.drop(columns=[low, high])
    empty_ones = [
        name for name in frame.columns if frame[name].isin(["", None]).all() or frame[name].isna().all()
    ]
    return frame.drop(columns=empty_ones)
