"""The hierarchy of concepts that their experts make, and whether it is that of given categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.cluster.hierarchy import average, cophenet, fcluster
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

from trimtab.errors import DataError, explain
from trimtab.numerics.permute import mantel
from trimtab.numerics.ranking import auroc

LEAST = 3


@dataclass(frozen=True)
class Tree:
    """A hierarchy of concepts.

    Attributes:
        names: of the leaves.
        linkage: (leaves - 1, 4) as SciPy has it: what is joined, at which distance (1 - similarity), how many leaves.
        faithfulness: correlation of the distances in the tree with the distances themselves (cophenetic).
        categories: how many given categories the compared concepts have; 0 without a taxonomy.
        auc: how likely two concepts of one category are more alike than two of different ones; nan without a taxonomy.
        auc_p: how often concepts dealt out anew reach it (Mantel), one-sided.
        adjusted_rand: of the tree cut into as many clusters as there are categories; 1 where they are the categories, 0
            on average by chance.
        unknown: concepts without a category.
    """

    names: tuple[str, ...]
    linkage: Float[np.ndarray, "leaves-1 4"]
    faithfulness: float
    categories: int = 0
    auc: float = np.nan
    auc_p: float = np.nan
    adjusted_rand: float = np.nan
    unknown: tuple[str, ...] = ()


def tree(similarity: pd.DataFrame, taxonomy: Mapping[str, str] | None = None, *, seed: int = 0) -> Tree:
    """Average linkage on 1 - similarity, beside categories where they are given.

    Raises:
        DataError: fewer than two concepts, a similarity that is nan, a taxonomy that knows fewer than three of the
            concepts, or one with a single category.
    """
    names = [str(name) for name in similarity.index]
    if len(names) < 2:
        raise DataError(explain(f"the single concept {', '.join(names)!r}", "at least two for a tree"))
    linkage, faithfulness = _joined(similarity.to_numpy(dtype=float))
    found = Tree(tuple(names), linkage, faithfulness)
    return found if taxonomy is None else _compared(found, similarity, taxonomy, seed)


def _joined(matrix: Float[np.ndarray, "c c"]) -> tuple[Float[np.ndarray, "c-1 4"], float]:
    if np.isnan(matrix).any():
        raise DataError(explain("similarities that are nan", "numbers for all pairs", 'kind="jaccard"'))
    distance = squareform(1 - (matrix + matrix.T) / 2, checks=False)
    linkage = np.asarray(average(distance))
    if len(distance) < 2 or np.ptp(distance) == 0:
        return linkage, np.nan
    return linkage, float(cophenet(linkage, distance)[0])


def _compared(found: Tree, similarity: pd.DataFrame, taxonomy: Mapping[str, str], seed: int) -> Tree:
    known = [name for name in found.names if name in taxonomy]
    labels = [taxonomy[name] for name in known]
    if len(known) < LEAST or len(set(labels)) < 2:
        got = f"a taxonomy of {len(set(labels))} categories that knows {len(known)} of the concepts"
        raise DataError(explain(got, f"at least {LEAST} concepts in two categories"))
    matrix = similarity.loc[known, known].to_numpy(dtype=float)
    first, second = np.triu_indices(len(known), 1)
    same = np.array([labels[i] == labels[j] for i, j in zip(first, second, strict=True)])
    auc = float(auroc(torch.from_numpy(matrix[first, second]), torch.from_numpy(same)))
    pairs = np.stack([first, second], 1)
    # With two kinds of scores Spearman's correlation and the AUC put permutations in the same order.
    p_value = mantel(matrix, pairs, same.astype(float), seed=seed).p_value
    clusters = fcluster(_joined(matrix)[0], len(set(labels)), "maxclust")
    return Tree(
        names=found.names,
        linkage=found.linkage,
        faithfulness=found.faithfulness,
        categories=len(set(labels)),
        auc=auc,
        auc_p=p_value,
        adjusted_rand=_rand(labels, clusters.tolist()),
        unknown=tuple(name for name in found.names if name not in taxonomy),
    )


def _rand(labels: Sequence[str], clusters: Sequence[int]) -> float:
    return float(adjusted_rand_score(labels, clusters))
