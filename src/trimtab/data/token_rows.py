"""Domains whose rows are token ids already, as in the data sets that trainers are given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.data.encode import SplitCounts
from trimtab.data.splits import ALSO_CALLED, SPLITS
from trimtab.data.tokens import NO_LOSS, TokenDomain, TokenSplit
from trimtab.errors import refusal

IDS = "input_ids"
_MASKS = ("completion_mask", "assistant_masks")
"""Columns of TRL that say which tokens carry loss, beside `labels`."""
_IDS = (IDS, "labels")
_READ = (*_IDS, "attention_mask", *_MASKS)


@dataclass(frozen=True, eq=False)
class TokenRows:
    """A domain whose splits are rows of token ids; those that are missing are taken from train by a hash of each row.

    A row has `input_ids`, and may have `attention_mask` (0 on padding, which is left out), `labels` (-100 where a token
    carries no loss), `completion_mask` or `assistant_masks` (0 there). Without any of these all tokens carry loss.

    Attributes:
        name: of the domain.
        train, validation, test: rows as mappings, or None.
    """

    name: str
    train: Iterable[Mapping[str, Any]] | None = None
    validation: Iterable[Mapping[str, Any]] | None = None
    test: Iterable[Mapping[str, Any]] | None = None

    @classmethod
    def of(cls, name: str, data: Any) -> TokenRows | None:
        """The domain of a data set, a mapping of splits or a list of rows; None where these are no token ids."""
        splits = data if isinstance(data, Mapping) else {"train": data}
        named = {ALSO_CALLED.get(str(split), str(split)): rows for split, rows in splits.items()}
        known = {split: rows for split, rows in named.items() if split in SPLITS}
        return cls(name, **known) if known and all(map(_has_ids, known.values())) else None

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that were given."""
        return tuple(split for split in SPLITS if getattr(self, split) is not None)

    def tokens(self, seq_len: int, fractions: Sequence[float]) -> TokenDomain:
        """The rows as a tokenised domain.

        Args:
            seq_len: tokens of a row, at most.
            fractions: shares of train, validation and test in a pool, as `Domain.from_dataset` takes them.

        Raises:
            DataError: a row that is longer, or whose columns do not fit one another; a row in two splits; no rows.
        """
        given = {split: list(self._rows(split, seq_len)) for split in self.splits}
        missing = [split for split in SPLITS if split not in given]
        if "train" in given and missing:
            given |= _parted(given["train"], missing, dict(zip(SPLITS, fractions, strict=True)))
        self._refuse_overlap(given)
        splits = {split: _joined(rows) for split, rows in given.items() if rows}
        if not splits:
            raise refusal(f"domain {self.name!r}", "no row", "rows of token ids")
        whole = hashlib.sha256()
        for split, rows in given.items():
            whole.update(split.encode() + b"".join(row.digest for row in rows))
        columns = {name for split in self.splits for name in next(iter(getattr(self, split)), {})}
        unread = tuple(f"column {name!r} not used" for name in sorted(columns - set(_READ)))
        return TokenDomain(self.name, splits, whole.hexdigest(), unread)

    def _rows(self, split: str, seq_len: int) -> Iterator[_Row]:
        for number, row in enumerate(getattr(self, split)):
            where = f"domain {self.name!r}, split {split!r}, row {number}"
            read = _row(row, where)
            if len(read.ids) > seq_len:
                longest = max(len(_row(row, where).ids) for row in getattr(self, split))
                hint = f"seq_len={longest} for the longest row, or shorter rows"
                raise refusal(where, f"{len(read.ids)} tokens", f"at most seq_len={seq_len}", hint)
            yield read

    def _refuse_overlap(self, given: Mapping[str, Sequence[_Row]]) -> None:
        seen: dict[bytes, str] = {}
        for split, rows in given.items():
            for digest in {row.digest for row in rows}:
                if (other := seen.setdefault(digest, split)) != split:
                    got = f"a row that is both in {other} and in {split}"
                    raise refusal(f"domain {self.name!r}", got, "each row in one split only")


@dataclass(frozen=True, eq=False)
class _Row:
    ids: NDArray[np.int32]
    loss: NDArray[np.bool_]

    @cached_property
    def digest(self) -> bytes:
        """Sha256 of the tokens and of which carry loss."""
        return hashlib.sha256(self.ids.tobytes() + b"|" + self.loss.tobytes()).digest()

    @property
    def position(self) -> float:
        """Where in [0, 1) the row hashes to."""
        return int.from_bytes(self.digest[:8], "big") / 2**64


def _row(row: Any, where: str) -> _Row:
    """A checked row, without its padding."""
    given = {name: np.asarray(row[name]) for name in _READ if row.get(name) is not None}
    columns = {
        name: values if values.size and (values.dtype != bool or name in _IDS) else values.astype(np.int64)
        for name, values in given.items()
    }
    ids = columns.pop(IDS, np.asarray(None))
    for name, values in {IDS: ids, **columns}.items():
        if values.ndim != 1 or values.shape != ids.shape or not np.issubdtype(values.dtype, np.integer):
            got = f"{name} of shape {values.shape} and type {values.dtype} beside {ids.size} tokens"
            raise refusal(where, got, "whole numbers, one for each token")
    labels = columns.pop("labels", ids)
    loss = labels != NO_LOSS
    if (labels[loss] != ids[loss]).any():
        raise refusal(where, "labels of other tokens than input_ids", "the same ids, or -100 without loss")
    for name in _MASKS:
        loss &= columns.get(name, np.ones_like(ids)).astype(bool)
    kept = columns.get("attention_mask", np.ones_like(ids)).astype(bool)
    if (least := ids[kept].min(initial=0)) < 0:
        raise refusal(where, f"the token {least}", "token ids of at least 0", "labels of -100 for no loss")
    return _Row(ids[kept].astype(np.int32), loss[kept])


def _has_ids(rows: Any) -> bool:
    """Whether rows are of token ids, by their columns or the first of them."""
    names = getattr(rows, "column_names", None)
    if isinstance(names, list):
        return IDS in names
    streamed = hasattr(rows, "column_names")  # a data set that does not know its columns before it is read
    first = next(iter(rows), None) if isinstance(rows, list | tuple) or streamed else None
    return isinstance(first, Mapping) and IDS in first


def _parted(
    pool: Sequence[_Row], missing: Sequence[str], shares: Mapping[str, float]
) -> dict[str, list[_Row]]:
    """The rows of a pool by the part of [0, 1) that they hash to: train first, then the missing splits in order."""
    edges = [0.0, 1 - sum(shares[split] for split in missing)]
    for split in missing:
        edges.append(1.0 if split == missing[-1] else edges[-1] + shares[split])
    parts = zip(("train", *missing), edges[:-1], edges[1:], strict=True)
    return {split: [row for row in pool if lower <= row.position < upper] for split, lower, upper in parts}


def _joined(rows: Sequence[_Row]) -> TokenSplit:
    """The arrays of a split; rows without a predicted token that carries loss are left out and counted."""
    kept = [(number, row) for number, row in enumerate(rows) if row.loss[1:].any()]
    ids = np.concatenate([row.ids for _, row in kept] or [np.empty(0, np.int32)])
    loss = np.concatenate([row.loss for _, row in kept] or [np.empty(0, np.bool_)])
    offsets = np.cumsum([0, *(len(row.ids) for _, row in kept)], dtype=np.int64)
    targets = np.array([np.count_nonzero(row.loss[1:]) for _, row in kept], np.int32)
    records = np.array([number for number, _ in kept], np.int64)
    counts = SplitCounts(len(rows), len(ids), 0, len(rows) - len(kept), 0)
    return TokenSplit(ids, loss, offsets, targets, records, 0, counts)
