"""Tables in memory as rows: data frames, Arrow tables, data sets, columns; only what makes records is read of them.

Data sets that the `datasets` library loads: by name from the hub, or from a folder that it wrote.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from trimtab.data.records import BESIDE_MESSAGES, KEYS, hint_for, missing_column, named, refusal

_ROWS = 1024
"""Rows that are held at a time."""

_TABLES = {
    ("pandas", "DataFrame"): "pandas",
    ("pandas", "Series"): "values",
    ("pandas", "Index"): "values",
    ("numpy", "ndarray"): "array",
    ("polars", "DataFrame"): "polars",
    ("pyarrow", "Table"): "arrow",
    ("pyarrow", "RecordBatch"): "arrow",
    ("pyarrow", "Array"): "scalars",
    ("pyarrow", "ChunkedArray"): "scalars",
    ("datasets", "Dataset"): "dataset",
    ("datasets", "IterableDataset"): "dataset",
}
"""Library and class -> how its rows are read; a subclass is read as its base."""


class Rows:
    """The rows of a table, or the values of a column, as plain Python values; can be iterated more than once.

    Attributes:
        names: the table's columns; None where it has none, or does not know them.
    """

    def __init__(self, table: Any, where: str, columns: Mapping[str, str] | None = None) -> None:
        self._kind = kind_of_table(table)
        self._table = table
        names = _names(table, self._kind)
        self.names = names
        self.used = None if names is None else usable_columns(names, where, columns)

    @property
    def unused(self) -> tuple[str, ...]:
        """Columns that are not read."""
        return tuple(name for name in self.names or () if name not in (self.used or ()))

    def __len__(self) -> int:
        if self._kind == "columns":
            return max(map(len, self._table.values()), default=0)
        return len(self._table)

    def __iter__(self) -> Iterator[Any]:
        reader = _READERS.get(self._kind, iter)
        return iter(reader(self._table) if self.used is None else reader(self._table, self.used))


def kind_of_table(source: object) -> str:
    """How the rows of a thing are read; empty for what is no table, such as a list of records.

    >>> kind_of_table({"text": ["a", "b"]}), kind_of_table(["a", "b"])
    ('columns', '')
    """
    for base in type(source).__mro__:
        found = _TABLES.get((base.__module__.partition(".")[0], base.__name__))
        if found:
            return found
    if isinstance(source, Mapping) and source and all(map(_is_column, source.values())):
        return "columns"
    return ""


def refuse_source(source: object, where: str) -> None:
    """Refuse what gives no records, gives them only once, or gives other things when iterated, such as column names.

    Raises:
        DataError: saying what to hand over instead.
    """
    kind = kind_of_table(source)
    if kind == "columns" and isinstance(source, Mapping):
        got, expected, hint = _ragged(source)
    elif kind == "array":
        got, expected, hint = _no_column(source)
    elif kind:
        return
    else:
        got, expected, hint = _no_records(source)
    if got:
        raise refusal(where, got, expected, hint)


def _no_records(source: object) -> tuple[str, str, str]:
    """What was got, what is expected and what to try with a thing that is no table; empty where it gives records."""
    got, expected = type(source).__name__, "a sequence of records"
    if isinstance(source, str | bytes) or hasattr(source, "__fspath__"):
        return got, expected, "a list, or Domain.from_path for a file"
    if isinstance(source, Mapping):
        splits = {"train", "validation", "test"} & set(map(str, source))
        hint = "Domain.from_dataset" if splits else "a list, such as [record], or columns of equal length"
        return f"a {got} with {named(source)}", expected, hint
    if isinstance(source, Iterator):
        return "an iterator", "records that can be read again", "list(...)"
    if isinstance(source, Set) and not isinstance(source, KeysView | ItemsView):
        return f"a {got}, whose order changes", "records in an order", "sorted(...)"
    if any(base.__name__ in ("DataFrame", "LazyFrame") for base in type(source).__mro__):
        return got, expected, "its rows as a pandas DataFrame"
    return ("", "", "") if isinstance(source, Iterable) else (got, expected, "a list")


def _ragged(columns: Mapping[str, Sequence[Any]]) -> tuple[str, str, str]:
    lengths = {str(name): len(values) for name, values in columns.items()}
    equal = len(set(lengths.values())) == 1
    return ("" if equal else f"columns of {lengths} rows", "columns of equal length", "")


def _no_column(array: Any) -> tuple[str, str, str]:
    if array.dtype.names:
        return "an array with fields", "an array of one axis", "pandas.DataFrame(array)"
    return (
        "" if array.ndim == 1 else f"an array with {array.ndim} axes",
        "an array of one axis",
        "array.ravel()",
    )


def usable_columns(names: Iterable[str], where: str, columns: Mapping[str, str] | None = None) -> list[str]:
    """The columns of a table that make records.

    Args:
        names: of all its columns.
        where: what to call the table in an error.
        columns: our keys -> the table's; None for the same.

    Raises:
        DataError: none of them does, one that is asked for is not there, or one that is used stands there twice.
    """
    names = list(names)
    beside = BESIDE_MESSAGES if "messages" in names else ()
    wanted = list(columns.values()) if columns else [name for name in names if name in (*KEYS, *beside)]
    lacking = [name for name in wanted if name not in names]
    if columns and lacking:
        raise refusal(where, f"columns {_short(names)}", *missing_column(columns, names))
    makes = {"text", "messages"} & set(wanted) or {"prompt", "completion"} <= set(wanted)
    if not columns and not makes:
        expected = "a column 'text', 'prompt' and 'completion', or 'messages'"
        raise refusal(where, f"columns {_short(names)}", expected, hint_for(names) or "columns={'text': ...}")
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise refusal(where, f"column {twice[0]!r} twice", "each column once")
    return list(dict.fromkeys(wanted))


def unfilled(value: Any) -> Any:
    """A nested value of a table without the keys that it was filled with because other rows have them.

    Arrow keeps lists of mappings as columns, so that every mapping has the keys of all; `content` stays.

    >>> unfilled([{"role": "user", "content": None, "tool_calls": None}])
    [{'role': 'user', 'content': None}]
    """
    if isinstance(value, Mapping):
        return {key: unfilled(item) for key, item in value.items() if item is not None or key == "content"}
    return [unfilled(item) for item in value] if isinstance(value, list) else value


def _names(table: Any, kind: str) -> list[str] | None:
    if kind == "pandas" or kind == "polars":
        return list(table.columns)
    if kind == "arrow":
        return list(table.schema.names)
    if kind == "dataset":
        return None if table.column_names is None else list(table.column_names)
    return list(table) if kind == "columns" else None


def _pandas(frame: Any, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(frame), _ROWS):
        values = [frame[name].iloc[start : start + _ROWS].tolist() for name in names]
        yield from (dict(zip(names, row, strict=True)) for row in zip(*values, strict=True))


def _polars(frame: Any, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    return (_row(row) for row in frame.select(names).iter_rows(named=True))


def _arrow(table: Any, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for start in range(0, table.num_rows, _ROWS):
        yield from map(_row, table.select(names).slice(start, _ROWS).to_pylist())


def _dataset(rows: Any, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Columns that are not asked for are never decoded: pictures and sound need libraries that may not be here."""
    if names is not None:
        rows = rows.select_columns(list(names))
    asked = getattr(rows, "format", None) or {}
    if asked.get("type") not in (None, "custom"):
        rows = rows.with_format(None)
    return map(_row, rows)


def _columns(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    return (
        dict(zip(names, row, strict=True)) for row in zip(*(columns[name] for name in names), strict=True)
    )


def _scalars(array: Any) -> Iterator[Any]:
    for start in range(0, len(array), _ROWS):
        yield from array.slice(start, _ROWS).to_pylist()


_READERS: dict[str, Any] = {
    "pandas": _pandas,
    "polars": _polars,
    "arrow": _arrow,
    "dataset": _dataset,
    "columns": _columns,
    "scalars": _scalars,
}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: unfilled(value) if isinstance(value, list | dict) else value for name, value in row.items()}


def _is_column(values: object) -> bool:
    one_by_one = isinstance(values, Sequence) or kind_of_table(values) in ("values", "array", "scalars")
    return one_by_one and not isinstance(values, str | bytes)


def _short(names: Sequence[str]) -> str:
    return f"[{named(names)}]"


_SAID = 600
_SETS, _SET = "dataset_dict.json", ("state.json", "dataset_info.json")


def load_set(name: str, dataset: str, options: Mapping[str, Any]) -> Any:
    """What `datasets.load_dataset` gives for a name; `name` is the domain's.

    Raises:
        DataError: it cannot be loaded, with the beginning of the reason.
    """
    from datasets import load_dataset

    try:
        return load_dataset(dataset, **options)
    except Exception as error:
        expected = "a data set that can be loaded"
        hint = "its name on the hub, or a path"
        if "config" in str(error).lower():
            hint = "config=..., one of those named"
        said = " ".join(str(error).split())[:_SAID] or type(error).__name__
        raise refusal(f"domain {name!r}", f"{dataset!r}: {said}", expected, hint) from error


def is_saved_set(folder: Path) -> bool:
    """Whether `save_to_disk` of a `Dataset` or a `DatasetDict` wrote the folder."""
    return (folder / _SETS).is_file() or all((folder / file).is_file() for file in _SET)


def load_saved(name: str, folder: Path) -> Any:
    """The `Dataset` or `DatasetDict` of a folder that `save_to_disk` wrote; memory-mapped.

    Raises:
        DataError: it is damaged; `name` is the domain's.
    """
    from datasets import load_from_disk

    try:
        return load_from_disk(str(folder))
    except Exception as error:
        got = f"a folder that cannot be read ({str(error).strip().partition(chr(10))[0] or type(error).__name__})"
        raise refusal(
            f"domain {name!r}: {folder}", got, "a data set as save_to_disk writes it", "writing it again"
        ) from error
