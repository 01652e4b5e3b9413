"""Which rows of a split are read, and in what pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.data.stream import permutation
from trimtab.data.tokens import Batch
from trimtab.seeds import derive

T = TypeVar("T")


def evaluation_rows(name: str, size: int, limit: int | None) -> list[int]:
    """The rows of a split that evaluations read, in an order fixed by the domain's name alone."""
    return [int(row) for row in permutation(size, derive(0, "evaluation", name))[:limit]]


def batched(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """`items` in runs of `size`; the last may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def join_batches(batches: Sequence[Batch]) -> Batch:
    """One batch from several, padded on the right to the longest."""
    width = max(batch.input_ids.shape[1] for batch in batches)

    def join(tensors: Sequence[Tensor], fill: int) -> Tensor:
        return torch.cat([F.pad(t, (0, width - t.shape[1]), value=fill) for t in tensors])

    return Batch(
        input_ids=join([b.input_ids for b in batches], 0),
        attention_mask=join([b.attention_mask for b in batches], 0),
        labels=join([b.labels for b in batches], -100),
    )
