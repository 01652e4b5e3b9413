"""Cells of an audit: which features are classified, measured for every attribute and role, in parallel and resumably."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
from jaxtyping import Float, Int
from sklearn.feature_extraction.text import CountVectorizer
from threadpoolctl import threadpool_limits

from trimtab.errors import TrimtabError
from trimtab.job import Progress
from trimtab.read.leaks.estimate import DEFAULT, Leak, estimate_leak
from trimtab.read.leaks.questions import Questions
from trimtab.runs.atomic import write_atomic
from trimtab.seeds import derive

Features = Callable[[np.ndarray], np.ndarray]
"""Row numbers of the questions (rows,) -> features (rows, d)."""
Against = Literal["question", "classes"]
"""What bits are measured against: the words of the question, or the shares of the classes."""
MOST_WORDS = 2000
"""Words of a bag of words: the most frequent ones."""


@dataclass(frozen=True)
class Cell:
    """Features from which an attribute is classified, whatever they come from: a model's readings or a transcript.

    Attributes:
        level: hidden, trajectory, logits, logprobs or answer; "" for a control that reads no level.
        features: row numbers (rows,) -> (rows, d); called in another process where there are several jobs.
        encoding: of top tokens; "" where there is none.
        k: number of tokens; None where there is none.
        lens: name of the lens of a trajectory.
        layer: number of the state, 0 for the input of the first block.
        control: name of the control; "" for none.
        against: what bits are measured against.
        shuffled: labels are dealt out anew among rows, or among groups where they are constant in each.
    """

    level: str
    features: Features
    encoding: str = ""
    k: int | None = None
    lens: str = ""
    layer: int | None = None
    control: str = ""
    against: Against = "question"
    shuffled: bool = False

    @property
    def name(self) -> dict[str, Any]:
        """Every field that tells it from other cells."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "features"}


@dataclass(frozen=True)
class Measured:
    """A cell measured for one attribute in one role.

    Attributes:
        rows: (n,) numbers of the questions that have the attribute in this role, those of the leak's arrays.
        leak: None where it could not be estimated.
        why: why not.
    """

    attribute: str
    role: str
    cell: Cell
    rows: Int[np.ndarray, " n"]
    leak: Leak | None
    why: str = ""


def measured(
    cells: Iterable[Cell],
    questions: Questions,
    *,
    classifiers: Any = DEFAULT,
    seed: int = 0,
    jobs: int = 1,
    store: Path | None = None,
    stamp: str = "",
    progress: Progress | None = None,
) -> list[Measured]:
    """Leak of each cell for each attribute and role, in that order; the same for any number of jobs.

    All cells of an attribute and role share their folds, so that their leaks can be compared row by row.

    Args:
        cells: what is classified.
        questions: labels, roles, groups, and what is known anyway.
        classifiers: see `estimate_leak`.
        seed: of folds and classifiers.
        jobs: processes, one thread each.
        store: folder that keeps every finished cell; a call that was killed goes on from there.
        stamp: of the features; kept cells of another stamp are measured again.
        progress: called with the cells done and in all.

    Returns:
        One per attribute, role and cell; those that could not be estimated have no leak, and say why.
    """
    raise NotImplementedError


def words_of(texts: Sequence[str]) -> Float[np.ndarray, "n words"]:
    """Binary bag of words: 1 where a text has a word; of the most frequent ones that are not in every text.

    >>> words_of(["a red cube", "a blue cube"]).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    raise NotImplementedError
