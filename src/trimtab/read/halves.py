"""Whether another half of the examples gives the same experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from trimtab.data.concepts import ConceptSet
from trimtab.errors import DataError, explain
from trimtab.numerics.proportion import wilson
from trimtab.numerics.resample import Interval, bootstrap
from trimtab.numerics.similarity import jaccard
from trimtab.numerics.statistics import mean
from trimtab.read.detection import Labelling
from trimtab.seeds import derive


@dataclass(frozen=True)
class Stability:
    """How far experts depend on which examples were used.

    Attributes:
        concepts: one row each: concept, overlap (Jaccard of the experts of its halves), found (whether the experts of
            its first half are more like those of its second half than like those of any other concept's; nan
            where there is no other).
        overlap: its mean, with an interval over concepts.
        retrieval: the share that was found, with an interval; a tie is a miss, and a single concept gives nan.
    """

    concepts: pd.DataFrame
    overlap: Interval
    retrieval: Interval


def stability(
    names: Sequence[str], first: Bool[np.ndarray, "c u"], second: Bool[np.ndarray, "c u"]
) -> Stability:
    """Expert sets of one half of the examples beside those of the other.

    >>> sets = np.array([[True, True, False], [False, False, True]])
    >>> found = stability(["a", "b"], sets, sets)
    >>> found.overlap.value, found.retrieval.value
    (1.0, 1.0)
    """
    across = jaccard(first, second)
    own = np.diag(across)
    others = np.where(np.eye(len(across), dtype=bool), -1.0, across).max(1)
    found: np.ndarray = own > others
    share = wilson(int(found.sum()), len(found))
    if len(names) < 2:  # nothing to mistake it for
        found, share = np.array([np.nan]), Interval(np.nan, np.nan, np.nan, 0)
    return Stability(
        pd.DataFrame({"concept": names, "overlap": own, "found": found}), bootstrap(mean, own), share
    )


def halved(concepts: ConceptSet, side: int, seed: int) -> list[Labelling]:
    """One of two halves of every concept's examples, dealt at random, lists of the same length in the same way.

    So where concepts stand in the same sentences, or have the same negative examples, no sentence is in the first half
    of one concept and in the second of another: a half is as new to its own concept as to the others.

    Raises:
        DataError: naming a concept with fewer than two examples on a side.
    """
    pool = concepts.pool
    for concept in concepts:
        for what, examples in (("positive", concept.positive), ("negative", concept.negative)):
            if len(examples) < 2:
                got = f"{len(examples)} {what} example"
                raise DataError(f"{concept.name}: {explain(got, 'at least two, to halve them')}")
    found = []
    for positive, negative in zip(pool.positive, pool.negative, strict=True):
        found.append(Labelling(*(_half(rows, side, derive(seed, "halves")) for rows in (positive, negative))))
    return found


def _half(rows: Int[np.ndarray, " n"], side: int, seed: int) -> Int[np.ndarray, " m"]:
    order = np.random.default_rng(seed).permutation(len(rows))
    middle = len(rows) // 2
    # Both halves have the same size, so that an odd example out is in neither.
    return rows[order[side * middle : (side + 1) * middle]]
