"""Splits of a domain: which exist, what is in them, and how those that are missing are taken from a pool."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.data.records import NOTHING, Item, Text, named, unused_of, whole
from trimtab.data.sources import REPEATED, Files, Part
from trimtab.errors import ConfigError, explain

SPLITS = ("train", "validation", "test")
ALSO_CALLED = {"val": "validation", "valid": "validation"}
"""Names that others give a split."""


_MOST_NAMES = 100
"""Keys that are remembered as unused; data whose every record has keys of its own would fill the memory."""


@dataclass(frozen=True)
class SplitContents:
    """What one reading of a split found.

    Attributes:
        records: how many, those that were skipped not counted.
        fingerprint: sha256 of the records' sha256, in order.
        hashes: (records,) uint64, sorted, to find a record in two splits.
        blank: texts without a letter, skipped.
        without_value: records whose fields have no value (null), skipped.
        repeated: records left out because another split has them.
        unused: keys or columns that have no part in any record, sorted.
    """

    records: int
    fingerprint: str
    hashes: NDArray[np.uint64]
    blank: int = 0
    without_value: int = 0
    repeated: int = 0
    unused: tuple[str, ...] = ()


def survey(items: Iterable[Item]) -> SplitContents:
    """Read a split once, counting what is skipped; memory holds eight bytes a record.

    Raises:
        DataError: a malformed record, or one with half of a character.
    """
    content, counts, unused = hashlib.sha256(), Counter[str](), set[str]()

    def hashes() -> Iterator[int]:
        for item in items:
            unused.update(unused_of(item)[: _MOST_NAMES - len(unused)])
            skipped = why_skipped(item)
            if skipped:
                counts[skipped] += 1
                continue
            content.update(whole(item).digest)
            yield short_hash(item)

    found = np.fromiter(hashes(), dtype=np.uint64)
    return SplitContents(
        len(found),
        content.hexdigest(),
        np.sort(found),
        blank=counts["blank"],
        without_value=counts["without_value"],
        repeated=counts["repeated"],
        unused=tuple(sorted(unused)[:_MOST_NAMES]),
    )


def why_skipped(item: Item) -> str:
    """Why a record is skipped, as a name of `SplitContents`; empty for one that is kept."""
    if item is NOTHING:
        return "without_value"
    if item is REPEATED:
        return "repeated"
    return "blank" if isinstance(item, Text) and not item.text.strip() else ""


def told(contents: Iterable[SplitContents]) -> Iterator[str]:
    """What was not read of some splits, in sentences without a full stop.

    >>> list(told([SplitContents(8, "", np.array([], np.uint64), blank=2, unused=("id",))]))
    ["column 'id' not used", '2 blank records skipped']
    """
    every = list(contents)
    if unused := sorted({name for one in every for name in one.unused}):
        yield unused_names("column", unused)
    for count, what in (
        (sum(one.without_value for one in every), "without a value skipped"),
        (sum(one.repeated for one in every), "left out, which a later split has too"),
    ):
        if count:
            yield f"{count} record{'s' * (count > 1)} {what}"
    blank = sum(one.blank for one in every)
    if blank:
        yield f"{blank} blank record{'s' * (blank > 1)} skipped"


def unused_names(what: str, names: Sequence[str]) -> str:
    """The sentence on names that are not used.

    >>> unused_names("file", ["a.txt", "b.txt"])
    "files 'a.txt', 'b.txt' not used"
    """
    return f"{what}{'s' * (len(names) > 1)} {named(names)} not used"


def short_hash(item: Item) -> int:
    """64 bits of a record's digest, enough to tell records of one domain apart."""
    return int.from_bytes(item.digest[:8], "big")


def complete(
    name: str, sources: Mapping[str, Iterable[Item]], fractions: Sequence[float]
) -> dict[str, Iterable[Item]]:
    """The given splits, and the missing ones taken from train by content; without train, only those given.

    A train share of 0 leaves no train split: all of the pool is for evaluation.

    Text files that become a pool are cut into records, so that one long file can be split.

    Raises:
        ConfigError: fractions that are not three positive numbers (the first may be 0) that sum to 1.
    """
    shares = _checked(name, fractions)
    missing = [split for split in SPLITS if split not in sources]
    if "train" in missing or not missing:
        return dict(sources)
    pool = sources["train"]
    if isinstance(pool, Files):
        pool = replace(pool, cut=True)
    lower = 1 - sum(shares[split] for split in missing)
    parts: dict[str, Iterable[Item]] = {"train": Part(pool, 0.0, lower)} if shares["train"] else {}
    given = {split: source for split, source in sources.items() if split != "train"}
    for split in missing:
        upper = 1.0 if split == missing[-1] else lower + shares[split]
        parts[split] = Part(pool, lower, upper)
        lower = upper
    return parts | given


def files_of(folder: Path, split: str) -> tuple[Path, ...]:
    """The files of a folder that belong to a split: `train.*`, `train-00000.*` or `train/*`, sorted."""
    names = [split, *(other for other, meant in ALSO_CALLED.items() if meant == split)]
    patterns = [pattern for name in names for pattern in (f"{name}.*", f"{name}-*.*", f"{name}/*")]
    return tuple(sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}))


def files_beside(folder: Path, used: Iterable[Path]) -> tuple[str, ...]:
    """The files and folders of a folder that hold none of the files used, sorted; hidden ones do not count."""
    entries = {path.relative_to(folder).parts[0] for path in used}
    names = (path.name for path in folder.iterdir() if not path.name.startswith("."))
    return tuple(sorted(name for name in names if name not in entries))


def _checked(name: str, fractions: Sequence[float]) -> dict[str, float]:
    train, *others = fractions if len(fractions) == 3 else (-1, 0, 0)
    if train < 0 or min(others) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        expected = "three positive shares (train, validation, test; train may be 0) that sum to 1"
        raise ConfigError(f"domain {name!r}, fractions: {explain(list(fractions), expected)}")
    return dict(zip(SPLITS, fractions, strict=True))
