"""Records to token ids, with a mark on every token that carries loss."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from trimtab.data import chat as chats
from trimtab.data.marking import Marked, Marker
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
    marker = Marker(tokenizer)
    by_template = chats.marks_assistant(tokenizer) and tokenizer.is_fast
    for batch in _batches(items):
        texts = _encode_texts([item for item in batch if isinstance(item, Text)], tokenizer)
        others = [
            item
            for item in batch
            if isinstance(item, Completion) or (isinstance(item, Chat) and not by_template)
        ]
        dialogues = _encode_dialogues(others, tokenizer, marker)
        for item in batch:
            if isinstance(item, Text):
                yield next(texts)
            elif isinstance(item, Chat) and by_template:
                yield _encode_by_template(item, tokenizer)
            else:
                yield next(dialogues)


def _encode_texts(texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase) -> Iterator[Encoded]:
    lead, eos = _leading(tokenizer), _eos_id(tokenizer)
    pieces = [list(_pieces(item.text)) for item in texts]
    flat = [piece for some in pieces for piece in some]
    ids = iter(tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"])
    for some in pieces:
        tokens = np.concatenate([lead, *(next(ids) for _ in some), [eos]]).astype(np.int32)
        yield Encoded(tokens, np.ones(len(tokens), np.bool_), is_text=True)


def _encode_dialogues(
    items: Sequence[Completion | Chat], tokenizer: PreTrainedTokenizerBase, marker: Marker
) -> Iterator[Encoded]:
    marked = marker.ids_and_loss([_mark(item, tokenizer) for item in items])
    templated = chats.has_template(tokenizer)
    for item, (ids, loss) in zip(items, marked, strict=True):
        before = [] if isinstance(item, Chat) and templated else _leading(tokenizer)
        after = [_eos_id(tokenizer)] if isinstance(item, Completion) else []
        all_ids = np.concatenate([before, ids, after]).astype(np.int32)
        ends = [False] * len(before), [bool(loss.any())] * len(after)
        yield Encoded(all_ids, np.concatenate([ends[0], loss, ends[1]]).astype(np.bool_), is_text=False)


def _mark(item: Completion | Chat, tokenizer: PreTrainedTokenizerBase) -> Marked:
    if isinstance(item, Completion):
        whole = item.prompt + item.completion
        return Marked(whole, ((len(item.prompt), len(whole)),) if item.completion.strip() else ())
    if chats.has_template(tokenizer):
        return chats.spell_by_template(item, tokenizer)
    _eos_id(tokenizer)
    return chats.spell_plainly(item, str(tokenizer.eos_token))


def _encode_by_template(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    messages = [dict(message) for message in chat.messages]
    try:
        out: Any = tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True, tokenizer_kwargs={"verbose": False}
        )
    except Exception as error:
        raise chats.refused(chat, error) from error
    return Encoded(np.array(out["input_ids"], np.int32), np.array(out["assistant_masks"], np.bool_), False)


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
