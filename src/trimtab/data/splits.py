"""Splits of a domain: which exist, what is in them, and how those that are missing are taken from a pool."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trimtab.data.records import Item
from trimtab.data.sources import Files, Part
from trimtab.errors import ConfigError, explain

SPLITS = ("train", "validation", "test")
ALSO_CALLED = {"val": "validation", "valid": "validation"}
"""Names that others give a split."""


@dataclass(frozen=True)
class SplitContents:
    """What one reading of a split found.

    Attributes:
        records: how many, blank texts not counted.
        fingerprint: sha256 of the records' sha256, in order.
        hashes: (records,) uint64, sorted, to find a record in two splits.
    """

    records: int
    fingerprint: str
    hashes: NDArray[np.uint64]


def survey(items: Iterable[Item]) -> SplitContents:
    """Read a split once; memory holds eight bytes a record."""
    whole = hashlib.sha256()

    def hashes() -> Iterator[int]:
        for item in items:
            whole.update(item.digest)
            yield short_hash(item)

    found = np.fromiter(hashes(), dtype=np.uint64)
    return SplitContents(len(found), whole.hexdigest(), np.sort(found))


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


def _checked(name: str, fractions: Sequence[float]) -> dict[str, float]:
    train, *others = fractions if len(fractions) == 3 else (-1, 0, 0)
    if train < 0 or min(others) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        expected = "three positive shares (train, validation, test; train may be 0) that sum to 1"
        raise ConfigError(f"domain {name!r}, fractions: {explain(list(fractions), expected)}")
    return dict(zip(SPLITS, fractions, strict=True))
