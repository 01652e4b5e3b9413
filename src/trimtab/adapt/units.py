"""Units of evaluation: the groups or records that losses and intervals are over, and where they are few."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from trimtab.data.groups import GROUP
from trimtab.errors import Problem

FEW_UNITS = 30
"""Groups, or records without groups, below which a verdict is marked: an interval over them says little."""
LEAST_GROUPS = 2
"""Groups that an evaluation reads at least: over one there is no standard error."""
_PACKED = "(a packed sequence counts as one)"


class Evaluated(Protocol):
    """What of a `trimtab.adapt.record.RunRecord` is asked here."""

    @property
    def final(self) -> pd.DataFrame:
        """The verdict per evaluation domain."""

    @property
    def data(self) -> pd.DataFrame:
        """What became of the records of each domain and split."""


@dataclass(frozen=True)
class Units:
    """Independent parts that a loss is over: groups, or records where these have none.

    >>> str(Units(1, "group")), str(Units(12, "record"))
    ('1 group', '12 records')
    """

    count: int
    kind: Literal["group", "record"]

    def __str__(self) -> str:
        return f"{self.count} {self.kind}{'s' * (self.count != 1)}"


def units_of(table: pd.DataFrame) -> dict[tuple[str, str], Units]:
    """Units that evaluations read of each domain and split.

    Args:
        table: from `trimtab.adapt.record.data_table`, perhaps of an earlier version.
    """
    read = table[table["read_records"].notna()] if len(table) else table
    units = dict[tuple[str, str], Units]()
    for row in read.to_dict("records"):
        groups = row.get("read_groups", np.nan)
        kind: Literal["group", "record"] = "group" if groups > 0 else "record"
        count = int(groups if groups > 0 else row["read_records"])
        units[str(row["domain"]), str(row["split"])] = Units(count, kind)
    return units


def group_problems(table: pd.DataFrame) -> Iterator[Problem]:
    """Evaluation splits that read a single group, over which there is no standard error.

    Args:
        table: from `trimtab.adapt.record.data_table`.
    """
    for (domain, split), units in units_of(table).items():
        if units.kind == "group" and units.count < LEAST_GROUPS:
            where, hint = f"{domain}, split {split}", f"more groups, or records without {GROUP!r}"
            yield Problem(where, str(units), f"at least {LEAST_GROUPS} groups to judge by", hint)


def few_evaluated(table: pd.DataFrame, set_aside: Collection[str] = ()) -> Iterator[str]:
    """The sentences on evaluation splits with fewer than `FEW_UNITS` units; none where there is no such split.

    Args:
        table: from `trimtab.adapt.record.data_table`.
        set_aside: domains to evaluate only of whose records a part is set aside for training.
    """
    few = {key: units for key, units in units_of(table).items() if units.count < FEW_UNITS}
    if few:
        told = few_note(few)
        if unread := ", ".join(name for name in set_aside if name in {domain for domain, _ in few}):
            told += f" Never trained on, yet most of it is set aside for that: {unread}; try the path in place of a "
            told += "Domain, or fractions=(0, 0.5, 0.5)."
        yield told


def few_note(few: Mapping[tuple[str, str], Units]) -> str:
    """The sentences on what is judged on few units, the same before a run and after it.

    Args:
        few: (domain, split) -> the units that it is judged on.

    >>> few_note({("web", "test"): Units(7, "record")}).partition(". ")[0]
    'Judged on fewer than 30 records (a packed sequence counts as one): web test (7)'
    >>> few_note({("web", "test"): Units(7, "record"), ("plays", "test"): Units(1, "group")}).partition(": ")[2]
    'web test (7 records), plays test (1 group). Their intervals say little about other data of their kind.'
    """
    kinds = {units.kind for units in few.values()}
    what = " or ".join(
        word for kind, word in (("group", "groups"), ("record", f"records {_PACKED}")) if kind in kinds
    )
    counts = {key: str(units if len(kinds) > 1 else units.count) for key, units in few.items()}
    listed = ", ".join(f"{domain} {split} ({count})" for (domain, split), count in counts.items())
    their = "its" if len({domain for domain, _ in few}) == 1 else "their"
    intervals = "interval says" if len(few) == 1 else "intervals say"
    told = f"Judged on fewer than {FEW_UNITS} {what}: {listed}."
    return f"{told} {their.capitalize()} {intervals} little about other data of {their} kind."


def few_units(result: Evaluated) -> dict[tuple[str, str], Units]:
    """The constraints judged on fewer than `FEW_UNITS` units on validation or test, and how many there are."""
    constraints = result.final.loc[result.final["role"] == "constraint", "domain"]
    every = {split: units_read(result, split) for split in ("validation", "test")}
    return {
        (str(name), split): units[name]
        for name in constraints
        for split, units in every.items()
        if name in units and units[name].count < FEW_UNITS
    }


def units_read(result: Evaluated, split: str) -> dict[str, Units]:
    """Per evaluation domain, the units that its losses on a split are over; {} where an earlier version did not say."""
    final = result.final
    read = {domain: units for (domain, part), units in units_of(result.data).items() if part == split}
    if not read and split == "test" and "units" in final:
        return {
            name: Units(int(n), "record") for name, n in zip(final["domain"], final["units"], strict=True)
        }
    return {name: units for name, units in read.items() if name in set(final["domain"])}


def unit_notes(result: Evaluated) -> list[str]:
    """Sentences on intervals over groups of records, and on constraints judged on few units; none without any."""
    few = few_units(result)
    return [note for note in (groups_note(result), few_note(few) if few else "") if note]


def groups_note(result: Evaluated) -> str:
    """The sentence on intervals over groups of test records; "" where no domain has groups."""
    records, groups = records_read(result), groups_read(result, "test")
    counts = {name: f"{Units(records[name], 'record')} in {Units(n, 'group')}" for name, n in groups.items()}
    listed = ", ".join(f"{name} ({count})" for name, count in counts.items())
    return f"Records of a group count as one in the intervals of {listed}." if listed else ""


def few_words(few: Mapping[tuple[str, str], Units], domain: str) -> str:
    """What is added to the verdict on a constraint that is judged on few units; "" for another.

    >>> few_words({("web", "test"): Units(7, "record")}, "web")
    ', on 7 records'
    >>> few_words({("web", "validation"): Units(9, "group")}, "web"), few_words({}, "web")
    (', chosen on 9 groups', '')
    """
    if (domain, "test") in few:
        return f", on {few[domain, 'test']}"
    return f", chosen on {few[domain, 'validation']}" if (domain, "validation") in few else ""


def groups_read(result: Evaluated, split: str) -> dict[str, int]:
    """Per evaluation domain with groups, how many of them evaluations of a split read."""
    return {name: one.count for name, one in units_read(result, split).items() if one.kind == "group"}


def records_read(result: Evaluated) -> dict[str, int]:
    """Per evaluation domain, the test records that its final loss is over; {} where an earlier version did not say."""
    counts = read_counts(result, "test", "read_records")
    return counts or {name: one.count for name, one in units_read(result, "test").items()}


def read_counts(result: Evaluated, split: str, column: str) -> dict[str, int]:
    """Per evaluation domain, a column of `data_table` for a split; empty for a result of an earlier version."""
    if not len(result.data):
        return {}
    rows = result.data[(result.data["split"] == split) & result.data["domain"].isin(result.final["domain"])]
    return {str(name): int(count) for name, count in zip(rows["domain"], rows[column], strict=True)}


def counted(numbers: Mapping[str, int], what: str, groups: Mapping[str, int] | None = None) -> str:
    """The count of something in each domain, and of groups that it is of; one number where all are alike.

    >>> counted({"a": 8, "b": 8}, "test sequences"), counted({"a": 8, "b": 5}, "test sequences")
    ('n = 8 test sequences per domain', 'n test sequences: 8 of a, 5 of b')
    >>> counted({"a": 8}, "test sequences", {"a": 3}), counted({"a": 8, "b": 8}, "test sequences", {"a": 3})
    ('n = 8 test sequences of 3 groups per domain', 'n test sequences: 8 of a (3 groups), 8 of b')
    """
    of = {name: str(Units(number, "group")) for name, number in (groups or {}).items() if name in numbers}
    if len({(number, of.get(name)) for name, number in numbers.items()}) == 1:
        name, number = next(iter(numbers.items()))
        return f"n = {number} {what}{f' of {of[name]}' if of else ''} per domain"
    parts = (
        f"{number} of {name}{f' ({of[name]})' if name in of else ''}" for name, number in numbers.items()
    )
    return f"n {what}: {', '.join(parts)}"
