"""Leaks of mitigated outputs: the attacker trained anew on what each mitigation serves, with utility beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from trimtab.job import Progress
from trimtab.models.readout import Readout
from trimtab.read.leaks.cells import Against, Baselines, Cell, Measured, measured
from trimtab.read.leaks.classifiers import DEFAULT
from trimtab.read.leaks.encodings import TopTokens, encode, one_hot
from trimtab.read.leaks.estimate import leak_difference
from trimtab.read.leaks.mitigations import Temperature, as_used
from trimtab.read.leaks.questions import Questions
from trimtab.read.leaks.readings import Readings
from trimtab.read.leaks.recommendation import UNMITIGATED
from trimtab.read.leaks.served import Inside, Mitigation, Served
from trimtab.read.leaks.utility import MEASURES, utility

LEAK = ("accuracy", "accuracy_low", "accuracy_high", "bits", "low", "high")
CHANGE = ("change", "change_low", "change_high")
UTILITY = tuple(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high"))
COLUMNS = (
    *("mitigation", "setting", "attribute", "role", *LEAK, *CHANGE),
    *("n", "groups", "chance", "classifier", *UTILITY, "why"),
)
"""Columns of the mitigations."""


@dataclass(frozen=True)
class _Output:
    """What is served under a mitigation (None: as it is), and its utility over all rows."""

    mitigation: Mitigation | None
    served: Served
    utility: dict[str, float]


def served_by(
    readings: Readings,
    questions: Questions,
    k: int,
    *,
    readout: Readout | None = None,
    options: Sequence[int] = (),
) -> Served:
    """What a model serves: the k likeliest tokens of each question with their log-probabilities.

    Args:
        readings: of the questions, with the temperatures of `temperatures_of` and, for `Erase`, the last hidden state.
        questions: the same.
        k: tokens served, at most.
        readout: of the model, for `Erase`; None where no mitigation looks inside.
        options: ids of tokens that are answers, such as yes and no.
    """
    states = readings.hidden(-1) if readout is not None else None
    inside = Inside(readings.normaliser, states, readout)
    return Served(
        readings.top(k),
        readings.answers,
        np.arange(readings.n),
        tuple(options),
        questions.attributes,
        questions.groups,
        inside,
    )


def served_in(top: TopTokens, answer: Int[np.ndarray, " n"], options: Sequence[int] = ()) -> Served:
    """What a transcript shows was served; mitigations that look inside cannot be tried on it.

    Args:
        top: the tokens of each row with their log-probabilities.
        answer: the id of the token that was answered, of each row.
        options: ids of tokens that are answers, such as yes and no.
    """
    return Served(top, answer, np.arange(len(answer)), tuple(options))


def temperatures_of(mitigations: Sequence[Mitigation]) -> tuple[float, ...]:
    """Temperatures whose normalisers the readings need.

    >>> temperatures_of([Temperature(2.0)])
    (2.0,)
    """
    return tuple(dict.fromkeys(float(one.t) for one in mitigations if isinstance(one, Temperature)))


def mitigation_rows(
    served: Served,
    questions: Questions,
    mitigations: Sequence[Mitigation],
    *,
    right: Bool[np.ndarray, " n"] | None = None,
    against: Against = "question",
    classifiers: Sequence[str] = DEFAULT,
    seed: int = 0,
    jobs: int = 1,
    store: Path | None = None,
    stamp: str = "",
    progress: Progress | None = None,
    baselines: Baselines | None = None,
) -> pd.DataFrame:
    """Leak and utility under each mitigation: a row per setting, attribute and role, the unmitigated first.

    The attacker reads ids with values and the answer, and is trained anew on what is served under each. Changes are
    paired: bits of the same questions with it less without it. Where a mitigation has to learn from some rows, both
    are of the others alone.

    Args:
        served: unmitigated, of every question.
        questions: labels, roles, groups, and what is known anyway.
        mitigations: to try; none gives no rows.
        right: whether each answer was right; None where nobody knows.
        against: what bits are above.
        classifiers, seed, jobs, store, stamp, progress, baselines: as of `trimtab.read.leaks.cells.measured`.

    Returns:
        Columns `COLUMNS`: mitigation and setting ("none" and "" for the unmitigated), the leak and its change in bits,
        measures of `utility` over all rows that are served, and why a leak could not be measured; nan there.
    """
    if not mitigations:
        return pd.DataFrame(columns=list(COLUMNS))
    known = (right, questions.groups, seed)
    tried = [_output(served, one, *known) for one in mitigations]
    how: dict[str, Any] = {
        "classifiers": classifiers,
        "seed": seed,
        "jobs": jobs,
        "store": store,
        "stamp": stamp,
        "baselines": Baselines() if baselines is None else baselines,
    }
    rows = list[dict[str, Any]]()
    for subset in _distinct([served.rows, *(output.served.rows for output in tried)]):
        members = [_Output(None, _some_rows(served, subset), {})]
        members += [output for output in tried if np.array_equal(output.served.rows, subset)]
        cells = [_cell(one.served, one.mitigation, against) for one in members]
        outcomes = measured(cells, _some(questions, subset), progress=progress, **how)
        if not rows:  # the first rows are all of them
            members[0] = _output(served, None, *known)
        rows += _rows(outcomes, members)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _distinct(subsets: Sequence[Int[np.ndarray, " m"]]) -> list[Int[np.ndarray, " m"]]:
    return list({subset.tobytes(): subset for subset in subsets}.values())


def _some_rows(served: Served, rows: Int[np.ndarray, " m"]) -> Served:
    return replace(served, rows=rows, top=served.top.rows(rows), answer=served.answer[rows])


def _output(
    served: Served, mitigation: Mitigation | None, right: np.ndarray | None, groups: np.ndarray, seed: int
) -> _Output:
    after = served if mitigation is None else mitigation(served, seed)
    used = served if mitigation is None else as_used(mitigation)(served, seed)
    rows = used.rows
    was_right = None if right is None else right[rows]
    before, answer = served.top.rows(rows), served.answer[rows]
    useful = utility(before, used.top, answer, right=was_right, groups=groups[rows], seed=seed)
    return _Output(mitigation, after, useful)


def _cell(served: Served, mitigation: Mitigation | None, against: Against) -> Cell:
    """What an attacker reads; the unmitigated one has the name of the audit's own cell, so that it is kept once."""
    setting = "" if mitigation is None else f"{mitigation.name} {mitigation.setting}".strip()
    features = _Features(served.top, None if _shows_answer(served) else served.answer)
    return Cell("logprobs", features, "served", served.k, setting=setting, against=against)


def _shows_answer(served: Served) -> bool:
    """Whether the likeliest of the served tokens, alone at its value, is the answer in every row."""
    top = served.top
    tied = (top.values[:, :1] == top.values[:, 1:2]).any()
    return bool((top.ids[:, 0] == served.answer).all()) and not tied


@dataclass(frozen=True)
class _Features:
    """Ids with values of some rows, and the answers where these do not show them: no mitigation hides what is said."""

    top: TopTokens
    answer: Int[np.ndarray, " n"] | None

    def __call__(self, rows: Int[np.ndarray, " m"]) -> np.ndarray:
        served = encode(self.top.rows(rows), "served")
        return served if self.answer is None else np.hstack([served, one_hot(self.answer[rows])])


def _some(questions: Questions, rows: Int[np.ndarray, " m"]) -> Questions:
    """Some of the questions, as far as classifiers need them."""
    return replace(
        questions,
        prompts=(),
        images=None,
        answers=None,
        attributes=questions.attributes.iloc[rows].reset_index(drop=True),
        roles=questions.roles.iloc[rows].reset_index(drop=True),
        groups=questions.groups[rows],
        known=None if questions.known is None else [questions.known[row] for row in rows],
    )


def _rows(outcomes: Sequence[Measured], outputs: Sequence[_Output]) -> Iterator[dict[str, Any]]:
    """Rows of the table, output by output; outcomes hold, for each attribute and role, one for each output."""
    wide = len(outputs)
    for place, output in enumerate(outputs):
        if not output.utility:  # the plain one of some rows alone: there for the differences
            continue
        for start in range(0, len(outcomes), wide):
            yield _row(outcomes[start + place], outcomes[start], output)


def _row(one: Measured, plain: Measured, output: _Output) -> dict[str, Any]:
    name = UNMITIGATED if output.mitigation is None else output.mitigation.name
    setting = "" if output.mitigation is None else output.mitigation.setting
    row: dict[str, Any] = {
        "mitigation": name,
        "setting": setting,
        "attribute": one.attribute,
        "role": one.role,
    }
    row |= {name: getattr(one.leak, name, np.nan) for name in (*LEAK, "n", "groups", "chance")}
    change = (np.nan,) * len(CHANGE)
    if one.leak is not None and plain.leak is not None and output.mitigation is not None:
        paired = leak_difference(one.leak, plain.leak)
        change = (paired.bits, paired.low, paired.high)
    row |= dict(zip(CHANGE, change, strict=True)) | output.utility
    return row | {"classifier": getattr(one.leak, "classifier", ""), "why": one.why}
