"""From characters that carry loss to tokens that carry loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Characters [start, end) of a text."""


@dataclass(frozen=True)
class Marked:
    """A text and the spans of characters that carry loss, in order."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Marker:
    """Tokenises marked texts: a token carries loss if one of its characters does.

    So the tokens are those of the whole text, as in pretraining, and a token that straddles the end of a
    prompt is learned. With tokenizers that do not say which characters a token covers, a span begins at the first token
    that differs when the text before it stands alone, and ends with the token that holds its last character.
    """

    tokenizer: PreTrainedTokenizerBase

    def ids_and_loss(self, texts: Sequence[Marked]) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Per text, (n,) token ids without special tokens around them, and (n,) whether each carries loss."""
        if not texts:
            return []
        if not self.tokenizer.is_fast:
            return [self._by_beginnings(marked) for marked in texts]
        encodings = self._backend.encode_batch([marked.text for marked in texts], add_special_tokens=False)
        return [
            (np.array(encoding.ids, np.int64), _touched(encoding.offsets, marked.spans))
            for encoding, marked in zip(encodings, texts, strict=True)
        ]

    @cached_property
    def _backend(self) -> Any:
        """A copy with offsets as they are: the post-processor would leave white space out of them."""
        backend = copy.deepcopy(self.tokenizer.backend_tokenizer)
        backend.post_processor = None
        backend.no_padding()
        backend.no_truncation()
        return backend

    def _by_beginnings(self, marked: Marked) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        ids = self._ids(marked.text)
        loss = np.zeros(len(ids), np.bool_)
        for start, end in marked.spans:
            first, _ = _shared(ids, self._ids(marked.text[:start]))
            last, straddles = _shared(ids, self._ids(marked.text[:end]))
            loss[first : last + straddles] = start < end
        return np.array(ids, np.int64), loss

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def _shared(ids: Sequence[int], beginning: Sequence[int]) -> tuple[int, bool]:
    """How many tokens a text has in common with its beginning alone, and whether the next one straddles its end.

    >>> _shared([1, 2, 3, 4], [1, 2]), _shared([1, 2, 3, 4], [1, 5])
    ((2, False), (1, True))
    """
    pairs = zip(ids, beginning, strict=False)
    common = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if common is None:
        return min(len(ids), len(beginning)), False
    return common, True


def _touched(offsets: Sequence[Span], spans: Sequence[Span]) -> NDArray[np.bool_]:
    """Which tokens cover a character of a span.

    >>> _touched([(0, 2), (2, 5), (5, 6)], [(3, 4)])
    array([False,  True, False])
    """
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    touched = np.zeros(len(starts), np.bool_)
    for start, end in spans:
        touched |= (starts < end) & (ends > start)
    return touched
