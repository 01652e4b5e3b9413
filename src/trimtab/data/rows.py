"""Token rows of records for a model that is read or steered: its tokens, and which of them are the response."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from trimtab.data.encode import Marker
from trimtab.data.records import Chat, Completion, Item, Text
from trimtab.data.turns import Marked, SkippedError, spell_by_template
from trimtab.errors import DataError, refusal
from trimtab.models.batches import TokenRow, token_rows
from trimtab.models.chat import Conversation, check_template
from trimtab.models.tokenizer import Added


def record_rows(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], what: str, *, max_tokens: int | None = None
) -> list[TokenRow]:
    """Token rows of records, with the response of those that have one.

    | record | tokens | response |
    |---|---|---|
    | text | the tokenizer's, with its special tokens | none: all tokens count |
    | prompt and completion | those of both together | those with a character of the completion |
    | conversation that the assistant ends | those of `apply_chat_template` | what the assistant says |
    | conversation that others end | those of it with `add_generation_prompt=True` | none: all tokens count |

    What the assistant says leaves out the special tokens and the white space that close a turn, so that the last token
    of a response is one that it says. All turns of the assistant count, but those that loss leaves out too: of a
    conversational prompt, or marked as such (`weight: 0`).

    Args:
        tokenizer: only read.
        items: checked records.
        what: what they are called in errors.
        max_tokens: longer rows are cut to this many tokens.

    Returns:
        A row per record, in order.

    Raises:
        ModelError: a text without tokens, or messages for a tokenizer without a chat template.
        DataError: a template that refuses a conversation, an assistant's turn that cannot be located for certain, or a
            record whose response has no token, or none before `max_tokens`.
    """
    plain = [item.text for item in items if isinstance(item, Text)]
    texts = iter(token_rows(tokenizer, plain, max_tokens=max_tokens))
    marker, added, rows = _marker(tokenizer, len(tokenizer)), Added.of(tokenizer), list[TokenRow]()
    for number, item in enumerate(items):
        where = f"{what}, record {number}"
        if isinstance(item, Text):
            rows.append(TokenRow(next(texts)))
            continue
        row = _row(item, marker, added, where)
        if max_tokens is not None and len(row.ids) > max_tokens:
            row = _cut(row, max_tokens, where)
        rows.append(row)
    return rows


@lru_cache(maxsize=2)
def _marker(tokenizer: PreTrainedTokenizerBase, size: int) -> Marker:  # noqa: ARG001 (with more tokens it is another)
    """The marker of a tokenizer, whose copy of 150,000 words takes two seconds."""
    return Marker(tokenizer)


def _row(item: Completion | Chat, marker: Marker, added: Added, where: str) -> TokenRow:
    tokenizer = marker.tokenizer
    if isinstance(item, Chat) and item.messages[-1]["role"] != "assistant":
        written = Conversation(item.messages, item.given).prompt(tokenizer, where)
        return TokenRow(token_rows(tokenizer, [written], special=False)[0])
    if isinstance(item, Completion):
        whole = item.prompt + item.completion
        marked = Marked(whole, ((len(item.prompt), len(whole)),))
    else:
        check_template(tokenizer, where)
        try:
            marked = spell_by_template(item, tokenizer)
        except SkippedError as error:
            raise DataError(f"{where}: {error}") from error
    ((ids, response),) = marker.ids_and_loss([marked])
    if isinstance(item, Completion):
        row = added.begun(ids.tolist())
        response = np.concatenate([np.zeros(len(row) - len(ids), np.bool_), response])
    else:
        row, response = ids.tolist(), _said(ids, response, tokenizer)
    if not response.any() or (isinstance(item, Completion) and not item.completion.strip()):
        raise refusal(where, "a response without tokens", "one that says something", "leaving it out")
    return TokenRow(row, response.tolist())


def _said(
    ids: NDArray[np.int64], loss: NDArray[np.bool_], tokenizer: PreTrainedTokenizerBase
) -> NDArray[np.bool_]:
    """The loss mask without what closes each stretch: special tokens and white space at its end."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special |= set(tokenizer.all_special_ids)
    said = loss.copy()
    for place in range(len(said) - 1, -1, -1):
        if said[place] and (place + 1 == len(said) or not said[place + 1]):
            token = int(ids[place])
            said[place] = token not in special and bool(str(tokenizer.decode([token])).strip())
    return said


def _cut(row: TokenRow, length: int, where: str) -> TokenRow:
    if row.response is None:
        return TokenRow(row.ids[:length])
    if not any(row.response[:length]):
        got = f"a response that begins after {list(row.response).index(True)} tokens"
        raise refusal(where, got, f"one within {length} tokens", f"max_tokens={len(row.ids)}")
    return TokenRow(row.ids[:length], row.response[:length])
