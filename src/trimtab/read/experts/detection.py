"""Detection of concepts by units: average precision, p-values under random ranking, and choices of experts.

Experts are the units above a threshold, the best so many, or those below a false discovery rate; two halves of the
examples say how stable they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control

from trimtab.data.concepts import ConceptSet
from trimtab.errors import ConfigError, DataError, explain
from trimtab.numerics.bootstrap import Interval, bootstrap, mean, wilson
from trimtab.numerics.ranking import average_precision, average_precision_null, chance_of, has_ties, untied
from trimtab.numerics.similarity import jaccard
from trimtab.read.responses import Responses
from trimtab.seeds import derive


@dataclass(frozen=True)
class Labelling:
    """Binary labels of a concept: which examples are positive and which negative.

    Attributes:
        positive: places among the examples.
        negative: the same; none of the positive ones.
    """

    positive: Int[np.ndarray, " p"]
    negative: Int[np.ndarray, " n"]

    @property
    def rows(self) -> Int[np.ndarray, " s"]:
        """Places of the labelled examples, positive ones first."""
        return np.concatenate([self.positive, self.negative])

    @property
    def labels(self) -> np.ndarray:
        """Boolean labels of `rows`: true for positive examples."""
        return np.arange(len(self.rows)) < len(self.positive)


@dataclass(frozen=True)
class Detection:
    """Average precision and p-values of every unit under each of several labellings.

    Attributes:
        precision: (labellings, units) average precision.
        chance: (labellings, units) p-values; empty, (0, units), when they were not asked for.
    """

    precision: Float[np.ndarray, "l u"]
    chance: Float[np.ndarray, "l u"]


def detect(
    responses: Responses, labellings: Sequence[Labelling], *, chance: bool = False, seed: int = 0
) -> Detection:
    """Average precision of every unit under every labelling, and p-values where they are asked for.

    The p-value of a unit without ties is how often a random ranking reaches its average precision. Scores that tie
    are also ranked with ties broken at random, which has that very distribution, and the larger of the two p-values
    counts: valid for any ties, and never small for a unit whose average precision is not.

    Args:
        responses: of the units; read in as few passes as memory allows.
        labellings: at least one positive and one negative each.
        chance: whether to find p-values.
        seed: of ties broken and of the null tables.
    """
    if chance:  # each table once, before threads ask for it
        for sizes in dict.fromkeys((len(one.positive), len(one.negative)) for one in labellings):
            average_precision_null(*sizes, seed=seed)
    shape = (len(labellings), len(responses.units))
    precision = np.empty(shape)
    unlikely = np.empty(shape if chance else (0, shape[1]))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for units, values in responses.blocks():

            def one(number: int, units: slice = units, values: np.ndarray = values) -> None:
                labelling = labellings[number]
                scores = np.ascontiguousarray(values[labelling.rows].T)
                precision[number, units] = average_precision(scores, labelling.labels)
                if chance:
                    null = average_precision_null(len(labelling.positive), len(labelling.negative), seed=seed)
                    p_values = chance_of(precision[number, units], null)
                    if len(tied := np.nonzero(has_ties(scores))[0]):
                        broken = untied(scores[tied], derive(seed, "ties", number)).astype(np.float32)
                        again = chance_of(average_precision(broken, labelling.labels), null)
                        p_values[tied] = np.maximum(p_values[tied], again)
                    unlikely[number, units] = p_values

            list(pool.map(one, range(len(labellings))))
    return Detection(precision, unlikely)


@dataclass(frozen=True)
class Selection:
    """Rule that chooses experts; exactly one of the three is given.

    Attributes:
        tau: units whose average precision is above it, in [0, 1).
        top: the so many units of highest average precision; at equal ones the first.
        fdr: units found at this false discovery rate among all units, in (0, 1).
    """

    tau: float | None = None
    top: int | None = None
    fdr: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("tau", "top", "fdr") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of tau, top and fdr"
            raise ConfigError(explain(got, "exactly one of tau, top and fdr", "tau=0.5"))
        limits: dict[str, tuple[Callable[[float], bool], str]] = {
            "tau": (lambda x: 0 <= x < 1, "a number in [0, 1)"),
            "top": (lambda x: x >= 1, "at least 1"),
            "fdr": (lambda x: 0 < x < 1, "a number in (0, 1)"),
        }
        (name,) = given
        fine, expected = limits[name]
        if not fine(value := getattr(self, name)):
            raise ConfigError(f"{name}: {explain(value, expected)}")

    def of(self, precision: Float[np.ndarray, "c u"]) -> Bool[np.ndarray, "c u"]:
        """Expert sets by average precision; not for a false discovery rate.

        Raises:
            ConfigError: more units asked for than there are.
        """
        if self.tau is not None:
            return np.asarray(precision > self.tau)
        assert self.top is not None
        if self.top > precision.shape[-1]:
            raise ConfigError(f"top: {explain(self.top, f'at most the {precision.shape[-1]} units')}")
        best = np.argsort(-precision, axis=-1, kind="stable")[..., : self.top]
        chosen = np.zeros(precision.shape, dtype=bool)
        np.put_along_axis(chosen, best, True, axis=-1)
        return chosen


def selection(tau: float | None, top: int | None, fdr: float | None) -> Selection:
    """Rule that the arguments name; average precision above .5, the paper's threshold, where they name none.

    Raises:
        ConfigError: more than one way, or one out of range.

    >>> selection(None, None, None)
    Selection(tau=0.5, top=None, fdr=None)
    """
    return Selection(tau=0.5) if tau is top is fdr is None else Selection(tau, top, fdr)


def q_values(chance: Float[np.ndarray, "*c u"]) -> Float[np.ndarray, "*c u"]:
    """Benjamini-Hochberg q-values: the false discovery rate at which each unit is found among all units of its row.

    Source: Benjamini and Hochberg 1995; valid for units that depend on one another positively.

    >>> q_values(np.array([0.01, 0.02, 0.9])).tolist()
    [0.03, 0.03, 0.9]
    """
    return np.asarray(false_discovery_control(chance, axis=-1, method="bh"))


@dataclass(frozen=True)
class Stability:
    """Split-half stability: how far experts depend on which examples were used.

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
    """Split-half stability: Jaccard overlap of the expert sets of two halves, and retrieval of concepts by it.

    >>> sets = np.array([[True, True, False], [False, False, True]])
    >>> halves = stability(["a", "b"], sets, sets)
    >>> halves.overlap.value, halves.retrieval.value
    (1.0, 1.0)
    """
    across = jaccard(first, second)
    within = np.diag(across)
    others = np.where(np.eye(len(across), dtype=bool), -1.0, across).max(1)
    retrieved: np.ndarray = within > others
    share = wilson(int(retrieved.sum()), len(retrieved))
    if len(names) < 2:  # nothing to be distinguishable from
        retrieved, share = np.array([np.nan]), Interval(np.nan, np.nan, np.nan, 0)
    table = pd.DataFrame({"concept": names, "overlap": within, "found": retrieved})
    return Stability(table, bootstrap(mean, within), share)


def halved(concepts: ConceptSet, side: int, seed: int) -> list[Labelling]:
    """Split half of every concept's examples, dealt at random; lists of the same length are dealt in the same way.

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

    def half(rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        order = np.random.default_rng(derive(seed, "halves")).permutation(len(rows))
        middle = len(rows) // 2
        # Both halves have the same size, so that an odd example out is in neither.
        return rows[order[side * middle : (side + 1) * middle]]

    return [Labelling(half(p), half(n)) for p, n in zip(pool.positive, pool.negative, strict=True)]
