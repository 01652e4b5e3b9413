"""Where records come from: files, tables and parts of a pool. Each is read again from the start when iterated."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.data.given import BESIDE_MESSAGES
from trimtab.data.records import KEYS, Item, Text, parse
from trimtab.errors import DataError, explain

Kind = Literal["text", "jsonl", "parquet"]
Paths = str | Path | Sequence[str | Path]
"""A path, a glob pattern, or several of them."""

_ENDINGS: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_REFUSED = {
    ".json": "one JSON object per line in a file that ends in .jsonl",
    ".gz": "unpacking it",
    ".zip": "unpacking it",
    ".zst": "unpacking it",
    ".xz": "unpacking it",
    ".bz2": "unpacking it",
}
_BLOCK = 8192


@dataclass(frozen=True, repr=False)
class Files:
    """The records of some files, in the order of their paths.

    Attributes:
        paths: the files.
        kind: "text" (a file is one record), "jsonl", "parquet", or None to go by each file's ending.
        cut: cut text files into records of some 8192 characters, at blank lines where there are any.
    """

    paths: tuple[Path, ...]
    kind: Kind | None = None
    cut: bool = False

    def __post_init__(self) -> None:
        for path in self.paths if self.kind is None else ():
            kind_of(path)

    def __iter__(self) -> Iterator[Item]:
        for path in self.paths:
            yield from _read(path, self.kind or kind_of(path), self.cut)

    def __repr__(self) -> str:
        kinds = sorted({self.kind or kind_of(path) for path in self.paths})
        return f"{len(self.paths)} {'/'.join(kinds)} file{'s' * (len(self.paths) != 1)}"


@dataclass(frozen=True, repr=False)
class Given:
    """Records in memory or rows of a table, anything that can be iterated more than once."""

    records: Iterable[Any]
    where: str

    def __iter__(self) -> Iterator[Item]:
        for number, raw in enumerate(self.records):
            yield parse(raw, f"{self.where}, record {number}")

    def __repr__(self) -> str:
        try:
            return f"{len(self.records)} records"  # type: ignore[arg-type]
        except TypeError:
            return "records"


@dataclass(frozen=True, repr=False)
class Part:
    """The records of a pool whose content hashes into [lower, upper) of the unit interval."""

    pool: Iterable[Item]
    lower: float
    upper: float

    def __iter__(self) -> Iterator[Item]:
        return (item for item in self.pool if self.lower <= position(item) < self.upper)

    def __repr__(self) -> str:
        return f"{100 * (self.upper - self.lower):.3g} % of {self.pool!r}"


@dataclass(frozen=True, repr=False)
class Without:
    """The records of a source that are not among some others, by digest."""

    source: Iterable[Item]
    digests: frozenset[bytes]

    def __iter__(self) -> Iterator[Item]:
        return (item for item in self.source if item.digest not in self.digests)

    def __repr__(self) -> str:
        return f"{self.source!r} without overlap"


def position(item: Item) -> float:
    """Where a record's content falls in [0, 1): uniform, and the same for equal records.

    >>> position(Text("a")) == position(Text("a")) != position(Text("b"))
    True
    """
    return (int.from_bytes(item.digest[8:16], "big") >> 11) / 2**53


def find(paths: Paths, name: str) -> tuple[Path, ...]:
    """The files that paths and patterns mean, sorted within each pattern, each once.

    Raises:
        DataError: a path that does not exist or a pattern that matches no file; `name` is the domain.
    """
    asked = [paths] if isinstance(paths, str | Path) else list(paths)
    found = [path for one in asked for path in _match(one, name)]
    if not found:
        raise DataError(f"domain {name!r}: {explain('no path', 'at least one file')}")
    return tuple(dict.fromkeys(found))


def kind_of(path: Path) -> Kind:
    """What a file holds, by its ending; unknown endings (.md, .py, ...) are text.

    Raises:
        DataError: an ending that is surely not text.
    """
    ending = path.suffix.lower()
    if ending in _REFUSED:
        what = explain(f"a {ending} file", "text, .jsonl or .parquet", _REFUSED[ending])
        raise DataError(f"{path}: {what}")
    return _ENDINGS.get(ending, "text")


def _match(path: str | Path, name: str) -> list[Path]:
    whole = Path(path).expanduser()
    if whole.is_file():
        return [whole]
    if whole.is_dir():
        raise DataError(f"domain {name!r}: {explain(f'folder {path}', 'files', f'{path}/*')}")
    matches = [Path(match) for match in sorted(glob.glob(str(whole), recursive=True))]  # noqa: PTH207
    files = [match for match in matches if match.is_file()]
    if not files:
        wanted = "a pattern that matches files" if glob.has_magic(str(path)) else "a file that exists"
        raise DataError(f"domain {name!r}: {explain(path, wanted)}")
    return files


def _read(path: Path, kind: Kind, cut: bool) -> Iterator[Item]:
    try:
        if kind == "jsonl":
            yield from _read_jsonl(path)
        elif kind == "parquet":
            yield from _read_parquet(path)
        elif cut:
            yield from _read_blocks(path)
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield Text(file.read())
    except FileNotFoundError as error:
        raise DataError(f"{path}: {explain('no file any more', 'a file that exists')}") from error
    except UnicodeDecodeError as error:
        got = f"bytes that are not UTF-8 ({error.reason} at {error.start})"
        raise DataError(f"{path}: {explain(got, 'UTF-8 text', 'iconv -t utf-8')}") from error


def _read_blocks(path: Path) -> Iterator[Item]:
    block: list[str] = []
    size = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line in file:
            block.append(line)
            size += len(line)
            if size >= _BLOCK and (not line.strip() or size >= 2 * _BLOCK):
                yield Text("".join(block))
                block, size = [], 0
    if block:
        yield Text("".join(block))


def _read_jsonl(path: Path) -> Iterator[Item]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield parse(_json_line(line, f"{path}:{number}"), f"{path}:{number}")


def _json_line(line: bytes, where: str) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {explain(error, 'one JSON object per line, in UTF-8')}") from error


def _read_parquet(path: Path) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            columns = usable_columns(table.schema_arrow.names, str(path))
            row = 0
            for batch in table.iter_batches(batch_size=1024, columns=columns):
                for raw in batch.to_pylist():
                    yield parse(raw, f"{path}, row {row}")
                    row += 1
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: {explain(error, 'a Parquet file')}") from error


def usable_columns(columns: Iterable[str], where: str) -> list[str]:
    """The columns that make records.

    Raises:
        DataError: none of them does.
    """
    columns = list(columns)
    usable = [column for column in columns if column in KEYS]
    if not usable:
        expected = "a column 'text', 'prompt' and 'completion', or 'messages'"
        raise DataError(f"{where}: {explain(f'columns {columns}', expected, 'renaming columns')}")
    if "messages" in usable:
        usable += [column for column in columns if column in BESIDE_MESSAGES]
    return usable
