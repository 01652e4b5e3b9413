"""Mixture stream: the rows of each batch, by exact shares per domain, in seeded epochs, with a state of integers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import CheckpointError, ConfigError, ShapeError, explain, refusal
from trimtab.seeds import derive

UNIT = 2**40
"""A share of the batch is a whole number of these, so that carrying over never rounds."""

_SUM_TOLERANCE = 1e-6


class MixtureStream:
    """Sampler of (domain, row) batches by largest remainder with carry-over: each domain gets its weight's share.

    Each draw adds `batch_size * weight` to a domain's credit and then, `batch_size` times, takes one row
    from the domain with the most credit and charges it one. All of it
    happens in integers (units of 2**-40), so nothing drifts. For any sequence of positive weights over N
    domains, the rows drawn from a domain exceed the sum of its shares by less than 1 and fall short of it
    by at most 1/2 + 1/3 + ... + 1/N: the mean credit of the k largest exceeds that of the k+1 largest by at
    most 1/(k+1), and all N credits sum to zero. A domain of weight zero is never drawn; its
    credit waits.

    Rows of a domain come in seeded permutations, one per epoch, which depend on the seed and the domain's
    name only. However the weights move, an epoch holds each row once. The order of `sizes` changes nothing
    but the order in which weights are given. With several processes, each draws the whole batch and takes
    its slice.

    Args:
        sizes: rows per domain; 0 is allowed for a domain whose weight stays 0.
        batch_size: rows of the global batch.
        seed: seed of the run.

    Raises:
        ConfigError: no domain, or a batch size below 1.
        DataError: a negative size.

    >>> stream = MixtureStream({"math": 3, "web": 5}, batch_size=4, seed=0)
    >>> [name for name, _ in stream.draw([0.25, 0.75])].count("web")
    3
    >>> stream.state()["drawn"]
    {'math': 1, 'web': 3}
    """

    def __init__(self, sizes: Mapping[str, int], batch_size: int, seed: int) -> None:
        if not sizes:
            raise ConfigError(explain("no domain", "at least one training domain"))
        if batch_size < 1:
            raise ConfigError(f"batch_size: {explain(batch_size, 'a whole number of rows, at least 1')}")
        for name, size in sizes.items():
            if size < 0:
                raise refusal(f"domain {name!r}", size, "a number of rows, at least 0")
        self.sizes = {name: int(size) for name, size in sizes.items()}
        self.batch_size = int(batch_size)
        self.seed = int(seed)
        self._ordered = sorted(self.sizes)
        self._step = 0
        self._credit = dict.fromkeys(self.sizes, 0)
        self._drawn = dict.fromkeys(self.sizes, 0)
        self._epochs: dict[str, tuple[int, NDArray[np.intp]]] = {}

    def draw(self, weights: Sequence[float]) -> list[tuple[str, int]]:
        """The next global batch under these weights: `batch_size` pairs of domain and row, in a seeded order.

        Args:
            weights: a point on the simplex, in the order of `sizes`.

        Raises:
            ShapeError: not one weight per domain.
            ConfigError: a weight that is negative or not finite, or weights that do not sum to 1 within 1e-6.
            DataError: a positive weight on a domain without rows.
        """
        shares = self._shares(weights)
        active = [name for name, share in shares.items() if share]
        for name in active:
            self._credit[name] += self.batch_size * shares[name]
        counts = dict.fromkeys(shares, 0)
        for _ in range(self.batch_size):
            # The largest credit pays a row; ties go by name.
            richest = max(active, key=self._credit.__getitem__)
            self._credit[richest] -= UNIT
            counts[richest] += 1
        rows = [(name, self._next_row(name)) for name in self._ordered for _ in range(counts[name])]
        order = permutation(self.batch_size, derive(self.seed, "stream", "order", self._step))
        self._step += 1
        return [rows[place] for place in order]

    def ahead(self, name: str, rows: int) -> list[int]:
        """Look-ahead: the rows of a domain that the next draws would give, in order; the state stays as it is."""
        drawn = self._drawn[name]
        ahead = [self._next_row(name) for _ in range(rows)]
        self._drawn[name] = drawn
        return ahead

    def state(self) -> dict[str, Any]:
        """State for `restore` as JSON: the stream, the step, two integers per domain."""
        sizes, credit, drawn = dict(self.sizes), dict(self._credit), dict(self._drawn)
        stream = {"seed": self.seed, "batch_size": self.batch_size, "sizes": sizes}
        return {**stream, "step": self._step, "credit": credit, "drawn": drawn}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back, or forward, to a `state()`; the draws that follow are those that followed it.

        Raises:
            CheckpointError: the state is of another stream (seed, batch size or domains); nothing changes.
        """
        for key in ("seed", "batch_size", "sizes"):
            mine, theirs = getattr(self, key), state.get(key)
            if mine != theirs:
                raise CheckpointError(f"stream state, {key}: {explain(theirs, f'{mine}, as this run has')}")
        self._step = int(state["step"])
        self._credit = {name: int(state["credit"][name]) for name in self.sizes}
        self._drawn = {name: int(state["drawn"][name]) for name in self.sizes}

    def _shares(self, weights: Sequence[float]) -> dict[str, int]:
        if len(weights) != len(self.sizes):
            raise ShapeError(f"weights: {explain(len(weights), f'{len(self.sizes)}, one per domain')}")
        by_name = dict(zip(self.sizes, map(float, weights), strict=True))
        shares = quantise({name: by_name[name] for name in self._ordered})
        for name, share in shares.items():
            if share and not self.sizes[name]:
                hint = "a weight of 0, or more data or a shorter seq_len"
                raise refusal(f"domain {name!r}", "0 rows", "rows, since its weight is positive", hint)
        return shares

    def _next_row(self, name: str) -> int:
        epoch, place = divmod(self._drawn[name], self.sizes[name])
        if self._epochs.get(name, (-1,))[0] != epoch:
            seed = derive(self.seed, "stream", "epoch", name, epoch)
            self._epochs[name] = (epoch, permutation(self.sizes[name], seed))
        self._drawn[name] += 1
        return int(self._epochs[name][1][place])


def quantise(weights: Mapping[str, float]) -> dict[str, int]:
    """Largest-remainder quantisation: weights as whole numbers of 2**-40 that sum to 2**40 exactly.

    Solver noise is tolerated: weights down to -1e-6 count as 0 and the sum may be off by 1e-6.

    Raises:
        ConfigError: a weight that is negative or not finite, or weights that do not sum to 1.

    >>> quantise({"math": 0.25, "web": 0.75})["math"] == 2**38
    True
    """
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < -_SUM_TOLERANCE:
            raise ConfigError(f"weight of {name!r}: {explain(weight, 'a finite number, at least 0')}")
    total = math.fsum(weights.values())
    if abs(total - 1) > _SUM_TOLERANCE:
        raise ConfigError(f"weights: {explain(f'a sum of {total:.6g}', 'a sum of 1')}")
    positive = {name: weight for name, weight in weights.items() if weight > 0}
    scale = UNIT / math.fsum(positive.values())
    shares = {name: math.floor(weight * scale) for name, weight in positive.items()}
    by_remainder = sorted(positive, key=lambda name: positive[name] * scale - shares[name], reverse=True)
    spare = UNIT - sum(shares.values())
    for place in range(abs(spare)):
        shares[by_remainder[place % len(by_remainder)]] += 1 if spare > 0 else -1
    return {name: shares.get(name, 0) for name in weights}


def permutation(n: int, seed: int) -> NDArray[np.intp]:
    """A uniform permutation of 0 .. n-1, the same on every machine and numpy version.

    Sorts the raw words of PCG64, a stream that numpy promises not to change; `Generator.permutation` may.

    >>> sorted(permutation(4, seed=0).tolist())
    [0, 1, 2, 3]
    """
    words: NDArray[np.uint64] = np.random.PCG64(seed).random_raw(n)
    return np.argsort(words, kind="stable")
