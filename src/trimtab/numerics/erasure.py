"""Least-squares concept erasure (LEACE): the affine map that hides a concept from every linear classifier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from trimtab.errors import DataError, ShapeError, explain

RANK = 1e-8
"""Singular values below this share of the largest count as zero."""


@dataclass(frozen=True, eq=False)
class Erasure:
    """An affine map h -> mean + P (h - mean) that removes what linear functions can tell of a concept.

    Attributes:
        projection: (d, d) P, idempotent; in general not symmetric. The identity less a matrix of the concept's rank.
        mean: (d,) the point that stays.
    """

    projection: Float[np.ndarray, "d d"]
    mean: Float[np.ndarray, " d"]

    def __call__(self, x: Float[np.ndarray, "*rows d"]) -> Float[np.ndarray, "*rows d"]:
        """The rows without the concept, in the floating-point type of `x`."""
        kept = self.mean + (np.asarray(x, dtype=np.float64) - self.mean) @ self.projection.T
        return np.asarray(kept, dtype=np.result_type(np.asarray(x).dtype, np.float32))


def leace(x: Float[np.ndarray, "n d"], z: Float[np.ndarray, "n k"]) -> Erasure:
    """LEACE in closed form: r(h) = h - W^+ P W (h - E h), with P the projection on the columns of W Cov(x, z).

    W = Cov(x)^(-1/2) whitens. Among all affine maps after which no linear classifier of z does better than a constant,
    for every convex loss, this one moves x least in mean square; the result is the same for every norm that an inner
    product gives.

    Args:
        x: rows to hide the concept from, such as hidden states; finite. With fewer rows than columns, or columns that
            depend on each other, whitening is inside the span of the rows.
        z: the concept: one column of numbers for each quantity, one column of 0 and 1 for each class.

    Returns:
        The erasure. On `x` itself the covariance with `z` is zero to rounding; a constant concept gives the identity.

    Raises:
        ShapeError: not two matrices of the same number of rows.
        DataError: fewer than two rows, or a missing or infinite value.

    Source: Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form", theorem 4.3.

    >>> x = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 2.0], [1.0, 2.0]])
    >>> leace(x, x[:, :1])(x).round(12).tolist()
    [[0.5, 1.0], [0.5, 1.0], [0.5, 2.0], [0.5, 2.0]]
    """
    x, z = np.asarray(x, dtype=np.float64), np.asarray(z, dtype=np.float64)
    if x.ndim != 2 or z.ndim != 2 or len(x) != len(z):
        raise ShapeError(explain(f"x of shape {x.shape} and z of shape {z.shape}", "(n, d) and (n, k)"))
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(z).all()):
        got = f"{len(x)} rows" if len(x) < 2 else "missing or infinite values"
        raise DataError(explain(got, "at least two rows of finite numbers"))
    mean = x.mean(axis=0)
    centred, concept = x - mean, z - z.mean(axis=0)
    # With x = U S V', W Cov(x, z) is V U' z / sqrt(n): its left singular vectors, in the axes V, are those of U' z.
    scores, scale, axes = np.linalg.svd(centred, full_matrices=False)
    kept = scale > RANK * scale.max(initial=0.0)
    scores, scale, axes = scores[:, kept], scale[kept], axes[kept]
    directions, strength, _ = np.linalg.svd(scores.T @ concept, full_matrices=False)
    directions = directions[:, strength > RANK * np.linalg.norm(concept)]
    removed = (axes.T * scale) @ directions @ (directions.T / scale) @ axes
    return Erasure(np.eye(x.shape[1]) - removed, mean)
