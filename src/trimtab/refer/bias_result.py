"""What an audit of naming bias came to: a value that knows its settings and every number of its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.data.naming import each_row
from trimtab.runs.atomic import write_atomic
from trimtab.runs.result_file import checked, read_result, reading_result, write_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval.

    Attributes:
        value: of the data as they are; nan where undefined.
        low, high: ends of the interval; nan where they cannot be known.
        p: probability of a value at least as extreme when group labels mean nothing; nan where it was not tested.
        n: independent units behind it.
    """

    value: float
    low: float
    high: float
    p: float = float("nan")
    n: int = 0

    def ends(self) -> tuple[float, float, float]:
        """Value, low and high."""
        return self.value, self.low, self.high

    def tested(self, p: float) -> Estimate:
        """The same with a p-value."""
        return replace(self, p=p)


@dataclass(frozen=True)
class NamingBias:
    """The outcome of an audit. Gaps are the other group minus the reference, in shares of names.

    Attributes:
        rates: columns group, rate, low, high, n_objects, n_tokens; the reference first.
        gap: the other group's rate minus the reference's.
        standardised: by mix of strata (each group's, and "pooled"): gap, low, high, p (labels dealt out within strata);
            composition = raw gap - this gap, what the mix of strata accounts for, and explained = composition / raw gap
            (nan where the raw gap may be zero), each with its interval; support, the share of the mix's objects in
            strata that have both groups, and their number.
        strata: by stratum: numbers of objects, rates and the gap, with intervals.
        representation: by stratum ("all" first) and group: n_objects, share, low, high.
        power: by gap: standard_error, and the smallest gap that would be detected with the stated power.
        accounting: columns reason, n_objects, n_tokens; adds up to what was given.
        odds_ratio, risk_ratio: other group against reference, strata put together.
        mantel_haenszel, mantel_haenszel_risk: odds and risk ratio common to the strata.
        notes: what a reader should know.
        config: everything needed to do it again.
        seconds: it took.
        sensitivity: by source of labels: what other sources would have said; empty when there is one source.
        amplification, misnaming: of models beside people (see `bias_models.Amplification`); empty without models.
        label: a short name.
    """

    rates: pd.DataFrame
    gap: Estimate
    standardised: pd.DataFrame
    strata: pd.DataFrame
    representation: pd.DataFrame
    power: pd.DataFrame
    accounting: pd.DataFrame
    odds_ratio: Estimate
    risk_ratio: Estimate
    mantel_haenszel: Estimate
    mantel_haenszel_risk: Estimate
    notes: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    sensitivity: pd.DataFrame = field(default_factory=pd.DataFrame)
    amplification: pd.DataFrame = field(default_factory=pd.DataFrame)
    misnaming: pd.DataFrame = field(default_factory=pd.DataFrame)
    label: str = "naming bias"

    @property
    def groups(self) -> tuple[str, str]:
        """The reference and the other group."""
        reference, other = self.rates["group"]
        return str(reference), str(other)

    def to_frame(self) -> pd.DataFrame:
        """Every gap in one frame: columns gap, value, low, high, p."""
        rows = [("raw", *self.gap.ends(), self.gap.p)]
        rows += [
            (f"at the mix of {row.mix}", row.gap, row.low, row.high, row.p)
            for row in each_row(self.standardised)
        ]
        return pd.DataFrame(rows, columns=["gap", "value", "low", "high", "p"])

    def figure(self) -> Figure:
        """The gaps, raw, standardised and by stratum, as a forest."""
        from trimtab.refer.bias_page import forest

        return forest(self)

    def report(self, path: str | Path) -> Path:
        """Write the report page (one self-contained HTML file) and return its path."""
        from trimtab.refer.bias_page import page

        write_atomic(Path(path), page([self], title=self.label))
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write every number into a run's folder."""
        values = {one.name: _plain(getattr(self, one.name)) for one in fields(self)}
        return write_result(folder, SCHEMA, values, indent=1)

    @classmethod
    def load(cls, folder: str | Path) -> NamingBias:
        """Read the result of a finished run.

        Raises:
            CheckpointError: there is none (yet), or another version of trimtab wrote it.
        """
        found = read_result(folder, SCHEMA)
        with reading_result(folder):
            return checked(cls, {name: _read(value) for name, value in found.items()})


def _plain(value: Any) -> Any:
    return {"estimate": vars(value)} if isinstance(value, Estimate) else value


def _read(value: Any) -> Any:
    """The opposite of `_plain`; a missing number is nan."""
    if isinstance(value, dict) and set(value) == {"estimate"}:
        known: dict[str, Any] = {k: float("nan") if v is None else v for k, v in value["estimate"].items()}
        return Estimate(**known)
    return tuple(value) if isinstance(value, list) else value
