"""Domains: named data sets with splits that do not overlap, and what a config says of where they come from."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from trimtab.data import splits as sources
from trimtab.data.contents import SplitContents, check_contents, survey, unread, unused_names, why_skipped
from trimtab.data.record_files import Kind, kind_of_table, refuse_source
from trimtab.data.records import KEYS, Columns, Item, LayoutName, Record, column_problems, whole
from trimtab.data.splits import ALSO_CALLED, SPLITS, Files, Given, Paths, Without, complete
from trimtab.errors import (
    ConfigError,
    ConfigProblems,
    DataError,
    Problem,
    nearest,
    problem_of,
    refusal,
)
from trimtab.runs.paths import neighbour

Shares = Sequence[float]
"""Shares of train, validation and test in a pool."""
FRACTIONS = (0.9, 0.05, 0.05)
"""Those that are taken where none are given."""
EVALUATE_ONLY = (0.0, 0.5, 0.5)
"""How a pool is split that is never trained on: validation and test, half each."""

PEEKED = 1000
"""Files of a pattern whose endings are looked at before a run."""
_OF_THE_HUB = ("config", "split", "revision")
_LOOKED_AT = 4


@dataclass(frozen=True, eq=False, repr=False)
class Domain:
    """Domain: a named data set with train, validation and test splits.

    A record is a text, a mapping with "text", one with "prompt" and "completion", texts or messages (loss on the
    completion only), or one with "messages", a list of {"role", "content"} (loss on what the assistant says only). Its
    "group", a text or a number, names those it is not independent of: `trimtab.data.groups`.
    Blank texts and records whose fields have no value (null, nan) are skipped and counted; `unread` says so.
    Splits are read lazily, more than once, never held in memory.

    A split is a list or another sequence of records, a pandas, polars or Arrow table, a pandas, numpy or Arrow column,
    a mapping of columns, or a `datasets.Dataset`; of tables only the columns that make records are read.

    Attributes:
        name: any text; it never becomes a path.
        train: records to train on; None for a domain that is only evaluated.
        validation: records to choose by.
        test: records to report on.
        left_out: what the source held beside the splits, in short sentences: files of a folder, splits of other names.

    Raises:
        DataError: no split at all, a split that can be read only once (a generator) or in no order (a set), or a table
            without a column that makes records.
        ConfigError: an empty name.

    >>> Domain("sums", train=["1 + 1 = 2", {"prompt": "2 + 2 =", "completion": " 4"}], test=["3 + 3 = 6"])
    Domain('sums': train 2 records, test 1 records)
    """

    name: str
    train: Iterable[Record] | None = None
    validation: Iterable[Record] | None = None
    test: Iterable[Record] | None = None
    left_out: Iterable[Any] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise refusal("domain name", repr(self.name), "a text that is not blank", error=ConfigError)
        if not self.splits:
            raise refusal(f"domain {self.name!r}", "no split", "train, validation or test")
        for split in self.splits:
            sources.source_of(getattr(self, split), f"domain {self.name!r}, split {split!r}")

    def __repr__(self) -> str:
        parts = ", ".join(f"{split} {self._source(split)!r}" for split in self.splits)
        return f"Domain({self.name!r}: {parts})"

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that the domain has, of train, validation and test."""
        return tuple(split for split in SPLITS if getattr(self, split) is not None)

    def items(self, split: str) -> Iterator[Item]:
        """The checked records of a split, without blank texts and records without a value.

        Raises:
            DataError: a malformed record (file and line, or its number), or no such split.
        """
        if split not in self.splits:
            raise refusal(f"domain {self.name!r}", split, f"one of {self.splits}")
        return (whole(item) for item in self._source(split) if not why_skipped(item))

    @cached_property
    def contents(self) -> dict[str, SplitContents]:
        """Counts, hashes and fingerprint of every split, from one checked reading of each; cached.

        Raises:
            DataError: a malformed record, a split without records, a record in two splits, or records without a group
                beside others that have one.
        """
        splits = {split: self._source(split) for split in self.splits}
        contents = {split: survey(source) for split, source in splits.items()}
        check_contents(f"domain {self.name!r}", splits, contents)
        return contents

    @property
    def unread(self) -> tuple[str, ...]:
        """Parts of the source that are not read, a sentence each: files, splits, columns, skipped records.

        Columns (or keys) are those of the first records until `contents` has been asked for, then those of all; records
        are counted in `contents`, so before that none are listed. Reads no more than a few records itself.

        >>> domain = Domain("sums", train=[{"text": "1 + 1 = 2", "id": 1}, {"text": None}], test=["3 + 3 = 6"])
        >>> domain.unread, domain.contents["train"].records, domain.unread
        (("column 'id' not used",), 1, ("column 'id' not used", '1 record without a value skipped'))
        """
        seen: list[SplitContents] = list(self.__dict__.get("contents", {}).values())
        if not seen:
            pools = [sources.pool_of(self._source(split)) for split in self.splits]
            looks = [survey(_first(pool)) for pool in pools]
            seen = [replace(look, blank=0, without_value=0, repeated=0) for look in looks]
        return (*map(str, self.left_out), *unread(seen))

    @property
    def fingerprint(self) -> str:
        """Sha256 of the content of all splits; the name has no part in it.

        Raises:
            DataError: as `contents`.
        """
        text = "\n".join(f"{split} {content.fingerprint}" for split, content in self.contents.items())
        return hashlib.sha256(text.encode()).hexdigest()

    def without_overlap(self) -> Domain:
        """Deduplicated domain: records that stand in two splits are kept only in the later of them.

        >>> overlapping = Domain("sums", train=["1 + 1 = 2", "2 + 2 = 4"], test=["1 + 1 = 2"])
        >>> [item.text for item in overlapping.without_overlap().items("train")]
        ['2 + 2 = 4']
        """
        changes, later = dict[str, Any](), set[bytes]()
        for split in reversed(self.splits):
            changes[split] = Without(self._source(split), frozenset(later))
            if split != self.splits[0]:
                later |= {item.digest for item in self.items(split)}
        return replace(self, **changes)

    @classmethod
    def from_text(
        cls,
        name: str,
        paths: Paths,
        *,
        validation: Paths | None = None,
        test: Paths | None = None,
        fractions: Shares = FRACTIONS,
    ) -> Domain:
        """Domain of text files: a file is a document.

        Splits that are not given are taken from `paths` by a hash of each record's group, or else of its content, so
        that equal records land together; text files are then cut into records of some 8192 characters, at blank lines
        where there are any.

        Args:
            name: the domain's name.
            paths: a path, a glob pattern, or several: what to train on, and the pool of splits not given.
            validation: files of the validation split.
            test: files of the test split.
            fractions: shares of train, validation and test in a pool; those of given splits go to train.

        Raises:
            DataError: a missing file, or a pattern that matches none.
            ConfigError: fractions that are not three positive numbers (the first may be 0) that sum to 1.
        """
        return _from_files(name, "text", (paths, validation, test), fractions)

    @classmethod
    def from_jsonl(
        cls,
        name: str,
        paths: Paths,
        *,
        validation: Paths | None = None,
        test: Paths | None = None,
        fractions: Shares = FRACTIONS,
        columns: Columns = None,
    ) -> Domain:
        """Domain of JSONL files: a record per line; all else as in `from_text`, `columns` as in `from_path`."""
        return _from_files(name, "jsonl", (paths, validation, test), fractions, columns)

    @classmethod
    def from_parquet(
        cls,
        name: str,
        paths: Paths,
        *,
        validation: Paths | None = None,
        test: Paths | None = None,
        fractions: Shares = FRACTIONS,
        columns: Columns = None,
    ) -> Domain:
        """Domain of Parquet files: a record per row; all else as in `from_text`, `columns` as in `from_path`."""
        return _from_files(name, "parquet", (paths, validation, test), fractions, columns)

    @classmethod
    def from_dataset(
        cls,
        name: str,
        /,
        dataset: Any,
        *,
        config: str | None = None,
        split: str | None = None,
        revision: str | None = None,
        columns: Columns = None,
        fractions: Shares = FRACTIONS,
        **options: Any,
    ) -> Domain:
        """Domain of a data set of the `datasets` library, or of a table.

        Of columns only those that make records are read; pictures and sound are never decoded.

        Args:
            name: the domain's name.
            dataset: a `Dataset` or any table or list that `Domain` takes (a pool, split as in `from_text`), a
                `DatasetDict` or a mapping of splits (missing ones are taken from train), or the name of a data set for
                `datasets.load_dataset`.
            config: which configuration of a named data set, such as "main".
            split: which split of a named data set, to take it as a pool: "train", "train_sft", "train[:1000]".
            revision: which version of a named data set: a branch, a tag or a commit.
            columns: as in `from_path`.
            fractions: as in `from_text`.
            options: passed on to `load_dataset`.

        Raises:
            DataError: it cannot be loaded, has no column that makes records, or lacks one that `columns` names.
            ConfigError: options beside a data set that is no name, or a wrong key in `columns`.
        """
        _check_columns(name, columns)
        where = f"domain {name!r}"
        if config is not None and "name" in options:
            raise refusal(where, "config and name", "one of them", error=ConfigError)
        given = {"name": config, "split": split, "revision": revision}
        options |= {key: value for key, value in given.items() if value is not None}
        if isinstance(dataset, str):
            dataset = sources.load_set(name, dataset, options)
        elif options:
            raise refusal(where, sorted(options), "options only beside a name", error=ConfigError)
        return _from_splits(name, dataset, columns, fractions)

    @classmethod
    def from_path(
        cls, name: str, path: str | Path, *, fractions: Shares = FRACTIONS, columns: Columns = None
    ) -> Domain:
        """Domain of a path as recipes write it: a file, a glob pattern, a folder, or `hf:owner/name`.

        A folder holds `train.*`, `validation.*` and `test.*` (also `train-00000.*`, or subfolders of these
        names); without train the domain is only evaluated. So does one that `save_to_disk` of a data set wrote. Files
        that end in .jsonl, .json, .csv, .tsv or .parquet are read as such, all others as text; .gz after that is
        unpacked on the way. A JSON file is an array of records or holds one per line. CSV names its columns in the
        first line. Splits that are missing are taken from train, as in `from_text`, by `fractions`; (0, .5, .5) keeps
        all of a pool for evaluation.

        Args:
            name: the domain's name.
            path: what to read.
            fractions: as in `from_text`.
            columns: our keys -> those of the data, others unread; or "sharegpt", "alpaca" (`trimtab.data.layouts`).
                The group alone renames it alone; text files have one column, "file", for it.

        Raises:
            DataError: missing files, a folder without splits, or an ending that cannot be read.
            ConfigError: a wrong key in `columns`.
        """
        if not str(path).strip():
            raise refusal(f"domain {name!r}", repr(str(path)), "a path, or hf:owner/name")
        if str(path).startswith("hf:"):
            where = str(path).removeprefix("hf:")
            return cls.from_dataset(name, where, fractions=fractions, columns=columns)
        _check_columns(name, columns)
        folder, is_folder = Path(path), False
        with suppress(OSError, ValueError, RuntimeError):  # refused when files are looked up
            folder = folder.expanduser()
            is_folder = folder.is_dir()
        if not is_folder:
            return _from_files(name, None, (path, None, None), fractions, columns)
        # save_to_disk of a data set wrote the folder.
        written = {one.name for one in folder.glob("*.json")}
        if "dataset_dict.json" in written or written >= {"state.json", "dataset_info.json"}:
            return _from_splits(name, sources.load_set(name, folder, {}), columns, fractions)
        paths = {split: files for split in SPLITS if (files := sources.files_of(folder, split))}
        entries = sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))
        if not paths:
            inner = islice((one for entry in entries if (one := folder / entry).is_dir()), _LOOKED_AT)
            with_splits = (str(one) for one in inner if any(sources.files_of(one, split) for split in SPLITS))
            tip = next(with_splits, f"a pattern such as {folder / '*.txt'}")
            raise refusal(f"domain {name!r}", f"folder {path}", "train.*, validation.* and test.* in it", tip)
        by_split = {split: Files(files, columns=columns) for split, files in paths.items()}
        used = {one.relative_to(folder).parts[0] for files in paths.values() for one in files}
        unused = [entry for entry in entries if entry not in used]
        left_out = (unused_names("file", unused),) if unused else ()
        return cls(name, **complete(name, by_split, fractions), left_out=left_out)

    def _source(self, split: str) -> Iterable[Item]:
        return sources.source_of(getattr(self, split), f"{self.name}, {split}")


def _first(source: Iterable[Item]) -> Iterator[Item]:
    """First records of a source; a malformed one ends them, and is refused when all are read."""
    with suppress(DataError):
        yield from islice(source, _LOOKED_AT)


def _check_columns(name: str, columns: Columns) -> None:
    for problem in column_problems(columns) if columns is not None else ():
        raise ConfigError(f"domain {name!r}, {problem}")


def _from_files(
    name: str, kind: Kind | None, paths: Sequence[Paths | None], fractions: Shares, columns: Columns = None
) -> Domain:
    _check_columns(name, columns)
    given = {split: files for split, files in zip(SPLITS, paths, strict=True) if files is not None}
    by_split = {split: Files(sources.find(one, name), kind, columns=columns) for split, one in given.items()}
    return Domain(name, **complete(name, by_split, fractions))


def _from_splits(name: str, data: Any, columns: Columns, fractions: Shares) -> Domain:
    """A domain from a mapping of splits, or from one table or list as a pool."""
    keys = data if isinstance(data, Mapping) else ()
    names_splits = any(ALSO_CALLED.get(str(key), str(key)) in SPLITS for key in keys)
    is_columns = kind_of_table(data) == "columns" and (not names_splits or any(key in KEYS for key in keys))
    given = data if isinstance(data, Mapping) and not is_columns else {"train": data}
    splits = {ALSO_CALLED.get(str(split), str(split)): rows for split, rows in given.items()}
    there = [split for split in SPLITS if split in splits]
    by_split = {split: Given(splits[split], f"domain {name!r}, split {split!r}", columns) for split in there}
    if not by_split:
        first = next(iter(splits), "train")
        hint = nearest(first, SPLITS) if nearest(first, SPLITS) == first else f"split={first!r}, as a pool"
        raise refusal(f"domain {name!r}", f"splits {list(given)}", f"some of {SPLITS}", hint)
    others = [str(split) for split in given if ALSO_CALLED.get(str(split), str(split)) not in SPLITS]
    left_out = (unused_names("split", others),) if others else ()
    return Domain(name, **complete(name, by_split, fractions), left_out=left_out)


@dataclass(frozen=True)
class Origin:
    """Source of a domain's data in a config: a path with the options of its data set.

    Attributes:
        path: a file, a glob pattern, a folder or `hf:owner/name`.
        config: which configuration of a data set of the hub.
        split: which split of it, to take that as a pool.
        revision: which version of it: a branch, a tag or a commit.
        columns: as in `Domain.from_path`.
        overlap: "refuse" records that stand in two splits, or "drop" them from the earlier one.

    Raises:
        ConfigProblems: a wrong key in `columns`, or what only data sets of the hub have beside a path.
    """

    path: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: dict[str, str] | LayoutName = field(default_factory=dict)
    overlap: Literal["refuse", "drop"] = "refuse"

    def __post_init__(self) -> None:
        problems = list(column_problems(self.columns)) if self.columns else []
        if not self.path.startswith("hf:"):
            given = {name: getattr(self, name) for name in _OF_THE_HUB if getattr(self, name) is not None}
            expected = "it only beside path: hf:owner/name"
            problems += [Problem(name, repr(value), expected) for name, value in given.items()]
        if problems:
            raise ConfigProblems(problems)


def path_of(origin: str | Origin | Mapping[str, Any]) -> str:
    """Path of a domain's source.

    >>> path_of("data"), path_of(Origin("data", overlap="drop"))
    ('data', 'data')
    """
    if isinstance(origin, Mapping):
        return str(origin["path"])
    return origin.path if isinstance(origin, Origin) else origin


def read_domain(
    name: str, origin: str | Path | Origin | Mapping[str, Any], *, fractions: Shares = FRACTIONS
) -> Domain:
    """Domain of a source in a config.

    Args:
        name: the domain's name.
        origin: a path, or more than that; as a mapping it is what `plain` makes of an `Origin`.
        fractions: shares of train, validation and test in a pool.

    Raises:
        DataError, ConfigError: as `Domain.from_path` and `Domain.from_dataset`.
    """
    if isinstance(origin, Mapping):
        origin = Origin(**origin)
    if not isinstance(origin, Origin):
        return Domain.from_path(name, origin, fractions=fractions)
    read: Any = Domain.from_path
    path, options = origin.path, dict[str, Any]()
    if path.startswith("hf:"):
        read, path = Domain.from_dataset, path.removeprefix("hf:")
        options = {key: getattr(origin, key) for key in _OF_THE_HUB}
    domain: Domain = read(name, path, columns=origin.columns or None, fractions=fractions, **options)
    return domain.without_overlap() if origin.overlap == "drop" else domain


def as_domains(where: str, given: Any, *, fractions: Shares = FRACTIONS) -> dict[str, Domain]:
    """Domains by name, each from a domain, a path, a data set, a table or a list.

    Args:
        where: what to call the mapping in an error: "train" or "evaluate".
        given: domain name -> its data.
        fractions: shares of train, validation and test in a pool.

    Raises:
        ConfigProblems: no mapping of names.
        DataError: data that makes no domain, as the constructors of `Domain`.
    """
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        got, hint = f"a {type(given).__name__}", "{name: domain}"
        if isinstance(given, Domain):
            got, hint = f"the domain {given.name!r}", f"{{{given.name!r}: domain}}"
        raise ConfigProblems([Problem(where, got, "a mapping of names to domains", hint)])
    domains: dict[str, Domain] = {}
    for name, data in given.items():
        where = f"domain {name!r}"
        if data is None or isinstance(data, int | float | bytes):
            expected = "a Domain, a path, a data set, a table or a list of records"
            raise refusal(where, type(data).__name__, expected)
        if isinstance(data, str | Path | Origin):
            data = read_domain(name, data, fractions=fractions)
        elif not isinstance(data, Domain):
            if not isinstance(data, Mapping):
                refuse_source(data, where)
            data = Domain.from_dataset(name, data, fractions=fractions)
        domains[name] = data
    return domains


def origin_problems(where: str, origin: str | Origin) -> list[Problem]:
    """Problems of a source: missing or unreadable files; the hub and corpora of the lab are not looked up.

    Of a pattern the endings of the first files are looked at: what it matches may be the whole disk.

    >>> origin_problems("train.web", "lab:prose")
    []
    """
    source = path_of(origin)
    if source.startswith("hf:") and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source[3:], re.ASCII):
        return [Problem(where, repr(source), "hf:owner/name")]
    if source.startswith(("hf:", "lab:")):
        return []
    try:
        if sources.is_pattern(source):
            matches = list(islice(glob.iglob(str(Path(source).expanduser()), recursive=True), PEEKED))  # noqa: PTH207
            if not matches:
                raise refusal("", repr(source), "a pattern that matches files")
            for match in matches:
                sources.kind_of(Path(match))
        else:
            read_domain("domain", origin)
    except DataError as error:
        problem, expected = problem_of(where, error), "a file, a glob, a folder or hf:owner/name"
        if problem.expected in ("a file that exists", "a pattern that matches files") or not source:
            problem = Problem(where, problem.got, expected, neighbour(Path(source)))
        return [problem]
    return []
