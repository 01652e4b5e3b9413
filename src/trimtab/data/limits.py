"""The first so many tokens of a domain: what a question about the amount of data is asked with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from trimtab.data.domains import Domain
from trimtab.data.encode import Ends, find_tokenizer
from trimtab.data.records import Item, Text
from trimtab.errors import ConfigError, DataError, ModelError, explain


def first_tokens(domain: Domain, model_or_tokenizer: Any, tokens: int) -> Domain:
    """The same domain with a train split of its first `tokens` tokens; other splits stay.

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
    ends = Ends.of(tokenizer)
    taken, left = list[Item](), tokens
    for item in domain.items("train"):
        if not isinstance(item, Text):
            raise DataError(f"domain {domain.name!r}: {explain(type(item).__name__, 'plain texts')}")
        text, used = _beginning(item.text, ends, left)
        taken.append(Text(text))
        left -= used
        if left < 2:
            return replace(domain, train=taken)
    raise DataError(
        f"domain {domain.name!r}: {explain(f'{tokens - left} tokens', f'{tokens} or more to train on')}"
    )


def _beginning(text: str, ends: Ends, tokens: int) -> tuple[str, int]:
    """As much of a text as fits into so many tokens with those around it; and how many it takes."""
    encoded = ends.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, spans = np.asarray(encoded["input_ids"]), encoded["offset_mapping"]
    before = len(ends.before(ids, text))
    whole = before + len(ids) + len(ends.after(ids, text))
    if whole <= tokens:
        return text, whole
    last = tokens - before - 2
    return (text[: spans[last][1]], tokens) if last >= 0 else ("", tokens)
