"""Cells of a transcript: what an attacker can make of served responses, which hold no states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from trimtab.errors import ConfigProblems, Problem
from trimtab.read.leaks.cells import Cell
from trimtab.read.leaks.controls import ANSWER_ONLY
from trimtab.read.leaks.encodings import TopTokens, encode, one_hot
from trimtab.read.leaks.levels import Answer, Level, TopLogprobs
from trimtab.read.leaks.model_cells import setting_of

GRID = (1, 2, 5, 10, 20)
"""Numbers of log-probabilities that are audited, up to what was served; that is audited too."""


def transcript_cells(
    tops: Sequence[TopTokens], answers: Int[np.ndarray, "n tokens"], levels: Sequence[Level] | None = None
) -> tuple[list[Cell], list[Cell]]:
    """Cells of a transcript, and its control: the answer alone.

    Args:
        tops: what was served at each answer token, the same number at all.
        answers: the written tokens.
        levels: `TopLogprobs` and `Answer` only; None: 1, 2, 5, 10, 20 log-probabilities as far as they are served, all
            that are served, and the answer.

    Raises:
        ConfigProblems: another level, more tokens than were served, or a temperature, which a transcript has already.
    """
    served = tops[0].k
    if levels is None:
        grid = sorted({*(k for k in GRID if k < served), served})
        levels = (TopLogprobs(tuple(grid)), Answer())
    if problems := level_problems(levels, served):
        raise ConfigProblems(problems)
    answer = Written(answers)
    written = answer if sampled(tops, answers) else None
    cells: list[Cell] = []
    for level in levels:
        if isinstance(level, TopLogprobs):
            for k in level.ks:
                sent = tuple(_rounded(top.top(k), level.decimals) for top in tops)
                for encoding in level.encodings:
                    features = Sent(sent, encoding, written)
                    cells.append(Cell("logprobs", features, encoding, k, setting=setting_of(level)))
        else:
            cells.append(Cell("answer", answer))
    return cells, [Cell("answer", answer, control=ANSWER_ONLY)]


def level_problems(levels: Sequence[Any], served: int | None = None, where: str = "levels") -> list[Problem]:
    """Problems of levels that a transcript does not have.

    Args:
        levels: of an audit.
        served: number of tokens that were served; None where it is not known yet.
        where: key that holds them.

    >>> [str(one) for one in level_problems([TopLogprobs(50)], served=20)]
    ['levels[0].k: got 50, expected at most 20, the tokens that were served; try 20']
    """
    problems = []
    for number, level in enumerate(levels):
        at = f"{where}[{number}]"
        if not isinstance(level, TopLogprobs | Answer):
            name = getattr(level, "name", repr(level)[:60])
            problems.append(
                Problem(at, str(name), "logprobs or answer: a transcript has nothing else", "logprobs")
            )
        elif isinstance(level, TopLogprobs):
            problems += [Problem(one.where, one.got, one.expected, one.hint) for one in level.problems(at)]
            if level.temperature != 1.0:
                expected = "1: values were served at some temperature already"
                problems.append(
                    Problem(f"{at}.temperature", str(level.temperature), expected, "a mitigation")
                )
            most = max(level.ks, default=0)
            if served is not None and most > served:
                expected = f"at most {served}, the tokens that were served"
                problems.append(Problem(f"{at}.k", str(most), expected, str(served)))
    return problems


@dataclass(frozen=True, eq=False)
class Sent:
    """Features of what was sent: the encoded top tokens of each answer token, side by side.

    Attributes:
        tops: one for each answer token.
        encoding: "sorted" or "served".
        written: of the written tokens, where they are not always the most likely ones; a caller sees them.
    """

    tops: tuple[TopTokens, ...]
    encoding: Any
    written: Written | None = None

    def __call__(self, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m d"]:
        """Features of some rows; an answer that ended before has one constant row, below all values."""
        parts = [_encoded(top.rows(rows), self.encoding) for top in self.tops]
        return np.hstack([*parts, *([self.written(rows)] if self.written is not None else [])])


@dataclass(frozen=True, eq=False)
class Written:
    """Features of the answer alone: indicators of the written tokens, side by side.

    Attributes:
        ids: (n, tokens); -1 where there is none.
    """

    ids: Int[np.ndarray, "n tokens"]

    def __call__(self, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m d"]:
        """Indicators of some rows; see `trimtab.read.leaks.encodings.one_hot`."""
        return np.hstack([one_hot(column) for column in self.ids[rows].T])


def sampled(tops: Sequence[TopTokens], answers: Int[np.ndarray, "n tokens"]) -> float:
    """Share of responses whose first token is not the most likely one, as drawn answers have it."""
    return float((answers[:, 0] != tops[0].ids[:, 0]).mean())


def _rounded(top: TopTokens, decimals: int | None) -> TopTokens:
    return top if decimals is None else replace(top, values=np.round(top.values, decimals))


def _encoded(top: TopTokens, encoding: Any) -> Float[np.ndarray, "n d"]:
    """Encoded tokens; rows without any have the lowest value of all, less one nat."""
    there = top.ids[:, 0] >= 0
    if there.all():
        return encode(top, encoding)
    given = encode(top.rows(np.flatnonzero(there)), encoding)
    features = np.full((len(top), given.shape[1]), given.min(initial=0.0) - 1.0, dtype=given.dtype)
    features[there] = given
    return features
