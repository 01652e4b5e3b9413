"""Evaluation: the loss of each sequence of held-out splits, by one process or dealt out to several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.data.stream import permutation
from trimtab.data.tokens import Batch, TokenSplit
from trimtab.seeds import derive
from trimtab.train.losses import SequenceLosses

T = TypeVar("T")


def evaluation_rows(name: str, size: int, limit: int | None) -> list[int]:
    """The rows of a split that evaluations read, in an order fixed by the domain's name alone."""
    return [int(row) for row in permutation(size, derive(0, "evaluation", name))[:limit]]


def batched(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """`items` in runs of `size`; the last may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def token_nll(logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"]) -> Float[Tensor, "B T-1"]:
    """Negative log-likelihood of each predicted token, in nats; zero where the label is -100.

    In float32, or float64 for float64 logits.
    """
    logits = logits[:, :-1]
    wide = logits if logits.dtype == torch.float64 else logits.float()
    labels = labels[:, 1:]
    nll = F.cross_entropy(wide.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    return nll.view_as(labels)


def sequence_losses(
    nll_of: Callable[[Batch], Tensor],
    splits: Mapping[str, TokenSplit],
    limit: int | None,
    batch_size: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    *,
    even: bool = False,
) -> dict[str, SequenceLosses]:
    """The loss of each sequence of each split.

    The sequences are the first `limit` of an order fixed by the domain's name, so every run, mixer and seed reads the
    same ones. With several processes the batches are dealt out and gathered again.

    Args:
        nll_of: a batch on `device` -> (B, T-1) negative log-likelihood of each predicted token, zero without loss.
        splits: what to read, by domain.
        limit: sequences per domain at most; None for all.
        batch_size: sequences per forward pass.
        device: where batches go.
        rank: of this process.
        world: processes that share the work.
        even: every process makes the same number of forward passes, as a sharded model needs; what is left over is
            read for nothing.
    """
    chunks = [
        (name, chunk)
        for name, split in splits.items()
        for chunk in batched(evaluation_rows(name, len(split), limit), batch_size)
    ]
    rounds = -(-len(chunks) // world) if even else len(range(rank, len(chunks), world))
    read = []
    for k in (rank + world * number for number in range(rounds)):
        name, rows = chunks[min(k, len(chunks) - 1)]
        split = splits[name]
        batch = split.batch(rows).to(device)
        nll = nll_of(batch).sum(1, dtype=torch.float64).cpu().numpy()
        if k < len(chunks):
            tokens = (batch.labels[:, 1:] != -100).sum(1).cpu().numpy()
            read.append((k, (nll, tokens, split.clusters[np.asarray(rows)])))
    if world > 1:
        read = sorted(gather_object(read), key=lambda item: item[0])
    parts = {name: [part for k, part in read if chunks[k][0] == name] for name in splits}
    return {
        name: SequenceLosses(*map(np.concatenate, zip(*pieces, strict=True)))
        for name, pieces in parts.items()
    }
