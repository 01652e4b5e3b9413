"""A model simple enough to be trained by hand: one logit per token, whatever came before, and its NumPy twin."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.data.encode import SplitCounts
from trimtab.data.tokens import TokenDomain, TokenSplit
from trimtab.models.load import Model
from worlds import tokenizer

VOCABULARY = 7
FIRST = 0
"""The token every row begins with; it is never predicted."""

Row = Sequence[int]
Rows = Sequence[Row]


class Unigram(nn.Module):
    """The same logits at every position; the loss is the cross entropy of token counts."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.linspace(-0.5, 0.5, VOCABULARY, dtype=dtype))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Logits (B, T, V)."""
        return SimpleNamespace(logits=self.theta.expand(*input_ids.shape, VOCABULARY))


def unigram(module: nn.Module | None = None) -> Model:
    """A handle on a unigram model."""
    return Model(module or Unigram(), tokenizer(), "unigram")


def split(rows: Rows, loss: Sequence[Sequence[bool]] | None = None) -> TokenSplit:
    """Rows of token ids as a split held in memory; `loss` marks the tokens that carry loss (None: all)."""
    marks = loss or [[True] * len(row) for row in rows]
    lengths = [len(row) for row in rows]
    return TokenSplit(
        ids=np.concatenate([np.array(row, np.int32) for row in rows]),
        loss=np.concatenate([np.array(mark, np.bool_) for mark in marks]),
        offsets=np.cumsum([0, *lengths]),
        targets=np.array([sum(mark[1:]) for mark in marks], np.int32),
        records=np.arange(len(rows)),
        pad_id=0,
        counts=SplitCounts(len(rows), sum(lengths), 0, 0, 0),
    )


def domain(name: str, **splits: Rows) -> TokenDomain:
    """A domain of rows of token ids."""
    return TokenDomain(name, {key: split(rows) for key, rows in splits.items()}, name)


def counts(rows: Rows) -> NDArray[np.float64]:
    """How often each token is predicted in these rows."""
    return np.bincount([t for row in rows for t in row[1:]], minlength=VOCABULARY).astype(float)


def log_softmax(theta: NDArray[np.float64]) -> NDArray[np.float64]:
    return theta - np.log(np.exp(theta).sum())


def row_losses(theta: NDArray[np.float64], rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Summed negative log-likelihood and predicted tokens of each row."""
    nll = np.array([-counts([row]) @ log_softmax(theta) for row in rows])
    return nll, np.array([len(row) - 1 for row in rows])


class Twin:
    """AdamW on the unigram model, written out: Loshchilov & Hutter 2019, algorithm 2, with clipped gradients."""

    def __init__(
        self,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        clip_norm: float | None = 1.0,
    ) -> None:
        self.theta = np.linspace(-0.5, 0.5, VOCABULARY)
        self.first, self.second, self.taken = np.zeros(VOCABULARY), np.zeros(VOCABULARY), 0
        self.lr, self.betas, self.weight_decay, self.clip_norm = lr, betas, weight_decay, clip_norm

    def loss(self, token_counts: NDArray[np.float64]) -> float:
        return float(-token_counts @ log_softmax(self.theta) / token_counts.sum())

    def gradient(self, token_counts: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(log_softmax(self.theta)) - token_counts / token_counts.sum()

    def step(self, token_counts: NDArray[np.float64], lr: float | None = None) -> tuple[float, float]:
        """One step on a batch with these counts; its loss and the gradient's norm before clipping."""
        loss, gradient = self.loss(token_counts), self.gradient(token_counts)
        norm = float(np.sqrt(gradient @ gradient))
        if self.clip_norm is not None and norm > self.clip_norm:
            gradient = gradient * self.clip_norm / (norm + 1e-6)  # torch's guard against a norm of zero
        rate = self.lr if lr is None else lr
        one, two = self.betas
        self.taken += 1
        self.first = one * self.first + (1 - one) * gradient
        self.second = two * self.second + (1 - two) * gradient**2
        ahead = self.first / (1 - one**self.taken)
        spread = np.sqrt(self.second / (1 - two**self.taken)) + 1e-8
        self.theta = self.theta * (1 - rate * self.weight_decay) - rate * ahead / spread
        return loss, norm

    def copy(self) -> Twin:
        """A twin that goes its own way from here."""
        other = Twin(lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, clip_norm=self.clip_norm)
        other.theta, other.first, other.second = self.theta.copy(), self.first.copy(), self.second.copy()
        other.taken = self.taken
        return other


def shuffled(row: Row, n: int, seed: int = 0) -> list[list[int]]:
    """`n` rows with the tokens of `row` in other orders: different rows, the same counts."""
    draw = np.random.default_rng(seed)
    return [[FIRST, *map(int, draw.permutation(row))] for _ in range(n)]
