"""Survey of domains before a run: their first records, and records and groups that stand in more than one place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.data.contents import shared_groups
from trimtab.data.domains import Domain
from trimtab.data.records import Item
from trimtab.data.splits import Head, Part, Without, pool_of, source_of

REPEATED_SHARE = 0.05
"""Share of a split's records that repeat another one, above which it is told."""
MOST_PHRASES = 20
"""Pairs of domains with common records that are named."""


def first_records(domain: Domain) -> Domain:
    """The domain with the first records of each of its files or tables, see `trimtab.data.splits.Head`.

    Where these are all of its records, it has the fingerprint of the whole domain.
    """
    heads = dict[int, Head]()

    def cut(source: Iterable[Item]) -> Iterable[Item]:
        if isinstance(source, Part):
            return replace(source, pool=cut(source.pool))
        if isinstance(source, Without):
            return replace(source, source=cut(source.source))
        return heads.setdefault(id(source), Head(source))

    changes: dict[str, Any] = {
        split: cut(source_of(getattr(domain, split), f"domain {domain.name!r}, split {split!r}"))
        for split in domain.splits
    }
    return replace(domain, **changes)


def cut_after(domain: Domain) -> int:
    """Records that were read of a domain of `first_records`, 0 where they are all; known once `contents` is.

    >>> cut_after(first_records(Domain("sums", train=["1 + 1 = 2"])))
    0
    """
    pools = [pool_of(getattr(domain, split)) for split in domain.splits]
    heads = {id(pool): pool for pool in pools if isinstance(pool, Head)}.values()
    return sum(map(len, heads)) if any(head.is_cut for head in heads) else 0


@dataclass(frozen=True)
class _Place:
    """A split: the different records in it by hash, and how many it has in all."""

    domain: str
    split: str
    hashes: NDArray[np.uint64]
    records: int


def repeated_records(domains: Mapping[str, Domain], train: Collection[str]) -> Iterator[str]:
    """Phrases on records that stand twice: more than 5 % of a split, or any in splits of several domains.

    Of two domains it is told how many records that one trains on are among those that the other is evaluated on, or
    else how many both train on, or are evaluated on. Of one it is told how many groups have records in two splits.

    Args:
        domains: by name.
        train: names of those that are trained on; train splits of the others are not used.

    Raises:
        DataError: as `Domain.contents`.

    >>> web = Domain("web", train=["a", "b", "b"], test=["c"])
    >>> list(repeated_records({"web": web, "facts": Domain("facts", test=["a", "d"])}, ["web"]))
    ['1 of 3 train records of web repeat another', '1 of 2 evaluation records of facts are trained on in web']
    """
    places = [
        _Place(name, split, np.unique(content.hashes), content.records)
        for name, domain in domains.items()
        for split, content in domain.contents.items()
        if split != "train" or name in train
    ]
    for place in places:
        again = place.records - len(place.hashes)
        if again > REPEATED_SHARE * place.records:
            yield f"{again} of {place.records} {place.split} records of {place.domain} repeat another"
    for name, domain in domains.items():
        used = {split: one for split, one in domain.contents.items() if split != "train" or name in train}
        yield from shared_groups(name, used)
    values, counts = np.unique(np.concatenate([place.hashes for place in places]), return_counts=True)
    shared = values[counts > 1]
    common = (
        [replace(place, hashes=np.intersect1d(place.hashes, shared)) for place in places]
        if len(shared)
        else []
    )
    names = list(dict.fromkeys(place.domain for place in common if len(place.hashes)))
    phrases = (_shared_phrase(one, other, common) for one, other in combinations(names, 2))
    yield from islice(filter(None, phrases), MOST_PHRASES)


def _shared_phrase(one: str, other: str, places: list[_Place]) -> str:
    """The phrase on common records of two domains, the gravest first; empty without any."""

    def of(name: str, *, train: bool) -> tuple[NDArray[np.uint64], int]:
        mine = [place for place in places if place.domain == name and (place.split == "train") == train]
        hashes = [place.hashes for place in mine] or [np.empty(0, np.uint64)]
        return np.concatenate(hashes), sum(place.records for place in mine)

    for trained, judged in ((one, other), (other, one)):
        evaluated, records = of(judged, train=False)
        if leaked := len(np.intersect1d(of(trained, train=True)[0], evaluated)):
            return f"{leaked} of {records} evaluation records of {judged} are trained on in {trained}"
    for train, kind in ((True, "train"), (False, "evaluation")):
        mine, records = of(one, train=train)
        if both := len(np.intersect1d(mine, of(other, train=train)[0])):
            return f"{both} of {records} {kind} records of {one} are in {other} too"
    return ""
