"""Entropy, divergences and mutual information of discrete distributions, in bits."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import rel_entr

from trimtab.errors import ShapeError, explain

_TOLERANCE = 1e-8


def entropy_bits(p: Float[np.ndarray, "*lines k"]) -> Float[np.ndarray, "*lines"]:
    """The entropy of each distribution along the last axis: from 0 (certain) to log2 k (uniform).

    Raises:
        ShapeError: a negative entry, or a distribution that does not sum to one.

    Source: Cover and Thomas 2006, equation 2.1.

    >>> float(entropy_bits(np.array([0.5, 0.25, 0.25])))
    1.5
    """
    check_distribution(p)
    return np.asarray(-rel_entr(p, 1.0).sum(axis=-1) / np.log(2))


def divergence_bits(
    p: Float[np.ndarray, "*lines k"], q: Float[np.ndarray, "*#lines k"]
) -> Float[np.ndarray, "*lines"]:
    """The Kullback-Leibler divergence KL(p || q) along the last axis: 0 when equal, inf where q lacks what p has.

    Raises:
        ShapeError: a negative entry, a distribution that does not sum to one, or lengths that differ.

    Source: Cover and Thomas 2006, equation 2.26.

    >>> float(divergence_bits(np.array([1.0, 0.0]), np.array([0.25, 0.75])))
    2.0
    """
    check_distribution(p)
    check_distribution(q)
    if p.shape[-1] != q.shape[-1]:
        raise ShapeError(explain(f"{p.shape[-1]} and {q.shape[-1]} outcomes", "as many of each"))
    return np.asarray(rel_entr(p, q).sum(axis=-1) / np.log(2))


def mutual_information_bits(joint: Float[np.ndarray, "rows columns"]) -> float:
    """The mutual information of two variables: what one tells of the other, 0 when they are independent.

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
        raise ShapeError(
            explain(
                f"probabilities that miss a sum of one by {worst:.2g}", "a sum of one", "dividing by the sum"
            )
        )
