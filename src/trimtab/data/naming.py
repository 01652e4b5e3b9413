"""Naming data: which names were given to which referents, how often, and by whom or in which situation."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from trimtab.data.tables import check_columns, check_known, label_text, labels, read_table, show, whole_counts
from trimtab.errors import DataError, explain
from trimtab.runs.brief import one_line

COLUMNS = ("referent", "name")
CELLS_AT_MOST = 400_000_000
"""Numbers that a table of referents by names, or by referents, may have."""
SIZE_AT_MOST = 1e100
_LIKE_COUNTS = re.compile("n|freq(uency)?|weight|.*count.*", re.DOTALL)
_PACKED_COUNTS = re.compile(r"""\s*(?:\{\s*\}|\{.*["']\s*:\s*[-+.\d].*\}|\[\s*["'{\[].*\])\s*""", re.DOTALL)


@dataclass(frozen=True)
class NamingCounts:
    """Naming counts: how often each name was given to each referent.

    Attributes:
        table: columns referent, name, count, and whatever else describes a row: context, target, speaker, group,
            language. Rows that agree in all of these may repeat; their counts add. Names are texts.
    """

    table: pd.DataFrame

    def __repr__(self) -> str:
        sizes = f"{self.total} names given, {len(self.names)} different"
        return one_line("NamingCounts", sizes, f"{len(self.referents)} referents")

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> NamingCounts:
        """Counts from a frame with columns referent, name and count; other columns are kept as they are.

        A frame of trials, without a column of counts, counts 1 per row.

        Raises:
            DataError: no rows, a column, referent or name is missing, a name that is a list of names with counts, no
                count but a column that is named much like one, or a count that `whole_counts` refuses or none above 0.

        >>> counts = NamingCounts.from_frame(pd.DataFrame({"referent": [1, 1], "name": ["a", "b"], "count": [2, 1]}))
        >>> counts.total, counts.names
        (3, ['a', 'b'])
        >>> NamingCounts.from_frame(pd.DataFrame({"referent": [1, 1], "name": ["a", "a"]})).total
        2
        """
        check_columns(frame, COLUMNS)
        weight = counts_column(frame.columns)
        if frame.empty:
            raise DataError(explain("no rows", "at least one referent with a name"))
        check_known(frame, "referent")
        referents, types = frame["referent"], pd.api.types
        if types.is_float_dtype(referents.dtype):
            numbers = referents.astype(float)
            whole = ((numbers % 1 == 0) & (numbers.abs() < 2**53)).all()
            referents = numbers.astype(np.int64) if whole else referents
        elif not types.is_bool_dtype(referents.dtype) and not types.is_integer_dtype(referents.dtype):
            # As texts, so that 1 and "1" of one column are one.
            referents = labels(referents, strip=False)
        names, counts = known_names(frame, "name"), whole_counts(frame, weight)
        if not counts.any():
            raise DataError(explain("no count above 0", "at least one name that was given"))
        return cls(frame.assign(referent=referents, name=names, count=counts))

    @classmethod
    def read(cls, path: str | Path) -> NamingCounts:
        """Counts from a CSV (also .tsv, also .gz) or Parquet file; see `from_frame`."""
        return cls.from_frame(read_table(path))

    @property
    def total(self) -> int:
        """Sum of all counts: how many names were given."""
        return int(self.table["count"].sum())

    @property
    def referents(self) -> list[Any]:
        """The referents that were named, sorted where they can be."""
        return _sorted(self.table.loc[self.table["count"] > 0, "referent"])

    @property
    def names(self) -> list[str]:
        """The names that were given, sorted."""
        return _sorted(self.table.loc[self.table["count"] > 0, "name"])

    def matrix(self, referents: list[Any] | None = None) -> Int[np.ndarray, "referents names"]:
        """Counts as a matrix, rows as in `referents` (default: all), columns as in `names`.

        Raises:
            DataError: there are too many of them to hold.
        """
        wanted = self.referents if referents is None else referents
        check_cells(len(wanted), len(self.names), "names")
        rows = self.table[self.table["count"] > 0]
        wide = rows.pivot_table(index="referent", columns="name", values="count", aggfunc="sum", fill_value=0)
        return wide.reindex(index=wanted, columns=self.names, fill_value=0).to_numpy(dtype=np.int64)

    def features_of(self, features: pd.DataFrame) -> Float[np.ndarray, "referents d"]:
        """The features of the referents that were named, in their order; 1, 1.0 and "1" are one referent.

        Raises:
            DataError: no feature, a referent without features or with several, a value that is not a finite number, or
                colours that are not on the scale their column names promise (L, a, b: lightness 0 to 100).
        """
        check_columns(features, [])
        if not len(features.columns):
            raise DataError(explain("no column of features", "at least one beside the referent"))
        index = labels(pd.Series(features.index.to_list(), dtype=object))
        if index.duplicated().any():
            twice = features.index[int(index.duplicated().argmax())]
            raise DataError(explain(f"referent {show(twice)} twice in the features", "one row per referent"))
        places = {text: place for place, text in enumerate(index)}
        wanted = {one: places.get(label_text(one)) for one in self.referents}
        if missing := [one for one, place in wanted.items() if place is None]:
            got = f"{len(missing)} referents without features ({', '.join(map(show, missing[:3]))}, ...)"
            raise DataError(explain(got, "a row of features for each referent that was named"))
        rows = features.iloc[[place for place in wanted.values() if place is not None]]
        try:
            values = rows.to_numpy(dtype=float)
        except (TypeError, ValueError):
            got = f"features of types {set(map(str, features.dtypes))}"
            raise DataError(explain(got, "numbers")) from None
        wrong = ~np.isfinite(values) | (np.abs(values) > SIZE_AT_MOST)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            place = f"{str(features.columns[column])!r} of referent {show(list(wanted)[row])}"
            got = f"{values[row, column]:g} in {place} ({int(wrong.sum())} features that are not finite)"
            raise DataError(explain(got, "numbers up to 1e100"))
        if is_lab(features):
            check_colours(values)
        return values


def check_cells(rows: int, columns: int, what: str) -> None:
    """Refuse a table of referents with more than `CELLS_AT_MOST` cells."""
    if rows * columns > CELLS_AT_MOST:
        got = f"{rows:,} referents by {columns:,} {what}"
        raise DataError(explain(got, f"at most {CELLS_AT_MOST:,} cells", "bins of referents that are alike"))


def known_names(frame: pd.DataFrame, column: str) -> pd.Series[Any]:
    """A column of names as texts.

    Raises:
        DataError: a name is missing or blank, or is a list of names with their counts.
    """
    check_known(frame, column)
    names = labels(frame[column], strip=False)
    packed = next((one for one in names.unique() if _PACKED_COUNTS.fullmatch(one)), None)
    if packed is not None:
        got = f"the name {show(packed)}, which holds names with their counts"
        hint = "json.loads of each cell, and a row for each of its names"
        raise DataError(explain(got, "one name per row, its count in a column of its own", hint))
    return names


def counts_column(columns: Iterable[Hashable]) -> str | None:
    """The column of counts among those of a table; None where its rows are trials, each of which counts 1.

    Raises:
        DataError: there is none, but one that is called much like it, whose counts would be ignored silently.
    """
    there = [str(one) for one in columns]
    if "count" in there:
        return "count"
    if like := [one for one in there if _LIKE_COUNTS.fullmatch(one.lower())]:
        expected = f"one of {there[:12]}, or none for 1 per row"
        raise DataError(explain("no column 'count'", expected, f"{like[0]!r} under the name 'count'"))
    return None


def is_lab(features: pd.DataFrame) -> bool:
    """Whether the columns are CIELAB coordinates by name."""
    return [str(column) for column in features.columns] in (["L", "a", "b"], ["L*", "a*", "b*"])


def check_colours(values: Float[np.ndarray, "referents 3"]) -> None:
    """Refuse CIELAB values on another scale, as when they were divided by 100 or 255."""
    lightness, rest = values[:, 0], np.abs(values[:, 1:])
    if lightness.min() < 0 or lightness.max() > 100.5 or rest.max() > 200:
        got = f"L from {lightness.min():.3g} to {lightness.max():.3g}, a and b up to {rest.max():.3g}"
        raise DataError(explain(got, "CIELAB: L in [0, 100], a and b within ±200"))
    if len(values) > 1 and lightness.max() <= 1 and rest.max() <= 1.5:
        hint = "multiplying back what was divided"
        raise DataError(explain("L, a and b all within 1.5", "CIELAB: L in [0, 100]", hint))


def each_row(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows of a frame, their values by column name."""
    return iter(frame.itertuples(index=False))


def _sorted(values: pd.Series[Any]) -> list[Any]:
    distinct = values.unique().tolist()
    try:
        return sorted(distinct)
    except TypeError:
        return distinct
