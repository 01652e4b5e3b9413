"""Leak audit of a model: what a caller can learn about the input from what is served, and what stops it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from trimtab.errors import ConfigProblems, Problem
from trimtab.job import Progress
from trimtab.models.batches import check_listed
from trimtab.models.load import Model, load
from trimtab.read.leaks.assessment import Assessment, assess, assessment_problems, with_mitigations
from trimtab.read.leaks.cells import Against
from trimtab.read.leaks.classifiers import DEFAULT as CLASSIFIERS
from trimtab.read.leaks.levels import DEFAULT as LEVELS
from trimtab.read.leaks.levels import Level, level_problems
from trimtab.read.leaks.mitigations import DEFAULT as MITIGATIONS
from trimtab.read.leaks.mitigations import mitigation_of, mitigation_problems
from trimtab.read.leaks.model_cells import Reading, read_for_audit, with_lenses
from trimtab.read.leaks.questions import Questions, listed_names, read_questions
from trimtab.read.leaks.recommendation import SERVED
from trimtab.read.leaks.result import LeaksResult
from trimtab.read.leaks.served import Mitigation

CELL = 25
"""Prompts of a small model that take about as long as the classifiers of one cell."""


def audit(
    model: str | Path | Model,
    questions: str | Path | pd.DataFrame | Questions,
    attributes: Sequence[str] = (),
    *,
    levels: Sequence[Level] = LEVELS,
    group: str | None = None,
    background: Sequence[str] = (),
    lens_texts: Sequence[str] | None = None,
    baseline: Against = "question",
    mitigations: Sequence[Mitigation] = MITIGATIONS,
    classifiers: Sequence[str] = CLASSIFIERS,
    controls: bool = True,
    max_bits: float | None = None,
    batch_size: int = 16,
    seed: int = 0,
    jobs: int = 1,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> LeaksResult:
    """Audit of what each level of a model gives away about attributes of its input (arXiv 2604.09885).

    The model is read once. At every level classifiers are trained to recover every attribute, in nested
    cross-validation grouped by `group`; what they recover beyond the words of the question is the leak, in bits.
    Attributes that a question mentions, those that it does not, and those of the background are never pooled.

    Args:
        model: a handle, hub name or folder: a causal language model, or a Llava-class model with pictures.
        questions: frame or file with a column `prompt`, one per attribute, and perhaps `image`, `question` (what is
            known anyway), `answer` and `mentioned`; see `read_questions`. Also `Questions`, which have their groups.
        attributes: columns to recover.
        levels: depths to read: `Hidden`, `Trajectory`, `TopLogits`, `TopLogprobs`, `Answer`.
        group: column of what must not be on both sides of a fold, such as the scene.
        background: attributes of things that the questions are not about.
        lens_texts: texts that lenses asked for by name ("tuned", "jacobian") are fitted on; None for the prompts.
        baseline: bits are above the words of the "question", or above the shares of the "classes".
        mitigations: tried on the top log-probabilities, the classifiers trained anew on each, where `TopLogprobs` is
            among the levels.
        classifiers: of `estimate_leak`.
        controls: measure controls and checks as well; an audit without them proves little.
        max_bits: bound on the bits of any served level (`TopLogprobs`, `Answer`), see `LeaksResult.passed`.
        batch_size: prompts at a time.
        seed: of all that is drawn.
        jobs: processes for the classifiers, one thread each.
        folder: keeps readings and finished cells, so that a call that was killed goes on; None for a temporary one.
        progress: called with the steps done and in all: prompts read, then cells measured.

    Raises:
        ConfigProblems: settings that do not go together.
        DataError: questions that cannot be used.
        ModelError: a model that cannot be read.
    """
    start = time.perf_counter()
    progress, of_cells = onward(progress)
    known = questions.attributes if isinstance(questions, Questions) else None
    names = listed_names(attributes, background) if known is None else [*map(str, known)]
    problems = [*setting_problems(levels, mitigations, names, max_bits, batch_size)]
    problems += assessment_problems(
        baseline=baseline, classifiers=classifiers, seed=seed, jobs=jobs, folder=folder
    )
    if problems:
        raise ConfigProblems(problems)
    if lens_texts is not None:
        check_listed(lens_texts, "lens text")
    tried = [mitigation_of(one) for one in mitigations]
    asked = questions
    if not isinstance(asked, Questions):
        asked = read_questions(asked, attributes, group=group, background=background)
    handle = model if isinstance(model, Model) else load(model)
    with _scratch(folder) as place:
        fitted, told = with_lenses(levels, handle, asked, lens_texts, place / "lenses", seed)
        reading = read_for_audit(
            handle,
            asked,
            fitted,
            place,
            mitigations=tried,
            controls=controls,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        reading = replace(reading, findings=(*told, *reading.findings))
        assessment = Assessment(
            baseline=baseline,
            classifiers=classifiers,
            controls=controls,
            max_bits=max_bits,
            seed=seed,
            jobs=jobs,
            store=place / "cells" if folder is not None else None,
            stamp=reading.stamp,
            progress=of_cells,
        )
        result = assess_reading(reading, asked, tried, how=assessment)
    return replace(result, label=Path(handle.name).name, seconds=time.perf_counter() - start)


def assess_reading(
    reading: Reading, questions: Questions, mitigations: Sequence[Mitigation], *, how: Assessment
) -> LeaksResult:
    """Result of the audit of a model that was read: its levels and controls, mitigations where a level is served."""
    final, facts = reading.readings.plan.depth - 1, reading.facts
    found = reading.findings
    result = assess(
        questions, reading.cells, reading.controls, final=final, facts=facts, findings=found, how=how
    )
    return with_mitigations(result, reading.served, questions, mitigations, right=reading.right, how=how)


def onward(progress: Progress | None) -> tuple[Progress | None, Progress | None]:
    """Progress over several phases as one count that only rises, for prompts and for cells, which take longer."""
    if progress is None:
        return None, None
    past = last = whole = 0

    def tell(done: int, total: int) -> None:
        nonlocal past, last, whole
        if done <= last or last == whole:  # the phase before has ended
            past += whole
        last, whole = done, total
        progress(past + done, past + total)

    return tell, lambda done, total: tell(done * CELL, total * CELL)


def setting_problems(
    levels: Sequence[Level],
    mitigations: Sequence[Mitigation],
    attributes: Sequence[str],
    max_bits: float | None,
    batch_size: int,
) -> Iterator[Problem]:
    """Problems of the settings of an audit of a model that can be seen before anything is read."""
    wrong = [*level_problems(levels)]
    yield from wrong
    yield from mitigation_problems(mitigations, attributes, model=True)
    yield from bound_problems(max_bits, () if wrong else levels)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        yield Problem("batch_size", repr(batch_size)[:60], "at least 1, whole")


def bound_problems(max_bits: float | None, levels: Sequence[Level]) -> Iterator[Problem]:
    """Problems of a bound: no number of bits, or none of the levels is served."""
    if max_bits is None:
        return
    number = isinstance(max_bits, int | float | np.number) and not isinstance(max_bits, bool)
    if not number or not 0 <= max_bits < np.inf:
        yield Problem("max_bits", repr(max_bits)[:60], "a number of bits, 0 or more")
    if levels and not any(level.name in SERVED for level in levels):
        got = f"a bound, and levels that no caller sees ({', '.join(level.name for level in levels)})"
        yield Problem("max_bits", got, "TopLogprobs or Answer among the levels")


@contextmanager
def _scratch(folder: str | Path | None) -> Iterator[Path]:
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="trimtab-audit-") as name:
        yield Path(name)
