"""Rows of token ids on disk, and the batches made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

NO_LOSS = -100
"""The label of a position that carries no loss, as torch and transformers have it."""


@dataclass(frozen=True)
class Batch:
    """Right-padded rows, ready for a causal language model.

    Attributes:
        input_ids: (B, T) int64.
        attention_mask: (B, T) int64; 1 on tokens, 0 on padding.
        labels: (B, T) int64; `input_ids` where a token carries loss, else -100. Not shifted: models do that.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


@dataclass(frozen=True)
class SplitCounts:
    """What became of a split's records.

    Attributes:
        records: records read.
        tokens: tokens kept in rows.
        truncated: rows cut at `seq_len`.
        dropped: records without a single predicted token that carries loss, left out.
        left_over: tokens of packed text after the last full row, left out.
    """

    records: int
    tokens: int
    truncated: int
    dropped: int
    left_over: int


@dataclass(frozen=True, eq=False, repr=False)
class TokenSplit:
    """The rows of one split, memory-mapped.

    Attributes:
        ids: (tokens,) int32, the rows one after the other.
        loss: (tokens,) bool, whether a token carries loss.
        offsets: (rows + 1,) int64, where each row starts and ends in `ids`.
        targets: (rows,) int32, loss-carrying tokens that the model predicts (a row's first token never is).
        pad_id: token id under the padding; the attention mask hides it.
        counts: what became of the records.
    """

    ids: NDArray[np.int32]
    loss: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    targets: NDArray[np.int32]
    pad_id: int
    counts: SplitCounts

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"TokenSplit({len(self)} rows, {self.counts.tokens} tokens)"

    def batch(self, indices: Sequence[int]) -> Batch:
        """The rows at `indices`, in that order, padded on the right to the longest of them.

        Raises:
            IndexError: an index outside 0 .. len - 1.
        """
        spans = [self._span(index) for index in indices]
        shape = (len(spans), max((stop - start for start, stop in spans), default=0))
        ids, mask = np.full(shape, self.pad_id, np.int64), np.zeros(shape, np.int64)
        labels = np.full(shape, NO_LOSS, np.int64)
        for row, (start, stop) in enumerate(spans):
            tokens = self.ids[start:stop]
            ids[row, : stop - start] = tokens
            mask[row, : stop - start] = 1
            labels[row, : stop - start] = np.where(self.loss[start:stop], tokens, NO_LOSS)
        return Batch(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(labels))

    def target_tokens(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """(B,) int64: per row, how many predicted tokens carry loss (after the model's shift); at least 1."""
        return self.targets[np.asarray(indices, dtype=np.intp)].astype(np.int64)

    @property
    def mean_target_tokens(self) -> float:
        """Predicted tokens that carry loss, per row; nan without rows."""
        return float(self.targets.mean()) if len(self) else float("nan")

    def _span(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"got row {index}, expected 0 to {len(self) - 1}")
        return int(self.offsets[index]), int(self.offsets[index + 1])


@dataclass(frozen=True, eq=False)
class TokenDomain:
    """A domain as token rows.

    Attributes:
        name: the domain's name.
        splits: "train", "validation" and "test", those the domain has.
        fingerprint: hex digest of the text, the tokenizer, the row length and the packing.
    """

    name: str
    splits: dict[str, TokenSplit]
    fingerprint: str
