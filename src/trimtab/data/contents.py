"""Contents of a split, from one reading: counts, hashes and fingerprint, and what they must not be."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.data.groups import GROUP, group_digest
from trimtab.data.records import NOTHING, Item, Text, excerpt, named, unused_of, whole
from trimtab.data.splits import REPEATED, pool_of
from trimtab.errors import refusal

_FATES = {
    "without_value": "record{} without a value skipped",
    "repeated": "record{} left out, which a later split has too",
    "blank": "blank record{} skipped",
}
_MOST_NAMES = 100
"""Keys that are remembered as unused; data whose every record has keys of its own would fill the memory."""


@dataclass(frozen=True)
class SplitContents:
    """Contents of a split, from one reading: counts, fingerprint and hashes.

    Attributes:
        records: how many, those that were skipped not counted.
        fingerprint: sha256 of the records' sha256, in order, with their groups where they have some.
        hashes: (records,) uint64, sorted, to find a record in two splits.
        blank: texts without a letter, skipped.
        without_value: records whose fields have no value (null), skipped.
        repeated: records left out because another split has them.
        unused: keys or columns that have no part in any record, sorted.
        groups: (groups,) uint64, sorted, to find a group in two splits; empty where no record has one.
        ungrouped: records without a group.
        first_ungrouped: the start of the first of them.
    """

    records: int
    fingerprint: str
    hashes: NDArray[np.uint64]
    blank: int = 0
    without_value: int = 0
    repeated: int = 0
    unused: tuple[str, ...] = ()
    groups: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    ungrouped: int = 0
    first_ungrouped: str = ""


def survey(items: Iterable[Item]) -> SplitContents:
    """Contents of a split by reading it once, skipped records counted; memory holds eight bytes a record, and groups.

    Raises:
        DataError: a malformed record, or one with half of a character.
    """
    content, counts, unused = hashlib.sha256(), Counter[str](), set[str]()
    groups, first = set[str](), ""

    def hashes() -> Iterator[int]:
        nonlocal first
        for item in items:
            unused.update(unused_of(item)[: _MOST_NAMES - len(unused)])
            if skipped := why_skipped(item):
                counts[skipped] += 1
                continue
            content.update(whole(item).grouped_digest)
            if item.group:
                groups.add(item.group)
            else:
                first = first or excerpt(item)
                counts["ungrouped"] += 1
            yield short_hash(item)

    kept = np.fromiter(hashes(), dtype=np.uint64)
    names = tuple(sorted(unused)[:_MOST_NAMES])
    hashed = np.array([int.from_bytes(group_digest(one)[:8], "big") for one in groups], np.uint64)
    more: dict[str, Any] = {**counts, "unused": names, "groups": np.sort(hashed), "first_ungrouped": first}
    return SplitContents(len(kept), content.hexdigest(), np.sort(kept), **more)


def why_skipped(item: Item) -> str:
    """Why a record is skipped, as a name of `SplitContents`; empty for one that is kept."""
    if item is NOTHING:
        return "without_value"
    if item is REPEATED:
        return "repeated"
    return "blank" if isinstance(item, Text) and not item.text.strip() else ""


def unread(contents: Iterable[SplitContents]) -> Iterator[str]:
    """Unread parts of several splits, as sentences without a full stop.

    >>> list(unread([SplitContents(8, "", np.array([], np.uint64), blank=2, unused=("id",))]))
    ["column 'id' not used", '2 blank records skipped']
    """
    every = list(contents)
    if unused := sorted({name for one in every for name in one.unused}):
        yield unused_names("column", unused)
    for why, what in _FATES.items():
        if count := sum(getattr(one, why) for one in every):
            yield f"{count} {what.format('s' * (count > 1))}"


def unused_names(what: str, names: Sequence[str]) -> str:
    """The sentence on names that are not used.

    >>> unused_names("file", ["a.txt", "b.txt"])
    "files 'a.txt', 'b.txt' not used"
    """
    return f"{what}{'s' * (len(names) > 1)} {named(names)} not used"


def short_hash(item: Item) -> int:
    """64 bits of a record's digest, enough to tell records of one domain apart."""
    return int.from_bytes(item.digest[:8], "big")


def check_contents(
    where: str, sources: Mapping[str, Iterable[Item]], contents: Mapping[str, SplitContents]
) -> None:
    """Refuse splits of a domain without records, with a common record, or with groups for some records only.

    Args:
        where: what to call the domain.
        sources: of each split.
        contents: of each split.

    Raises:
        DataError: naming the splits, and a record.
    """
    _refuse_mixed(where, sources, contents)
    groups = sum(len(one.groups) for one in contents.values())
    for split, content in contents.items():
        if not content.records:
            skipped = (f" ({one})" for one in unread(contents.values()) if one.endswith("skipped"))
            elsewhere = f" (all {groups} groups are in other splits)" if groups else ""
            got = f"no record in {sources[split]!r}{elsewhere}{''.join(skipped)}"
            hint = "more records, or files of its own for each split"
            hint = "larger fractions, more groups, or files of its own for each split" if groups else hint
            raise refusal(f"{where}, split {split!r}", got, "at least one", hint)
    for first, second in combinations(contents, 2):
        shared = np.intersect1d(contents[first].hashes, contents[second].hashes)
        if len(shared):
            common = set(shared.tolist())
            kept = (item for item in sources[first] if not why_skipped(item))
            example = next(item for item in kept if short_hash(item) in common)
            got = f"{len(shared)} records in both {first} and {second} (such as {excerpt(example)})"
            hint = "domain.without_overlap(), or in a config {path: ..., overlap: drop}"
            raise refusal(where, got, "splits without a common record", hint)


def _refuse_mixed(
    where: str, sources: Mapping[str, Iterable[Item]], contents: Mapping[str, SplitContents]
) -> None:
    """Refuse records without a group beside others of the same split or pool that have one.

    To count each as a group of its own would narrow intervals without a word.
    """
    together = dict[int, list[str]]()
    for split, source in sources.items():
        together.setdefault(id(pool_of(source)), []).append(split)
    for splits in together.values():
        parts = [contents[split] for split in splits]
        lacking = sum(part.ungrouped for part in parts)
        if lacking and any(len(part.groups) for part in parts):
            place = f"{where}, split {splits[0]!r}" if len(splits) == 1 else where
            first = next(part.first_ungrouped for part in parts if part.ungrouped)
            got = f"{lacking} of {sum(part.records for part in parts)} records without a {GROUP} (such as {first})"
            hint = f"a value for each, or columns={{...}} without {GROUP!r}, which leaves it unread"
            raise refusal(place, got, f"a {GROUP} for all of them or for none", hint)


def shared_groups(name: str, contents: Mapping[str, SplitContents]) -> Iterator[str]:
    """Phrases on groups with records in two splits of a domain, whose later one is then not of unseen groups.

    Args:
        name: of the domain.
        contents: of its splits, in their order.
    """
    for first, second in combinations(contents, 2):
        groups = contents[second].groups
        if shared := len(np.intersect1d(contents[first].groups, groups)):
            yield f"{shared} of {len(groups)} {second} groups of {name} have records in {first} too"
