"""Three shapes of lexicon over the same referents, made rather than observed: sharp, overlapping, nested."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist

from trimtab.errors import DataError, explain
from trimtab.numerics.statistics import check_choice
from trimtab.refer.lexicon import Lexicon, _bandwidth

Shape = Literal["hard", "soft", "nested"]


def simulated_lexicon(features: pd.DataFrame, shape: Shape, words: int, *, width: float = 1.0) -> Lexicon:
    """A lexicon of a given shape and number of words.

    Args:
        features: indexed by referent, one column per dimension.
        shape: "hard": one word per referent, regions by Ward's clustering; "soft": the same regions with centres, each
            word said in proportion to a normal density around its centre, so that words overlap; "nested": regions
            within regions, half as many words at each level, a referent's words (fine to coarse) all equally likely.
        words: how many in all; for "nested" the levels have words/2, words/4, ..., 1.
        width: of a soft word, in units of the mean distance of a referent to its centre.

    Raises:
        DataError: fewer than 2 words, or more than referents.
        ConfigError: an unknown shape.
    """
    check_choice("shape", shape, get_args(Shape))
    values = features.to_numpy(dtype=float)
    if not 2 <= words <= len(values):
        raise DataError(explain(f"{words} words for {len(values)} referents", f"2 to {len(values)}"))
    tree = linkage(values, "ward")
    naming = {"hard": _hard, "soft": _soft, "nested": _nested}[shape](values, tree, words, width)
    names = tuple(f"{shape} {number}" for number in range(1, naming.shape[1] + 1))
    prior = np.full(len(values), 1.0 / len(values))
    columns = tuple(map(str, features.columns))
    return Lexicon(
        tuple(features.index.tolist()),
        names,
        naming,
        prior,
        values,
        columns,
        bandwidth=_bandwidth(features, values),
    )


def _hard(values: np.ndarray, tree: np.ndarray, words: int, width: float) -> np.ndarray:  # noqa: ARG001
    regions = fcluster(tree, words, "maxclust")
    return np.eye(regions.max())[regions - 1]


def _soft(values: np.ndarray, tree: np.ndarray, words: int, width: float) -> np.ndarray:
    regions = _hard(values, tree, words, width)
    centres = (regions.T @ values) / regions.sum(axis=0)[:, None]
    distances = cdist(values, centres, "sqeuclidean")
    spread = width**2 * float((distances * regions).sum() / len(values))
    weights = np.exp(-(distances - distances.min(axis=1, keepdims=True)) / (2 * spread))
    weights[weights < 0.01] = 0.0
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _nested(values: np.ndarray, tree: np.ndarray, words: int, width: float) -> np.ndarray:
    left, levels = words, []
    while left > 0:
        size = max(1, (left + 1) // 2) if left > 1 else 1
        levels.append(_hard(values, tree, size, width))
        left -= levels[-1].shape[1]
    return np.hstack(levels) / len(levels)
