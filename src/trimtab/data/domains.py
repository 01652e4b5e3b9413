"""A domain: a named data set with train, validation and test splits that do not overlap."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.data.records import Item, Record, Text, excerpt
from trimtab.data.sources import Files, Given, Kind, Part, Paths, Without, find, usable_columns
from trimtab.data.splits import ALSO_CALLED, SPLITS, SplitContents, complete, files_of, short_hash, survey
from trimtab.errors import ConfigError, DataError, explain

_FRACTIONS = (0.9, 0.05, 0.05)


@dataclass(frozen=True, eq=False, repr=False)
class Domain:
    """A named data set.

    A record is a text, a mapping with "text", one with "prompt" and "completion" (loss on the completion
    only), or one with "messages", a list of {"role", "content"} (loss on what the assistant says only).
    Blank texts are skipped. Splits are read lazily, more than once, never held in memory.

    Attributes:
        name: any text; it never becomes a path.
        train: records to train on; None for a domain that is only evaluated.
        validation: records to choose by.
        test: records to report on.

    Raises:
        DataError: no split at all, or a split that can be read only once (a generator).
        ConfigError: an empty name.

    >>> Domain("sums", train=["1 + 1 = 2", {"prompt": "2 + 2 =", "completion": " 4"}], test=["3 + 3 = 6"])
    Domain('sums': train 2 records, test 1 records)
    """

    name: str
    train: Iterable[Record] | None = None
    validation: Iterable[Record] | None = None
    test: Iterable[Record] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(f"domain name: {explain(repr(self.name), 'a text that is not blank')}")
        if not self.splits:
            raise DataError(f"domain {self.name!r}: {explain('no split', 'train, validation or test')}")
        for split in self.splits:
            _check_rereadable(getattr(self, split), f"domain {self.name!r}, split {split!r}")

    def __repr__(self) -> str:
        parts = ", ".join(f"{split} {self._source(split)!r}" for split in self.splits)
        return f"Domain({self.name!r}: {parts})"

    @property
    def splits(self) -> tuple[str, ...]:
        """Which of train, validation and test it has."""
        return tuple(split for split in SPLITS if getattr(self, split) is not None)

    def items(self, split: str) -> Iterator[Item]:
        """The checked records of a split, without blank texts.

        Raises:
            DataError: a malformed record (file and line, or its number), or no such split.
        """
        if split not in self.splits:
            raise DataError(f"domain {self.name!r}: {explain(split, f'one of {self.splits}')}")
        return (item for item in self._source(split) if not isinstance(item, Text) or item.text.strip())

    @cached_property
    def contents(self) -> dict[str, SplitContents]:
        """Every split read once and checked: what `tokenise` looks at before it starts.

        Raises:
            DataError: a malformed record, a split without records, or a record in two splits.
        """
        contents = {split: survey(self.items(split)) for split in self.splits}
        for split, content in contents.items():
            if not content.records:
                hint = "more records, or files of its own for each split"
                what = explain(f"no record in {self._source(split)!r}", "at least one", hint)
                raise DataError(f"domain {self.name!r}, split {split!r}: {what}")
        self._check_disjoint(contents)
        return contents

    @property
    def fingerprint(self) -> str:
        """Sha256 of the content of all splits; the name has no part in it.

        Raises:
            DataError: as `contents`.
        """
        text = "\n".join(f"{split} {content.fingerprint}" for split, content in self.contents.items())
        return hashlib.sha256(text.encode()).hexdigest()

    def without_overlap(self) -> Domain:
        """The same domain, with records that stand in two splits kept only in the later of them.

        >>> overlapping = Domain("sums", train=["1 + 1 = 2", "2 + 2 = 4"], test=["1 + 1 = 2"])
        >>> [item.text for item in overlapping.without_overlap().items("train")]
        ['2 + 2 = 4']
        """
        changes: dict[str, Any] = {}
        later: set[bytes] = set()
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
        fractions: Sequence[float] = _FRACTIONS,
    ) -> Domain:
        """Text files: a file is a document.

        Splits that are not given are taken from `paths` by a hash of each record's content, so that equal
        records land together; text files are then cut into records of some 8192 characters, at blank lines
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
        fractions: Sequence[float] = _FRACTIONS,
    ) -> Domain:
        """JSONL files: a record per line; arguments, splits and errors as in `from_text`."""
        return _from_files(name, "jsonl", (paths, validation, test), fractions)

    @classmethod
    def from_parquet(
        cls,
        name: str,
        paths: Paths,
        *,
        validation: Paths | None = None,
        test: Paths | None = None,
        fractions: Sequence[float] = _FRACTIONS,
    ) -> Domain:
        """Parquet files: a record per row; arguments, splits and errors as in `from_text`."""
        return _from_files(name, "parquet", (paths, validation, test), fractions)

    @classmethod
    def from_dataset(
        cls, name: str, dataset: Any, *, fractions: Sequence[float] = _FRACTIONS, **options: Any
    ) -> Domain:
        """A data set of the `datasets` library.

        Args:
            name: the domain's name.
            dataset: a `Dataset` (a pool, split as in `from_text`), a `DatasetDict` (its splits; missing
                ones are taken from train), or the name of either for `datasets.load_dataset`.
            fractions: as in `from_text`.
            options: passed on to `load_dataset`.

        Raises:
            DataError: it cannot be loaded, or has no column that makes records.
        """
        if isinstance(dataset, str):
            dataset = _load_dataset(name, dataset, options)
        elif options:
            raise ConfigError(f"domain {name!r}: {explain(sorted(options), 'options only beside a name')}")
        given = dataset if isinstance(dataset, Mapping) else {"train": dataset}
        named = {ALSO_CALLED.get(str(split), str(split)): rows for split, rows in given.items()}
        for split, rows in named.items():
            if split in SPLITS and getattr(rows, "column_names", None):
                usable_columns(rows.column_names, f"domain {name!r}, split {split!r}")
        sources = {split: Given(named[split], f"{name}, {split}") for split in SPLITS if split in named}
        if not sources:
            raise DataError(f"domain {name!r}: {explain(f'splits {list(given)}', f'some of {SPLITS}')}")
        return cls(name, **complete(name, sources, fractions))

    @classmethod
    def from_path(cls, name: str, path: str | Path, *, fractions: Sequence[float] = _FRACTIONS) -> Domain:
        """What a recipe names: a file, a glob pattern, a folder, or `hf:owner/name`.

        A folder holds `train.*`, `validation.*` and `test.*` (also `train-00000.*`, or subfolders of these
        names); without train the domain is only evaluated. Files that end in .jsonl or .parquet are read
        as such, all others as text. Splits that are missing are taken from train, as in `from_text`, by
        `fractions`; (0, .5, .5) keeps all of a pool for evaluation.

        Raises:
            DataError: missing files, a folder without splits, or an ending that cannot be read.
        """
        if str(path).startswith("hf:"):
            return cls.from_dataset(name, str(path).removeprefix("hf:"), fractions=fractions)
        folder = Path(path).expanduser()
        if not folder.is_dir():
            return _from_files(name, None, (path, None, None), fractions)
        found = {split: files for split in SPLITS if (files := files_of(folder, split))}
        if not found:
            hint = f"a pattern such as {folder / '*.txt'}"
            expected = "train.*, validation.* and test.* in it"
            raise DataError(f"domain {name!r}: {explain(f'folder {path}', expected, hint)}")
        sources = {split: Files(files) for split, files in found.items()}
        return cls(name, **complete(name, sources, fractions))

    def _source(self, split: str) -> Iterable[Item]:
        source = getattr(self, split)
        known = isinstance(source, Files | Given | Part | Without)
        return source if known else Given(source, f"{self.name}, {split}")

    def _check_disjoint(self, contents: Mapping[str, SplitContents]) -> None:
        for number, first in enumerate(self.splits):
            for second in self.splits[number + 1 :]:
                shared = np.intersect1d(contents[first].hashes, contents[second].hashes)
                if len(shared):
                    known = set(shared.tolist())
                    example = next(item for item in self.items(first) if short_hash(item) in known)
                    got = f"{len(shared)} records in both {first} and {second} (such as {excerpt(example)})"
                    what = explain(got, "splits without a common record", "domain.without_overlap()")
                    raise DataError(f"domain {self.name!r}: {what}")


def _check_rereadable(source: object, where: str) -> None:
    if isinstance(source, str | bytes | Mapping) or not isinstance(source, Iterable):
        raise DataError(f"{where}: {explain(type(source).__name__, 'a sequence of records', 'a list')}")
    if isinstance(source, Iterator):
        raise DataError(f"{where}: {explain('an iterator', 'records that can be read again', 'list(...)')}")


def _from_files(
    name: str, kind: Kind | None, paths: Sequence[Paths | None], fractions: Sequence[float]
) -> Domain:
    given = zip(SPLITS, paths, strict=True)
    sources = {split: Files(find(some, name), kind) for split, some in given if some is not None}
    return Domain(name, **complete(name, sources, fractions))


def _load_dataset(name: str, dataset: str, options: Mapping[str, Any]) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(dataset, **options)
    except Exception as error:
        expected = "a data set that can be loaded"
        what = explain(f"{dataset!r}: {error}", expected, "its name on the hub, or a path")
        raise DataError(f"domain {name!r}: {what}") from error
