"""What an audit of naming bias came to: a value that knows its settings and every number of its page.

The page of an audit of naming bias: the gaps as a forest, what they are made of, and what was set aside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.data.naming import each_row
from trimtab.report.figures import PALETTE, with_margin
from trimtab.report.formats import fixed, from_zero, number, span
from trimtab.report.intervals import Look, interval_rows
from trimtab.report.page import Picture, Section, Table, Text, chapters_page, picture, settings_section
from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import checked, read_result, reading_result, write_result

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

        return forest(self)

    def report(self, path: str | Path) -> Path:
        """Write the report page (one self-contained HTML file) and return its path."""

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


EXTREMES = "A rate of 0 or 1 has Wilson's interval, and a gap with such a rate Newcombe's."
RAW = Look("raw", PALETTE[0], "o")
STANDARDISED = Look("at a common mix of strata", PALETTE[4], "s")
WITHIN = Look("within one stratum", PALETTE[6], "^", filled=False)
WIDENS = Look("model less given names", PALETTE[2], "D")


def page(results: Sequence[NamingBias], title: str = "Naming bias") -> str:
    """One self-contained HTML page about one audit, or about several.

    Raises:
        DataError: there is no result.
    """
    return chapters_page(
        title, results, "audits beside one another", verdict=verdict, chapter=_chapter, compared=_comparison
    )


def verdict(result: NamingBias) -> str:
    """What the audit came to, in three sentences at most; a gap is one where its interval leaves 0 out."""
    reference, other = result.groups
    sides = [
        f"{fixed(row.rate)} of names for {row.group} ({row.n_objects} objects)"
        for row in each_row(result.rates)
    ]
    told = f"{sides[0]} against {sides[1]}, objects weighing the same: a gap of {_gap(*result.gap.ends())}."
    if len(result.strata) > 1:
        told += f" With both groups in the mix of strata of {other} it is {_gap(*_at_other(result))}."
        mine = result.standardised.iloc[0]
        told += f" In the mix of {reference} it is {_gap(mine['gap'], mine['low'], mine['high'])}."
    return told


def _gap(value: float, low: float, high: float) -> str:
    ends = f" ({span(low, high, signed=True)})" if np.isfinite([low, high]).all() else ""
    return f"{fixed(value, signed=True)}{ends}, {from_zero(low, high)}"


def _covers(*results: NamingBias) -> str:
    """What the intervals are, by the settings of the results."""
    levels = {float(result.config.get("confidence", 0.95)) for result in results}
    if len(levels) > 1:
        return "Intervals are percentile bootstrap intervals over clusters, each at the confidence of its settings."
    return f"Intervals are {100 * levels.pop():g} % percentile bootstrap intervals over clusters. {EXTREMES}"


def forest(result: NamingBias) -> Figure:
    """Every gap of an audit: raw, standardised, and by stratum with most objects first."""
    names = ["raw gap", *(f"at the mix of {mix}" for mix in result.standardised["mix"])]
    values = [result.gap.ends(), *(map(tuple, result.standardised[["gap", "low", "high"]].to_numpy()))]
    looks = [RAW, *[STANDARDISED] * len(result.standardised)]
    if len(result.strata) > 1:
        sizes = result.strata.iloc[:, 1:3].sum(axis=1)
        own = result.strata.loc[sizes.sort_values(ascending=False, kind="stable").index]
        names += [str(one) for one in own["stratum"]]
        values += [tuple(row) for row in own[["gap", "low", "high"]].to_numpy()]
        looks += [WITHIN] * len(own)
    reference, other = result.groups
    return _rows(
        names, np.array(values, dtype=float), looks, f"{other} less {reference}, share of names", "Gaps"
    )


def _rows(names: Sequence[str], values: np.ndarray, looks: Sequence[Look], axis: str, title: str) -> Figure:
    bounds = with_margin(np.append(values.ravel(), 0.0))
    value, low, high = (values[:, k].tolist() for k in range(3))
    return interval_rows(
        names,
        value,
        low,
        high,
        looks,
        bounds=bounds,
        axis=axis,
        title=title,
        label=f"{title}: {axis}, with intervals",
    )


def _chapter(result: NamingBias) -> Iterator[Section]:
    yield Section("Rates", [_rates(result)])
    share = "A group's rate is the mean over its objects of the share of their names that have the outcome."
    yield Section("Gaps", [picture(forest(result), f"{share} {_covers(result)}"), *_standardised(result)])
    if len(result.strata) > 1:
        yield Section("By stratum", [_strata(result)])
    yield Section("Who is there", [_representation(result)])
    yield Section("What could have been found", [_power(result)])
    if len(result.sensitivity):
        yield Section("Other sources of labels", [_sensitivity(result)])
    if len(result.amplification):
        yield Section("Models", list(_models(result)))
    notes = [Text(f"Note: {note}.", "unsure") for note in result.notes]
    rows = result.accounting.set_index("reason")["n_objects"]
    caption = (
        f"{rows['used']} of {rows.sum()} objects are compared; every object that was given has its reason."
    )
    yield Section(
        "Accounting", [Table(result.accounting, caption, {"n_objects": str, "n_tokens": str}), *notes]
    )
    yield settings_section(result.config.items())


def _row(name: str, value: float, low: float, high: float) -> dict[str, str]:
    return {name: fixed(value, signed=True), f"interval: {name}": span(low, high, signed=True)}


def _at_other(result: NamingBias) -> tuple[float, float, float]:
    row = result.standardised.iloc[1]
    return float(row["gap"]), float(row["low"]), float(row["high"])


def _comparison(results: Sequence[NamingBias], labels: Sequence[str]) -> Table:
    rows = [
        {"audit": label, **_row("raw", *one.gap.ends()), **_row("standardised", *_at_other(one))}
        for one, label in zip(results, labels, strict=True)
    ]
    return Table(pd.DataFrame(rows), _covers(*results))


def _rates(result: NamingBias) -> Table:
    rows = [
        {
            "group": row.group,
            "rate": fixed(row.rate),
            "interval": span(row.low, row.high),
            "objects": str(row.n_objects),
            "names": str(row.n_tokens),
        }
        for row in each_row(result.rates)
    ]
    return Table(pd.DataFrame(rows), _covers(result))


def _standardised(result: NamingBias) -> Iterator[Table]:
    rows = [{"gap": "raw", **_row("value", *result.gap.ends()), "p": number(result.gap.p, 2)}]
    for row in each_row(result.standardised):
        rows.append(
            {
                "gap": f"at the mix of {row.mix}",
                **_row("value", row.gap, row.low, row.high),
                "p": number(row.p, 2),
                **_row("composition", row.composition, row.composition_low, row.composition_high),
                "explained": fixed(row.explained, 2),
                "interval: explained": span(row.explained_low, row.explained_high, 2),
                "support": fixed(row.support, 2),
                "objects": str(row.n_objects),
            }
        )
    caption = (
        "A standardised gap is what would be seen if both groups came in one mix of strata. Composition is the raw gap "
        "less it, explained the same as a part of the raw gap; support is the part of the mix in strata with both "
        "groups. p deals group labels out anew, within strata for standardised gaps."
    )
    yield Table(pd.DataFrame(rows), f"{caption} {_covers(result)}")
    names = {
        "odds_ratio": "odds ratio",
        "risk_ratio": "risk ratio",
        "mantel_haenszel": "odds ratio, Mantel-Haenszel",
    }
    names |= {"mantel_haenszel_risk": "risk ratio, Mantel-Haenszel"}
    ratios = [
        {"ratio": title, "value": fixed(one.value), "interval": span(one.low, one.high)}
        for key, title in names.items()
        for one in [getattr(result, key)]
    ]
    reference, other = result.groups
    yield Table(pd.DataFrame(ratios), f"{other} against {reference}.")


def _strata(result: NamingBias) -> Table:
    reference, other = result.groups
    rows = []
    for _, row in result.strata.iterrows():
        sides: dict[str, str] = {}
        for group in (reference, other):
            sides |= {
                f"{group}, objects": str(int(row[f"n_{group}"])),
                f"rate of {group}": fixed(row[f"rate_{group}"]),
                f"interval: {group}": span(row[f"low_{group}"], row[f"high_{group}"]),
            }
        rows.append({"stratum": row["stratum"], **sides, **_row("gap", row["gap"], row["low"], row["high"])})
    return Table(
        pd.DataFrame(rows), f"Intervals of strata with a handful of objects are rough. {_covers(result)}"
    )


def _representation(result: NamingBias) -> Table:
    own = result.representation[result.representation["group"] == result.groups[1]]
    rows = [
        {
            "stratum": r.stratum,
            "objects": str(r.n_objects),
            "share": fixed(r.share),
            "interval": span(r.low, r.high),
        }
        for r in each_row(own)
    ]
    return Table(
        pd.DataFrame(rows), f"The share of {result.groups[1]} among the objects compared (Wilson's interval)."
    )


def _power(result: NamingBias) -> Table:
    caption = "The smallest true gap that such data would show four times in five, by the standard error found here."
    formats = dict.fromkeys(("standard_error", "detectable"), fixed)
    return Table(result.power, caption, formats)


def _sensitivity(result: NamingBias) -> Table:
    rows = [
        {
            "source": row.source,
            "objects": f"{row.n_reference} + {row.n_other}",
            "set aside": str(row.n_aside),
            **_row("raw gap", row.gap, row.low, row.high),
            **_row(
                f"at the mix of {result.groups[1]}",
                row.standardised,
                row.standardised_low,
                row.standardised_high,
            ),
        }
        for row in each_row(result.sensitivity)
    ]
    return Table(pd.DataFrame(rows), f"The same audit with other labels of groups. {_covers(result)}")


def _models(result: NamingBias) -> Iterator[Text | Table | Picture]:
    table = result.amplification
    raw = table[table["gap"] == "raw"]
    ends = raw[["amplification", "amplification_low", "amplification_high"]].to_numpy(dtype=float)
    apart = raw[(ends[:, 1] > 0) | (ends[:, 2] < 0)]["model"].tolist()
    listed = f" ({', '.join(map(str, apart))})" if apart else ""
    yield Text(
        "Amplification is a model's gap less that of the given names of the same objects, with intervals that resample "
        "both together; below zero, where the gap of the given names is below zero, means that the model widens it. "
        f"The raw gap is told apart from that of the given names for {len(apart)} of {len(raw)} models{listed}."
    )
    yield picture(
        _rows(
            list(raw["model"]),
            ends,
            [WIDENS] * len(raw),
            "model's raw gap less that of given names",
            "Amplification",
        ),
        _covers(result),
    )
    rows = [
        {
            "model": row.model,
            "gap": row.gap,
            **_row("given names", row.people, row.people_low, row.people_high),
            **_row("model's", row.model_gap, row.model_low, row.model_high),
            **_row("amplification", row.amplification, row.amplification_low, row.amplification_high),
            "objects": str(row.n_objects),
        }
        for row in each_row(table)
    ]
    yield Table(pd.DataFrame(rows), _covers(result))
    if len(result.misnaming):
        caption = "Members of a group to whom a model gives a name of the other group (Wilson's interval)."
        wrong = [
            {
                "model": r.model,
                "group": r.group,
                "share": fixed(r.rate),
                "interval": span(r.low, r.high),
                "objects": str(r.n_objects),
            }
            for r in each_row(result.misnaming)
        ]
        yield Table(pd.DataFrame(wrong), caption)
