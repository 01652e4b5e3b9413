"""Ranking metrics of many units at once: area under the curve, average precision and its null distribution."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt
from torch import Tensor

from trimtab.errors import ConfigError, ShapeError, explain

Array = TypeVar("Array", np.ndarray, Tensor)
BLOCK = 2**16
"""Scores sorted at once: what fits into the cache of one core."""
DRAWS = 2**20
"""Draws of a null table: with a million, one of 20,000 units can be found at a false discovery rate of .05."""
SMALL = (np.float32, np.float16)
"""Types of scores that fit into the upper half of a key."""
_SIGN = np.uint32(0x8000_0000)


def auroc(
    scores: Float[Tensor, "*units samples"], labels: Shaped[Tensor, " samples"]
) -> Float[Tensor, " *units"]:
    """Area under the receiver operating characteristic: P(a positive sample scores above a negative one).

    Ties count half (Mann-Whitney: Hanley & McNeil 1982). Depends on the order of scores only, so any increasing
    function of them gives the same.

    Args:
        scores: of each unit for each sample.
        labels: what is not 0 is positive; the same for all units.

    Returns:
        One value in [0, 1] per unit, in double precision; .5 for a unit that cannot tell. nan where a score is nan, and
        everywhere when a class is missing.

    Raises:
        ShapeError: not one label per sample.

    >>> auroc(torch.tensor([[0.1, 0.4, 0.9], [1.0, 1.0, 1.0]]), torch.tensor([0, 0, 1]))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    _check(scores, labels)
    positive = labels.to(scores.device) != 0
    first, others = scores[..., positive].contiguous(), scores[..., ~positive].sort(dim=-1).values
    below = torch.searchsorted(others, first)
    above = torch.searchsorted(others, first, right=True)
    wins = (below + above).double().sum(-1) / 2
    pairs = first.shape[-1] * others.shape[-1]
    area = wins / pairs if pairs else wins * torch.nan
    return torch.where(scores.isnan().any(-1), torch.nan, area)


def average_precision(scores: Array, labels: Array) -> Array:
    """Average precision of each unit as a detector of the positive samples: sum over thresholds of (R_n - R_n-1) P_n.

    Samples with equal scores pass a threshold together, so their order never matters; nor does any increasing
    function of the scores. Positive samples are found among all by one sort per unit, of 64-bit keys that hold a
    score and its label (scores of 32 bits or fewer), else by sorting each class. Tensors on an accelerator are sorted
    there.

    Args:
        scores: (units, samples), arrays or tensors; infinities are ordinary values.
        labels: (samples,), what is not 0 is positive; the same for all units.

    Returns:
        (units,), in double precision, of the kind that was given. Between 0 and 1; the share of positives for a unit
        that cannot tell, 1 where every positive is above every negative. nan where a score is nan, and everywhere
        without a positive (scikit-learn says 0 there).

    Raises:
        ShapeError: scores that are not (units, samples), or not one label per sample.

    Source: as `sklearn.metrics.average_precision_score`; experts by average precision: Suau, Zappella and Apostoloff
    2022, "Self-conditioning pre-trained language models".

    >>> average_precision(np.array([[0.1, 0.4, 0.9], [1.0, 1.0, 1.0]]), np.array([False, False, True])).tolist()
    [1.0, 0.3333333333333333]
    """
    _check(scores, labels)
    if scores.ndim != 2:
        got = f"scores of shape {tuple(scores.shape)}"
        raise ShapeError(explain(got, "(units, samples)", "scores[None]"))
    if isinstance(scores, Tensor):
        labels = torch.as_tensor(labels)
        if scores.device.type != "cpu":
            return _on_device(scores.detach(), labels.to(scores.device) != 0)
        # NumPy has no bfloat16; float32 holds each of its values.
        plain = scores.detach().float() if scores.dtype == torch.bfloat16 else scores.detach()
        return torch.from_numpy(_on_host(plain.numpy(), labels.cpu().numpy() != 0))
    return _on_host(np.asarray(scores), np.asarray(labels) != 0)


@lru_cache(maxsize=32)
def average_precision_null(
    positives: int, negatives: int, *, draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, " draws"]:
    """The null distribution of average precision: draws for units that rank at random, sorted from low to high.

    Without ties it depends on nothing but the numbers of positives and negatives, so one table serves all units of a
    concept, and all concepts of one size. The table is kept, and cannot be written to.

    Args:
        positives: samples of the class, at least 1.
        negatives: other samples, at least 1.
        draws: random rankings.
        seed: of the draws.

    Raises:
        ConfigError: a count below 1.

    >>> table = average_precision_null(1, 1, draws=1000)  # the positive is first or second
    >>> sorted(set(table.tolist()))
    [0.5, 1.0]
    """
    for name, count in (("positives", positives), ("negatives", negatives), ("draws", draws)):
        if count < 1:
            raise ConfigError(explain(f"{name} {count}", "at least 1"))
    rng, samples = np.random.default_rng(seed), positives + negatives
    labels = np.arange(samples) < positives
    null = np.empty(draws)
    for rows in _blocks(draws, samples):
        keys = rng.integers(2**64, size=(rows.stop - rows.start, samples), dtype=np.uint64)
        null[rows] = _of_keys(keys & ~np.uint64(1) | labels, positives)
    null.sort()
    null.flags.writeable = False
    return null


def chance_of(
    precision: Float[np.ndarray, " units"], null: Float[np.ndarray, " draws"]
) -> Float[np.ndarray, " units"]:
    """P-value of an average precision under a random ranking; never 0.

    Args:
        precision: of units; nan gives nan.
        null: sorted draws, see `average_precision_null`.

    Source: Phipson and Smyth 2010 for the count of the observed value.

    >>> chance_of(np.array([0.2, 0.5, 0.9]), np.array([0.1, 0.3, 0.5])).tolist()
    [0.75, 0.5, 0.25]
    """
    # Sums of the same fractions in another order differ in the last digits, and then a tie would be lost.
    above = len(null) - np.searchsorted(null, precision - 1e-12, side="left")
    return np.where(np.isnan(precision), np.nan, (above + 1.0) / (len(null) + 1.0))


def untied(scores: Float[np.ndarray, "units samples"], seed: int = 0) -> Int[np.ndarray, "units samples"]:
    """Ranks of each unit's scores from 0, equal scores in random order.

    For a unit that ranks at random, the average precision of such ranks has exactly the null without ties.

    >>> sorted(untied(np.array([[3.0, 3.0, 1.0]]))[0].tolist())
    [0, 1, 2]
    """
    coins = np.random.default_rng(seed).random(scores.shape)
    ranks = np.empty(scores.shape, dtype=np.int32)
    for rows in _blocks(*scores.shape):
        order = _random_order(scores[rows], coins[rows])
        np.put_along_axis(ranks[rows], order, np.arange(scores.shape[-1], dtype=np.int32)[None], axis=-1)
    return ranks


def _random_order(
    scores: Float[np.ndarray, "units samples"], coins: Float[np.ndarray, "units samples"]
) -> Int[np.ndarray, "units samples"]:
    """Order of each unit's scores, those of equal scores by their coins: `np.lexsort((coins, scores))`."""
    place = max(scores.shape[-1] - 1, 1).bit_length()
    if scores.dtype not in SMALL or place > 16:
        return np.lexsort((coins, scores), axis=-1)
    # One number holds a score, the first bits of its coin and its place, so that one sort of numbers does.
    keys = _sortable(scores) << np.uint64(32)
    keys |= (coins * 2.0 ** (32 - place)).astype(np.uint64) << np.uint64(place)
    keys |= np.arange(scores.shape[-1], dtype=np.uint64)
    keys.sort(axis=-1)
    order = (keys & np.uint64(2**place - 1)).astype(np.int64)
    keys >>= np.uint64(place)
    unsure = (keys[:, 1:] == keys[:, :-1]).any(-1) | np.isnan(scores).any(-1)
    order[unsure] = np.lexsort((coins[unsure], scores[unsure]), axis=-1)
    return order


def has_ties(scores: Float[np.ndarray, "units samples"]) -> Bool[np.ndarray, " units"]:
    """Ties: which units give two samples or more equal scores.

    >>> has_ties(np.array([[1.0, 2.0], [0.0, -0.0]])).tolist()
    [False, True]
    """
    tied = np.zeros(len(scores), dtype=bool)
    for rows in _blocks(*scores.shape):
        inside = np.sort(scores[rows], axis=-1)
        tied[rows] = (inside[:, 1:] == inside[:, :-1]).any(-1)
    return tied


def _check(scores: np.ndarray | Tensor, labels: np.ndarray | Tensor) -> None:
    if labels.ndim != 1 or scores.ndim == 0 or scores.shape[-1] != len(labels):
        got = f"scores of shape {tuple(scores.shape)} and labels of shape {tuple(labels.shape)}"
        raise ShapeError(explain(got, "(..., samples) and (samples,)"))


def _blocks(units: int, samples: int) -> Iterator[slice]:
    """Slices of units with about `BLOCK` scores each."""
    height = max(1, BLOCK // max(samples, 1))
    return (slice(start, min(start + height, units)) for start in range(0, units, height))


def _on_host(
    scores: Shaped[np.ndarray, "units samples"], positive: Bool[np.ndarray, " samples"]
) -> Float[np.ndarray, " units"]:
    count = int(positive.sum())
    precisions = np.full(len(scores), np.nan)
    if not count:
        return precisions
    small = scores.dtype in SMALL
    for rows in _blocks(*scores.shape):
        block = scores[rows]
        if small:
            precisions[rows] = _of_keys(_sortable(block) << np.uint64(1) | positive, count)
        else:
            precisions[rows] = _of_classes(block[:, positive], block[:, ~positive])
        precisions[rows][np.isnan(block).any(-1)] = np.nan
    return precisions


def _sortable(scores: Shaped[np.ndarray, "units samples"]) -> UInt[np.ndarray, "units samples"]:
    """The bits of single-precision numbers as integers in the same order: -0 and 0 are one number."""
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)


def _of_keys(keys: UInt[np.ndarray, "units samples"], count: int) -> Float[np.ndarray, " units"]:
    """Average precision from keys whose last bit is the label and whose other bits are the score."""
    keys.sort(axis=-1)
    units, samples = keys.shape
    # Every unit has `count` positives, so that their places from the bottom up make a table.
    flat = np.flatnonzero((keys & np.uint64(1)).astype(bool))
    places = (flat % samples).reshape(units, count)
    hits = np.broadcast_to(count - np.arange(count), places.shape)
    score = keys >> np.uint64(1)
    apart = np.ones(keys.shape, dtype=bool)
    np.not_equal(score[:, 1:], score[:, :-1], out=apart[:, 1:])
    if not apart.all():
        # Equal scores pass a threshold together: each takes the place of the lowest of them, and counts all of them.
        group = (np.cumsum(apart, dtype=np.int32) - 1)[flat]
        places = (np.flatnonzero(apart)[group] % samples).reshape(units, count)
        begins = np.ones(len(group), dtype=bool)
        np.not_equal(group[1:], group[:-1], out=begins[1:])
        first = np.flatnonzero(begins)[np.cumsum(begins, dtype=np.int32) - 1] % count
        hits = count - first.reshape(units, count)
    return np.asarray((hits / (samples - places)).mean(-1))


def _of_classes(
    positives: Shaped[np.ndarray, "units p"], negatives: Shaped[np.ndarray, "units n"]
) -> Float[np.ndarray, " units"]:
    """Average precision from each class sorted by itself, for scores of any precision."""
    positives, negatives = np.sort(positives, axis=-1), np.sort(negatives, axis=-1)
    hits, misses = np.empty(positives.shape), np.empty(positives.shape)
    for unit, (positive, negative) in enumerate(zip(positives, negatives, strict=True)):
        hits[unit] = len(positive) - np.searchsorted(positive, positive)
        misses[unit] = len(negative) - np.searchsorted(negative, positive)
    return np.asarray((hits / (hits + misses)).mean(-1))


def _on_device(scores: Tensor, positive: Tensor) -> Tensor:
    """Average precision by torch, on the device of the scores."""
    samples = scores.shape[-1]
    count = positive.sum()
    ordered, order = scores.sort(dim=-1, descending=True)
    hits = positive[order].double().cumsum(-1)
    ranks = torch.arange(1, samples + 1, device=scores.device)
    # Equal scores pass together: each takes the place of the last of them.
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    last = torch.where(ends, ranks - 1, samples).flip(-1).cummin(-1).values.flip(-1)
    precision = hits.gather(-1, last) / (last + 1)
    average = (precision * positive[order]).sum(-1) / count
    return torch.where(scores.isnan().any(-1), torch.nan, average)
