"""Prompt and continuation as one row of tokens, and where the continuation begins in it."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from trimtab.errors import ModelError, explain
from trimtab.models.batches import token_rows
from trimtab.models.special import Added


def joined_rows(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], continuations: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    """The tokens of each prompt and its continuation as one text, and how many of them come before the continuation.

    The continuation begins at the first token that has one of its characters. What the tokenizer puts before a text
    stands before the prompt; what it puts after a text is left out.

    Args:
        tokenizer: only read. One that cannot say which characters a token has (a slow one) is asked for the tokens of
            the prompt alone instead, and the continuation begins where they differ from those of both.
        prompts: texts.
        continuations: as many.

    Raises:
        ModelError: a text without tokens, a continuation that adds no token to its prompt, or one that shares the first
            token of all with it, which nothing precedes.
    """
    added = Added.of(tokenizer)
    token_rows(tokenizer, continuations, what="continuation", special=False)
    texts = [prompt + rest for prompt, rest in zip(prompts, continuations, strict=True)]
    heads = token_rows(tokenizer, prompts, what="prompt", special=False, empty=bool(added.before))
    wholes = token_rows(tokenizer, texts, special=False)
    rows, starts = [], []
    for number, (prompt, rest) in enumerate(zip(prompts, continuations, strict=True)):
        row = added.begun(wholes[number])
        start = (
            len(row) - len(wholes[number]) + _start(tokenizer, prompt, rest, heads[number], wholes[number])
        )
        where = f"continuation {number}, {rest!r}, after {prompt!r}"
        if start >= len(row):
            raise ModelError(f"{where}: {explain('no token of its own', 'at least one token')}")
        if start == 0:
            got, hint = "the first token of all, which nothing precedes", "a longer prompt"
            raise ModelError(f"{where}: {explain(got, 'a token before it', hint)}")
        rows.append(row)
        starts.append(start)
    return rows, starts


def _start(
    tokenizer: PreTrainedTokenizerBase, prompt: str, rest: str, head: Sequence[int], whole: Sequence[int]
) -> int:
    if list(whole[: len(head)]) == list(head):
        return len(head)
    if tokenizer.is_fast:
        encoded = tokenizer(
            prompt + rest, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ends = [end for _, end in encoded["offset_mapping"]]
        return next((place for place, end in enumerate(ends) if end > len(prompt)), len(whole))
    same = [one == other for one, other in zip(head, whole, strict=False)]
    return same.index(False) if False in same else len(same)
