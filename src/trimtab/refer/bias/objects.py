"""Objects of naming rows: one share, one group, one stratum and one cluster each, and an accounting of the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trimtab.data import tables
from trimtab.data.naming import known_names
from trimtab.data.tables import Label
from trimtab.data.wordlist import MIXED, UNKNOWN
from trimtab.errors import DataError, explain, nearest

Outcome = str | Callable[[str], bool]
USED, ASIDE = "used", "names that were not asked about, of objects used"
ALL = "all"
POOLED = "pooled"
"""The mix of strata of both groups together."""


@dataclass(frozen=True)
class Columns:
    """Column names of naming rows; None for what is not there."""

    object: str
    group: str
    strata: str | None = None
    cluster: str | None = None
    weight: str | None = None
    name: str = "name"

    def given(self) -> list[str]:
        """Names of the columns that must be there."""
        return [c for c in (self.object, self.group, self.strata, self.cluster, self.weight) if c is not None]


@dataclass(frozen=True)
class Objects:
    """Objects that are compared, their groups and strata, and the accounting of all that were given.

    Attributes:
        table: by object: share (of its names that have the outcome), tokens, group (0 reference, 1 other), stratum (a
            number), cluster (a number).
        groups: labels of the reference and of the other group.
        strata: names of the strata, in the order of their numbers.
        accounting: columns reason, n_objects, n_tokens; adds up to what was given.
        notes: what a reader should know about the data.
    """

    table: pd.DataFrame
    groups: tuple[str, str]
    strata: tuple[str, ...]
    accounting: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def cells(self) -> np.ndarray:
        """Cell number of each object: strata of the reference first, then those of the other group."""
        return np.asarray(self.table["group"] * len(self.strata) + self.table["stratum"])


def objects_of(
    frame: pd.DataFrame,
    columns: Columns,
    outcome: Outcome,
    reference: Label,
    among: Callable[[str], bool] | None = None,
) -> Objects:
    """Objects of naming rows. Labels of any type are texts from here on: 0, 0.0, "0" and False, "False" are alike.

    Args:
        frame: one row per object and name.
        columns: which column holds what.
        outcome: a boolean column, or a function of names.
        reference: the label of the reference group.
        among: which names count at all; None: every name.

    Raises:
        DataError: a column is missing or there twice, a count is wrong or all are 0, an outcome is not yes or no or
            is a function that says yes to every name, an object in several clusters, a group without members.
    """
    tables.check_columns(frame, columns.given())
    if frame.empty:
        raise DataError(explain("no rows", "at least one object with a name"))
    tables.check_known(frame, columns.object)
    counts = tables.whole_counts(frame, columns.weight)
    if not counts.any():
        got = f"no count above 0 in {columns.weight!r}"
        raise DataError(explain(got, "at least one name that was given"))
    yes = outcomes_of(frame, outcome, columns.name)
    counted = pd.Series(True, index=frame.index)
    if among is not None:
        tables.check_columns(frame, [columns.name])
        names = known_names(frame, columns.name)
        counted = names.map({one: bool(among(one)) for one in names.unique()}).astype(bool)
    objects = tables.labels(frame[columns.object])

    def sums(of: pd.Series[Any]) -> pd.Series[Any]:
        return of.groupby(objects, sort=False).sum()

    table = pd.DataFrame({"given": sums(counts), "tokens": sums(counts.where(counted, 0))})
    table["share"] = sums(counts.where(counted & yes, 0)) / table["tokens"].where(table["tokens"] > 0)
    table["reason"] = USED
    table["label"] = _labels(objects, tables.labels(frame[columns.group]), "group", table)
    table["place"] = (
        _labels(objects, tables.labels(frame[columns.strata]), "stratum", table) if columns.strata else ALL
    )
    table.loc[(table["reason"] == USED) & (table["tokens"] == 0), "reason"] = "no names"
    table["cluster"] = _clusters(objects, frame, columns, table)
    groups = _two_groups(table, reference)
    table.loc[(table["reason"] == USED) & ~table["label"].isin(groups), "reason"] = "another group"
    used = table[table["reason"] == USED]
    strata = tuple(sorted(used["place"].unique()))
    numbered = used[["share", "tokens", "cluster"]].assign(
        share=used["share"].astype(float),
        group=(used["label"] == groups[1]).astype(int),
        stratum=pd.Categorical(used["place"], categories=strata).codes.astype(int),
    )
    notes = _notes(table, numbered, strata, bool(columns.strata))
    return Objects(numbered, groups, strata, _accounting(table), notes)


def outcomes_of(frame: pd.DataFrame, outcome: Outcome, name: str) -> pd.Series[bool]:
    """Outcome of each row, by a column of true and false, or 1 and 0, or by a function of names."""
    if isinstance(outcome, str):
        tables.check_columns(frame, [outcome])
        texts = tables.labels(frame[outcome])
        truth = {"true": True, "1": True, "false": False, "0": False}
        yes = texts.map({text: truth.get((text or "").lower()) for text in texts.unique()})
        if yes.isna().any():
            row = yes.isna().idxmax()
            value = frame[outcome][yes.isna()].iloc[0]
            got = f"{tables.show(value)} in row {row!r} ({int(yes.isna().sum())} such rows) in column {outcome!r}"
            expected = "true or false (or 1 or 0) in every row"
            raise DataError(explain(got, expected, "a word list or a function of names"))
        return yes.astype(bool)
    tables.check_columns(frame, [name])
    names = known_names(frame, name)
    said = {one: bool(outcome(one)) for one in names.unique()}
    if len(said) > 1 and all(said.values()):
        got = f"an outcome that says yes to each of the {len(said)} names"
        raise DataError(explain(got, "one that tells names apart", "a narrower word list or expression"))
    return names.map(said).astype(bool)


def _labels(objects: pd.Series[Any], given: pd.Series[Any], what: str, table: pd.DataFrame) -> pd.Series[Any]:
    """Label of each object; where there is none, several or "mixed", the table's reason says so."""
    labels = given.where(given != UNKNOWN)
    pairs = pd.DataFrame({"object": objects, "label": labels}).dropna().drop_duplicates()
    several = pairs["object"].value_counts().reindex(table.index, fill_value=0)
    label = pairs.drop_duplicates("object").set_index("object")["label"].reindex(table.index)
    free = table["reason"] == USED
    table.loc[free & (several == 0), "reason"] = f"unknown {what}"
    table.loc[free & (label == MIXED) & (several == 1), "reason"] = f"mixed {what}"
    table.loc[free & (several > 1), "reason"] = f"{what} labels that disagree"
    return label.astype(object).where(label.notna(), None)


def _clusters(
    objects: pd.Series[Any], frame: pd.DataFrame, columns: Columns, table: pd.DataFrame
) -> np.ndarray:
    if columns.cluster is None:
        return np.arange(len(table))
    tables.check_known(frame, columns.cluster)
    pairs = pd.DataFrame(
        {"object": objects, "cluster": tables.labels(frame[columns.cluster])}
    ).drop_duplicates()
    twice = pairs["object"][pairs["object"].duplicated()]
    if len(twice):
        got = f"object {twice.iloc[0]} in several clusters ({twice.nunique()} such objects)"
        raise DataError(explain(got, "one cluster per object"))
    clusters = pairs.set_index("object")["cluster"].reindex(table.index)
    return pd.factorize(clusters)[0]


def _two_groups(table: pd.DataFrame, reference: Label) -> tuple[str, str]:
    used = table[table["reason"] == USED]
    sizes = used["label"].value_counts()
    first = tables.find_label(reference, sizes.index)
    if first is None:
        there = [str(one) for one in sizes.index]
        got = f"no members of the reference group {reference!r}"
        hint = nearest(tables.label_text(reference), there)
        raise DataError(explain(got, f"one of the groups {there[:12]} with members", hint))
    others = [one for one in sizes.index if one != first]
    if not others:
        got = f"no members of another group than {first!r}"
        raise DataError(explain(got, "two groups with members", "another source of labels"))
    if POOLED in (first, others[0]):
        expected = "another name: it stands for the mix of strata of both groups together"
        raise DataError(explain(f"a group {POOLED!r}", expected, "renaming the group"))
    return first, str(others[0])


def _accounting(table: pd.DataFrame) -> pd.DataFrame:
    reasons = table.groupby("reason", sort=False)["given"].agg(["size", "sum"])
    order = [USED, *sorted(reason for reason in reasons.index if reason != USED)]
    rows = [(reason, *map(int, reasons.loc[reason])) for reason in order]
    used = table[table["reason"] == USED]
    aside = int((used["given"] - used["tokens"]).sum())
    if aside:
        rows[0] = (USED, rows[0][1], rows[0][2] - aside)
        rows.append((ASIDE, 0, aside))
    return pd.DataFrame(rows, columns=["reason", "n_objects", "n_tokens"])


def _notes(
    table: pd.DataFrame, used: pd.DataFrame, strata: tuple[str, ...], stratified: bool
) -> tuple[str, ...]:
    notes = []
    if len(strata) == 1:
        cause = f"the only stratum is {strata[0]!r}" if stratified else "no strata were given"
        notes.append(f"{cause}: standardised gaps are the raw gap, and nothing can be said about composition")
    held = used.groupby("stratum")["group"].nunique()
    lonely = [strata[place] for place in held.index[held == 1]]
    if lonely and len(strata) > 1:
        notes.append(f"strata with one group only, left out of standardised gaps: {', '.join(lonely)}")
    other = table.loc[table["reason"] == "another group", "label"]
    if len(other):
        notes.append(f"groups that were not compared: {', '.join(sorted(other.unique()))}")
    if used["share"].min() == used["share"].max():
        notes.append(f"every object has the same share, {used['share'].iloc[0]:g}: there is no gap to find")
    return tuple(notes)
