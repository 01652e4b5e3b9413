"""Controls of an audit: what a leak is without the model, with an untrained one, or with labels that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from trimtab.read.leaks.cells import Cell, Measured
from trimtab.read.leaks.questions import Questions

MAJORITY, QUESTION_ONLY, ANSWER_ONLY = "majority", "question-only", "answer-only"
RANDOM_TOKENS, SHUFFLED, UNTRAINED = "random tokens", "shuffled labels", "untrained model"
TEXT, PIXELS = "text", "pixels"
SIDE = 20
"""Pixels of a side of the picture that the pixel classifier sees."""


def input_controls(questions: Questions) -> list[Cell]:
    """Controls that read no model: the question alone, and the whole prompt (bag of words) or the picture (pixels).

    Where prompts are unknown, as of a transcript, only those that can be had.
    """
    raise NotImplementedError


def answer_only(ids: np.ndarray) -> Cell:
    """The first token of the answer, one-hot.

    Args:
        ids: (n,) token of each question's answer.
    """
    raise NotImplementedError


def shuffled(cell: Cell) -> Cell:
    """A cell with its labels dealt out anew, from which nothing can be learned."""
    raise NotImplementedError


def majority_rows(measured: Sequence[Measured], questions: Questions) -> pd.DataFrame:
    """Accuracy of the largest class, a row per attribute and role, with Wilson's interval over groups."""
    raise NotImplementedError


def checks_of(measured: Sequence[Measured]) -> pd.DataFrame:
    """Data-processing inequality by paired differences: best of top k <= all logits <= final hidden state."""
    raise NotImplementedError
