"""Similarity of sets and profiles, and the agreement of two judgements of the same pairs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata

from trimtab.errors import ConfigError, ShapeError, explain
from trimtab.numerics.bootstrap import Interval, Pairs, check_numbers, check_pairs, spearman


@dataclass(frozen=True)
class Overlap:
    """Overlap of sets against its expectation for sets of these sizes.

    Attributes:
        shared: (n, n) members that two sets have in common.
        expected: the same for sets of these sizes drawn at random.
        z: standard deviations between the two; nan where a set is empty or holds everything.
    """

    shared: Float[np.ndarray, "n n"]
    expected: Float[np.ndarray, "n n"]
    z: Float[np.ndarray, "n n"]


def shared(first: Bool[np.ndarray, "n u"], second: Bool[np.ndarray, "m u"]) -> Float[np.ndarray, "n m"]:
    """Intersection sizes of sets, each of the first with each of the second.

    >>> shared(np.array([[True, True, False]]), np.array([[False, True, True]])).tolist()
    [[1.0]]
    """
    return np.asarray(first.astype(np.float32) @ second.astype(np.float32).T, dtype=np.float64)


def jaccard(
    first: Bool[np.ndarray, "n u"], second: Bool[np.ndarray, "m u"] | None = None
) -> Float[np.ndarray, "n m"]:
    """Jaccard index: size of the intersection over size of the union; 0 where a set is empty, also with itself.

    Args:
        first: sets as rows over the same members.
        second: others; None compares the first with one another.

    >>> jaccard(np.array([[True, True, False], [False, True, True], [False, False, False]]))[0].round(3).tolist()
    [1.0, 0.333, 0.0]
    """
    second = first if second is None else second
    both = shared(first, second)
    union = first.sum(-1)[:, None] + second.sum(-1)[None] - both
    return _ratio(both, union)


def overlap_coefficient(sets: Bool[np.ndarray, "n u"]) -> Float[np.ndarray, "n n"]:
    """Overlap coefficient: intersection over the smaller set; 1 where one contains the other, 0 where one is empty.

    >>> overlap_coefficient(np.array([[True, True, False], [False, True, False]]))[0].tolist()
    [1.0, 1.0]
    """
    both, sizes = shared(sets, sets), sets.sum(-1)
    smaller = np.minimum(sizes[:, None], sizes[None])
    return _ratio(both, smaller)


def overlap_by_chance(sets: Bool[np.ndarray, "n u"]) -> Overlap:
    """Hypergeometric overlap: intersections against sets of the same sizes drawn at random.

    Treats members as independent, which correlated units are not: z says how far beyond sizes an overlap goes, not how
    unlikely it is.

    >>> overlap = overlap_by_chance(np.array([[True, True, False, False], [True, True, False, False]]))
    >>> float(overlap.expected[0, 1]), round(float(overlap.z[0, 1]), 3)
    (1.0, 1.732)
    """
    both, sizes, members = shared(sets, sets), sets.sum(-1).astype(float), sets.shape[-1]
    first, second = sizes[:, None], sizes[None]
    expected = first * second / members
    spread = expected * (members - first) * (members - second) / (members * max(members - 1, 1))
    z = np.divide(both - expected, np.sqrt(spread), out=np.full_like(both, np.nan), where=spread > 0)
    return Overlap(both, expected, z)


def cosine(profiles: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Cosine of each two rows; nan where a row is zero.

    >>> cosine(np.array([[1.0, 0.0], [1.0, 1.0]]))[0].round(3).tolist()
    [1.0, 0.707]
    """
    length = np.linalg.norm(profiles, axis=-1, keepdims=True)
    unit = np.divide(profiles, length, out=np.full(profiles.shape, np.nan), where=length > 0)
    return np.asarray(unit @ unit.T)


def rank_correlation(profiles: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    """Spearman's correlation of each two rows; nan where a row is constant.

    >>> rank_correlation(np.array([[1.0, 2.0, 9.0], [3.0, 2.0, 1.0]]))[0].round(6).tolist()
    [1.0, -1.0]
    """
    ranks = rankdata(profiles, axis=-1)
    return cosine(ranks - ranks.mean(-1, keepdims=True))


def spearman_brown(correlation: float) -> float:
    """Spearman-Brown reliability 2r / (1 + r) of the whole from the correlation r of its halves; nan for -1 and below.

    Source: Brown 1910; Spearman 1910.

    >>> spearman_brown(0.5)
    0.6666666666666666
    """
    return prophecy(correlation, 2)


def prophecy(correlation: float, times: float) -> float:
    """Spearman-Brown prophecy: reliability of the mean of `times` as many judgements; nan where undefined.

    Args:
        correlation: of two parts that are as reliable as one another.
        times: how many times as much judgement the whole has as one part.

    Source: Brown 1910; Spearman 1910.

    >>> prophecy(0.5, 3)
    0.75
    """
    below = 1 + (times - 1) * correlation
    return times * correlation / below if below > 0 else np.nan


@dataclass(frozen=True)
class AgreementDraws:
    """Bootstrap draws of Spearman's correlation with judgements.

    Attributes:
        value: of the pairs as they are; nan where it has none.
        drawn: (n_boot,) one value per draw; nan where a draw has none.
        n: items that were judged.
        judgements: what was judged and with which draws: only draws of the same judgements are compared.
    """

    value: float
    drawn: Float[np.ndarray, " b"]
    n: int
    judgements: str = ""

    def interval(self, confidence: float = 0.95) -> Interval:
        """The percentile interval of the draws that have a value; nan where the correlation has none."""
        return _interval(self.value, self.drawn, self.n, confidence)

    def minus(self, other: AgreementDraws, confidence: float = 0.95) -> Interval:
        """Paired bootstrap of the difference from another correlation with the same judgements.

        Each draw of items gives both correlations, and the interval is of their difference: what both owe to the same
        items cancels out, so that it can exclude 0 where the two intervals overlap.

        Raises:
            ShapeError: the other is of other judgements, or of other draws.
        """
        if (len(self.drawn), self.judgements) != (len(other.drawn), other.judgements):
            raise ShapeError(explain("draws of other judgements", "the same judgements and seed"))
        return _interval(self.value - other.value, self.drawn - other.drawn, self.n, confidence)


def agreement_draws(
    similarity: Float[np.ndarray, "n n"],
    pairs: Pairs,
    scores: Float[np.ndarray, " m"],
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> AgreementDraws:
    """Item bootstrap of Spearman's correlation between similarities and judgements of the same pairs.

    Items are drawn with replacement; a pair counts as often as both of its items together were drawn, and never as a
    pair of an item with itself. Draws over pairs would vary too little, since pairs share items. Those of one seed draw
    the same items for every similarity of the same judgements.

    Args:
        similarity: of each two items.
        pairs: that were judged.
        scores: one judgement of each.
        n_boot: draws.
        seed: of the draws.

    Returns:
        The draws; nan with fewer than three pairs.

    Raises:
        ShapeError: not a square of similarities, or not one score per pair.
        ConfigError: n_boot below 1.

    >>> near, far = np.array([[0, 3, 2], [3, 0, 1], [2, 1, 0.0]]), np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0.0]])
    >>> pairs, scores = np.array([[0, 1], [0, 2], [1, 2]]), np.array([3.0, 2.0, 1.0])
    >>> agreement_draws(near, pairs, scores).minus(agreement_draws(far, pairs, scores)).value
    2.0
    """
    check_pairs(similarity, pairs, scores)
    check_numbers("n_boot", n_boot)
    similarities = similarity[pairs[:, 0], pairs[:, 1]]
    items, places = np.unique(pairs, return_inverse=True)
    places, value = places.reshape(pairs.shape), float(spearman(similarities, scores))
    judgements = hashlib.sha256(pairs.astype(np.int64).tobytes() + scores.astype(float).tobytes()).hexdigest()
    judgements += f" {seed}"
    if len(pairs) < 3 or np.isnan(value):
        return AgreementDraws(value, np.full(n_boot, np.nan), len(items), judgements)
    rng, values = np.random.default_rng(seed), []
    near, judged = (np.unique(side, return_inverse=True)[1] for side in (similarities, scores))
    for _ in range(n_boot):
        times = rng.multinomial(len(items), np.full(len(items), 1 / len(items)))
        values.append(_spearman_of_copies(near, judged, times[places[:, 0]] * times[places[:, 1]]))
    return AgreementDraws(value, np.array(values), len(items), judgements)


def _interval(value: float, drawn: Float[np.ndarray, " b"], n: int, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    finite = drawn[np.isfinite(drawn)]
    low, high = np.quantile(finite, [tail, 1 - tail]) if finite.size else (np.nan, np.nan)
    return Interval(value, float(low), float(high), n)


def ceiling(model: float, people: float | None = None) -> float:
    """Noise ceiling: the highest correlation to expect of two judgements of these reliabilities.

    Args:
        model: reliability of the similarities, see `spearman_brown`.
        people: reliability of the judgements; None takes them for exact, which makes the ceiling an upper bound.

    Returns:
        The root of their product (attenuation: Spearman 1904); nan where a reliability is not above 0.

    Raises:
        ConfigError: a reliability of people outside (0, 1].

    >>> round(ceiling(0.81, 0.64), 6)
    0.72
    """
    if people is not None and not 0 < people <= 1:
        raise ConfigError(explain(f"reliability {people}", "a number in (0, 1]"))
    product = model * (1.0 if people is None else people)
    return float(np.sqrt(product)) if product > 0 else np.nan


def _spearman_of_copies(
    first: Int[np.ndarray, " m"], second: Int[np.ndarray, " m"], copies: Int[np.ndarray, " m"]
) -> float:
    """Spearman's correlation where each pair is there so many times; nan below three, or where a side is constant.

    The sides are places among their different values, so that nothing is sorted again for each draw.
    """
    total = int(copies.sum())
    if total < 3:
        return np.nan
    held = [np.bincount(side, weights=copies) for side in (first, second)]
    ranks = [(np.cumsum(n) - (n - 1) / 2)[side] for n, side in zip(held, (first, second), strict=True)]
    x, y = (rank - (total + 1) / 2 for rank in ranks)
    size = np.sqrt((copies * x * x).sum() * (copies * y * y).sum())
    return float((copies * x * y).sum() / size) if size > 0 else np.nan


def _ratio(part: Float[np.ndarray, "n m"], whole: Shaped[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    """0 where there is no whole: a set without members is like no other."""
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))
