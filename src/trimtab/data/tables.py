"""Tables: CSV and Parquet files read within bounds, checks of columns, and labels compared whatever their type."""

from __future__ import annotations

import ast
import datetime
import gzip
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trimtab.errors import DataError, Problem, explain, nearest, refusal
from trimtab.runs.files import check_regular, decode, reading
from trimtab.runs.paths import neighbour

Label = str | int | float | bool
"""What a config may say where a table has a label."""

TABLE_LIMIT = 512 * 2**20
"""Bytes of text that a table may have, unpacked."""
COLUMN_LIMIT = 10_000
CELL_LIMIT = 400_000_000
"""Cells of a Parquet file, which packs a billion alike ones into a few bytes."""
_HEAD = 2**20
_AS_TEXTS: Any = {"dtype": str, "keep_default_na": False}
_TABLE = "a table with a header, as CSV, TSV or Parquet"
_KINDS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NO_NUMBER = ("nan", "inf", "-inf", "+inf", "infinity", "-infinity")
_EXACT = 2**53
_BLANKS = "\u200b\ufeff \t\r\n\u00a0\u3000"


def read_table(path: str | Path) -> pd.DataFrame:
    """A CSV, TSV or Parquet file as a frame; `.csv.gz` and `.tsv.gz` too.

    A column of a text file is numbers only where every cell that is not empty is a number as numbers are written, so
    that `007` and `NA` stay texts; it is true and false where every cell says so.

    Raises:
        DataError: no such file, a pipe, folder or device, another format, text that is not UTF-8, no header, a column
            twice, rows of other lengths, a damaged file, or more than `TABLE_LIMIT` bytes or `COLUMN_LIMIT` columns.
    """
    path, kind = _path_and_kind(path)
    if kind == ".parquet":
        _schema(path)
        with reading(path, "a Parquet file"):
            frame = pd.read_parquet(path)
        return frame.reset_index(drop=all(name is None for name in frame.index.names))
    text, separator = _text(path, TABLE_LIMIT), _separator(kind)
    names = _header(text, separator, path)
    with reading(path, _TABLE):
        table: pd.DataFrame = pd.read_csv(io.StringIO(text), sep=separator, low_memory=False, **_AS_TEXTS)
    if not isinstance(table.index, pd.RangeIndex):
        got = f"rows of more than the {len(names)} cells of the header"
        raise refusal(path, got, "as many in every row", "quotes around cells with commas")
    return table.apply(_typed) if len(table) else table


def columns_of(path: str | Path) -> list[str]:
    """The names of a table's columns, by its header alone.

    Raises:
        DataError: as `read_table`, as far as the first mebibyte tells.
    """
    path, kind = _path_and_kind(path)
    if kind == ".parquet":
        return _schema(path)
    return _header(_text(path, _HEAD, whole=False), _separator(kind), path)


def column_problems(where: str, path: str, wanted: Mapping[str, str]) -> list[Problem]:
    """Problems of a table that lacks columns which a config names, or that has no header to read.

    Args:
        where: the key that names the table; `lab:` tables are not looked at.
        path: the table; one that is not there is another check's problem.
        wanted: key -> the column that it names.
    """
    if path.startswith("lab:") or not Path(os.path.expanduser(path)).is_file():  # noqa: PTH111 (`~nobody` stays)
        return []
    try:
        there = columns_of(path)
    except DataError as error:
        return [Problem(where, str(error), "a table that can be read")]
    return [
        Problem(key, f"no column {column!r} in {path}", f"one of {_listed(there)}", nearest(column, there))
        for key, column in wanted.items()
        if column not in there
    ]


def check_columns(frame: pd.DataFrame, columns: Sequence[Hashable]) -> None:
    """Refuse what is no frame, or a frame that lacks one of the columns (the nearest is named) or has it twice."""
    if not isinstance(frame, pd.DataFrame):
        raise DataError(explain(f"a {type(frame).__name__}", "a pandas DataFrame", "pandas.DataFrame(...)"))
    there = [str(one) for one in frame.columns]
    for column in columns:
        if column not in frame.columns:
            hint = nearest(str(column), there)
            raise DataError(explain(f"no column {column!r}", f"one of {_listed(there)}", hint))
        if isinstance(frame[column], pd.DataFrame):
            raise DataError(explain(f"column {column!r} twice", "each column once", "renaming one"))


def check_known(frame: pd.DataFrame, column: str) -> None:
    """Refuse rows that lack a value of a column: empty, blank, or missing."""
    absent = ~has_value(frame[column])
    if absent.any():
        got = f"{int(absent.sum())} of {len(frame)} rows without {column!r}"
        hint = f"reading with keep_default_na=False; row {absent.idxmax()}"
        raise DataError(explain(got, "a value in every row", hint))


def has_value(values: pd.Series[Any]) -> pd.Series[bool]:
    """Mask of the rows with a value that is neither missing nor blank."""
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.notna()
    try:
        places, distinct = pd.factorize(values)
    except TypeError:  # lists and mappings, which are refused where they are used
        return values.notna()
    given = [bool(one.strip(_BLANKS)) if isinstance(one, str) else True for one in distinct]
    return pd.Series(np.array([*given, False])[places], index=values.index)


def labels(values: pd.Series[Any], *, strip: bool = True) -> pd.Series[Any]:
    """Labels of a column as texts, None where there is no value: `label_text` of each.

    >>> labels(pd.Series([0.0, 1.0, float("nan")])).tolist(), labels(pd.Series([True, " a b "])).tolist()
    (['0', '1', None], ['True', 'a b'])
    """
    try:
        places, distinct = pd.factorize(values)
    except TypeError:
        values.map(lambda one: label_text(one, strip=strip))
        raise
    texts = [label_text(one, strip=strip) or None for one in distinct]
    return pd.Series(np.array([*texts, None], dtype=object)[places], index=values.index, dtype=object)


def label_text(value: Any, *, strip: bool = True) -> str:
    """Text of a label: 0, 0.0 and "0" are one label, as are False and "False"; texts lose outer blanks.

    Raises:
        DataError: a list, mapping or other value that is no label, bytes or text that are not UTF-8.

    >>> label_text(np.float64(1.0)), label_text(True), label_text(" old man "), label_text(0.5)
    ('1', 'True', 'old man', '0.5')
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        text = value.strip() if strip else value
        if not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text):
            raise DataError(explain(f"a label {text!a:.60} that is not Unicode", "a text"))
        return text
    if isinstance(value, float | Decimal):
        size = float(value)
        return str(int(size)) if size.is_integer() and abs(size) < _EXACT else str(value)
    if isinstance(value, Real | datetime.date | datetime.time | datetime.timedelta):
        return str(value)
    raise DataError(explain(f"a {type(value).__name__} {value!r:.60}", "a text, number or truth value"))


def list_of_text(text: str) -> list[Any] | None:
    """A list that a cell has as text: as JSON, or as Python writes it, which is what pandas puts into CSV; else None.

    >>> list_of_text('["a", null]'), list_of_text("['it', -inf]"), list_of_text("[two dogs]")
    (['a', None], ['it', -inf], None)
    """
    if not text.lstrip().startswith("["):
        return None
    value: Any = None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = ast.literal_eval(re.sub(r"(?<=[\[ ])-inf(?=[,\]])", "-1e999", text.strip()))
    return value if isinstance(value, list) else None


def find_label(wanted: Any, there: Iterable[str]) -> str | None:
    """Label among texts that equals the wanted one: the same text, else the only one of the same value; else None.

    >>> find_label(0, ["0", "1"]), find_label("0", ["0.0", "1.0"]), find_label(False, ["TRUE", "FALSE"])
    ('0', '0.0', 'FALSE')
    """
    text, choices = label_text(wanted), list(there)
    if text in choices:
        return text
    same = [one for one in choices if _value(one) == _value(text)]
    return same[0] if len(same) == 1 else None


def whole_counts(frame: pd.DataFrame, column: str | None) -> pd.Series[int]:
    """A column of counts as whole numbers; None: one per row.

    Raises:
        DataError: a count that is missing, negative, fractional or infinite, naming the first; one of 2^53 or more, or
            counts that add to more, which are not exact.
    """
    if column is None:
        return pd.Series(1, index=frame.index)
    check_columns(frame, [column])
    values = frame[column]
    numeric = isinstance(values.dtype, np.dtype) and values.dtype.kind in "iufb"
    given = (values if numeric else values.astype(object).map(_number)).astype(float)
    with np.errstate(invalid="ignore"):
        # A count that is missing or infinite fails each of these comparisons.
        wrong = ~((given >= 0) & (given < _EXACT) & (given % 1 == 0))
    if wrong.any():
        row, value = wrong.idxmax(), values[wrong].iloc[0]
        got = f"{show(value)} in row {row!r} of {column!r} ({int(wrong.sum())} such rows)"
        raise DataError(explain(got, "whole counts, at least 0 and below 2^53"))
    beyond = given.cumsum() >= _EXACT
    if beyond.any():
        got = f"counts in {column!r} that add to 2^53 or more at row {beyond.idxmax()!r}"
        raise DataError(explain(got, "a sum below 2^53"))
    return given.astype(np.int64)


def show(value: Any) -> str:
    """Text of a value for a message, whatever library holds it, shortened.

    >>> show(np.int64(3)), show("a")
    ('3', "'a'")
    """
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _path_and_kind(path: str | Path) -> tuple[Path, str]:
    path = Path(os.path.expanduser(path))  # noqa: PTH111 (`~nobody` stays as it is)
    with reading(path, _TABLE):
        missing = not path.exists()
    if missing:
        raise DataError(explain(f"no file {str(path)!r}", "a CSV or Parquet file", neighbour(path)))
    check_regular(path, _TABLE, limit=TABLE_LIMIT)
    kind = next((one for one in reversed(_KINDS) if path.name.lower().endswith(one)), "")
    if not kind:
        hint = "unpacking it, or gzip" if path.suffix in (".bz2", ".zip", ".xz", ".zst", ".tar") else ""
        raise DataError(explain(f"{path.name!r}", "a .csv, .tsv or .parquet file, or .csv.gz", hint))
    return path, kind


def _text(path: Path, limit: int, *, whole: bool = True) -> str:
    """A text table; gzip is unpacked up to the limit and no further."""
    packed = path.suffix.lower() == ".gz"
    with reading(path, _TABLE), gzip.open(path, "rb") if packed else path.open("rb") as file:
        raw = file.read(limit + whole)
    if whole and len(raw) > limit:
        raise refusal(path, f"more than {limit // 2**20} MiB when unpacked", "a smaller table")
    return decode(raw, path, _TABLE, whole=whole)


def _separator(kind: str) -> str:
    return "\t" if kind.startswith(".tsv") else ","


def _header(text: str, separator: str, path: Path) -> list[str]:
    first = text.lstrip("\r\n \t" if separator == "," else "\r\n").partition("\n")[0]
    if not first:
        raise refusal(path, "an empty file", _TABLE)
    if "\0" in text:
        got = f"a NUL character in line {text.count(chr(10), 0, text.index(chr(0))) + 1}"
        raise refusal(path, got, _TABLE, "iconv -f utf-16 -t utf-8, if it is UTF-16")
    _check_count(first.count(separator) + 1, path)
    with reading(path, _TABLE):
        row = pd.read_csv(io.StringIO(text), sep=separator, header=None, nrows=1, **_AS_TEXTS)
    return _once([str(one) for one in row.iloc[0]], path)


def _schema(path: Path) -> list[str]:
    """The columns of a Parquet file of bounded size."""
    import pyarrow.parquet as pq

    with reading(path, "a Parquet file"):
        file = pq.ParquetFile(path)
        names, rows = [str(name) for name in file.schema_arrow.names], file.metadata.num_rows
    _check_count(len(names), path)
    if rows * len(names) > CELL_LIMIT:
        raise refusal(path, f"{rows:,} rows of {len(names)} columns", f"at most {CELL_LIMIT:,} cells")
    return _once(names, path)


def _check_count(columns: int, path: Path) -> None:
    if columns > COLUMN_LIMIT:
        raise refusal(path, f"{columns:,} columns, of at most {COLUMN_LIMIT:,}", _TABLE)


def _once(names: list[str], path: Path) -> list[str]:
    if twice := [name for name, times in Counter(names).items() if name and times > 1]:
        raise refusal(path, f"column {twice[0]!r} twice", "each column once")
    return names


def _typed(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column of texts as numbers, or as true and false, where every cell that is not empty is one."""
    given = [one for one in column.unique() if one != "" and one == one]
    if not given:
        return column
    empty = (column == "") | column.isna()
    if all(_WHOLE.fullmatch(one) for one in given):
        # Long ids stay texts: as floats several would become one.
        most = 15 if empty.any() else 18
        if max(map(len, given)) > most:
            return column
        return column.where(~empty, "nan").astype(float) if empty.any() else column.astype(np.int64)
    numbers = [one for one in given if one.lower() not in _NO_NUMBER]
    if numbers and all(_DECIMAL.fullmatch(one) for one in numbers):
        return column.where(~empty, "nan").astype(float)
    if not empty.any() and {one.lower() for one in given} <= {"true", "false"}:
        return column.str.lower() == "true"
    return column


def _number(value: Any) -> float:
    """A count as a number; nan for what is none."""
    if isinstance(value, str):
        value = value.strip()
        return float(value) if _DECIMAL.fullmatch(value) else math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _value(text: str) -> object:
    """What a text reads as: a number, a truth value, or itself."""
    if text.lower() in ("true", "false"):
        return ("truth", text.lower())
    return float(text) if _DECIMAL.fullmatch(text) else text


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{list(names[:most])}{more}"
