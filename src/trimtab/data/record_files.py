"""Readers of records: files of text, JSON, CSV, TSV or Parquet, plain or gzipped, and tables in memory.

Files are read piece by piece within bounds; of a table only the columns that make records are read.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import json
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, cast

from trimtab.data.groups import FILE, GROUP, file_group
from trimtab.data.records import Columns, Item, Text, has_record, named, parse, used_columns
from trimtab.errors import TrimtabError, refusal
from trimtab.models.chat import without_nulls
from trimtab.runs.files import check_regular, parse_json, reading

Kind = Literal["text", "jsonl", "json", "csv", "tsv", "parquet"]

LINE_LIMIT = 16 * 2**20
"""Characters of a line of JSON, or of a cell of CSV: some 3,000 pages. A longer one is a file without line ends, or a
document that should be cut: it would take minutes and gigabytes before training cut it anyway."""
JSON_LIMIT = 64 * 2**20
"""Characters of a JSON array, which is read whole."""
DOCUMENT_LIMIT = 2**30
"""Characters of a text file that is one document."""

_BLOCK = 8192
_ROWS = 1024
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_MARKS = {
    # UTF-32 begins as UTF-16 does, and stands first.
    getattr(codecs, f"BOM_UTF{bits}_{end}"): f"utf-{bits}"
    for bits in (32, 16)
    for end in ("LE", "BE")
}
_EXPECTED: dict[Kind, str] = {
    "text": "UTF-8 text",
    "jsonl": "one JSON object per line, in UTF-8",
    "json": "a JSON array of records, or one JSON object per line, in UTF-8",
    "csv": "CSV in UTF-8",
    "tsv": "tab-separated values in UTF-8",
    "parquet": "a Parquet file",
}


def read_records(path: Path, kind: Kind, *, cut: bool = False, columns: Columns = None) -> Iterator[Item]:
    """The records of a file in their order.

    A text file is one record; with `cut` it is many of some 8192 characters, cut at blank lines where there are any.
    Lines end with line feed, carriage return or both, and nowhere else. A row of CSV has as many cells as the first
    line, which names the columns; an empty cell is no value. What is unread of a table is noted on its records.

    Args:
        path: a regular file; one that ends in .gz is unpacked on the way.
        kind: what it holds.
        cut: of text files.
        columns: our keys -> the file's; None for the same. `{"group": "file"}` makes a group of a text file.

    Raises:
        DataError: it is missing, damaged, no regular file or not in UTF-8, or a record in it is malformed or longer
            than `LINE_LIMIT`; the file, and the line or row where there is one, are named.
    """
    expected, again = _EXPECTED[kind], "downloading or writing it again"
    check_regular(path, expected)
    if kind == "parquet":
        import pyarrow.parquet as pq

        with reading(path, expected, hint=again), pq.ParquetFile(path) as table:
            used, unused = used_columns(table.schema_arrow.names, str(path), columns)
            batches = table.iter_batches(batch_size=_ROWS, columns=used)
            for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                yield parse(_filled(row), f"{path}, row {number}", columns=columns, unused=unused)
    elif kind in _DELIMITERS:
        yield from _table(path, kind, columns)
    elif kind != "text":
        yield from _json(path, kind, columns)
    else:
        yield from _texts(path, columns, cut=cut)


def _texts(path: Path, columns: Columns, *, cut: bool) -> Iterator[Text]:
    """The records of a text file; blocks of one file are records of their own unless `columns` groups them."""
    column = columns.get(GROUP) if isinstance(columns, Mapping) else None
    if column not in (None, FILE):
        raise refusal(path, f"columns.group {column!r}", f"{FILE!r}, for a text file", repr(FILE))
    group = ""
    for text in _blocks(path) if cut else [_whole(path, "text", DOCUMENT_LIMIT)]:
        if "\0" in text:
            got = "NUL characters, as binary files and UTF-16 without its mark hold them"
            hint = "another format by the file's ending, or iconv -f utf-16le -t utf-8"
            raise refusal(path, got, _EXPECTED["text"], hint)
        group = group or (file_group(text) if column else "")
        yield Text(text, group=group)


def refuse_records(path: Path) -> None:
    """Refuse a file whose ending says text where its first line is one of JSON or the head of a table with our keys.

    Raises:
        DataError: naming the ending to give it; as `read_records` where it cannot be read.
    """
    check_regular(path, _EXPECTED["text"])
    with _opened(path, _EXPECTED["text"], newline=None) as file:
        line = file.readline(LINE_LIMIT).lstrip("\ufeff").strip()
    ending, names = ".jsonl", set[str]()
    if line.startswith("{") and line.endswith("}"):
        with suppress(ValueError, RecursionError):
            names = set(json.loads(line))
    elif "\t" in line or "," in line:
        mark, ending = ("\t", ".tsv") if "\t" in line else (",", ".csv")
        names = {cell.strip('"') for cell in line.split(mark)}
    if has_record(names):
        got = f"{line[:60]!r} as the first line of a text file"
        raise refusal(path, got, "text", f"a name that ends in {ending}")


def _blocks(path: Path) -> Iterator[str]:
    block, size = list[str](), 0
    with _opened(path, _EXPECTED["text"], newline="") as file:
        while line := file.readline(LINE_LIMIT):
            block.append(line)
            size += len(line)
            if size >= _BLOCK and (not line.strip() or size >= 2 * _BLOCK):
                yield "".join(block)
                block, size = [], 0
    if block:
        yield "".join(block)


def _json(path: Path, kind: Kind, columns: Columns) -> Iterator[Item]:
    """One array of records, or a record per line."""
    if kind == "json":
        with _opened(path, _EXPECTED[kind], newline=None) as file:
            first = file.readline(_BLOCK).lstrip("\ufeff \t\r\n")
            while not first and (more := file.readline(_BLOCK)):
                first = more.lstrip()
        if first.startswith("["):
            array = parse_json(_whole(path, kind, JSON_LIMIT), str(path), "a JSON array of records")
            for number, raw in enumerate(array):
                yield parse(raw, f"{path}, record {number}", columns=columns)
            return
    for where, line in lines(path, _EXPECTED[kind], newline=None):
        text = line.removeprefix("\ufeff")
        if kind == "jsonl" and where.endswith(":1") and text.lstrip().startswith("["):
            hint = "a name that ends in .json, for an array of records"
            raise refusal(where, "the start of a list", _EXPECTED[kind], hint)
        if text.strip():
            yield parse(parse_json(text, where, _EXPECTED[kind]), where, columns=columns)


def _table(path: Path, kind: Kind, columns: Columns) -> Iterator[Item]:
    delimiter = _DELIMITERS[kind]
    text = (line for _, line in lines(path, _EXPECTED[kind], newline=""))
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    names = [name.strip() for name in _row(rows, path, kind) or []]
    if not names:
        raise refusal(path, "an empty file", "a first line that names the columns")
    if (others := [mark for mark in ",;\t|" if mark != delimiter and mark in names[0]]) and len(names) == 1:
        got = f"one column {names[0][:60]!r}, with {others[0]!r} in it"
        hint = "a file that ends in .tsv" if others[0] == "\t" else f"{delimiter!r} between columns"
        raise refusal(path, got, f"columns with {delimiter!r} between them", hint)
    used, unused = used_columns(names, str(path), columns)
    places = [(name, names.index(name)) for name in used]
    while (row := _row(rows, path, kind)) is not None:
        where = f"{path}:{rows.line_num}"
        if row and len(row) != len(names):
            hint = "quotes around cells that hold commas, quotes or line ends"
            raise refusal(where, f"{len(row)} cells", f"{len(names)}, as the first line has", hint)
        if row:
            raw = {name: row[place] or None for name, place in places}
            yield parse(raw, where, columns=columns, unused=unused)


def _row(rows: Any, path: Path, kind: Kind) -> list[str] | None:
    """The next row of CSV; None at the end."""
    limit = csv.field_size_limit(LINE_LIMIT)
    try:
        row: list[str] = next(rows)
    except StopIteration:
        return None
    except csv.Error as error:
        hint = "quotes in pairs, doubled within a cell"
        raise refusal(f"{path}:{rows.line_num}", error, _EXPECTED[kind], hint) from error
    finally:
        csv.field_size_limit(limit)
    return row


def lines(
    path: Path, expected: str, *, newline: str | None = "\n", limit: int = 0
) -> Iterator[tuple[str, str]]:
    """The lines of a file of text in UTF-8, unpacked where it ends in .gz, each with "path:number".

    Args:
        path: the file.
        expected: what it should hold, for messages.
        newline: what ends a line, as `open` has it. JSON allows U+2028, U+0085 and others inside its texts.
        limit: characters of a line; 0 is `LINE_LIMIT`.

    Raises:
        DataError: a file that cannot be read, says that it is not UTF-8 or is not, or a line beyond the limit.
    """
    limit = limit or LINE_LIMIT
    with _opened(path, expected, newline=newline) as file:
        for number in itertools.count(1):
            if not (line := file.readline(limit + 1)):
                return
            if len(line) > limit:
                got = f"a line of more than {limit // 2**20} MiB"
                raise refusal(f"{path}:{number}", got, expected, "cutting the document into records")
            yield f"{path}:{number}", line


def _whole(path: Path, kind: Kind, limit: int) -> str:
    with _opened(path, _EXPECTED[kind], newline="") as file:
        text = file.read(limit + 1)
    if len(text) > limit:
        jsonl = "one JSON object per line, in a file that ends in .jsonl"
        hint = jsonl if kind == "json" else "several files"
        raise refusal(path, f"more than {limit // 2**20:,} MiB", f"at most that in one {kind} file", hint)
    return text


@contextmanager
def _opened(path: Path, expected: str, *, newline: str | None) -> Iterator[TextIO]:
    """A text file in UTF-8, unpacked where it ends in .gz; another encoding that says so is refused by name."""
    with reading(path, expected), _bytes(path) as raw:
        start = raw.read(4)
        if marked := next((name for mark, name in _MARKS.items() if start.startswith(mark)), None):
            raise refusal(path, f"{marked.upper()} text", expected, f"iconv -f {marked} -t utf-8")
        if start.startswith(b"\x1f\x8b") and path.suffix.lower() != ".gz":
            raise refusal(path, "a gzip file", expected, "a name that ends in .gz")
        raw.seek(0)
        try:
            yield TextIOWrapper(raw, encoding="utf-8-sig", newline=newline)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, expected) from error


def _bytes(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb"))


def _not_utf8(path: Path, expected: str) -> TrimtabError:
    """The error of a file that is not in UTF-8, with the line and the byte at which it fails."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    number, start = 1, 0
    with _bytes(path) as file:
        while line := file.readline(LINE_LIMIT):
            try:
                decoder.decode(line)
            except UnicodeDecodeError as error:
                got = f"bytes that are not UTF-8 ({error.reason}, byte {start + error.start})"
                where = path if expected == _EXPECTED["text"] else f"{path}:{number}"
                return refusal(where, got, expected, "iconv -f latin1 -t utf-8, if it is in Latin-1")
            number += line.endswith(b"\n")
            start += len(line)
    return refusal(path, "bytes that are not UTF-8 (cut at the end)", expected)


_TABLES = {
    "pandas": {"DataFrame": "pandas", "Series": "values", "Index": "values"},
    "numpy": {"ndarray": "array"},
    "polars": {"DataFrame": "polars"},
    "pyarrow": {"Table": "arrow", "RecordBatch": "arrow", "Array": "scalars", "ChunkedArray": "scalars"},
    "datasets": {"Dataset": "dataset", "IterableDataset": "dataset"},
}
"""Library and class -> how its rows are read; a subclass is read as its base."""


class Rows:
    """The rows of a table, or the values of a column, as plain Python values; can be iterated more than once.

    Attributes:
        names: the table's columns; None where it has none, or does not know them.
    """

    def __init__(self, table: Any, where: str, columns: Columns = None) -> None:
        self._kind, self._table = kind_of_table(table), table
        names_of, self._reader = _READERS.get(self._kind, (lambda _: None, iter))
        names = names_of(table)
        self.names: list[str] | None = None if names is None else list(names)
        self.unused: tuple[str, ...] = ()
        self._used: tuple[list[str], ...] = ()
        if self.names is not None:
            used, self.unused = used_columns(self.names, where, columns)
            self._used = (used,)

    def __len__(self) -> int:
        columns = self._table.values() if self._kind == "columns" else [self._table]
        return max(map(len, columns), default=0)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._reader(self._table, *self._used))


def kind_of_table(source: object) -> str:
    """Reader that a table needs, by name; empty for what is no table, such as a list of records.

    >>> kind_of_table({"text": ["a", "b"]}), kind_of_table(["a", "b"])
    ('columns', '')
    """
    for base in type(source).__mro__:
        if kind := _TABLES.get(base.__module__.partition(".")[0], {}).get(base.__name__):
            return kind
    columns = list(source.values()) if isinstance(source, Mapping) else []
    one_by_one = (
        not isinstance(one, str | bytes)
        and (isinstance(one, Sequence) or kind_of_table(one) in ("values", "array", "scalars"))
        for one in columns
    )
    return "columns" if columns and all(one_by_one) else ""


def refuse_source(source: object, where: str) -> None:
    """Refuse what gives no records, gives them only once, or gives other things when iterated, such as column names.

    Raises:
        DataError: saying what to hand over instead.
    """
    kind, problem, table = kind_of_table(source), tuple[str, ...](), cast("Any", source)
    if not kind:
        problem = _no_records(source)
    elif kind == "columns":
        lengths = {str(name): len(values) for name, values in table.items()}
        if len(set(lengths.values())) > 1:
            problem = f"columns of {lengths} rows", "columns of equal length"
    elif kind == "array" and table.dtype.names:
        problem = "an array with fields", "an array of one axis", "pandas.DataFrame(array)"
    elif kind == "array" and table.ndim != 1:
        problem = f"an array with {table.ndim} axes", "an array of one axis", "array.ravel()"
    if problem:
        raise refusal(where, *problem)


def _no_records(source: object) -> tuple[str, ...]:
    """Problem of a source that is no table as (got, expected, hint); empty where it gives records."""
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
    return () if isinstance(source, Iterable) else (got, expected, "a list")


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: without_nulls(v, keep="content") if isinstance(v, list | dict) else v for k, v in row.items()}


def _named_values(names: Sequence[str], columns: Iterable[Iterable[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _arrow(table: Any, names: Sequence[str] | None = None) -> Iterator[Any]:
    for start in range(0, len(table), _ROWS):
        rows = (table if names is None else table.select(names)).slice(start, _ROWS).to_pylist()
        yield from rows if names is None else map(_filled, rows)


def _dataset(rows: Any, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Columns that are not asked for are never decoded: pictures and sound need libraries that may not be here."""
    rows = rows if names is None else rows.select_columns(list(names))
    row_format = getattr(rows, "format", None) or {}
    return map(_filled, rows if row_format.get("type") in (None, "custom") else rows.with_format(None))


def _pandas(frame: Any, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(frame), _ROWS):
        yield from _named_values(names, [frame[name].iloc[start : start + _ROWS].tolist() for name in names])


_READERS: dict[str, Any] = {
    "pandas": (attrgetter("columns"), _pandas),
    "polars": (
        attrgetter("columns"),
        lambda frame, names: map(_filled, frame.select(names).iter_rows(named=True)),
    ),
    "arrow": (attrgetter("schema.names"), _arrow),
    "dataset": (attrgetter("column_names"), _dataset),
    "columns": (list, lambda columns, names: _named_values(names, [columns[name] for name in names])),
    "scalars": (lambda _: None, _arrow),
}
"""How the rows of a table are read -> where it has the names of its columns, if any, and what reads its rows."""
