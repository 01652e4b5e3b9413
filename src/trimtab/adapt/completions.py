"""Completions of held-out prompts, by the base model and by the tuned one: what a change of loss looks like as text.

Greedy, so that no random stream is touched. They decide nothing: no choice of a run and none of its numbers rests on
them, and their seconds are booked under a part of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from trimtab.adapt.record import COMPLETION_COLUMNS
from trimtab.data.domains import Domain
from trimtab.data.encode import Encoded, encode
from trimtab.data.records import Item, Text
from trimtab.models.language import continuations
from trimtab.models.load import Model
from trimtab.models.tokenizer import longest
from trimtab.report.formats import printable

PROMPTS = 2
"""Held-out prompts per domain, at most."""
NEW_TOKENS = 48
"""New tokens per completion, at most; no more than half of what the model has positions for."""
TEXT_PROMPT = 64
"""Tokens of a plain text that are its prompt: its first half, and at most so many."""
LOOKED_AT = 32
"""Test records of a domain among which prompts are looked for."""
_TEXT_CHARACTERS = 64 * TEXT_PROMPT
"""Characters of a plain text that are tokenised: more than its prompt and reference have."""
_EXCERPT = 320
"""Characters of a prompt that are kept: its two ends."""
GOES_ON = " …"
"""After a text that was cut."""


@dataclass(frozen=True)
class HeldOut:
    """A held-out prompt: the beginning of a test record, as token ids, and what follows it there.

    Attributes:
        domain: of which the record is.
        prompt: as text, long ones cut in the middle.
        reference: what the record goes on with, as text, of as many tokens as a completion has.
        ids: of the whole prompt.
        room: new tokens, at most.
    """

    domain: str
    prompt: str
    reference: str
    ids: tuple[int, ...]
    room: int


def held_out(domains: Mapping[str, Domain], model: Model, seq_len: int) -> list[HeldOut]:
    """The first prompts of each domain's test split: at most `PROMPTS`, of its first `LOOKED_AT` records.

    Of a prompt with a completion it is the prompt, of a conversation all before the last turn of the assistant that
    fits, both as the model reads them in training; of a plain text its first half, and at most `TEXT_PROMPT` tokens. A
    record whose prompt leaves no room within `seq_len`, or within the model's positions, is passed over.

    Args:
        domains: by name, each with a test split.
        model: with the tokenizer.
        seq_len: tokens of a training sequence.
    """
    tokenizer: Any = model.need_tokenizer()
    limit = longest(model.module) or seq_len + NEW_TOKENS
    room = max(1, min(NEW_TOKENS, limit // 2))
    found = []
    for name, domain in domains.items():
        records = encode(map(_shortened, islice(domain.items("test"), LOOKED_AT)), tokenizer)
        for ids, start in islice(_prompts(records, min(seq_len - 1, limit - room)), PROMPTS):
            text, half = str(tokenizer.decode(ids[:start].tolist())), _EXCERPT // 2
            text = text if len(text) <= _EXCERPT else f"{text[:half]}{GOES_ON} {text[-half:]}"
            rest = _text(tokenizer, ids[start : start + room].tolist(), len(ids) - start > room)
            found.append(HeldOut(name, text, rest, tuple(ids[:start].tolist()), room))
    return found


def _shortened(item: Item) -> Item:
    return Text(item.text[:_TEXT_CHARACTERS]) if isinstance(item, Text) else item


def _prompts(records: Iterator[Encoded], most: int) -> Iterator[tuple[NDArray[np.int32], int]]:
    """Prompts of at most so many tokens: ids of a prompt and what it is answered with, and where that begins."""
    for record in records:
        edges = np.diff(record.loss.astype(np.int8), prepend=0, append=0)
        starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        if record.is_text:
            starts = np.array([min(len(record.ids) // 2, TEXT_PROMPT, most)])
        fits = np.flatnonzero((starts > 0) & (starts <= most))
        if len(fits):
            yield record.ids[: stops[fits[-1]]], int(starts[fits[-1]])


def completed(model: Model, prompts: Sequence[HeldOut], batch_size: int) -> tuple[list[str], str]:
    """What the model writes after each prompt, and an empty text; or nothing, and why.

    The most likely token at each step; a text that the model did not end itself has `GOES_ON` after it.

    Args:
        model: left as it is.
        prompts: from `held_out`.
        batch_size: prompts at a time; one at a time in double precision, where padding may give nan.
    """
    if not callable(getattr(model.module, "generate", None)):
        return [], f"No completions are shown: the model, a {type(model.module).__name__}, has no generate()."
    if next(model.module.parameters()).dtype == torch.float64:
        batch_size = 1
    tokenizer: Any = model.need_tokenizer()
    rows, room = [prompt.ids for prompt in prompts], min(prompt.room for prompt in prompts)
    try:
        written = continuations(model.module, tokenizer, rows, max_new_tokens=room, batch_size=batch_size)
    except (
        Exception
    ) as error:  # whatever a model's own code raises: a run must not die of what decides nothing
        why = printable(f"{type(error).__name__}: {error}")
        return [], f"No completions are shown: the model's generate() failed ({why[:200]})."
    return [_text(tokenizer, ids, len(ids) == room) for ids in written], ""


def completions_frame(
    prompts: Sequence[HeldOut], before: Sequence[str], after: Sequence[str]
) -> pd.DataFrame:
    """One row per prompt in `COMPLETION_COLUMNS`: what follows it in the data, and what the two models write."""
    rows = [
        (prompt.domain, prompt.prompt, prompt.reference, *texts)
        for prompt, *texts in zip(prompts, before, after, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COMPLETION_COLUMNS), dtype=object)


def _text(tokenizer: Any, ids: Sequence[int], goes_on: bool) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)) + GOES_ON * goes_on
