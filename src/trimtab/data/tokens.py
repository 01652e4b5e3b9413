"""Tokenised domains: rows of token ids in a cache, memory-mapped and served as batches; and token budgets."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from trimtab.data import encode as encoding
from trimtab.data.domains import Domain
from trimtab.data.encode import Packing, SplitCounts, encode, find_tokenizer, write_rows
from trimtab.data.records import Item, Text
from trimtab.errors import CheckpointError, ConfigError, ModelError, explain, refusal
from trimtab.runs.atomic import CHECKSUMS, atomic_directory, verify_checksums, write_checksums
from trimtab.runs.brief import one_line
from trimtab.runs.files import read_json
from trimtab.runs.paths import cache_home

NO_LOSS = -100
"""The label of a position that carries no loss, as torch and transformers have it."""

_LAYOUT = 3
_CARD = "card.json"
_WARN = 0.05
"""Share of a split's sequences cut, or of its records without a token to learn, above which a warning says so."""
_EXCERPT = 120


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
    """Token rows of one split, memory-mapped.

    Attributes:
        ids: (tokens,) int32, the rows one after the other.
        loss: (tokens,) bool, whether a token carries loss.
        offsets: (rows + 1,) int64, where each row starts and ends in `ids`.
        targets: (rows,) int32, loss-carrying tokens that the model predicts (a row's first token never is).
        records: (rows,) int64, the number of the record that each row is of, or mostly of where texts are packed.
        pad_id: token id under the padding; the attention mask hides it.
        counts: what became of the records.
        groups: (rows,) int64, the number of the group that each row is of, or mostly of; None where records have none.
    """

    ids: NDArray[np.int32]
    loss: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    targets: NDArray[np.int32]
    records: NDArray[np.int64]
    pad_id: int
    counts: SplitCounts
    groups: NDArray[np.int64] | None = None

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

    def example(self, tokenizer: PreTrainedTokenizerBase, row: int = 0) -> tuple[tuple[str, bool], ...]:
        """Excerpt of a row: stretches of text, each with whether it carries loss; long ones are cut in the middle."""
        start, stop = self._span(row)
        loss, half = self.loss[start:stop], _EXCERPT // 2
        borders = np.flatnonzero(np.diff(loss.astype(np.int8))) + 1
        texts = [str(tokenizer.decode(ids.tolist())) for ids in np.split(self.ids[start:stop], borders)]
        excerpts = [text if len(text) <= _EXCERPT else f"{text[:half]} ... {text[-half:]}" for text in texts]
        return tuple(zip(excerpts, (bool(marks[0]) for marks in np.split(loss, borders)), strict=True))

    @property
    def clusters(self) -> NDArray[np.int64]:
        """(rows,) int64: the group that each row is of, or its record where there are no groups."""
        return self.records if self.groups is None else self.groups

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
    """Tokenised domain: token rows by split.

    Attributes:
        name: the domain's name.
        splits: "train", "validation" and "test", those the domain has.
        fingerprint: hex digest of the text, its groups, the tokenizer, the row length and the packing.
        unread: what of the domain's files was not used, a sentence each.
    """

    name: str
    splits: dict[str, TokenSplit]
    fingerprint: str
    unread: tuple[str, ...] = ()

    def __repr__(self) -> str:
        sizes = [f"{split} {len(it)} rows, {it.counts.tokens} tokens" for split, it in self.splits.items()]
        return one_line("TokenDomain", repr(self.name), *sizes)


def tokenise(
    domain: Domain,
    model_or_tokenizer: Any,
    *,
    seq_len: int,
    packing: Packing = "packed",
    cache: Path | None = None,
) -> TokenDomain:
    """Tokenised domain in rows of at most `seq_len` tokens, written once to a cache that later calls open.

    Packed texts are joined, each closed by the end-of-sequence token, and cut into rows of exactly `seq_len`;
    rows may hold several documents, which see one another. Padded texts, prompts with completions
    and conversations make one row each, cut at `seq_len` (`TokenSplit.counts` says how many were).
    `trimtab.data.encode.encode` says which tokens carry loss.

    A conversation that the chat template refuses, or in which the assistant's turns cannot be located for certain, is
    left out and counted; more than half of a split like that are refused. A warning tells of records left out,
    and of more than 5 % of a split's sequences cut or of its records without a token to learn.

    An entry of the cache is known by the text, its groups, the tokenizer, `seq_len` and `packing`; names and paths have
    no part in it. Entries appear whole or not at all and carry checksums, which are compared when one is opened. Any
    number of processes may build the same one, and a damaged one is built again, which a warning tells.

    Args:
        domain: what to tokenise.
        model_or_tokenizer: a transformers tokenizer, or anything that has one as `.tokenizer`.
        seq_len: tokens per row, at least 2.
        packing: "packed" or "padded"; only plain texts differ.
        cache: folder of the entries; None is `$TRIMTAB_CACHE/tokens`, else the user's cache folder.

    Raises:
        ConfigError: `seq_len` or `packing` is not possible.
        DataError: what `Domain.contents` refuses, a split without enough tokens for one row or with more than half
            of its conversations left out, one that changed while it was read, or text that cannot be encoded.
        ModelError: no tokenizer, or one without an end-of-sequence token where it is needed.
    """
    if seq_len < 2:
        raise ConfigError(f"seq_len: {explain(seq_len, 'at least 2 tokens, one of them predicted')}")
    if packing not in ("packed", "padded"):
        raise ConfigError(f"packing: {explain(repr(packing), repr('packed') + ' or ' + repr('padded'))}")
    tokenizer = find_tokenizer(model_or_tokenizer)
    parts = [_LAYOUT, domain.fingerprint, encoding.tokenizer_fingerprint(tokenizer), seq_len, packing]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    entry = (cache_home() / "tokens" if cache is None else Path(cache)) / key
    for _ in range(5):
        existed, splits = entry.exists(), None
        try:
            splits = _open(entry) if existed else None
        except CheckpointError as error:
            warnings.warn(f"token cache: {error}; the entry is built again", stacklevel=2)
        if splits is not None:
            for name, content in domain.contents.items():
                # They have no part in what an entry is known by, and are counted for this domain.
                counts = replace(splits[name].counts, blank=content.blank + content.without_value)
                splits[name] = replace(splits[name], counts=counts)
            made = TokenDomain(domain.name, splits, key, tuple(getattr(domain, "unread", ())))
            if phrases := list(left_out(made, list(splits), seq_len)):
                warnings.warn(f"domain {domain.name!r}: {'; '.join(phrases)}", stacklevel=2)
            return made
        if existed:
            # Out of the way with a damaged entry; another process may have done so.
            aside = entry.with_name(f".{entry.name}.damaged-{uuid.uuid4().hex}")
            with suppress(FileNotFoundError):
                entry.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        with atomic_directory(entry, replace=False) as folder:
            _build(folder, domain, tokenizer, seq_len, packing)
    raise refusal(entry, "a damaged entry again and again", "a cache that keeps what is written")


def _build(
    folder: Path, domain: Domain, tokenizer: PreTrainedTokenizerBase, seq_len: int, packing: Packing
) -> None:
    counts = {}
    for split in domain.splits:
        items = _unchanged(domain, split)
        count = counts[split] = write_rows(folder, split, encode(items, tokenizer), seq_len, packing)
        where = f"domain {domain.name!r}, split {split!r}"
        skipped = f"left out, the first: {count.first_skipped}"
        if 2 * count.skipped > count.records:
            got = f"{count.skipped} of {count.records} records {skipped}"
            raise refusal(where, got, "at most half of them")
        if not count.tokens:
            parts = {
                skipped: count.skipped,
                f"without a token that carries loss in the first {seq_len}": count.dropped,
                "tokens of text": count.left_over,
            }
            lost = "".join(f" ({number} {what})" for what, number in parts.items() if number)
            hint = "a smaller seq_len, or more data" if count.left_over else "more data"
            hint = f"packing: padded, {hint}" if count.left_over and count.records > 1 else hint
            hint = "a larger seq_len" if count.beyond else hint
            expected = f"enough for one sequence of seq_len={seq_len}"
            raise refusal(where, f"{count.records} records without a sequence{lost}", expected, hint)
    card = {
        "splits": {split: asdict(count) for split, count in counts.items()},
        "pad_id": encoding.pad_id(tokenizer),
        "seq_len": seq_len,
        "packing": packing,
        "content": domain.fingerprint,
        "tokenizer": encoding.tokenizer_fingerprint(tokenizer),
    }
    (folder / _CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")
    write_checksums(folder)


def _unchanged(domain: Domain, split: str) -> Iterator[Item]:
    """The split's records; an error at the end if they differ from those of its fingerprint."""
    whole = hashlib.sha256()
    for item in domain.items(split):
        whole.update(item.grouped_digest)
        yield item
    if whole.hexdigest() != domain.contents[split].fingerprint:
        got, where = "records that changed while they were read", f"domain {domain.name!r}, split {split!r}"
        raise refusal(where, got, "files that stay as they are")


def left_out(domain: TokenDomain, splits: Sequence[str], seq_len: int) -> Iterator[str]:
    """Phrases on records and sequences of a domain that are left out or cut, each with what to try.

    Records that were dropped and sequences that were cut are listed where they are more than 5 % of their split.

    Args:
        domain: of which.
        splits: which of its splits.
        seq_len: tokens per row.
    """
    counts = {name: domain.splits[name].counts for name in splits}
    rows = {name: len(domain.splits[name]) for name in splits}
    beyond = sum(c.beyond for c in counts.values())
    if skipped := {name: (c.skipped, c.records) for name, c in counts.items() if c.skipped}:
        first = next(iter(skipped))
        why = "since the chat template does not write them as they are"
        yield f"{_shares(skipped)} records left out, {why} (the first: {first} {counts[first].first_skipped})"
    if dropped := {n: (c.dropped, c.records) for n, c in counts.items() if c.dropped > _WARN * c.records}:
        hint = f"; a larger seq_len keeps {beyond} of them" if beyond else ""
        yield f"{_shares(dropped)} records dropped, without a token that carries loss in the first {seq_len}{hint}"
    if cut := {n: (c.truncated, rows[n]) for n, c in counts.items() if c.truncated > _WARN * rows[n]}:
        hint = "" if beyond else "; a larger seq_len keeps more"
        yield f"{_shares(cut)} sequences were cut at {seq_len} tokens{hint}"


def _shares(counts: Mapping[str, tuple[int, int]]) -> str:
    """Counts by split as text.

    >>> _shares({"train": (3, 9), "test": (1, 2)})
    '3 of 9 train, 1 of 2 test'
    """
    return ", ".join(f"{count} of {of} {name}" for name, (count, of) in counts.items())


def _open(entry: Path) -> dict[str, TokenSplit] | None:
    """Splits of a cache entry, checked against its checksums; None when it is gone.

    Raises:
        CheckpointError: it is damaged.
    """
    if not entry.exists():
        return None
    if not (entry / CHECKSUMS).is_file():
        raise CheckpointError(explain(f"no file {entry / CHECKSUMS}", "every file that was written"))
    verify_checksums(entry)
    sums = read_json(entry / CHECKSUMS, "checksums written by trimtab", error=CheckpointError)
    if sums.keys() != {path.name for path in entry.iterdir()} - {CHECKSUMS}:
        raise CheckpointError(explain(f"other files in {entry}", "those that were written"))
    card = read_json(entry / _CARD, "a card written by trimtab", error=CheckpointError)
    try:
        splits = {}
        for name, counts in card["splits"].items():
            paths = {part: encoding.array_file(entry, name, part) for part in encoding.ARRAYS}
            arrays: Any = {part: np.load(path, mmap_mode="r") for part, path in paths.items()}
            if counts.get("groups"):
                path = encoding.array_file(entry, name, encoding.GROUPS)
                arrays[encoding.GROUPS] = np.load(path, mmap_mode="r")
            splits[name] = TokenSplit(**arrays, pad_id=int(card["pad_id"]), counts=SplitCounts(**counts))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise CheckpointError(explain(f"damaged {entry} ({error})", "the files that were written")) from error
    if odd := [name for name, split in splits.items() if not _fits(split)]:
        got = f"arrays of {odd[0]} in {entry} of other sizes"
        raise CheckpointError(explain(got, "rows one after the other"))
    return splits


def _fits(split: TokenSplit) -> bool:
    """Whether the arrays are of the types and sizes that rows one after the other have."""
    arrays = [(getattr(split, part), dtype) for part, dtype in encoding.ARRAYS.items()]
    arrays.append((split.clusters, np.int64))
    if not all(array.dtype == dtype and array.ndim == 1 for array, dtype in arrays) or not len(split.offsets):
        return False
    ends = split.offsets[0] == 0 and split.offsets[-1] == len(split.ids) == len(split.loss)
    rows = len(split.offsets) - 1 == len(split.targets) == len(split.records) == len(split.clusters)
    return bool(ends and rows and (np.diff(split.offsets) > 0).all())


def first_tokens(domain: Domain, model_or_tokenizer: Any, tokens: int) -> Domain:
    """Token budget: the same domain with a train split of its first `tokens` tokens; other splits stay.

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
    ends, taken, left = encoding.Ends(tokenizer), list[Item](), tokens
    for item in domain.items("train"):
        if not isinstance(item, Text):
            raise refusal(f"domain {domain.name!r}", type(item).__name__, "plain texts")
        encoded = tokenizer(item.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, spans = np.asarray(encoded["input_ids"]), encoded["offset_mapping"]
        before = len(ends.before(ids, item.text))
        last = left - before - 2  # the last of its own tokens that has room beside the one that closes it
        left -= before + len(ids) + len(ends.after(ids, item.text))
        if left < 0:
            item = replace(item, text=item.text[: spans[last][1]] if last >= 0 else "")
        taken.append(item)
        if left < 2:
            return replace(domain, train=taken)
    raise refusal(f"domain {domain.name!r}", f"{tokens - left} tokens", f"{tokens} or more to train on")
