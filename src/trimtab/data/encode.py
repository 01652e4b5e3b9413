"""Records to token ids, with a mark on every token that carries loss."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from trimtab.data import chat as chats
from trimtab.data.records import Chat, Completion, Item, Text
from trimtab.errors import ModelError, explain

_BATCH_RECORDS = 256
_BATCH_CHARACTERS = 2**20
_PIECE = 2**18


@dataclass(frozen=True, eq=False)
class Encoded:
    """A record's tokens.

    Attributes:
        ids: (n,) int32.
        loss: (n,) bool.
        is_text: a plain document, which may share a row with others.
    """

    ids: NDArray[np.int32]
    loss: NDArray[np.bool_]
    is_text: bool


def find_tokenizer(model_or_tokenizer: Any) -> PreTrainedTokenizerBase:
    """The transformers tokenizer that is meant: the thing itself, or its `.tokenizer`.

    Raises:
        ModelError: there is none.
    """
    found = model_or_tokenizer
    if not isinstance(found, PreTrainedTokenizerBase):
        found = getattr(model_or_tokenizer, "tokenizer", None)
    if not isinstance(found, PreTrainedTokenizerBase):
        hint = "AutoTokenizer.from_pretrained(...) or PreTrainedTokenizerFast(tokenizer_object=...)"
        got = type(model_or_tokenizer).__name__ if found is None else type(found).__name__
        raise ModelError(explain(got, "a transformers tokenizer, or a model that has one", hint))
    return found


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Sha256 of what decides how text becomes ids: vocabulary, rules, special tokens, chat template.

    Padding and truncation, which a tokenizer remembers from its last call, have no part in it.
    """
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        rules.pop("padding", None)
        rules.pop("truncation", None)
    else:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    parts = [rules, special, tokenizer.chat_template, _leading(tokenizer)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id under padding: pad, else end of sequence, else 0; the attention mask decides, not the id."""
    for found in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if found is not None:
            return int(found)
    return 0


def encode(items: Iterable[Item], tokenizer: PreTrainedTokenizerBase) -> Iterator[Encoded]:
    """The tokens of each record, in order.

    A text is its tokens and the end-of-sequence token, all with loss. A completion is the tokens of prompt
    and completion together; those with a character of the completion carry loss, and so does the
    end-of-sequence token after them. A conversation follows the tokenizer's chat template, or the plain format of
    `trimtab.data.chat.spell_plainly`, with loss on the assistant's turns. Where the tokenizer starts
    sequences with a token of its own (as Llama's and Gemma's do), so does every record here.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token and a record needs one.
        DataError: the chat template refuses a conversation.
    """
    marked = chats.marks_assistant(tokenizer) and tokenizer.is_fast
    for batch in _batches(items):
        plain = [item for item in batch if not (marked and isinstance(item, Chat))]
        encoded = iter(_encode_spelled(plain, tokenizer))
        for item in batch:
            yield _encode_marked(item, tokenizer) if marked and isinstance(item, Chat) else next(encoded)


@dataclass(frozen=True)
class _Spelling:
    """A record as text: where it carries loss (None: everywhere), and whether special tokens surround it."""

    text: str
    spans: tuple[chats.Span, ...] | None
    surrounded: bool
    is_closed: bool


def _spell(item: Item, tokenizer: PreTrainedTokenizerBase) -> _Spelling:
    if isinstance(item, Text):
        return _Spelling(item.text, None, surrounded=True, is_closed=True)
    if isinstance(item, Completion):
        whole = item.prompt + item.completion
        spans = ((len(item.prompt), len(whole)),) if item.completion.strip() else ()
        return _Spelling(whole, spans, surrounded=True, is_closed=True)
    if chats.has_template(tokenizer):
        spoken = chats.spell_by_template(item, tokenizer)
        return _Spelling(spoken.text, spoken.spans, surrounded=False, is_closed=False)
    _eos_id(tokenizer)
    spoken = chats.spell_plainly(item, str(tokenizer.eos_token))
    return _Spelling(spoken.text, spoken.spans, surrounded=True, is_closed=False)


def _encode_spelled(items: Sequence[Item], tokenizer: PreTrainedTokenizerBase) -> Iterator[Encoded]:
    spellings = [_spell(item, tokenizer) for item in items]
    whole = iter(_ids([spelling.text for spelling in spellings if spelling.spans is None], tokenizer))
    lead = _leading(tokenizer)
    for item, spelling in zip(items, spellings, strict=True):
        if spelling.spans is None:
            ids = next(whole)
            loss = np.ones(len(ids), np.bool_)
        else:
            ids, loss = _ids_and_loss(spelling.text, spelling.spans, tokenizer)
        before = lead if spelling.surrounded else []
        after = [_eos_id(tokenizer)] if spelling.is_closed else []
        is_text = isinstance(item, Text)
        loss_ends = np.full(len(before), is_text), np.full(len(after), bool(loss.any()))
        yield Encoded(
            np.concatenate([before, ids, after]).astype(np.int32),
            np.concatenate([loss_ends[0], loss, loss_ends[1]]).astype(np.bool_),
            is_text,
        )


def _encode_marked(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    messages = [dict(message) for message in chat.messages]
    try:
        out: Any = tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True, tokenizer_kwargs={"verbose": False}
        )
    except Exception as error:
        raise chats.refused(chat, error) from error
    return Encoded(np.array(out["input_ids"], np.int32), np.array(out["assistant_masks"], np.bool_), False)


def _ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[NDArray[np.int64]]:
    pieces = [list(_pieces(text)) for text in texts]
    flat = [piece for some in pieces for piece in some]
    if not flat:
        return
    ids = iter(tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"])
    for some in pieces:
        yield np.concatenate([np.array(next(ids), np.int64) for _ in some])


def _pieces(text: str) -> Iterator[str]:
    """A long text in pieces that end with a line, so that memory stays bounded; a short one whole.

    No token of the usual tokenizers joins the end of one line with the first letter of the next.
    """
    start = 0
    while len(text) - start > _PIECE:
        end = text.rfind("\n", start, start + _PIECE) + 1
        while end > start and text[end].isspace():
            end = text.rfind("\n", start, end - 1) + 1
        end = end if end > start else start + _PIECE
        yield text[start:end]
        start = end
    yield text[start:]


def _ids_and_loss(
    text: str, spans: Sequence[chats.Span], tokenizer: PreTrainedTokenizerBase
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if not tokenizer.is_fast:
        return _by_segments(text, spans, tokenizer)
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = np.array(out["offset_mapping"], np.int64).reshape(-1, 2)
    starts, ends = offsets[:, 0], offsets[:, 1]
    # Byte-level tokenizers leave the white space before a word out of its offsets; it belongs to the token.
    reached = np.maximum.accumulate(np.concatenate([[0], ends]))[:-1]
    starts = np.minimum(starts, reached)
    loss = np.zeros(len(starts), np.bool_)
    for start, end in spans:
        loss |= (starts < end) & (ends > start)
    return np.array(out["input_ids"], np.int64), loss


def _by_segments(
    text: str, spans: Sequence[chats.Span], tokenizer: PreTrainedTokenizerBase
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For tokenizers that do not say which characters a token covers: each stretch by itself."""
    ids: list[int] = []
    loss: list[bool] = []
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    for number, (start, end) in enumerate(pairwise(edges)):
        if start < end:
            some = tokenizer(text[start:end], add_special_tokens=False, verbose=False)["input_ids"]
            ids += some
            loss += [number % 2 == 1] * len(some)
    return np.array(ids, np.int64), np.array(loss, np.bool_)


def _leading(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that the tokenizer itself puts before a text, if any."""
    bos = tokenizer.bos_token_id
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    return first if bos is not None and first == [bos] else []


def _eos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        what = explain("none", "one, to end documents with", "tokenizer.eos_token = '<|endoftext|>'")
        raise ModelError(f"tokenizer, end-of-sequence token: {what}")
    return int(tokenizer.eos_token_id)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.text) if isinstance(item, Text) else 0
        if len(batch) == _BATCH_RECORDS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
