"""Assessment of cells: table, controls, checks, accounting and findings of an audit of a model or of a transcript."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool

from trimtab.errors import Problem, not_among
from trimtab.job import Progress
from trimtab.read.leaks.cells import Against, Baselines, Cell, Measured, measured, samples_of
from trimtab.read.leaks.classifiers import CLASSIFIERS, DEFAULT
from trimtab.read.leaks.controls import (
    CHECK,
    QUESTION_ONLY,
    SHUFFLED,
    checks_of,
    input_controls,
    majority_rows,
    shuffled,
)
from trimtab.read.leaks.mitigated import mitigation_rows
from trimtab.read.leaks.questions import Accounting, Questions
from trimtab.read.leaks.recommendation import recommend
from trimtab.read.leaks.result import CONTROLS, TABLE, LeaksResult
from trimtab.read.leaks.served import Mitigation, Served
from trimtab.report.formats import estimate
from trimtab.runs.paths import path_problem
from trimtab.seeds import seed_problem


@dataclass(frozen=True)
class Assessment:
    """How cells are measured and judged; the same for models and transcripts.

    Attributes:
        baseline: bits are above the words of the "question", or above the shares of the "classes".
        classifiers: of `estimate_leak`.
        controls: measure the controls and the data-processing checks.
        max_bits: stated bound on the bits that a served level may give away; None for none.
        seed: of all that is drawn.
        jobs: processes, one thread each.
        store: folder that keeps every finished cell; None for none.
        stamp: of what was read; kept cells of another stamp are measured again.
        progress: called with the cells done and in all.
        baselines: those that were fitted; they live as long as the audit.
    """

    baseline: Against = "question"
    classifiers: Sequence[str] = DEFAULT
    controls: bool = True
    max_bits: float | None = None
    seed: int = 0
    jobs: int = 1
    store: Path | None = None
    stamp: str = ""
    progress: Progress | None = None
    baselines: Baselines = field(default_factory=Baselines, repr=False, compare=False)


def assessment_problems(
    *, baseline: Any, classifiers: Any, seed: Any, jobs: Any, folder: str | Path | None
) -> Iterator[Problem]:
    """Problems of how cells are to be measured, before anything is read.

    >>> how = {"classifiers": ["logistic"], "seed": 0, "jobs": 1, "folder": None}
    >>> [str(one) for one in assessment_problems(baseline="answer", **how)]
    ["baseline: got 'answer', expected 'question' or 'classes'"]
    """
    if baseline not in get_args(Against):
        yield not_among("baseline", baseline, get_args(Against))
    if isinstance(classifiers, str) or not isinstance(classifiers, Sequence) or not classifiers:
        yield Problem(
            "classifiers", repr(classifiers)[:60], f"a list of {', '.join(CLASSIFIERS)}", "['logistic']"
        )
    else:
        yield from (
            not_among("classifiers", one, CLASSIFIERS) for one in classifiers if one not in CLASSIFIERS
        )
    for name, value in (("seed", seed), ("jobs", jobs)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            yield Problem(name, repr(value)[:60], "a whole number")
        elif name == "jobs" and value < 1:
            yield Problem("jobs", str(value), "at least 1")
        elif name == "seed" and (wrong := seed_problem("seed", int(value))) is not None:
            yield wrong
    if folder is not None:
        yield from _folder_problems(folder)


def _folder_problems(folder: object) -> Iterator[Problem]:
    """A folder that cannot be made or written in; nothing is made."""
    expected = "a folder to write in, or one that can be made"
    if not isinstance(folder, str | Path):
        yield Problem("folder", repr(folder)[:60], expected)
        return
    if (problem := path_problem("folder", folder, expected)) is not None:
        yield problem
        return
    path = Path(folder).expanduser()
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        yield Problem("folder", f"{str(there)!r}, a file", expected)
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Problem("folder", f"{str(there)!r}, where nothing may be written", expected)


def assess(
    questions: Questions,
    cells: Sequence[Cell],
    controls: Sequence[Cell] = (),
    *,
    final: int | None = None,
    facts: Mapping[str, Any] | None = None,
    findings: Sequence[str] = (),
    how: Assessment,
) -> LeaksResult:
    """Result of an audit from its cells, whatever they were read from: a model or a transcript.

    Measures the cells and controls for every attribute in every role. With `how.controls` the majority, the question
    alone, the prompt or picture, and shuffled labels are added, and the data-processing inequality is checked.

    Args:
        questions: labels, roles, groups, what is known anyway; its accounting is taken over.
        cells: of the table.
        controls: cells with a name in `control`, such as random tokens.
        final: layer of the state after the last block; None where no state was read.
        facts: single numbers of the result.
        findings: sentences that a reader should know, before those found here.
        how: settings.

    Returns:
        The result without mitigations, recommendation and config.
    """
    start = time.perf_counter()
    every = [replace(cell, against=how.baseline) for cell in (*cells, *controls)]
    if how.controls:
        of_inputs = input_controls(questions)
        every += [
            cell if cell.control == QUESTION_ONLY else replace(cell, against=how.baseline)
            for cell in of_inputs
        ]
        every.append(shuffled(_largest(every)))
    outcomes = measured(
        every,
        questions,
        classifiers=how.classifiers,
        seed=how.seed,
        jobs=how.jobs,
        store=how.store,
        stamp=how.stamp,
        progress=how.progress,
        baselines=how.baselines,
    )
    asked = question_only(outcomes, questions, how.baseline)
    told = [one for one in outcomes if one.leak is not None]
    table = pd.DataFrame([_row(one, asked) for one in told if not one.cell.control], columns=list(TABLE))
    rows = [*(majority_rows(samples_of(questions)) if how.controls else ())]
    rows += [_control_row(one) for one in told if one.cell.control not in ("", CHECK)]
    controls_table = pd.DataFrame(rows, columns=list(CONTROLS))
    checks = checks_of(outcomes, final) if how.controls else checks_of([], None)
    return LeaksResult(
        table=table,
        controls=controls_table.sort_values(["attribute", "role"], kind="stable", ignore_index=True),
        checks=checks,
        accounting=accounting_of(questions, outcomes),
        facts=dict(facts or {}),
        max_bits=how.max_bits,
        findings=(*findings, *_findings(questions, how, controls_table, checks, outcomes)),
        seconds=time.perf_counter() - start,
    )


def with_mitigations(
    result: LeaksResult,
    served: Served | None,
    questions: Questions,
    mitigations: Sequence[Mitigation],
    *,
    right: Bool[np.ndarray, " n"] | None = None,
    how: Assessment,
) -> LeaksResult:
    """Result with what each mitigation leaves of its leaks, see `mitigation_rows`, and with its recommendation.

    Args:
        result: of `assess`.
        served: unmitigated, of every question; None where no level is served: nothing is tried.
        questions: labels, roles, groups, and what is known anyway.
        mitigations: to try.
        right: whether each answer was right; None where nobody knows.
        how: settings.
    """
    if served is not None:
        tried = mitigation_rows(
            served,
            questions,
            mitigations,
            right=right,
            against=how.baseline,
            classifiers=how.classifiers,
            seed=how.seed,
            jobs=how.jobs,
            store=how.store,
            stamp=f"{how.stamp} as served",
            progress=how.progress,
            baselines=how.baselines,
        )
        result = replace(result, mitigations=tried)
    told = recommend(result.table, result.mitigations, how.max_bits, result.unmeasured)
    return replace(result, recommendation=told)


def _largest(cells: Sequence[Cell]) -> Cell:
    """The cell whose labels are shuffled: of what is served the most tokens, else the first one."""
    top = [cell for cell in cells if cell.level == "logprobs" and cell.k and not cell.control]
    return max(top, key=lambda cell: cell.k or 0, default=cells[0])


def question_only(
    outcomes: Sequence[Measured], questions: Questions, baseline: Against
) -> dict[tuple[str, str], float]:
    """Accuracy of the question alone by attribute and role; none where it is not known or was not measured."""
    known: dict[tuple[str, str], float] = {}
    for one in outcomes:
        if one.leak is None or questions.known is None:
            continue
        if one.cell.control == QUESTION_ONLY:
            known[one.attribute, one.role] = one.leak.accuracy
        elif baseline == "question" and not one.cell.shuffled:
            known.setdefault((one.attribute, one.role), one.leak.baseline_accuracy)
    return known


def _row(one: Measured, asked: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    cell, leak = one.cell, one.leak
    row: dict[str, Any] = {
        "attribute": one.attribute,
        "role": one.role,
        "level": cell.level,
        "lens": cell.lens,
    }
    row |= {
        "encoding": cell.encoding,
        "setting": cell.setting,
        "k": _number(cell.k),
        "layer": _number(cell.layer),
    }
    row |= {name: getattr(leak, name) for name in TABLE if name not in row and hasattr(leak, name)}
    return row | {"question_only": asked.get((one.attribute, one.role), np.nan)}


def _control_row(one: Measured) -> dict[str, Any]:
    row: dict[str, Any] = {
        "attribute": one.attribute,
        "role": one.role,
        "control": one.cell.control,
        "level": one.cell.level,
    }
    row["k"] = _number(one.cell.k)
    return row | {name: getattr(one.leak, name) for name in CONTROLS if name not in row}


def _number(value: int | None) -> float:
    return np.nan if value is None else float(value)


def accounting_of(questions: Questions, outcomes: Sequence[Measured]) -> pd.DataFrame:
    """Accounting of the questions, then of rows of rare classes by attribute and role, then of cells not measured."""
    parts = [questions.accounting.frame]
    for one in samples_of(questions):
        if one.aside:
            before = len(one.rows) + sum(one.aside.values())
            parts.append(Accounting.of(f"{one.attribute} ({one.role})", before, one.aside).frame)
    refused: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.leak is None:
            refused.setdefault((f"{outcome.attribute} ({outcome.role})", outcome.why), []).append(
                outcome.cell.title
            )
    rows = [
        {"where": where, "rows": np.nan, "why": f"not measured: {', '.join(names)}: {why}"}
        for (where, why), names in refused.items()
    ]
    return pd.concat([*parts, *([pd.DataFrame(rows)] if rows else [])], ignore_index=True)


def _findings(
    questions: Questions,
    how: Assessment,
    controls: pd.DataFrame,
    checks: pd.DataFrame,
    outcomes: Sequence[Measured],
) -> Iterator[str]:
    """Sentences that a reader should know: what bits are above, checks that fail, cells that could not be measured."""
    if how.baseline == "question" and questions.known is None:
        yield (
            "No question is known without the rest of its prompt (column `question`): bits are above the shares of the "
            "classes, so that words of the question itself count as a leak."
        )
    for row in checks[~checks["holds"].astype(bool)].to_dict("records"):
        yield (
            f"{row['attribute']} ({row['role']}): {row['lesser']} gave more than {row['greater']}, by "
            f"{estimate(row['bits'], row['low'], row['high'])} bits. No outputs can hold more than the state they come "
            "from, so the classifiers of the latter are too weak here."
        )
    for row in controls[(controls["control"] == SHUFFLED) & (controls["low"] > 0)].to_dict("records"):
        yield (
            f"{row['attribute']} ({row['role']}): shuffled labels gave "
            f"{estimate(row['bits'], row['low'], row['high'])} bits, where there is nothing to learn."
        )
    if missed := sum(one.leak is None for one in outcomes):
        yield f"{missed} of {len(outcomes)} cells could not be measured; the accounting says why."
