"""Splits of a domain that can be iterated again and again: files, tables, or parts of a pool by content hash."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from trimtab.data.groups import group_digest
from trimtab.data.record_files import Kind, Rows, kind_of_table, read_records, refuse_records, refuse_source
from trimtab.data.records import Columns, Completion, Item, Text, named, parse
from trimtab.errors import ConfigError, refusal
from trimtab.runs.paths import neighbour

Paths = str | Path | Sequence[str | Path]
"""A path, a glob pattern, or several of them."""

REPEATED = Text("")
"""Stands where a record was left out because another split has it; skipped as blank texts are, and counted apart."""

_ALSO_ENDINGS: dict[str, Kind] = {".ndjson": "jsonl", ".jsonlines": "jsonl", ".jl": "jsonl", ".tab": "tsv"}
_ENDINGS: dict[str, Kind] = {f".{kind}": kind for kind in get_args(Kind) if kind != "text"}
_AS_TABLE = "writing it as CSV in UTF-8, or as Parquet"
POOL_LIMIT, POOL_RECORDS = 32 * 2**20, 2**17
"""Bytes of the files of a pool, and records in it, that are held in memory."""
_REFUSED = {
    ending: hint
    for endings, hint in {
        ".zip .zst .xz .bz2 .7z .tar .tgz .rar": "unpacking it",
        ".psv .ssv .xlsx .xlsm .xlsb .xls .ods .feather .orc .avro .db .sqlite": _AS_TABLE,
        ".arrow": "the whole folder that save_to_disk wrote, or Parquet",
        ".pdf .docx .doc .epub .odt": "its words as plain text",
        ".pkl .pickle .pt .pth .npy .npz .safetensors .bin .h5": "",
    }.items()
    for ending in endings.split()
}


@dataclass(frozen=True, repr=False)
class Files:
    """The records of some files, in the order of their paths.

    Attributes:
        paths: the files.
        kind: "text" (a file is one record), "jsonl", "json", "csv", "tsv", "parquet", or None to go
            by each file's ending.
        cut: cut text files into records of some 8192 characters, at blank lines where there are any.
        columns: our keys -> those of the files; None for the same. Text files have one, "file", for the group.
    """

    paths: tuple[Path, ...]
    kind: Kind | None = None
    cut: bool = False
    columns: Columns = None

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
        if len(self.paths) == 1:
            return str(self.paths[0])
        kinds = sorted({self.kind or kind_of(path) for path in self.paths})
        return f"{len(self.paths)} {'/'.join(kinds)} files"


@dataclass(frozen=True, repr=False)
class Given:
    """Records in memory or rows of a table, anything that can be iterated more than once.

    Attributes:
        records: a list of records, or a table: see `trimtab.data.record_files`.
        where: what to call them in an error.
        columns: our keys -> those of the records; None for the same.

    Raises:
        DataError: no records, or ones that can be read only once; a table without columns that make records.
    """

    records: Any
    where: str
    columns: Columns = None

    def __post_init__(self) -> None:
        refuse_source(self.records, self.where)
        self._rows()

    def __iter__(self) -> Iterator[Item]:
        unused = getattr(rows := self._rows(), "unused", ())
        for number, raw in enumerate(rows):
            yield parse(raw, f"{self.where}, record {number}", columns=self.columns, unused=unused)

    def __repr__(self) -> str:
        try:
            return f"{len(self._rows())} records"  # type: ignore[arg-type]
        except TypeError:
            return "records"

    def _rows(self) -> Iterable[Any]:
        records: Iterable[Any] = self.records
        return Rows(records, self.where, self.columns) if kind_of_table(records) else records


@dataclass(frozen=True, repr=False)
class Part:
    """The records of a pool whose content, or group, hashes into [lower, upper) of the unit interval."""

    pool: Iterable[Item]
    lower: float
    upper: float

    def __iter__(self) -> Iterator[Item]:
        return (item for item in self.pool if self.lower <= position(item) < self.upper)

    def __repr__(self) -> str:
        return f"{100 * (self.upper - self.lower):.3g} % of {self.pool!r}"


class Pool:
    """The records of files that several splits are parts of: parsed once where they are few, else read again.

    They are few where the files have at most `POOL_LIMIT` bytes, unpacked ones only, and `POOL_RECORDS` records. Files
    that change are read again.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self._held: tuple[object, list[Item]] | None = None

    def __iter__(self) -> Iterator[Item]:
        state = self._state()
        if state is not None and self._held is not None and self._held[0] == state:
            yield from self._held[1]
            return
        records = list[Item]()
        for number, item in enumerate(self.files):
            if state is not None and number <= POOL_RECORDS:
                records.append(item)
            yield item
        if state is not None and len(records) <= POOL_RECORDS and self._state() == state:
            self._held = state, records

    def __repr__(self) -> str:
        return repr(self.files)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_held": None}

    def _state(self) -> object:
        """Size and time of each file; None where they are too large to be held, or there is no telling how large."""
        packed = any(path.suffix.lower() in (".gz", ".parquet") for path in self.files.paths)
        if packed or self.files.kind == "parquet":
            return None
        try:
            stats = [path.stat() for path in self.files.paths]
        except OSError:
            return None
        small = sum(one.st_size for one in stats) <= POOL_LIMIT
        return [(one.st_ino, one.st_size, one.st_mtime_ns) for one in stats] if small else None


@dataclass(frozen=True, repr=False)
class Without:
    """The records of a source that are not among some others, by digest; `REPEATED` stands in their place."""

    source: Iterable[Item]
    digests: frozenset[bytes]

    def __iter__(self) -> Iterator[Item]:
        return (REPEATED if item.digest in self.digests else item for item in self.source)

    def __repr__(self) -> str:
        return f"{self.source!r} without overlap"


SURVEYED_RECORDS, SURVEYED_CHARACTERS = 100_000, 8_000_000
"""Records of a source, and characters in them, that a survey reads."""


class Head:
    """First records of a source, up to `SURVEYED_RECORDS` or `SURVEYED_CHARACTERS`; read once and held in memory.

    Attributes:
        source: of the records.
        is_cut: whether the source has more; known once the records were read.
    """

    def __init__(self, source: Iterable[Item]) -> None:
        self.source, self.is_cut = source, False
        self._held: list[Item] | None = None

    def __iter__(self) -> Iterator[Item]:
        if self._held is None:
            self._held = list(self._first())
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held or ())

    def __repr__(self) -> str:
        return repr(self.source)

    def _first(self) -> Iterator[Item]:
        characters = 0
        for number, item in enumerate(self.source):
            self.is_cut = number >= SURVEYED_RECORDS or characters >= SURVEYED_CHARACTERS
            if self.is_cut:
                return
            if isinstance(item, Text) and len(item.text) > SURVEYED_CHARACTERS:  # a file that is one document
                self.is_cut, item = True, replace(item, text=item.text[:SURVEYED_CHARACTERS])
            characters += characters_of(item)
            yield item
            if self.is_cut:
                return


def characters_of(item: Item) -> int:
    """Characters of a record's text, of a conversation those of its messages.

    >>> characters_of(Completion("2 + 2 =", " 4"))
    9
    """
    if isinstance(item, Text):
        return len(item.text)
    if isinstance(item, Completion):
        return len(item.prompt) + len(item.completion)
    return sum(len(str(message.get("content") or "")) for message in item.messages)


def position(item: Item) -> float:
    """Hash position of a record's group, or else of its content, in [0, 1): uniform, and the same for equal ones.

    >>> position(Text("a")) == position(Text("a")) != position(Text("b"))
    True
    >>> position(Text("a", group="play")) == position(Text("b", group="play"))
    True
    """
    digest = group_digest(item.group) if item.group else item.digest
    return (int.from_bytes(digest[8:16], "big") >> 11) / 2**53


def find(paths: Paths, name: str) -> tuple[Path, ...]:
    """The files that paths and patterns mean, sorted within each pattern, each once.

    Raises:
        DataError: a path that does not exist or a pattern that matches no file; `name` is the domain.
    """
    where, files = f"domain {name!r}", list[Path]()
    for path in [paths] if isinstance(paths, str | Path) else paths:
        pattern = glob.has_magic(str(path))
        try:
            whole = Path(path).expanduser()
            folder, other = whole.is_dir(), whole.exists()
            names = [str(whole)] if whole.is_file() else sorted(glob.glob(str(whole), recursive=True))  # noqa: PTH207
            matches = [Path(match) for match in names if Path(match).is_file()]
            near = "" if pattern or matches else neighbour(whole)
        except (OSError, ValueError, RuntimeError) as error:
            # A name that is too long, holds NUL or half of a character, or begins with an unknown user.
            got = f"{str(path)[:80]!r} ({getattr(error, 'strerror', None) or error})"
            raise refusal(where, got, "a path of this machine") from error
        if folder:
            raise refusal(where, f"folder {path}", "files", f"{path}/*")
        if not matches:
            got = f"{str(path)!r}{', a pipe or device' if other else ''}"
            wanted = "a pattern that matches files" if pattern else "a file that exists"
            near = "the file itself, or a copy of it" if near == str(whole) else near
            raise refusal(where, got, wanted, near)
        files += matches
    if not files:
        raise refusal(where, "no path", "at least one file")
    return tuple(dict.fromkeys(files))


def source_of(records: Any, where: str) -> Iterable[Item]:
    """Source of records: one of ours as it is, anything else as `Given`."""
    return records if isinstance(records, Files | Given | Head | Part | Without) else Given(records, where)


def pool_of(source: Iterable[Item]) -> Iterable[Item]:
    """The whole of which a source is a part, or the source itself."""
    while isinstance(source, Part | Without):
        source = source.pool if isinstance(source, Part) else source.source
    return source


def kind_of(path: Path) -> Kind:
    """Kind of a file by its ending, that before .gz too; unknown endings (.md, .py, ...) are text.

    Raises:
        DataError: an ending that is surely not text.

    >>> kind_of(Path("a.jsonl.gz")), kind_of(Path("a.md"))
    ('jsonl', 'text')
    """
    packed = path.suffix.lower() == ".gz"
    ending = (path.with_suffix("") if packed else path).suffix.lower()
    kind = _ENDINGS.get(ending) or _ALSO_ENDINGS.get(ending, "text")
    if ending in _REFUSED or (packed and kind == "parquet"):
        hint = "unpacking it" if packed else _REFUSED[ending]
        raise refusal(path, f"a {ending} file", f"text, or one of {named(_ENDINGS)}", hint)
    return kind


def is_pattern(path: str | Path) -> bool:
    """Whether a path is a glob pattern and not the name of something that is there."""
    try:
        whole = Path(path).expanduser()
        return glob.has_magic(str(path)) and not whole.exists()
    except (OSError, ValueError, RuntimeError):
        return False


SPLITS = ("train", "validation", "test")
ALSO_CALLED = {"val": "validation", "valid": "validation"}
"""Names that others give a split."""


def complete(
    name: str, sources: Mapping[str, Iterable[Item]], fractions: Sequence[float]
) -> dict[str, Iterable[Item]]:
    """Splits with the missing ones taken from train by content hash; without train, only those given.

    A train share of 0 leaves no train split: all of the pool is for evaluation.

    Text files that become a pool are cut into records, so that one long file can be split.

    Raises:
        ConfigError: fractions that are not three positive numbers (the first may be 0) that sum to 1.
    """
    train, *others = fractions if len(fractions) == 3 else (-1, 0, 0)
    if train < 0 or min(others) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        expected = "three positive shares (train, validation, test; train may be 0) that sum to 1"
        raise refusal(f"domain {name!r}, fractions", list(fractions), expected, error=ConfigError)
    shares = dict(zip(SPLITS, fractions, strict=True))
    missing = [split for split in SPLITS if split not in sources]
    if "train" in missing or not missing:
        return dict(sources)
    pool = sources["train"]
    pool = Pool(replace(pool, cut=True)) if isinstance(pool, Files) else pool
    lower = 1 - sum(shares[split] for split in missing)
    parts: dict[str, Iterable[Item]] = {"train": Part(pool, 0.0, lower)} if shares["train"] else {}
    for split in missing:
        upper = 1.0 if split == missing[-1] else lower + shares[split]
        parts[split] = Part(pool, lower, upper)
        lower = upper
    return parts | {split: source for split, source in sources.items() if split != "train"}


def files_of(folder: Path, split: str) -> tuple[Path, ...]:
    """The files of a folder that belong to a split: `train.*`, `train-00000.*` or `train/*`, sorted."""
    names = [split, *(other for other, meant in ALSO_CALLED.items() if meant == split)]
    patterns = [name + ending for name in names for ending in (".*", "-*.*", "/*")]
    return tuple(sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}))


def load_set(name: str, source: str | Path, options: Mapping[str, Any]) -> Any:
    """Data set of `datasets.load_dataset` by name, or of a folder that `save_to_disk` wrote; memory-mapped.

    Raises:
        DataError: it cannot be loaded, with the beginning of the reason, or is damaged; `name` is the domain's.
    """
    import datasets

    saved = isinstance(source, Path)
    try:
        return datasets.load_from_disk(str(source)) if saved else datasets.load_dataset(source, **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:600] or type(error).__name__
        where, got, expected = f"domain {name!r}", f"{source!r}: {reason}", "a data set that can be loaded"
        hint = "its name on the hub, or a path"
        if saved:
            where, expected = f"{where}: {source}", "a data set as save_to_disk writes it"
            reason, hint = str(error).strip().partition("\n")[0] or reason, "writing it again"
            got = f"a folder that cannot be read ({reason})"
        elif "config" in str(error).lower():
            hint = "config=..., one of those named"
        raise refusal(where, got, expected, hint) from error
