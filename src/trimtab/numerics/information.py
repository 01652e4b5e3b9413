"""Entropy and mutual information of discrete distributions, in bits, and the information bottleneck.

The bottleneck is the highest accuracy I(W;U) of a lexicon at its complexity I(M;W) (Tishby, Pereira & Bialek 1999).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import rel_entr, xlogy

from trimtab.errors import ShapeError, explain

_TOLERANCE = 1e-8


def entropy_bits(p: Float[np.ndarray, "*lines k"]) -> Float[np.ndarray, "*lines"]:
    """Entropy H = -sum p log2 p of each distribution along the last axis: from 0 (certain) to log2 k (uniform).

    Raises:
        ShapeError: a negative entry, or a distribution that does not sum to one.

    Source: Cover and Thomas 2006, equation 2.1.

    >>> float(entropy_bits(np.array([0.5, 0.25, 0.25])))
    1.5
    """
    check_distribution(p)
    return np.asarray(-rel_entr(p, 1.0).sum(axis=-1) / np.log(2))


def mutual_information_bits(joint: Float[np.ndarray, "rows columns"]) -> float:
    """Mutual information I(X;Y) of two variables in bits; 0 when they are independent.

    Args:
        joint: their joint distribution; sums to one.

    Raises:
        ShapeError: not a matrix, a negative entry, or a sum that is not one.

    Source: Cover and Thomas 2006, equation 2.28.

    >>> mutual_information_bits(np.eye(4) / 4)
    2.0
    """
    joint = np.asarray(joint, dtype=float)
    if joint.ndim != 2:
        raise ShapeError(explain(f"a joint distribution of shape {joint.shape}", "a matrix"))
    check_distribution(joint.ravel())
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    # Rounding can leave a sum of -1e-17, and information is never negative.
    return max(0.0, float(rel_entr(joint, independent).sum() / np.log(2)))


def check_distribution(p: Float[np.ndarray, "*lines k"]) -> None:
    """Refuse what is not a distribution along the last axis."""
    p = np.asarray(p)
    if p.size == 0 or not np.isfinite(p).all() or (p < 0).any():
        raise ShapeError(explain("a negative, missing or infinite probability, or none", "numbers in [0, 1]"))
    worst = float(np.abs(p.sum(axis=-1) - 1).max())
    if worst > _TOLERANCE:
        got = f"probabilities that miss a sum of one by {worst:.2g}"
        raise ShapeError(explain(got, "a sum of one", "dividing by the sum"))


GRID = 1.0 + np.geomspace(3.0, 0.01, 48)
"""Trade-offs from fine to coarse. Lexicons of human languages lie near 1, so the grid is dense there."""
_EMPTY, _SAME = 1e-10, 1e-7


@dataclass(frozen=True)
class Bottleneck:
    """The information bottleneck curve: optimal lexicons by trade-off.

    Attributes:
        beta: how many bits of complexity a bit of accuracy is worth; the larger, the finer the lexicon.
        complexity_bits: I(M;W) of each.
        accuracy_bits: I(W;U) of each.
        words: the effective number of words of each, 2 to the power of their entropy.
        lexicons: p(w|m) of each, (meanings, words).
    """

    beta: Float[np.ndarray, " n"]
    complexity_bits: Float[np.ndarray, " n"]
    accuracy_bits: Float[np.ndarray, " n"]
    words: Float[np.ndarray, " n"]
    lexicons: tuple[np.ndarray, ...]

    def objective(self) -> Float[np.ndarray, " n"]:
        """I(M;W) - beta I(W;U): the smallest that any lexicon reaches at each beta."""
        return np.asarray(self.complexity_bits - self.beta * self.accuracy_bits)


def bottleneck(
    prior: Float[np.ndarray, " m"],
    meanings: Float[np.ndarray, "m u"],
    *,
    betas: Float[np.ndarray, " n"] | None = None,
    most_iterations: int = 200,
    tolerance: float = 1e-6,
    progress: Callable[[int, int], None] | None = None,
) -> Bottleneck:
    """Information bottleneck by annealing: lexicons that minimise I(M;W) - beta I(W;U), for each beta.

    At each beta the self-consistent equations are iterated from the lexicon of the beta before, unused words
    are dropped and words that mean the same are merged, so the search gets faster as it goes. Annealing finds
    local optima: the curve is a bound that a lexicon can beat only by finding a better one.

    Args:
        prior: p(m), sums to one.
        meanings: p(u|m), one distribution over the world per meaning.
        betas: trade-offs, each above 1, in any order; default `GRID`.
        most_iterations: for each beta.
        tolerance: change of the objective, in nats, at which a beta is done; the default leaves it within about 1e-4
            bits of where it would settle.
        progress: called with the number of betas done and of all.

    Raises:
        ShapeError: prior or meanings are not distributions or do not fit, or a beta of 1 or less.

    Source: Tishby, Pereira and Bialek 1999; Zaslavsky, Kemp, Regier and Tishby 2018 for lexicons and reverse annealing.

    >>> sharp = bottleneck(np.full(4, 0.25), np.eye(4), betas=np.array([2.0]))
    >>> sharp.complexity_bits.round(6).tolist(), sharp.accuracy_bits.round(6).tolist()
    ([2.0], [2.0])
    """
    betas = np.sort(GRID if betas is None else np.asarray(betas, dtype=float))[::-1]
    check_distribution(prior)
    check_distribution(meanings)
    if meanings.shape[:1] != prior.shape:
        raise ShapeError(explain(f"{len(prior)} priors and {len(meanings)} meanings", "as many of each"))
    if not len(betas) or betas.min() <= 1:
        raise ShapeError(explain(f"beta {betas.min() if len(betas) else 'none'}", "numbers above 1"))
    lexicon, lexicons = np.eye(len(prior)), []
    for done, beta in enumerate(betas):
        lexicon = _settled(lexicon, prior, meanings, float(beta), most_iterations, tolerance)
        lexicons.append(lexicon)
        if progress is not None:
            progress(done + 1, len(betas))
    complexity, accuracy = np.array([plane(prior, lexicon, meanings) for lexicon in lexicons]).T
    words = np.array([2.0 ** entropy_bits(prior @ lexicon) for lexicon in lexicons])
    return Bottleneck(betas, complexity, accuracy, words, tuple(lexicons))


def plane(
    prior: Float[np.ndarray, " m"], lexicon: Float[np.ndarray, "m w"], meanings: Float[np.ndarray, "m u"]
) -> tuple[float, float]:
    """Complexity I(M;W) and accuracy I(W;U) of a lexicon p(w|m), in bits; accuracy is never above complexity."""
    joint = prior[:, None] * lexicon
    return mutual_information_bits(joint), mutual_information_bits(joint.T @ meanings)


def plane_of_words(
    prior: Float[np.ndarray, " m"], lexicon: Float[np.ndarray, "m w"], meanings: Float[np.ndarray, "m u"]
) -> tuple[Float[np.ndarray, " w"], Float[np.ndarray, " w"]]:
    """Specific surprise of each word in bits: KL(p(m|w) || p(m)) and KL(p(u|w) || p(u)).

    Their means, weighted by p(w), are the complexity and the accuracy of `plane`; one word may lie above the frontier.
    nan for a word that is never said.

    Source: DeWeese and Meister 1999, "How to measure the information gained from one symbol", the specific surprise.
    """
    joint = (prior[:, None] * lexicon).T
    words = joint.sum(axis=1, keepdims=True)
    given = np.divide(joint, words, out=np.full_like(joint, np.nan), where=words > 0)
    told = [
        rel_entr(one, base).sum(axis=1) / np.log(2)
        for one, base in ((given, prior), (given @ meanings, prior @ meanings))
    ]
    return np.maximum(told[0], 0.0), np.maximum(told[1], 0.0)


def _settled(
    lexicon: np.ndarray, prior: np.ndarray, meanings: np.ndarray, beta: float, most: int, tolerance: float
) -> np.ndarray:
    """The fixed point of the self-consistent equations, near the lexicon given."""
    certain = xlogy(meanings, meanings).sum(axis=1, keepdims=True)
    last = np.inf
    for step in range(most):
        words = prior @ lexicon
        world = (lexicon * prior[:, None]).T @ meanings / words[:, None]
        distance = certain - meanings @ np.log(np.maximum(world, 1e-300)).T
        scores = np.log(words) - beta * distance
        top = scores.max(axis=1, keepdims=True)
        weights = np.exp(scores - top)
        lexicon = weights / weights.sum(axis=1, keepdims=True)
        now = -float(prior @ (top[:, 0] + np.log(weights.sum(axis=1))))
        if step % 10 == 9:
            lexicon = _fewer(lexicon, prior, meanings)
        if abs(last - now) < tolerance:
            break
        last = now
    return _fewer(lexicon, prior, meanings)


def _fewer(lexicon: np.ndarray, prior: np.ndarray, meanings: np.ndarray) -> np.ndarray:
    """The lexicon without unused words, and with words of one meaning merged."""
    words = prior @ lexicon
    lexicon, words = lexicon[:, words > _EMPTY], words[words > _EMPTY]
    given = (lexicon * prior[:, None]).T / words[:, None]
    order = np.lexsort(np.round(given @ meanings, 6).T[::-1][-3:])
    near = rel_entr(given[order][1:], given[order][:-1]).sum(axis=1) < _SAME
    kind = np.empty(len(order), dtype=int)
    kind[order] = np.cumsum(np.r_[0, ~near])
    merged = np.zeros((len(lexicon), kind.max() + 1))
    np.add.at(merged.T, kind, lexicon.T)
    return np.asarray(merged / merged.sum(axis=1, keepdims=True))
