"""The records of one file: text, JSON, CSV, TSV or Parquet, plain or gzipped, read piece by piece within bounds."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, cast

from trimtab.data.columns import unfilled, usable_columns
from trimtab.data.records import Item, Text, named, parse, refusal
from trimtab.errors import DataError
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
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_GZIP = b"\x1f\x8b"
_EXPECTED: dict[Kind, str] = {
    "text": "UTF-8 text",
    "jsonl": "one JSON object per line, in UTF-8",
    "json": "a JSON array of records, or one JSON object per line, in UTF-8",
    "csv": "CSV in UTF-8",
    "tsv": "tab-separated values in UTF-8",
    "parquet": "a Parquet file",
}


def read_records(
    path: Path, kind: Kind, *, cut: bool = False, columns: Mapping[str, str] | None = None
) -> Iterator[Item]:
    """The records of a file in their order.

    A text file is one record; with `cut` it is many of some 8192 characters, cut at blank lines where there are any.
    Lines end with line feed, carriage return or both, and nowhere else. A row of CSV has as many cells as the first
    line, which names the columns; an empty cell is no value. What is unread of a table is noted on its records.

    Args:
        path: a regular file; one that ends in .gz is unpacked on the way.
        kind: what it holds.
        cut: of text files.
        columns: our keys -> the file's; None for the same.

    Raises:
        DataError: it is missing, damaged, no regular file or not in UTF-8, or a record in it is malformed or longer
            than `LINE_LIMIT`; the file, and the line or row where there is one, are named.
    """
    check_regular(path, _EXPECTED[kind])
    if kind == "parquet":
        yield from _parquet(path, columns)
    elif kind == "text":
        yield from _blocks(path) if cut else _document(path)
    elif kind == "json":
        yield from _json(path, columns)
    elif kind == "jsonl":
        yield from _jsonl(path, kind, columns)
    else:
        yield from _table(path, kind, columns)


def refuse_records(path: Path) -> None:
    """Refuse a file whose ending says text where its first line is one of JSON or the head of a table with our keys.

    Raises:
        DataError: naming the ending to give it; as `read_records` where it cannot be read.
    """
    check_regular(path, _EXPECTED["text"])
    with reading(path, _EXPECTED["text"]), _opened(path, "text", newline=None) as file:
        line = _piece(file, path, "text").lstrip("\ufeff").strip()
    if line.startswith("{") and line.endswith("}"):
        try:
            first = json.loads(line)
        except (ValueError, RecursionError):
            return
        made, ending = isinstance(first, dict) and _make_records(first), ".jsonl"
    else:
        mark, ending = ("\t", ".tsv") if "\t" in line else (",", ".csv")
        cells = [cell.strip('"') for cell in line.split(mark)]
        made = mark in line and _make_records(cells)
    if made:
        got = f"{line[:60]!r} as the first line of a text file"
        raise refusal(path, got, "text", f"a name that ends in {ending}")


def _make_records(names: Iterable[str]) -> bool:
    found = set(names)
    return bool({"text", "messages"} & found) or {"prompt", "completion"} <= found


def _document(path: Path) -> Iterator[Item]:
    yield Text(_plain(_whole(path, "text", DOCUMENT_LIMIT), path))


def _blocks(path: Path) -> Iterator[Item]:
    block: list[str] = []
    size = 0
    with reading(path, _EXPECTED["text"]), _opened(path, "text", newline="") as file:
        while line := _piece(file, path, "text"):
            block.append(line)
            size += len(line)
            if size >= _BLOCK and (not line.strip() or size >= 2 * _BLOCK):
                yield Text(_plain("".join(block), path))
                block, size = [], 0
    if block:
        yield Text(_plain("".join(block), path))


def _plain(text: str, path: Path) -> str:
    if "\0" in text:
        got = "NUL characters, as binary files and UTF-16 without its mark hold them"
        hint = "another format by the file's ending, or iconv -f utf-16le -t utf-8"
        raise refusal(path, got, _EXPECTED["text"], hint)
    return text


def _json(path: Path, columns: Mapping[str, str] | None) -> Iterator[Item]:
    with reading(path, _EXPECTED["json"]), _opened(path, "json", newline=None) as file:
        first = _piece(file, path, "json", _BLOCK).lstrip("\ufeff \t\r\n")
        while not first and (more := _piece(file, path, "json", _BLOCK)):
            first = more.lstrip()
    if not first.startswith("["):
        yield from _jsonl(path, "json", columns)
        return
    expected = "a JSON array of records"
    for number, raw in enumerate(parse_json(_whole(path, "json", JSON_LIMIT), str(path), expected)):
        yield parse(raw, f"{path}, record {number}", columns=columns)


def _jsonl(path: Path, kind: Kind, columns: Mapping[str, str] | None) -> Iterator[Item]:
    for number, line in _lines(path, kind, newline=None):
        text = line.removeprefix("\ufeff")
        if text.strip():
            where = f"{path}:{number}"
            if number == 1 and kind == "jsonl" and text.lstrip().startswith("["):
                hint = "a name that ends in .json, for an array of records"
                raise refusal(where, "the start of a list", _EXPECTED[kind], hint)
            yield parse(parse_json(text, where, _EXPECTED[kind]), where, columns=columns)


def _table(path: Path, kind: Kind, columns: Mapping[str, str] | None) -> Iterator[Item]:
    delimiter = _DELIMITERS[kind]
    lines = (line for _, line in _lines(path, kind, newline=""))
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names = [name.strip() for name in _row(rows, path, kind) or []]
    if not names:
        raise refusal(path, "an empty file", "a first line that names the columns")
    others = [mark for mark in ",;\t|" if mark != delimiter and mark in names[0]]
    if len(names) == 1 and others:
        got = f"one column {names[0][:60]!r}, with {others[0]!r} in it"
        hint = "a file that ends in .tsv" if others[0] == "\t" else f"{delimiter!r} between columns"
        raise refusal(path, got, f"columns with {delimiter!r} between them", hint)
    used = usable_columns(names, str(path), columns)
    places = [(name, names.index(name)) for name in used]
    beside = tuple(name for name in names if name not in used)
    while (row := _row(rows, path, kind)) is not None:
        where = f"{path}:{rows.line_num}"
        if not row:
            continue
        if len(row) != len(names):
            hint = "quotes around cells that hold commas, quotes or line ends"
            raise refusal(where, f"{len(row)} cells", f"{len(names)}, as the first line has", hint)
        yield parse(
            {name: row[place] or None for name, place in places}, where, columns=columns, beside=beside
        )


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


def _parquet(path: Path, columns: Mapping[str, str] | None) -> Iterator[Item]:
    import pyarrow.parquet as pq

    with (
        reading(path, _EXPECTED["parquet"], hint="downloading or writing it again"),
        pq.ParquetFile(path) as table,
    ):
        names = table.schema_arrow.names
        used = usable_columns(names, str(path), columns)
        beside = tuple(name for name in names if name not in used)
        row = 0
        for batch in table.iter_batches(batch_size=_ROWS, columns=used):
            for raw in batch.to_pylist():
                filled = {
                    key: unfilled(value) if isinstance(value, list | dict) else value
                    for key, value in raw.items()
                }
                yield parse(filled, f"{path}, row {row}", columns=columns, beside=beside)
                row += 1


def _lines(path: Path, kind: Kind, *, newline: str | None) -> Iterator[tuple[int, str]]:
    with reading(path, _EXPECTED[kind]), _opened(path, kind, newline=newline) as file:
        number = 0
        while line := _piece(file, path, kind, LINE_LIMIT + 1):
            number += 1
            if len(line) > LINE_LIMIT:
                got = f"a line of more than {LINE_LIMIT // 2**20} MiB"
                raise refusal(f"{path}:{number}", got, _EXPECTED[kind], "cutting the document into records")
            yield number, line


def _piece(file: TextIO, path: Path, kind: Kind, most: int = LINE_LIMIT) -> str:
    """The next line, or as much of it as `most` characters."""
    try:
        return file.readline(most)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, kind) from error


def _whole(path: Path, kind: Kind, limit: int) -> str:
    with reading(path, _EXPECTED[kind]), _opened(path, kind, newline="") as file:
        try:
            text = file.read(limit + 1)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, kind) from error
    if len(text) > limit:
        hint = (
            "one JSON object per line, in a file that ends in .jsonl" if kind == "json" else "several files"
        )
        raise refusal(path, f"more than {limit // 2**20:,} MiB", f"at most that in one {kind} file", hint)
    return text


@contextmanager
def _opened(path: Path, kind: Kind, *, newline: str | None) -> Iterator[TextIO]:
    """A text file in UTF-8, unpacked where it ends in .gz; another encoding that says so is refused by name."""
    with _bytes(path) as raw:
        start = raw.read(4)
        # UTF-32 begins as UTF-16 does, and stands first.
        marked = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
        if marked:
            raise refusal(path, f"{marked.upper()} text", _EXPECTED[kind], f"iconv -f {marked} -t utf-8")
        if start.startswith(_GZIP) and path.suffix.lower() != ".gz":
            raise refusal(path, "a gzip file", _EXPECTED[kind], "a name that ends in .gz")
        raw.seek(0)
        yield TextIOWrapper(raw, encoding="utf-8-sig", newline=newline)


def _bytes(path: Path) -> BinaryIO:
    packed = path.suffix.lower() == ".gz"
    return cast("BinaryIO", gzip.open(path, "rb") if packed else path.open("rb"))


def _not_utf8(path: Path, kind: Kind) -> DataError:
    """The error of a file that is not in UTF-8, with the line and the byte at which it fails."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    number, start = 1, 0
    with _bytes(path) as file:
        while line := file.readline(LINE_LIMIT):
            try:
                decoder.decode(line)
            except UnicodeDecodeError as error:
                got = f"bytes that are not UTF-8 ({error.reason}, byte {start + error.start})"
                where = str(path) if kind == "text" else f"{path}:{number}"
                return refusal(where, got, _EXPECTED[kind], "iconv -f latin1 -t utf-8, if it is in Latin-1")
            number += line.endswith(b"\n")
            start += len(line)
    return refusal(path, "bytes that are not UTF-8 (cut at the end)", _EXPECTED[kind])


def named_kinds() -> str:
    """The endings that are read as more than text, for a message.

    >>> named_kinds()
    "'.jsonl', '.json', '.csv', '.tsv', '.parquet'"
    """
    return named(f".{kind}" for kind in _EXPECTED if kind != "text")
