"""How well every unit detects every concept, and how likely chance alone does as well."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from trimtab.numerics.ranking import average_precision, average_precision_null, chance_of, has_ties, untied
from trimtab.read.responses import Responses
from trimtab.seeds import derive


@dataclass(frozen=True)
class Labelling:
    """Which examples are positive and which negative.

    Attributes:
        positive: places among the examples.
        negative: the same; none of the positive ones.
    """

    positive: Int[np.ndarray, " p"]
    negative: Int[np.ndarray, " n"]

    @property
    def rows(self) -> Int[np.ndarray, " s"]:
        """The examples that count, positive ones first."""
        return np.concatenate([self.positive, self.negative])

    @property
    def labels(self) -> np.ndarray:
        """Which of `rows` are positive."""
        return np.arange(len(self.rows)) < len(self.positive)


@dataclass(frozen=True)
class Detection:
    """What each of several labellings found.

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
                    draws = derive(seed, "ties", number)
                    unlikely[number, units] = _chance(
                        scores, labelling, precision[number, units], seed, draws
                    )

            list(pool.map(one, range(len(labellings))))
    return Detection(precision, unlikely)


def _chance(
    scores: np.ndarray, labelling: Labelling, precision: np.ndarray, seed: int, draws: int
) -> Float[np.ndarray, " u"]:
    null = average_precision_null(len(labelling.positive), len(labelling.negative), seed=seed)
    found = chance_of(precision, null)
    tied = np.nonzero(has_ties(scores))[0]
    if len(tied):
        broken = average_precision(untied(scores[tied], draws).astype(np.float32), labelling.labels)
        found[tied] = np.maximum(found[tied], chance_of(broken, null))
    return found
