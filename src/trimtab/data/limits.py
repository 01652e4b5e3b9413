"""The first so many tokens of a domain: what a question about the amount of data is asked with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimtab.data.domains import Domain
from trimtab.data.encode import find_tokenizer
from trimtab.data.records import Item, Text
from trimtab.errors import ConfigError, DataError, explain


def first_tokens(domain: Domain, model_or_tokenizer: Any, tokens: int) -> Domain:
    """The same domain with a train split of its first `tokens` tokens; other splits stay.

    Records are taken in order; the last one is cut where the count is reached, or left out where only one token would
    remain. Each counts its tokens and the one that closes it. The records are held in memory.

    Args:
        domain: of plain texts, with a train split.
        model_or_tokenizer: a fast transformers tokenizer, or anything that has one as `.tokenizer`.
        tokens: at least 2.

    Raises:
        ConfigError: fewer than 2 tokens.
        DataError: no train split, a record that is no plain text, or fewer tokens than asked for.
        ModelError: no tokenizer.
    """
    if tokens < 2:
        raise ConfigError(f"tokens: {explain(tokens, 'at least 2')}")
    tokenizer = find_tokenizer(model_or_tokenizer)
    taken, left = list[Item](), tokens
    for item in domain.items("train"):
        if not isinstance(item, Text):
            raise DataError(f"domain {domain.name!r}: {explain(type(item).__name__, 'plain texts')}")
        text, used = _beginning(item.text, tokenizer, left)
        taken.append(Text(text))
        left -= used
        if left < 2:
            return replace(domain, train=taken)
    raise DataError(
        f"domain {domain.name!r}: {explain(f'{tokens - left} tokens', f'{tokens} or more to train on')}"
    )


def _beginning(text: str, tokenizer: PreTrainedTokenizerBase, tokens: int) -> tuple[str, int]:
    """As much of a text as fits into so many tokens, one of which closes it; and how many it takes."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    if len(spans) < tokens:
        return text, len(spans) + 1
    return text[: spans[tokens - 2][1]], tokens
