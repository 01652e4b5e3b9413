"""Naming data: which names were given to which referents, how often, and by whom or in which situation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from trimtab.data.wordlist import check_columns
from trimtab.errors import DataError, explain
from trimtab.runs.places import neighbour

COLUMNS = ("referent", "name", "count")


@dataclass(frozen=True)
class NamingCounts:
    """How often each name was given to each referent.

    Attributes:
        table: columns referent, name, count, and whatever else describes a row: context, target, speaker, group,
            language. Rows that agree in all of these may repeat; their counts add.
    """

    table: pd.DataFrame

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> NamingCounts:
        """Counts from a frame with columns referent, name and count; other columns are kept as they are.

        Raises:
            DataError: no rows, a column, referent or name is missing, or a count is negative or fractional.

        >>> counts = NamingCounts.from_frame(pd.DataFrame({"referent": [1, 1], "name": ["a", "b"], "count": [2, 1]}))
        >>> counts.total, counts.names
        (3, ['a', 'b'])
        """
        check_columns(frame, COLUMNS)
        if frame.empty:
            raise DataError(explain("no rows", "at least one referent with a name"))
        for column in ("referent", "name"):
            check_known(frame, column)
        return cls(frame.assign(count=whole_counts(frame, "count")))

    @classmethod
    def read(cls, path: str | Path) -> NamingCounts:
        """Counts from a CSV (also .tsv, also .gz) or Parquet file; see `from_frame`."""
        return cls.from_frame(read_table(path))

    @property
    def total(self) -> int:
        """How many names were given in all."""
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
        """Counts as a matrix, rows as in `referents` (default: all), columns as in `names`."""
        wanted = self.referents if referents is None else referents
        given = self.table[self.table["count"] > 0]
        wide = given.pivot_table(
            index="referent", columns="name", values="count", aggfunc="sum", fill_value=0
        )
        return wide.reindex(index=wanted, columns=self.names, fill_value=0).to_numpy(dtype=np.int64)

    def features_of(self, features: pd.DataFrame) -> Float[np.ndarray, "referents d"]:
        """The features of the referents that were named, in their order.

        Raises:
            DataError: a referent without features or with several, a value that is not a finite number, or colours that
                are not on the scale their column names promise (L, a, b: lightness 0 to 100).
        """
        if features.index.has_duplicates:
            twice = features.index[features.index.duplicated()][0]
            raise DataError(explain(f"referent {shown(twice)} twice in the features", "one row per referent"))
        missing = [one for one in self.referents if one not in features.index]
        if missing:
            got = f"{len(missing)} referents without features ({', '.join(map(shown, missing[:3]))}, ...)"
            raise DataError(explain(got, "a row of features for each referent that was named"))
        try:
            values = features.loc[self.referents].to_numpy(dtype=float)
        except (TypeError, ValueError):
            raise DataError(
                explain(f"features of types {set(map(str, features.dtypes))}", "numbers")
            ) from None
        if not np.isfinite(values).all():
            raise DataError(
                explain(f"{np.sum(~np.isfinite(values))} features that are not finite", "numbers")
            )
        check_colours(features)
        return values


def is_lab(features: pd.DataFrame) -> bool:
    """Whether the columns are CIELAB coordinates by name."""
    return [str(column) for column in features.columns] in (["L", "a", "b"], ["L*", "a*", "b*"])


def check_colours(features: pd.DataFrame) -> None:
    """Refuse CIELAB columns on another scale, as when they were divided by 100 or 255."""
    if not is_lab(features):
        return
    values = features.to_numpy(dtype=float)
    lightness, rest = values[:, 0], np.abs(values[:, 1:])
    if lightness.min() < 0 or lightness.max() > 100.5 or rest.max() > 200:
        got = f"L from {lightness.min():.3g} to {lightness.max():.3g}, a and b up to {rest.max():.3g}"
        raise DataError(explain(got, "CIELAB: L in [0, 100], a and b within ±200"))
    if len(values) > 1 and lightness.max() <= 1 and rest.max() <= 1.5:
        raise DataError(
            explain("L, a and b all within 1.5", "CIELAB: L in [0, 100]", "multiplying back what was divided")
        )


def check_known(frame: pd.DataFrame, column: str) -> None:
    """Refuse rows that lack a value of a column."""
    absent = frame[column].isna() | (frame[column] == "")
    if absent.any():
        got = f"{int(absent.sum())} of {len(frame)} rows without {column!r}"
        raise DataError(
            explain(got, "a value in every row", f"reading with keep_default_na=False; row {absent.idxmax()}")
        )


def whole_counts(frame: pd.DataFrame, column: str | None) -> pd.Series[int]:
    """A column of counts as whole numbers; None: one per row.

    Raises:
        DataError: a count that is missing, negative or fractional, naming the first.
    """
    if column is None:
        return pd.Series(1, index=frame.index)
    check_columns(frame, [column])
    counts = pd.to_numeric(frame[column], errors="coerce").astype(float)
    wrong = counts.isna() | (counts < 0) | (counts % 1 != 0)
    if wrong.any():
        row = wrong.idxmax()
        got = f"{shown(frame[column][wrong].iloc[0])} in row {row!r} of {column!r} ({int(wrong.sum())} such rows)"
        raise DataError(explain(got, "whole counts, at least 0"))
    return counts.astype(np.int64)


def each_row(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows of a frame, their values by column name."""
    return iter(frame.itertuples(index=False))


def shown(value: Any) -> str:
    """A value as a message shows it, whatever library holds it.

    >>> shown(np.int64(3)), shown("a")
    ('3', "'a'")
    """
    return repr(value.item() if isinstance(value, np.generic) else value)


def read_table(path: str | Path) -> pd.DataFrame:
    """A CSV, TSV or Parquet file as a frame; words such as NA in columns of text stay words.

    Raises:
        DataError: no such file, or another format.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(explain(f"no file {str(path)!r}", "a CSV or Parquet file", neighbour(path)))
    kinds = {suffix.lower() for suffix in path.suffixes}
    if ".parquet" in kinds:
        return pd.read_parquet(path)
    if kinds & {".csv", ".tsv"}:
        frame = pd.read_csv(
            path, sep="\t" if ".tsv" in kinds else ",", keep_default_na=False, low_memory=False
        )
        return frame.apply(_numeric_if_all)
    raise DataError(explain(f"{path.name!r}", "a .csv, .tsv or .parquet file"))


def _numeric_if_all(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column of text whose values are all numbers or empty, as numbers; any other as it is."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    numbers = pd.to_numeric(column, errors="coerce")
    empty = column == ""
    return numbers if len(column) and not empty.all() and (numbers.notna() | empty).all() else column


def _sorted(values: pd.Series[Any]) -> list[Any]:
    distinct = values.unique().tolist()
    try:
        return sorted(distinct)
    except TypeError:
        return distinct
