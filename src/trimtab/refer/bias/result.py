"""Result of a naming-bias audit: its numbers, and its page.

The page shows the gaps as a forest, what they are made of, and what was set aside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.data.naming import each_row
from trimtab.job import Result
from trimtab.refer.bias.objects import POOLED
from trimtab.report.figures import PALETTE, with_margin
from trimtab.report.formats import estimate, fixed, from_zero, number, span
from trimtab.report.intervals import Look, Part, interval_rows, waterfall
from trimtab.report.page import (
    Gallery,
    Picture,
    Section,
    Table,
    Text,
    gallery,
    picture,
    settings_section,
    written,
)
from trimtab.report.text import plain_table
from trimtab.runs.serialise import checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXTREMES = "A rate of 0 or 1 has Wilson's interval, and a gap with such a rate Newcombe's."
RAW = Look("raw", PALETTE[0], "o")
STANDARDISED = Look("at a common mix of strata", PALETTE[4], "s")
WITHIN = Look("within one stratum", PALETTE[6], "^", filled=False)
WIDENS = Look("model less given names", PALETTE[2], "D")
PART_COLOURS = {"raw gap": PALETTE[0], "composition": PALETTE[1], "rest": PALETTE[4]}
GAP, RATE = ("gap", "low", "high", "+.3"), ("rate", "low", "high", ".3")


@dataclass(frozen=True)
class Estimate:
    """Estimate of a statistic with its confidence interval.

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
        """Value and the two ends of the interval."""
        return self.value, self.low, self.high


@dataclass(frozen=True, kw_only=True, repr=False)
class NamingBias(Result):
    """Result of a naming-bias audit. Gaps are the other group minus the reference, in shares of names.

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
        sensitivity: by source of labels: what other sources would have said; empty when there is one source.
        amplification, misnaming: of models beside people (see `models.Amplification`); empty without models.
    """

    label: str = "naming bias"
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
    sensitivity: pd.DataFrame = field(default_factory=pd.DataFrame)
    amplification: pd.DataFrame = field(default_factory=pd.DataFrame)
    misnaming: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def groups(self) -> tuple[str, str]:
        """The reference and the other group."""
        reference, other = self.rates["group"]
        return str(reference), str(other)

    def to_frame(self) -> pd.DataFrame:
        """Gaps in one frame: columns gap, value, low, high, p."""
        gaps = self._gaps()[["mix", "gap", "low", "high", "p"]]
        return gaps.set_axis(["gap", "value", "low", "high", "p"], axis=1)

    def headline(self) -> dict[str, str]:
        """The raw gap, and the one with both groups at the other group's mix of strata."""
        at = self.standardised.iloc[1]
        gaps = {"gap": self.gap.ends(), "standardised": (at["gap"], at["low"], at["high"])}
        return {name: estimate(*ends, signed=True) for name, ends in gaps.items()}

    def _gaps(self) -> pd.DataFrame:
        """The raw gap, then the standardised ones, by what each is called."""
        at = self.standardised.assign(mix=[f"at the mix of {mix}" for mix in self.standardised["mix"]])
        gap = self.gap
        raw = {"mix": "raw", "gap": gap.value, "low": gap.low, "high": gap.high, "p": gap.p}
        return pd.concat([pd.DataFrame([raw]), at], ignore_index=True)

    def decomposition(self) -> pd.DataFrame:
        """Raw gap in two parts that add up to it, at each mix of strata (Kitagawa 1955).

        Columns mix, part ("raw gap", "composition", "rest": the standardised gap), value, low, high; three rows a mix.
        """
        rows = []
        for row in each_row(self.standardised):
            composition = row.composition, row.composition_low, row.composition_high
            rows.append((row.mix, "raw gap", *self.gap.ends()))
            rows.append((row.mix, "composition", *composition))
            rows.append((row.mix, "rest", row.gap, row.low, row.high))
        return pd.DataFrame(rows, columns=["mix", "part", "value", "low", "high"])

    def figure(self) -> Figure:
        """Forest plot of the gaps: raw, standardised, and by stratum with most objects first."""
        gaps = self._gaps().replace({"mix": {"raw": "raw gap"}}).rename(columns={"mix": "stratum"})
        looks = [RAW, *[STANDARDISED] * len(self.standardised)]
        sides = " + ".join(str(int(n)) for n in self.rates["n_objects"])
        numbers = [sides, *(str(int(n)) for n in self.standardised["n_objects"])]
        if len(self.strata) > 1:
            sizes = self.strata.iloc[:, 1:3].sum(axis=1).sort_values(ascending=False, kind="stable")
            within = self.strata.loc[sizes.index]
            gaps = pd.concat([gaps, within])
            looks += [WITHIN] * len(self.strata)
            numbers += [f"{n} + {m}" for n, m in within.iloc[:, 1:3].to_numpy(dtype=int)]
        reference, other = self.groups
        gaps = gaps.rename(columns={"stratum": "name"})
        return _forest(gaps, looks, f"{other} less {reference}, share of names", "Gaps", numbers)

    def values(self) -> dict[str, Any]:
        """Fields of the result, estimates marked as such."""
        marked = {name: {"estimate": vars(it)} for name, it in vars(self).items() if isinstance(it, Estimate)}
        return super().values() | marked

    @classmethod
    def from_values(cls, values: dict[str, Any], folder: Path) -> NamingBias:  # noqa: ARG003
        """The inverse of `values`; a missing number is nan."""
        for name, value in values.items():
            if isinstance(value, dict) and set(value) == {"estimate"}:
                parts = value["estimate"].items()
                numbers: dict[str, Any] = {key: float("nan") if it is None else it for key, it in parts}
                values[name] = Estimate(**numbers)
            elif isinstance(value, list):
                values[name] = tuple(value)
        return checked(cls, values)

    def to_text(self) -> str:
        """Gaps, what they say, what was set aside, and what a reader should know, as plain text."""
        accounting = plain_table(self.accounting)
        return "\n\n".join([super().to_text(), accounting, *(f"note: {note}" for note in self.notes)])

    def summary(self) -> str:
        """Rates and gaps in three sentences at most; a gap is one where its interval leaves 0 out."""
        reference, other = self.groups
        rates = each_row(self.rates)
        sides = [f"{fixed(it.rate)} of names for {it.group} ({it.n_objects} objects)" for it in rates]
        raw, *at = [
            f"{fixed(row.gap, signed=True)}{ends}, {from_zero(row.low, row.high)}"
            for row in each_row(self._gaps())
            for ends in [
                f" ({span(row.low, row.high, signed=True)})" if np.isfinite([row.low, row.high]).all() else ""
            ]
        ]
        text = f"{sides[0]} against {sides[1]}, objects weighing the same: a gap of {raw}."
        if len(self.strata) > 1:
            text += f" With both groups in the mix of strata of {other} it is {at[1]}."
            text += f" In the mix of {reference} it is {at[0]}."
        return text

    @classmethod
    def compared(cls, results: Sequence[NamingBias], labels: Sequence[str]) -> Iterator[Section]:
        """Comparison of audits: the raw and the standardised gap of each."""
        rows = []
        for label, one in zip(labels, results, strict=True):
            at_other = one.standardised.iloc[1]
            ends = {"raw": one.gap.value, "raw_low": one.gap.low, "raw_high": one.gap.high}
            rows.append({"audit": label, **ends, **at_other[["gap", "low", "high"]]})
        headings = {"audit": "audit", "raw": ("raw", "raw_low", "raw_high", "+.3"), "standardised": GAP}
        yield Section("Compared", [Table(written(pd.DataFrame(rows), headings), _covers(*results))])

    def sections(self) -> Iterator[Section]:
        """Sections of the page: rates, gaps, strata, representation, power, other labels, models, accounting."""
        covers, other = _covers(self), self.groups[1]
        headings = {"group": "group", "rate": RATE, "objects": "n_objects", "names": "n_tokens"}
        yield Section("Rates", [Table(written(self.rates, headings), covers)])
        rate = (
            "A group's rate is the mean over its objects of the share of their names that have the outcome. At the "
            f"right: objects, {self.groups[0]} + {other}; of a common mix, its objects in strata with both groups."
        )
        parts = [_waterfalls(self)] if len(self.strata) > 1 else []
        yield Section("Gaps", [picture(self.figure(), f"{rate} {covers}"), *parts, *_gap_tables(self)])
        if len(self.strata) > 1:
            sides: dict[str, Sequence[str]] = {"stratum": "stratum"}
            for group in self.groups:
                sides[f"{group}, objects"] = f"n_{group}"
                sides[f"rate of {group}"] = (f"rate_{group}", f"low_{group}", f"high_{group}", ".3")
            caption = f"Intervals of strata with a handful of objects are rough. {covers}"
            yield Section("By stratum", [Table(written(self.strata, sides | {"gap": GAP}), caption)])
        members = self.representation[self.representation["group"] == other]
        headings = {"stratum": "stratum", "objects": "n_objects", "share": ("share", "low", "high", ".3")}
        caption = f"The share of {other} among the objects compared (Wilson's interval)."
        yield Section("Who is there", [Table(written(members, headings), caption)])
        power = self.power.rename(columns={"standard_error": "standard error"})
        formats = dict.fromkeys(("standard error", "detectable"), fixed)
        caption = "The smallest true gap that such data would show four times in five"
        table = Table(power, f"{caption}, by the standard error found here.", formats)
        yield Section("What could have been found", [table])
        yield from _other_labels_and_models(self)
        notes = [Text(f"Note: {note}.", "unsure") for note in self.notes]
        counts = self.accounting.set_index("reason")["n_objects"]
        compared = f"{counts['used']} of {counts.sum()} objects are compared"
        accounting = self.accounting.rename(columns={"n_objects": "objects", "n_tokens": "names"})
        table = Table(accounting, f"{compared}; every object that was given has its reason.")
        yield Section("Accounting", [table, *notes])
        yield settings_section(self.config.items())


def _covers(*results: NamingBias) -> str:
    """Caption of intervals, by the settings of the results."""
    levels = {float(result.config.get("confidence", 0.95)) for result in results}
    if len(levels) > 1:
        return "Intervals are percentile bootstrap intervals over clusters, each at the confidence of its settings."
    return f"Intervals are {100 * levels.pop():g} % percentile bootstrap intervals over clusters. {EXTREMES}"


def _forest(
    gaps: pd.DataFrame, looks: Sequence[Look], axis: str, title: str, numbers: Sequence[str]
) -> Figure:
    """Forest plot of gaps with their intervals (columns name, gap, low, high), and the objects behind each."""
    ends = gaps[["gap", "low", "high"]].to_numpy(dtype=float)
    names, (value, low, high) = [str(name) for name in gaps["name"]], ends.T.tolist()
    bounds, label = with_margin(np.append(ends.ravel(), 0.0)), f"{title}: {axis}, with intervals"
    return interval_rows(
        names,
        value,
        low,
        high,
        looks,
        bounds=bounds,
        notes=numbers,
        notes_name="objects",
        axis=axis,
        title=title,
        label=label,
    )


def waterfall_figures(result: NamingBias) -> list[Figure]:
    """Waterfall of the decomposition at each mix, all on one axis: the raw gap, its composition, and the rest."""
    table, (reference, other) = result.decomposition(), result.groups
    starts = table["value"].shift().where(table["part"] == "rest", 0.0)
    bounds = with_margin(*(table[end] + starts for end in ("value", "low", "high")), [0.0])
    drawn = []
    for mix, rows in table.groupby("mix", sort=False):
        total, *parts = (
            Part(row.part, row.value, row.low, row.high, PART_COLOURS[row.part]) for row in each_row(rows)
        )
        title, axis = f"At the mix of {_mix(str(mix))}", f"{other} less {reference}"
        label = f"Raw gap, its composition and the rest at the mix of {_mix(str(mix))}"
        drawn.append(waterfall(total, parts, bounds=bounds, axis=axis, title=title, label=label))
    return drawn


def _mix(mix: str) -> str:
    return "both groups together" if mix == POOLED else mix


def _waterfalls(result: NamingBias) -> Gallery:
    """Waterfalls, and what composition holds besides where strata have one group only."""
    lacking = result.standardised[result.standardised["support"] < 1]
    others = "; ".join(
        f"{fixed(1 - row.support, 2)} of the mix of {_mix(row.mix)}" for row in each_row(lacking)
    )
    alone = f" Strata with one group only count as composition: {others}." if others else ""
    return gallery(
        waterfall_figures(result),
        "Composition is what the groups' mixes of strata account for; the rest is the standardised gap. "
        f"Both add up to the raw gap.{alone} An upright line is the interval of its bar, at the bar's end.",
    )


def _gap_tables(result: NamingBias) -> Iterator[Table]:
    headings: dict[str, Sequence[str]] = {"gap": "mix", "value": GAP, "p": "p"}
    for name, form in (("composition", "+.3"), ("explained", ".2")):
        headings[name] = (name, f"{name}_low", f"{name}_high", form)
    headings |= {"support": ("support", ".2"), "objects": ("n_objects", ".0")}
    caption = (
        "A standardised gap is what would be seen if both groups came in one mix of strata. Composition is the raw gap "
        "less it, explained the same as a part of the raw gap; support is the part of the mix in strata with both "
        "groups. p deals group labels out anew, within strata for standardised gaps."
    )
    frame = written(result._gaps(), headings)
    yield Table(frame, f"{caption} {_covers(result)}", {"p": lambda p: number(p, 2)})
    ratios = {"odds ratio": result.odds_ratio, "risk ratio": result.risk_ratio}
    ratios["odds ratio, Mantel-Haenszel"] = result.mantel_haenszel
    ratios["risk ratio, Mantel-Haenszel"] = result.mantel_haenszel_risk
    rows = pd.DataFrame([{"ratio": name, **asdict(ratio)} for name, ratio in ratios.items()])
    reference, other = result.groups
    frame = written(rows, {"ratio": "ratio", "value": ("value", "low", "high", ".3")})
    yield Table(frame, f"{other} against {reference}.")


def _other_labels_and_models(result: NamingBias) -> Iterator[Section]:
    covers = _covers(result)
    if len(result.sensitivity):
        sizes = [f"{row.n_reference} + {row.n_other}" for row in each_row(result.sensitivity)]
        headings = {"source": "source", "objects": "objects", "set aside": "n_aside", "raw gap": GAP}
        at = ("standardised", "standardised_low", "standardised_high", "+.3")
        headings |= {f"at the mix of {result.groups[1]}": at}
        caption = f"The same audit with other labels of groups. {covers}"
        table = Table(written(result.sensitivity.assign(objects=sizes), headings), caption)
        yield Section("Other sources of labels", [table])
    if not len(result.amplification):
        return
    raw = result.amplification[result.amplification["gap"] == "raw"]
    ends = ["amplification", "amplification_low", "amplification_high"]
    widening = raw[["model", *ends]].set_axis(["name", "gap", "low", "high"], axis=1)
    apart = widening[(widening["low"] > 0) | (widening["high"] < 0)]["name"].tolist()
    listed = f" ({', '.join(map(str, apart))})" if apart else ""
    text = Text(
        "Amplification is a model's gap less that of the given names of the same objects, with intervals that resample "
        "both together; below zero, where the gap of the given names is below zero, means that the model widens it. "
        f"The raw gap is distinguishable from that of the given names for {len(apart)} of {len(raw)} models{listed}."
    )
    axis = "model's raw gap less that of given names"
    numbers = [str(int(n)) for n in raw["n_objects"]]
    drawn = _forest(widening, [WIDENS] * len(raw), axis, "Amplification", numbers)
    headings = {"model": "model", "gap": "gap", "given names": ("people", "people_low", "people_high", "+.3")}
    headings |= {"model's": ("model_gap", "model_low", "model_high", "+.3"), "amplification": (*ends, "+.3")}
    gaps = written(result.amplification, headings | {"objects": "n_objects"})
    blocks: list[Text | Table | Picture] = [text, picture(drawn), Table(gaps, covers)]
    if len(result.misnaming):
        headings = {"model": "model", "group": "group", "share": RATE, "objects": "n_objects"}
        caption = "Members of a group to whom a model gives a name of the other group (Wilson's interval)."
        blocks.append(Table(written(result.misnaming, headings), caption))
    yield Section("Models", blocks)
