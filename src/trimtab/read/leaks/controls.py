"""Controls of an audit: what a leak is without the model, with an untrained one, or with labels that mean nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from PIL.Image import Resampling

from trimtab.models.pictures import read_picture
from trimtab.numerics.cluster_bootstrap import wilson_of_clusters
from trimtab.read.leaks.cells import Cell, Measured, Samples, words_of
from trimtab.read.leaks.encodings import one_hot
from trimtab.read.leaks.estimate import Leak, leak_difference
from trimtab.read.leaks.questions import Questions
from trimtab.read.leaks.result import CHECKS

MAJORITY, QUESTION_ONLY, ANSWER_ONLY = "majority", "question-only", "answer-only"
RANDOM_TOKENS, SHUFFLED, UNTRAINED = "random tokens", "shuffled labels", "untrained model"
TEXT, PIXELS, CHECK = "text", "pixels", "check"
"""Names of controls; a check is in no table, and only compared."""
TOLERANCE = 0.01
"""Bits by which two classifiers of the same information differ for the way they are fitted."""
SIDE = 20
"""Pixels of a side of the picture that the pixel classifier sees."""


@dataclass(frozen=True)
class Bag:
    """Bag of words of some of the texts, as features of a cell; words are counted among the rows asked for."""

    texts: tuple[str, ...]

    def __call__(self, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m words"]:
        """Binary, (rows, words); one column of zeros where no word differs."""
        bag = words_of([self.texts[row] for row in rows])
        return bag if bag.shape[1] else np.zeros((len(rows), 1))


@dataclass(frozen=True)
class OneHot:
    """Indicators of one token per question, as features of a cell."""

    ids: Int[np.ndarray, " n"]

    def __call__(self, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m tokens"]:
        """See `trimtab.read.leaks.encodings.one_hot`."""
        return one_hot(self.ids[rows])


def input_controls(questions: Questions) -> list[Cell]:
    """Controls that read no model: the question alone, and the whole prompt (bag of words) or the picture (pixels).

    The question alone is measured against the shares of the classes. Controls whose input is unknown are left out: of a
    transcript without requests both.

    Raises:
        DataError: a picture that cannot be read.
    """
    cells = []
    if questions.known is not None:
        asked = Bag(tuple(questions.known))
        cells.append(Cell("", asked, control=QUESTION_ONLY, against="classes"))
    if questions.images is not None:
        cells.append(Cell("", partial(np.take, pixels(questions.images), axis=0), control=PIXELS))
    elif len(questions.prompts):
        cells.append(Cell("", Bag(tuple(map(str, questions.prompts))), control=TEXT))
    return cells


def pixels(pictures: Iterable[Any]) -> Float[np.ndarray, "n pixels"]:
    """Pictures scaled to 20 x 20, a row each: 3 x 20 x 20 numbers in [0, 1]."""
    rows = []
    for picture in pictures:
        small = read_picture(picture).resize((SIDE, SIDE), Resampling.BOX)
        rows.append(np.asarray(small, dtype=np.float32).ravel() / 255)
    return np.stack(rows)


def shuffled(cell: Cell) -> Cell:
    """The cell with labels that are dealt out anew, from which nothing can be learned."""
    return replace(cell, control=SHUFFLED, shuffled=True)


def majority_rows(samples: Iterable[Samples]) -> Iterator[dict[str, Any]]:
    """Accuracy of always naming the largest class, a row per attribute and role; Wilson's interval over groups.

    Attributes of fewer than two classes in a role have none.
    """
    for one in samples:
        names, counts = np.unique(one.labels, return_counts=True)
        if len(names) < 2:
            continue
        right = (one.labels == names[counts.argmax()]).astype(float)
        groups = np.unique(one.groups, return_inverse=True)[1]
        low, high = wilson_of_clusters(right, np.zeros(len(right), dtype=int), groups, 1)
        share = float(right.mean())
        row = {"attribute": one.attribute, "role": one.role, "control": MAJORITY, "accuracy": share}
        yield row | {"accuracy_low": low[0], "accuracy_high": high[0], "n": len(right), "chance": share}


def checks_of(measured: Sequence[Measured], final: int | None) -> pd.DataFrame:
    """Data-processing inequality: best of top k <= all logits <= final hidden state, by paired differences of bits.

    It must hold for the best classifiers there are. The best of several top-k cells is looked for in the data, so its
    bits are high by selection; a check that fails by little proves nothing, one that fails by much means that the
    classifiers of the greater are too weak, or that the outputs hold what no state passed on.

    Args:
        measured: cells of any attributes and roles.
        final: layer of the state after the last block; None where no state was read.

    Returns:
        attribute, role, lesser, greater, bits (of the lesser less those of the greater), low, high, n, holds (the
        interval does not lie above 0.01).
    """
    rows = []
    for attribute, role in dict.fromkeys((one.attribute, one.role) for one in measured):
        of_pair = (one for one in measured if (one.attribute, one.role) == (attribute, role))
        here = [one for one in of_pair if one.cell.control in ("", CHECK)]
        steps = {
            "top k": _best(one for one in here if one.cell.level in ("logits", "logprobs") and one.cell.k),
            "all logits": _best(one for one in here if one.cell.level == "logits" and one.cell.k is None),
            "final hidden state": _best(
                one for one in here if one.cell.level == "hidden" and one.cell.layer == final
            ),
        }
        there = [(name, leak) for name, leak in steps.items() if leak is not None]
        for (lesser, less), (greater, more) in combinations(there, 2):
            gap = leak_difference(less, more)
            row = {
                "attribute": attribute,
                "role": role,
                "lesser": lesser,
                "greater": greater,
                "bits": gap.bits,
            }
            rows.append(
                row | {"low": gap.low, "high": gap.high, "n": less.n, "holds": not gap.low > TOLERANCE}
            )
    return pd.DataFrame(rows, columns=list(CHECKS))


def _best(measured: Iterable[Measured]) -> Leak | None:
    """The leak of the most bits; None where nothing was measured."""
    leaks = [one.leak for one in measured if one.leak is not None]
    return max(leaks, key=lambda leak: leak.bits, default=None)
