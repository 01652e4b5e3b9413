"""Where records come from: files, tables and parts of a pool. Each is read again from the start when iterated."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.data.columns import Rows, kind_of_table, refuse_source
from trimtab.data.record_files import Kind, named_kinds, read_records, refuse_records
from trimtab.data.records import Item, Text, parse
from trimtab.errors import DataError, explain
from trimtab.runs.places import neighbour

Paths = str | Path | Sequence[str | Path]
"""A path, a glob pattern, or several of them."""

REPEATED = Text("")
"""Stands where a record was left out because another split has it; skipped as blank texts are, and counted apart."""

_ENDINGS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".jl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
}
_AS_TABLE = "writing it as CSV in UTF-8, or as Parquet"
_REFUSED = {
    **dict.fromkeys((".zip", ".zst", ".xz", ".bz2", ".7z", ".tar", ".tgz", ".rar"), "unpacking it"),
    **dict.fromkeys(
        (
            ".psv",
            ".ssv",
            ".xlsx",
            ".xlsm",
            ".xlsb",
            ".xls",
            ".ods",
            ".feather",
            ".orc",
            ".avro",
            ".db",
            ".sqlite",
        ),
        _AS_TABLE,
    ),
    ".arrow": "the whole folder that save_to_disk wrote, or Parquet",
    **dict.fromkeys((".pdf", ".docx", ".doc", ".epub", ".odt"), "its words as plain text"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz", ".safetensors", ".bin", ".h5"), ""),
}


@dataclass(frozen=True, repr=False)
class Files:
    """The records of some files, in the order of their paths.

    Attributes:
        paths: the files.
        kind: "text" (a file is one record), "jsonl", "json", "csv", "tsv", "parquet", or None to go
            by each file's ending.
        cut: cut text files into records of some 8192 characters, at blank lines where there are any.
        columns: our keys -> those of the files; None for the same.
    """

    paths: tuple[Path, ...]
    kind: Kind | None = None
    cut: bool = False
    columns: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for path in self.paths if self.kind is None else ():
            kind_of(path)

    def __iter__(self) -> Iterator[Item]:
        for path in self.paths:
            kind = self.kind or kind_of(path)
            if not self.kind and kind == "text":
                refuse_records(path)
            yield from read_records(path, kind, cut=self.cut, columns=self.columns)

    def __repr__(self) -> str:
        kinds = sorted({self.kind or kind_of(path) for path in self.paths})
        return f"{len(self.paths)} {'/'.join(kinds)} file{'s' * (len(self.paths) != 1)}"


@dataclass(frozen=True, repr=False)
class Given:
    """Records in memory or rows of a table, anything that can be iterated more than once.

    Attributes:
        records: a list of records, or a table: see `trimtab.data.columns`.
        where: what to call them in an error.
        columns: our keys -> those of the records; None for the same.

    Raises:
        DataError: no records, or ones that can be read only once; a table without columns that make records.
    """

    records: Any
    where: str
    columns: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        refuse_source(self.records, self.where)
        self._rows()

    def __iter__(self) -> Iterator[Item]:
        rows = self._rows()
        beside = rows.unused if isinstance(rows, Rows) else ()
        for number, raw in enumerate(rows):
            yield parse(raw, f"{self.where}, record {number}", columns=self.columns, beside=beside)

    def __repr__(self) -> str:
        try:
            return f"{len(self._rows())} records"  # type: ignore[arg-type]
        except TypeError:
            return "records"

    def _rows(self) -> Iterable[Any]:
        if not kind_of_table(self.records):
            rows: Iterable[Any] = self.records
            return rows
        return Rows(self.records, self.where, self.columns)


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
    """The records of a source that are not among some others, by digest; `REPEATED` stands in their place."""

    source: Iterable[Item]
    digests: frozenset[bytes]

    def __iter__(self) -> Iterator[Item]:
        return (REPEATED if item.digest in self.digests else item for item in self.source)

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


def source_of(records: Any, where: str) -> Iterable[Item]:
    """What reads the records that somebody handed over; a source of ours is itself."""
    return records if isinstance(records, Files | Given | Part | Without) else Given(records, where)


def pool_of(source: Iterable[Item]) -> Iterable[Item]:
    """The whole of which a source is a part, or the source itself."""
    while isinstance(source, Part | Without):
        source = source.pool if isinstance(source, Part) else source.source
    return source


def kind_of(path: Path) -> Kind:
    """What a file holds, by its ending, that before .gz too; unknown endings (.md, .py, ...) are text.

    Raises:
        DataError: an ending that is surely not text.

    >>> kind_of(Path("a.jsonl.gz")), kind_of(Path("a.md"))
    ('jsonl', 'text')
    """
    packed = path.suffix.lower() == ".gz"
    ending = (path.with_suffix("") if packed else path).suffix.lower()
    kind = _ENDINGS.get(ending, "text")
    if ending in _REFUSED or (packed and kind == "parquet"):
        hint = "unpacking it" if packed else _REFUSED[ending]
        what = explain(f"a {ending} file", f"text, or one of {named_kinds()}", hint)
        raise DataError(f"{path}: {what}")
    return kind


def is_pattern(path: str | Path) -> bool:
    """Whether a path is a glob pattern and not the name of something that is there."""
    try:
        whole = Path(path).expanduser()
        return glob.has_magic(str(path)) and not whole.exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _match(path: str | Path, name: str) -> list[Path]:
    try:
        whole = Path(path).expanduser()
        if whole.is_file():
            return [whole]
        folder = whole.is_dir()
        found = [Path(match) for match in sorted(glob.glob(str(whole), recursive=True))]  # noqa: PTH207
        files = [match for match in found if match.is_file()]
        other = whole.exists()
        near = neighbour(whole)
        hint = near if near != str(whole) else "the file itself, or a copy of it"
    except (OSError, ValueError, RuntimeError) as error:
        # A name that is too long, holds NUL or half of a character, or begins with an unknown user.
        got = f"{str(path)[:80]!r} ({getattr(error, 'strerror', None) or error})"
        raise DataError(f"domain {name!r}: {explain(got, 'a path of this machine')}") from error
    if folder:
        raise DataError(f"domain {name!r}: {explain(f'folder {path}', 'files', f'{path}/*')}")
    if not files:
        got = f"{str(path)!r}{', a pipe or device' if other else ''}"
        pattern = glob.has_magic(str(path))
        wanted = "a pattern that matches files" if pattern else "a file that exists"
        raise DataError(f"domain {name!r}: {explain(got, wanted, '' if pattern else hint)}")
    return files
