"""The special tokens that a tokenizer puts around a text, each there once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Added:
    """What a tokenizer puts before and after every text.

    Attributes:
        before: token ids, such as that of `<s>`; none for most tokenizers of the GPT-2 kind.
        after: token ids, such as that of `[SEP]`; none for most language models.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Added:
        """What this tokenizer adds, told from a short text with and without."""
        full = tuple(tokenizer("a", verbose=False)["input_ids"])
        bare = tuple(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
        for start in range(len(full) - len(bare) + 1):
            if bare and full[start : start + len(bare)] == bare:
                return cls(full[:start], full[start + len(bare) :])
        return cls()

    def once(self, row: Sequence[int]) -> list[int]:
        """A row in which no added token is doubled by the same one that the text itself begins or ends with.

        >>> Added(before=(1,)).once([1, 1, 5])
        [1, 5]
        """
        ids = list(row)
        before, after = len(self.before), len(self.after)
        if before and len(ids) >= 2 * before and tuple(ids[before : 2 * before]) == self.before:
            ids = ids[before:]
        if after and len(ids) >= 2 * after and tuple(ids[-2 * after : -after]) == self.after:
            ids = ids[:-after]
        return ids

    def begun(self, row: Sequence[int]) -> list[int]:
        """A row of a text's own tokens after what is put before it, unless it begins with that already."""
        ids = list(row)
        return ids if tuple(ids[: len(self.before)]) == self.before else [*self.before, *ids]

    @property
    def count(self) -> int:
        """How many tokens it adds to a text."""
        return len(self.before) + len(self.after)

    def cut(self, row: Sequence[int], length: int) -> list[int]:
        """A row of at most this many tokens, with what was added around the text."""
        if len(row) <= length:
            return list(row)
        text = row[: len(row) - len(self.after)]
        return [*text[: max(length - len(self.after), 0)], *self.after][:length]
