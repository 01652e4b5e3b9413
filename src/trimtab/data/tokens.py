"""A domain as rows of token ids: tokenised once, memory-mapped, and served as batches."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from trimtab.data.domains import Domain
from trimtab.data.encode import encode, find_tokenizer, pad_id, tokenizer_fingerprint
from trimtab.data.records import Item
from trimtab.data.rows import ARRAYS, Packing, SplitCounts, array_file, write_rows
from trimtab.errors import ConfigError, DataError, explain
from trimtab.runs.atomic import atomic_directory
from trimtab.runs.places import cache_home

NO_LOSS = -100
"""The label of a position that carries no loss, as torch and transformers have it."""

_LAYOUT = 2
_CARD = "card.json"
_ATTEMPTS = 5


@dataclass(frozen=True)
class Batch:
    """Right-padded rows, ready for a causal language model.

    Attributes:
        input_ids: (B, T) int64.
        attention_mask: (B, T) int64; 1 on tokens, 0 on padding.
        labels: (B, T) int64; `input_ids` where a token carries loss, else -100. Not shifted: models do that.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False, repr=False)
class TokenSplit:
    """The rows of one split, memory-mapped.

    Attributes:
        ids: (tokens,) int32, the rows one after the other.
        loss: (tokens,) bool, whether a token carries loss.
        offsets: (rows + 1,) int64, where each row starts and ends in `ids`.
        targets: (rows,) int32, loss-carrying tokens that the model predicts (a row's first token never is).
        records: (rows,) int64, the number of the record that each row is of, or mostly of where texts are packed.
        pad_id: token id under the padding; the attention mask hides it.
        counts: what became of the records.
    """

    ids: NDArray[np.int32]
    loss: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    targets: NDArray[np.int32]
    records: NDArray[np.int64]
    pad_id: int
    counts: SplitCounts

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"TokenSplit({len(self)} rows, {self.counts.tokens} tokens)"

    def batch(self, indices: Sequence[int]) -> Batch:
        """The rows at `indices`, in that order, padded on the right to the longest of them.

        Raises:
            IndexError: an index outside 0 .. len - 1.
        """
        spans = [self._span(index) for index in indices]
        shape = (len(spans), max((stop - start for start, stop in spans), default=0))
        ids, mask = np.full(shape, self.pad_id, np.int64), np.zeros(shape, np.int64)
        labels = np.full(shape, NO_LOSS, np.int64)
        for row, (start, stop) in enumerate(spans):
            tokens = self.ids[start:stop]
            ids[row, : stop - start] = tokens
            mask[row, : stop - start] = 1
            labels[row, : stop - start] = np.where(self.loss[start:stop], tokens, NO_LOSS)
        return Batch(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(labels))

    def target_tokens(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """(B,) int64: per row, how many predicted tokens carry loss (after the model's shift); at least 1."""
        return self.targets[np.asarray(indices, dtype=np.intp)].astype(np.int64)

    @property
    def mean_target_tokens(self) -> float:
        """Predicted tokens that carry loss, per row; nan without rows."""
        return float(self.targets.mean()) if len(self) else float("nan")

    def _span(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"got row {index}, expected 0 to {len(self) - 1}")
        return int(self.offsets[index]), int(self.offsets[index + 1])


@dataclass(frozen=True, eq=False)
class TokenDomain:
    """A domain as token rows.

    Attributes:
        name: the domain's name.
        splits: "train", "validation" and "test", those the domain has.
        fingerprint: hex digest of the text, the tokenizer, the row length and the packing.
    """

    name: str
    splits: dict[str, TokenSplit]
    fingerprint: str


def tokenise(
    domain: Domain,
    model_or_tokenizer: Any,
    *,
    seq_len: int,
    packing: Packing = "packed",
    cache: Path | None = None,
) -> TokenDomain:
    """Turn a domain into rows of at most `seq_len` tokens, once; later calls open what the first one wrote.

    Packed texts are joined, each closed by the end-of-sequence token, and cut into rows of exactly `seq_len`;
    rows may hold several documents, which see one another. Padded texts, prompts with completions
    and conversations make one row each, cut at `seq_len` (`TokenSplit.counts` says how many were).
    `trimtab.data.encode.encode` says which tokens carry loss.

    An entry of the cache is known by the text, the tokenizer, `seq_len` and `packing`; names and paths have no part
    in it. Entries appear whole or not at all, any number of processes may build the same one, and a damaged
    one is built again.

    Args:
        domain: what to tokenise.
        model_or_tokenizer: a transformers tokenizer, or anything that has one as `.tokenizer`.
        seq_len: tokens per row, at least 2.
        packing: "packed" or "padded"; only plain texts differ.
        cache: folder of the entries; None is `$TRIMTAB_CACHE/tokens`, else the user's cache folder.

    Raises:
        ConfigError: `seq_len` or `packing` is not possible.
        DataError: what `Domain.contents` refuses, a split without enough tokens for one row, or one that
            changed while it was read.
        ModelError: no tokenizer, or one without an end-of-sequence token where it is needed.
    """
    if seq_len < 2:
        raise ConfigError(f"seq_len: {explain(seq_len, 'at least 2 tokens, one of them predicted')}")
    if packing not in ("packed", "padded"):
        raise ConfigError(f"packing: {explain(repr(packing), repr('packed') + ' or ' + repr('padded'))}")
    tokenizer = find_tokenizer(model_or_tokenizer)
    key = _key(domain, tokenizer, seq_len, packing)
    entry = (cache_home() / "tokens" if cache is None else Path(cache)) / key
    for _ in range(_ATTEMPTS):
        existed = entry.exists()
        splits = _open(entry)
        if splits is not None:
            return TokenDomain(domain.name, splits, key)
        if existed:
            _discard(entry)
        with atomic_directory(entry, replace=False) as folder:
            _build(folder, domain, tokenizer, seq_len, packing)
    raise DataError(
        f"{entry}: {explain('a damaged entry again and again', 'a cache that keeps what is written')}"
    )


def _key(domain: Domain, tokenizer: PreTrainedTokenizerBase, seq_len: int, packing: Packing) -> str:
    parts = [_LAYOUT, domain.fingerprint, tokenizer_fingerprint(tokenizer), seq_len, packing]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _build(
    folder: Path, domain: Domain, tokenizer: PreTrainedTokenizerBase, seq_len: int, packing: Packing
) -> None:
    counts = {}
    for split in domain.splits:
        items = _unchanged(domain, split)
        counts[split] = write_rows(folder, split, encode(items, tokenizer), seq_len, packing)
        if not counts[split].tokens:
            raise _too_short(domain, split, counts[split], seq_len)
    card = {
        "splits": {split: asdict(count) for split, count in counts.items()},
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "pad_id": pad_id(tokenizer),
        "seq_len": seq_len,
        "packing": packing,
        "content": domain.fingerprint,
        "tokenizer": tokenizer_fingerprint(tokenizer),
    }
    (folder / _CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")


def _unchanged(domain: Domain, split: str) -> Iterator[Item]:
    """The split's records; an error at the end if they are not those that the entry will be known by."""
    whole = hashlib.sha256()
    for item in domain.items(split):
        whole.update(item.digest)
        yield item
    if whole.hexdigest() != domain.contents[split].fingerprint:
        what = explain("records that changed while they were read", "files that stay as they are")
        raise DataError(f"domain {domain.name!r}, split {split!r}: {what}")


def _too_short(domain: Domain, split: str, counts: SplitCounts, seq_len: int) -> DataError:
    got = f"{counts.records} records without a row"
    if counts.dropped:
        got += f" ({counts.dropped} without a token that carries loss in the first {seq_len})"
    if counts.left_over:
        got += f" ({counts.left_over} tokens of text)"
    what = explain(got, f"enough for one row of seq_len={seq_len}", "a smaller seq_len, or more data")
    return DataError(f"domain {domain.name!r}, split {split!r}: {what}")


def _open(entry: Path) -> dict[str, TokenSplit] | None:
    """The splits of an entry; None when it is missing or damaged."""
    try:
        card = json.loads((entry / _CARD).read_text(encoding="utf-8"))
        if any((entry / name).stat().st_size != size for name, size in card["bytes"].items()):
            return None
        return {
            split: TokenSplit(**_arrays(entry, split), pad_id=card["pad_id"], counts=SplitCounts(**counts))
            for split, counts in card["splits"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _arrays(entry: Path, split: str) -> dict[str, Any]:
    return {part: np.load(array_file(entry, split, part), mmap_mode="r") for part in ARRAYS}


def _discard(entry: Path) -> None:
    """Take a damaged entry out of the way; another process may have done so."""
    aside = entry.with_name(f".{entry.name}.damaged-{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        entry.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
