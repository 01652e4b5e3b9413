"""Reading of two models on the same records: losses, KL divergence and greedy tokens; or losses per byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trimtab.data.domains import Domain
from trimtab.data.encode import Ends, Marker, SplitCounts, pad_id
from trimtab.data.records import Completion, Text
from trimtab.data.tokens import NO_LOSS, Batch, TokenSplit
from trimtab.data.turns import Span
from trimtab.errors import ModelError, refusal
from trimtab.models.batches import evaluating
from trimtab.models.load import Model
from trimtab.train.evaluation import batched, token_nll
from trimtab.train.losses import SequenceLosses

_ELEMENTS = 2**24
_CHARACTERS = 16
"""Characters of a text that are tokenised for each token that is read, where tokenizers differ."""


class Switchable(Protocol):
    """What can be switched on in a model for a block, and leaves it as it was: a `trimtab.Steering`."""

    def on(self, model: Model, /) -> AbstractContextManager[Any]:
        """A block in which the model is changed."""
        ...


@dataclass(frozen=True)
class Side:
    """One of the two models of a comparison.

    Attributes:
        model: left as it is.
        change: what is switched on in it while it is read; None for nothing.
    """

    model: Model
    change: Switchable | None = None

    def read(self) -> AbstractContextManager[Any]:
        """A block in which the model is this side."""
        return nullcontext() if self.change is None else self.change.on(self.model)


@dataclass(frozen=True, eq=False)
class Reading:
    """Two models on the same sequences of one domain.

    Attributes:
        base, tuned: nats of each sequence; their `tokens` are bytes where tokenizers differ.
        kl: KL(base || tuned) of the next token, nats summed over the positions that carry loss; None where tokenizers
            differ, or the base model predicts tokens that the tuned one has not.
        changed: how many of these positions have another likeliest token; None where tokenizers differ.
        texts: of each sequence.
    """

    base: SequenceLosses
    tuned: SequenceLosses
    kl: SequenceLosses | None
    changed: SequenceLosses | None
    texts: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether the two models gave bit-identical losses, and the same distributions, at every position read."""
        same = np.array_equal(self.base.nll, self.tuned.nll)
        return same and (self.kl is None or not self.kl.nll.any())


def same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers give the same ids for plain text: the same rules, vocabulary and tokens at the ends.

    Chat templates have no part in it, nor have tokens that were only added, such as one for padding.
    """
    ends = [(it.eos_token_id, Ends(it).lead) for it in (one, other)]
    if ends[0] != ends[1] or one.is_fast != other.is_fast:
        return False
    if not one.is_fast:
        return type(one) is type(other) and one.get_vocab() == other.get_vocab()
    rules = [json.loads(it.backend_tokenizer.to_str()) for it in (one, other)]
    return all(rules[0].get(part) == rules[1].get(part) for part in ("normalizer", "pre_tokenizer", "model"))


def read_tokens(
    base: Side,
    tuned: Side,
    split: TokenSplit,
    rows: Sequence[int],
    *,
    batch_size: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Reading:
    """Losses of two models with the same tokens, KL(base || tuned) and changed greedy tokens, row by row.

    Two batches of logits are held at a time. Probabilities are in float32 at least, sums in float64.

    Args:
        base, tuned: the two sides.
        split: the token rows.
        rows: which of them; the result is in this order.
        batch_size: rows at a time.
        progress: called with the number of rows read since the last call.

    Raises:
        ModelError: a model that returns no logits.
    """
    order = sorted(
        range(len(rows)), key=lambda place: int(split.offsets[rows[place]] - split.offsets[rows[place] + 1])
    )
    sums, tokens, comparable = np.zeros((4, len(rows))), np.zeros(len(rows), np.int64), True
    for places in batched(order, batch_size):
        batch = split.batch([rows[place] for place in places])
        with torch.inference_mode():
            p_logits, q_logits = (_logits(side, batch)[:, :-1] for side in (base, tuned))
        comparable &= p_logits.shape[-1] <= q_logits.shape[-1]
        labels = batch.labels[:, 1:]
        sums[:, places] = _sums(p_logits, q_logits, labels)
        tokens[places] = (labels != NO_LOSS).sum(1).numpy()
        progress(len(places))
    clusters = split.clusters[np.asarray(rows)]
    nll_base, nll_tuned, kl, changed = (SequenceLosses(sum_, tokens, clusters) for sum_ in sums)
    tokenizer: Any = base.model.need_tokenizer()
    spans = [split.ids[split.offsets[row] : split.offsets[row + 1]].tolist() for row in rows]
    texts = tuple(str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in spans)
    return Reading(nll_base, nll_tuned, kl if comparable else None, changed, texts)


def _logits(side: Side, batch: Batch) -> Float[Tensor, "B T V"]:
    """Logits of the next token at every position of a batch."""
    module, here = side.model.module, batch.to(side.model.device)
    with evaluating(module), side.read():
        logits = getattr(module(input_ids=here.input_ids, attention_mask=here.attention_mask), "logits", None)
    if not isinstance(logits, Tensor):
        got = f"a {type(module).__name__} that returns no logits"
        raise refusal("", got, "a causal language model", "its ...ForCausalLM class", error=ModelError)
    return logits


def _sums(
    p_logits: Float[Tensor, "B T V"], q_logits: Float[Tensor, "B T W"], labels: Int[Tensor, "B T"]
) -> Float[np.ndarray, "4 B"]:
    """Sums of each row: nats of both models, KL(p || q) over the tokens of p, positions with another likeliest token.

    In float32 at least, so many positions at a time that no more than `_ELEMENTS` log-probabilities of each are held.
    """
    wide = torch.float64 if torch.float64 in (p_logits.dtype, q_logits.dtype) else torch.float32
    rows, places = (labels != NO_LOSS).nonzero(as_tuple=True)
    shared = min(p_logits.shape[-1], q_logits.shape[-1])
    sums = torch.zeros(4, len(labels), dtype=torch.float64)
    step = max(1, _ELEMENTS // p_logits.shape[-1])
    for start in range(0, len(rows), step):
        row, place = rows[start : start + step], places[start : start + step]
        p, q = (
            it[row.to(it.device), place.to(it.device)].to(wide).log_softmax(-1) for it in (p_logits, q_logits)
        )
        q = q.to(p.device)
        label = labels[row, place].to(p.device)[:, None]
        gap = torch.where(p[:, :shared] == -torch.inf, 0.0, p[:, :shared] - q[:, :shared])
        kl = (p[:, :shared].exp() * gap).sum(-1).clamp(min=0)
        changed = p.argmax(-1) != q.argmax(-1)
        values = [-p.gather(-1, label)[:, 0], -q.gather(-1, label)[:, 0], kl, changed]
        sums.index_add_(1, row, torch.stack([value.double().cpu() for value in values]))
    return sums.numpy()


def sequence_nll(side: Side, split: TokenSplit, batch_size: int) -> Float[np.ndarray, " rows"]:
    """Summed negative log-likelihood of each row of a split, in nats."""
    found = []
    for rows in batched(range(len(split)), batch_size):
        batch = split.batch(rows)
        with torch.inference_mode():
            logits = _logits(side, batch)
            nll = token_nll(logits, batch.labels.to(logits.device))
        found.append(nll.sum(1, dtype=torch.float64).cpu().numpy())
    return np.concatenate(found)


@dataclass(frozen=True)
class ByteRow:
    """A text that two tokenizers read, and which of its tokens are scored.

    Attributes:
        text: as much of the record as both models have room for.
        scored: bytes of it that are scored, those from the first common border of tokens on that may be.
        tokens: of each tokenizer, (n,) ids with the token that it begins texts with, and (n,) whether each is scored.
    """

    text: str
    scored: int
    tokens: tuple[tuple[NDArray[np.int64], NDArray[np.bool_]], ...]


def byte_row(text: str, start: int, markers: Sequence[Marker], seq_len: int) -> ByteRow | None:
    """A text as two tokenizers read it, cut to what both have room for; None where nothing of it can be scored.

    Both are scored on the same bytes: from the first character at which a token of each begins and that each predicts
    from something before it.

    Args:
        text: the whole of it.
        start: characters before this are read but not scored, as those of a prompt.
        markers: of the tokenizers.
        seq_len: tokens that a row may have.
    """
    leads = [Ends(marker.tokenizer).lead for marker in markers]
    text = text[: _CHARACTERS * seq_len]
    while True:
        encoded = [marker.ids_and_offsets([text])[0] for marker in markers]
        ends = [
            offsets[seq_len - len(lead)][0]
            for (ids, offsets), lead in zip(encoded, leads, strict=True)
            if len(ids) + len(lead) > seq_len
        ]
        if not ends:
            break
        text = text[: min(min(ends), len(text) - 1)]
    least = max(start, 0 if all(leads) else 1)
    common = set.intersection(*(set(_borders(offsets)) for _, offsets in encoded))
    first = min((border for border in common if border >= least), default=None)
    if first is None:
        return None
    rows = []
    for (ids, offsets), lead in zip(encoded, leads, strict=True):
        scored = np.array([False] * len(lead) + [begin >= first for begin, _ in offsets], np.bool_)
        rows.append((np.concatenate([lead, ids]).astype(np.int64), scored))
    return ByteRow(text, len(text[first:].encode()), tuple(rows))


def _borders(offsets: Sequence[Span]) -> Iterator[int]:
    """Characters at which a token begins and that no other token straddles.

    >>> list(_borders([(0, 2), (2, 3), (2, 3), (3, 5), (4, 6)]))
    [0, 2, 3]
    """
    reached = 0
    for begin, end in offsets:
        if begin >= reached:
            yield begin
        reached = max(reached, end)


def read_bytes(
    base: Side,
    tuned: Side,
    domain: Domain,
    rows: Sequence[int],
    *,
    seq_len: int,
    batch_size: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Reading:
    """Losses of two models with different tokenizers on the same bytes of the same records.

    Texts alone, and prompts with completions; conversations have no text that both read, as templates differ. The token
    that ends a text is not scored.

    Args:
        base, tuned: the two sides.
        domain: with a test split.
        rows: numbers of the records to read.
        seq_len: tokens that either model reads of a record at most; what one has no room for the other is not asked.
        batch_size: rows at a time.
        progress: called with the number of rows read since the last call.

    Raises:
        DataError: no record that both can be scored on.
        ModelError: a tokenizer that does not say which characters a token covers.
    """
    tokenizers = [side.model.need_tokenizer() for side in (base, tuned)]
    for tokenizer in tokenizers:
        if not tokenizer.is_fast:
            expected = "a fast tokenizer, to compare losses per byte"
            got, hint = type(tokenizer).__name__, "a model with the same tokenizer"
            raise refusal("tokenizer", got, expected, hint, error=ModelError)
    markers, wanted = [Marker(tokenizer) for tokenizer in tokenizers], set(rows)
    read: list[ByteRow] = []
    groups: list[str] = []
    for number, item in enumerate(domain.items("test")):
        if number not in wanted or not isinstance(item, Text | Completion):
            continue
        text, start = (
            (item.text, 0) if isinstance(item, Text) else (item.prompt + item.completion, len(item.prompt))
        )
        if (row := byte_row(text, start, markers, seq_len)) is not None:
            read.append(row)
            groups.append(item.group or str(number))
    if not read:
        got, hint = "no text that both tokenizers can be scored on", "texts, or prompts with completions"
        raise refusal(f"domain {domain.name!r}", got, "one at least", hint)
    scored = np.array([row.scored for row in read], np.int64)
    clusters = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    losses = list[SequenceLosses]()
    for side, place in ((base, 0), (tuned, 1)):
        split = split_of([row.tokens[place] for row in read], pad_id(tokenizers[place]))
        losses.append(SequenceLosses(sequence_nll(side, split, batch_size), scored, clusters))
        progress(len(rows) * place)
    return Reading(losses[0], losses[1], None, None, tuple(row.text for row in read))


def split_of(rows: Sequence[tuple[NDArray[Any], NDArray[Any]]], padding: int) -> TokenSplit:
    """Rows of token ids with their loss masks as a split in memory."""
    sizes = np.array([len(ids) for ids, _ in rows], np.int64)
    ids, loss = (np.concatenate([row[part] for row in rows]) for part in (0, 1))
    return TokenSplit(
        ids=ids.astype(np.int32),
        loss=loss.astype(np.bool_),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        targets=np.array([mask[1:].sum() for _, mask in rows], np.int32),
        records=np.arange(len(rows)),
        pad_id=padding,
        counts=SplitCounts(len(rows), int(sizes.sum()), 0, 0, 0),
    )
