"""A domain: a named data set with train, validation and test splits that do not overlap.

The first so many tokens of a domain: what a question about the amount of data is asked with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.data import splits as sources
from trimtab.data.encode import Ends, find_tokenizer
from trimtab.data.record_files import Kind, kind_of_table
from trimtab.data.records import KEYS, Item, Record, Text, column_problems, excerpt, refusal, whole
from trimtab.data.splits import ALSO_CALLED, SPLITS, Files, Given, Paths, SplitContents, Without, complete
from trimtab.errors import ConfigError, DataError, ModelError, explain, nearest

FRACTIONS = (0.9, 0.05, 0.05)
"""Shares of train, validation and test in a pool."""
_LOOKED_AT = 4


@dataclass(frozen=True, eq=False, repr=False)
class Domain:
    """A named data set.

    A record is a text, a mapping with "text", one with "prompt" and "completion" (loss on the completion
    only), or one with "messages", a list of {"role", "content"} (loss on what the assistant says only).
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
            raise ConfigError(f"domain name: {explain(repr(self.name), 'a text that is not blank')}")
        if not self.splits:
            raise refusal(f"domain {self.name!r}", "no split", "train, validation or test")
        for split in self.splits:
            sources.source_of(getattr(self, split), f"domain {self.name!r}, split {split!r}")

    def __repr__(self) -> str:
        parts = ", ".join(f"{split} {self._source(split)!r}" for split in self.splits)
        return f"Domain({self.name!r}: {parts})"

    @property
    def splits(self) -> tuple[str, ...]:
        """Which of train, validation and test it has."""
        return tuple(split for split in SPLITS if getattr(self, split) is not None)

    def items(self, split: str) -> Iterator[Item]:
        """The checked records of a split, without blank texts and records without a value.

        Raises:
            DataError: a malformed record (file and line, or its number), or no such split.
        """
        if split not in self.splits:
            raise refusal(f"domain {self.name!r}", split, f"one of {self.splits}")
        return (whole(item) for item in self._source(split) if not sources.why_skipped(item))

    @cached_property
    def contents(self) -> dict[str, SplitContents]:
        """Every split read once and checked: what `tokenise` looks at before it starts.

        Raises:
            DataError: a malformed record, a split without records, or a record in two splits.
        """
        contents = {split: sources.survey(self._source(split)) for split in self.splits}
        for split, content in contents.items():
            if not content.records:
                what = [f" ({one})" for one in sources.told(contents.values()) if one.endswith("skipped")]
                hint = "more records, or files of its own for each split"
                got = f"no record in {self._source(split)!r}{''.join(what)}"
                raise refusal(f"domain {self.name!r}, split {split!r}", got, "at least one", hint)
        self._check_disjoint(contents)
        return contents

    @property
    def unread(self) -> tuple[str, ...]:
        """What the source held and is not read, in short sentences: files, splits, columns, records that are skipped.

        Columns (or keys) are those of the first records until `contents` has been asked for, then those of all; records
        are counted in `contents`, so before that none are told. Reads no more than a few records itself.

        >>> domain = Domain("sums", train=[{"text": "1 + 1 = 2", "id": 1}, {"text": None}], test=["3 + 3 = 6"])
        >>> domain.unread, domain.contents["train"].records, domain.unread
        (("column 'id' not used",), 1, ("column 'id' not used", '1 record without a value skipped'))
        """
        contents = self.__dict__.get("contents")
        if contents is None:
            pools = [sources.pool_of(self._source(split)) for split in self.splits]
            looks = [sources.survey(_first(pool)) for pool in pools]
            seen = [replace(look, blank=0, without_value=0, repeated=0) for look in looks]
            return (*map(str, self.left_out), *sources.told(seen))
        return (*map(str, self.left_out), *sources.told(contents.values()))

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
        fractions: Sequence[float] = FRACTIONS,
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
        fractions: Sequence[float] = FRACTIONS,
        columns: Mapping[str, str] | None = None,
    ) -> Domain:
        """JSONL files: a record per line; all else as in `from_text`, `columns` as in `from_path`."""
        return _from_files(name, "jsonl", (paths, validation, test), fractions, columns)

    @classmethod
    def from_parquet(
        cls,
        name: str,
        paths: Paths,
        *,
        validation: Paths | None = None,
        test: Paths | None = None,
        fractions: Sequence[float] = FRACTIONS,
        columns: Mapping[str, str] | None = None,
    ) -> Domain:
        """Parquet files: a record per row; all else as in `from_text`, `columns` as in `from_path`."""
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
        columns: Mapping[str, str] | None = None,
        fractions: Sequence[float] = FRACTIONS,
        **options: Any,
    ) -> Domain:
        """A data set of the `datasets` library, or a table.

        Of columns only those that make records are read; pictures and sound are never decoded.

        Args:
            name: the domain's name.
            dataset: a `Dataset` or any table or list that `Domain` takes (a pool, split as in `from_text`), a
                `DatasetDict` or a mapping of splits (missing ones are taken from train), or the name of a data set for
                `datasets.load_dataset`.
            config: which configuration of a named data set, such as "main".
            split: which split of a named data set, to take it as a pool: "train", "train_sft", "train[:1000]".
            revision: which version of a named data set: a branch, a tag or a commit.
            columns: our keys (text, prompt, completion, messages) -> its columns; others are then not read.
            fractions: as in `from_text`.
            options: passed on to `load_dataset`.

        Raises:
            DataError: it cannot be loaded, has no column that makes records, or lacks one that `columns` names.
            ConfigError: options beside a data set that is no name, or a wrong key in `columns`.
        """
        _check_columns(name, columns)
        given = {"name": config, "split": split, "revision": revision}
        asked = {key: value for key, value in given.items() if value is not None}
        if config is not None and "name" in options:
            raise ConfigError(f"domain {name!r}: {explain('config and name', 'one of them')}")
        options = {**options, **asked}
        if isinstance(dataset, str):
            dataset = sources.load_set(name, dataset, options)
        elif options:
            raise ConfigError(f"domain {name!r}: {explain(sorted(options), 'options only beside a name')}")
        return _from_splits(name, dataset, columns, fractions)

    @classmethod
    def from_path(
        cls,
        name: str,
        path: str | Path,
        *,
        fractions: Sequence[float] = FRACTIONS,
        columns: Mapping[str, str] | None = None,
    ) -> Domain:
        """What a recipe names: a file, a glob pattern, a folder, or `hf:owner/name`.

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
            columns: our keys (text, prompt, completion, messages) -> those of the data; others are then not read.

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
        folder = None
        with suppress(
            OSError, ValueError, RuntimeError
        ):  # what no file can be called is told when files are found
            folder = there if (there := Path(path).expanduser()).is_dir() else None
        if folder is None:
            return _from_files(name, None, (path, None, None), fractions, columns)
        if sources.is_saved_set(folder):
            return _from_splits(name, sources.load_saved(name, folder), columns, fractions)
        found = {split: files for split in SPLITS if (files := sources.files_of(folder, split))}
        if not found:
            expected = "train.*, validation.* and test.* in it"
            raise refusal(f"domain {name!r}", f"folder {path}", expected, _inside(folder))
        by_split = {split: Files(files, columns=columns) for split, files in found.items()}
        beside = sources.files_beside(folder, (path for files in found.values() for path in files))
        left_out = (sources.unused_names("file", beside),) if beside else ()
        return cls(name, **complete(name, by_split, fractions), left_out=left_out)

    def _source(self, split: str) -> Iterable[Item]:
        return sources.source_of(getattr(self, split), f"{self.name}, {split}")

    def _check_disjoint(self, contents: Mapping[str, SplitContents]) -> None:
        for first, second in combinations(self.splits, 2):
            shared = np.intersect1d(contents[first].hashes, contents[second].hashes)
            if len(shared):
                known = set(shared.tolist())
                example = next(item for item in self.items(first) if sources.short_hash(item) in known)
                got = f"{len(shared)} records in both {first} and {second} (such as {excerpt(example)})"
                hint = "domain.without_overlap(), or in a config {path: ..., overlap: drop}"
                raise refusal(f"domain {self.name!r}", got, "splits without a common record", hint)


def _first(source: Iterable[Item]) -> Iterator[Item]:
    """A few records, to see what they are like; what is wrong with them is told when they are all read."""
    records = iter(source)
    for _ in range(_LOOKED_AT):
        try:
            yield next(records)
        except (StopIteration, DataError):
            return


def _check_columns(name: str, columns: Mapping[str, str] | None) -> None:
    for problem in column_problems(columns) if columns is not None else ():
        raise ConfigError(f"domain {name!r}, {problem}")


def _inside(folder: Path) -> str:
    """What to try with a folder without splits: a folder in it that has some, else a pattern."""
    inner = (one for one in sorted(folder.iterdir()) if one.is_dir() and not one.name.startswith("."))
    for one in islice(inner, _LOOKED_AT):
        if any(sources.files_of(one, split) for split in SPLITS):
            return str(one)
    return f"a pattern such as {folder / '*.txt'}"


def _from_files(
    name: str,
    kind: Kind | None,
    paths: Sequence[Paths | None],
    fractions: Sequence[float],
    columns: Mapping[str, str] | None = None,
) -> Domain:
    _check_columns(name, columns)
    given = zip(SPLITS, paths, strict=True)
    by_split = {
        split: Files(sources.find(some, name), kind, columns=columns)
        for split, some in given
        if some is not None
    }
    return Domain(name, **complete(name, by_split, fractions))


def _from_splits(
    name: str, data: Any, columns: Mapping[str, str] | None, fractions: Sequence[float]
) -> Domain:
    """A domain from a mapping of splits, or from one table or list as a pool."""
    keys = data if isinstance(data, Mapping) else ()
    names_splits = any(ALSO_CALLED.get(str(key), str(key)) in SPLITS for key in keys)
    is_columns = kind_of_table(data) == "columns" and (not names_splits or any(key in KEYS for key in keys))
    given = data if isinstance(data, Mapping) and not is_columns else {"train": data}
    splits = {ALSO_CALLED.get(str(split), str(split)): rows for split, rows in given.items()}
    by_split = {
        split: Given(splits[split], f"domain {name!r}, split {split!r}", columns)
        for split in SPLITS
        if split in splits
    }
    if not by_split:
        first = next(iter(splits), "train")
        hint = nearest(first, SPLITS) if nearest(first, SPLITS) == first else f"split={first!r}, as a pool"
        raise refusal(f"domain {name!r}", f"splits {list(given)}", f"some of {SPLITS}", hint)
    others = [str(split) for split in given if ALSO_CALLED.get(str(split), str(split)) not in SPLITS]
    left_out = (sources.unused_names("split", others),) if others else ()
    return Domain(name, **complete(name, by_split, fractions), left_out=left_out)


def first_tokens(domain: Domain, model_or_tokenizer: Any, tokens: int) -> Domain:
    """The same domain with a train split of its first `tokens` tokens; other splits stay.

    Records are taken in order; the last one is cut where the count is reached, or left out where only one token would
    remain. Each counts its tokens, the one that closes it and the one that the tokenizer begins texts with, as `encode`
    writes them. The records are held in memory.

    Args:
        domain: of plain texts, with a train split.
        model_or_tokenizer: a fast transformers tokenizer, or anything that has one as `.tokenizer`.
        tokens: at least 2.

    Raises:
        ConfigError: fewer than 2 tokens.
        DataError: no train split, a record that is no plain text, or fewer tokens than asked for.
        ModelError: no tokenizer, or one that does not say which characters a token covers.
    """
    if tokens < 2:
        raise ConfigError(f"tokens: {explain(tokens, 'at least 2')}")
    tokenizer = find_tokenizer(model_or_tokenizer)
    if not tokenizer.is_fast:
        raise ModelError(explain(type(tokenizer).__name__, "a fast tokenizer, to cut a text at a token"))
    ends, taken, left = Ends.of(tokenizer), list[Item](), tokens
    for item in domain.items("train"):
        if not isinstance(item, Text):
            raise refusal(f"domain {domain.name!r}", type(item).__name__, "plain texts")
        encoded = tokenizer(item.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, spans = np.asarray(encoded["input_ids"]), encoded["offset_mapping"]
        before = len(ends.before(ids, item.text))
        last = left - before - 2  # the last of its own tokens that has room beside the one that closes it
        left -= before + len(ids) + len(ends.after(ids, item.text))
        taken.append(item if left >= 0 else Text(item.text[: spans[last][1]] if last >= 0 else ""))
        if left < 2:
            return replace(domain, train=taken)
    raise refusal(f"domain {domain.name!r}", f"{tokens - left} tokens", f"{tokens} or more to train on")
