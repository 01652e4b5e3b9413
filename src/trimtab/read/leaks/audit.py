"""Leak audit of a model: what a caller can learn about the input from what is served, and what stops it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trimtab.errors import ConfigProblems, Problem
from trimtab.job import Progress
from trimtab.models.load import Model, load
from trimtab.models.readout import readout_of
from trimtab.models.untrained import untrained
from trimtab.numerics.cluster_bootstrap import wilson_of_clusters
from trimtab.read.leaks.assessment import Assessment, assess
from trimtab.read.leaks.cells import Against, Cell
from trimtab.read.leaks.classifiers import DEFAULT as CLASSIFIERS
from trimtab.read.leaks.controls import ANSWER_ONLY, CHECK, RANDOM_TOKENS, UNTRAINED, OneHot
from trimtab.read.leaks.encodings import encode
from trimtab.read.leaks.levels import DEFAULT as LEVELS
from trimtab.read.leaks.levels import Answer, Hidden, Level, TopLogits, TopLogprobs, Trajectory, check_levels
from trimtab.read.leaks.questions import Questions, read_questions
from trimtab.read.leaks.readings import FACTS, Readings, read_model
from trimtab.read.leaks.result import SERVED, LeaksResult
from trimtab.read.lenses.tuned import TunedLens
from trimtab.runs.atomic import sha256

LENSES = {"tuned": TunedLens}
"""Lenses that are fitted, by the name that a level gives."""
EVERY_LOGIT = 2000
"""Most logits of a vocabulary for which the checks read all of them without being asked."""


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
    if problems := [*setting_problems(levels, max_bits, jobs)]:
        raise ConfigProblems(problems)
    asked = (
        questions
        if isinstance(questions, Questions)
        else read_questions(questions, attributes, group=group, background=background)
    )
    handle = model if isinstance(model, Model) else load(str(model))
    with _scratch(folder) as place:
        fitted, told = with_lenses(levels, handle, asked, lens_texts, place / "lenses", seed)
        reading = read_for_audit(
            handle,
            asked,
            fitted,
            place,
            controls=controls,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        how = Assessment(
            baseline=baseline,
            classifiers=classifiers,
            controls=controls,
            max_bits=max_bits,
            seed=seed,
            jobs=jobs,
            store=place / "cells" if folder is not None else None,
            stamp=reading.stamp,
            progress=progress,
        )
        result = assess(
            asked,
            reading.cells,
            reading.controls,
            final=reading.readings.plan.depth - 1,
            facts=reading.facts,
            findings=(*told, *reading.findings),
            how=how,
        )
    return replace(result, label=Path(handle.name).name, seconds=time.perf_counter() - start)


def setting_problems(levels: Sequence[Level], max_bits: float | None, jobs: int) -> Iterator[Problem]:
    """Problems of settings that stand for themselves: a bound without a level that is served, no process."""
    check_levels(levels)
    if max_bits is not None:
        if not 0 <= max_bits < np.inf:
            yield Problem("max_bits", str(max_bits), "a number of bits, 0 or more")
        if not any(level.name in SERVED for level in levels):
            names = ", ".join(level.name for level in levels)
            yield Problem(
                "max_bits", f"levels that no caller sees ({names})", "TopLogprobs or Answer among levels"
            )
    if jobs < 1:
        yield Problem("jobs", str(jobs), "at least 1")


@contextmanager
def _scratch(folder: str | Path | None) -> Iterator[Path]:
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="trimtab-audit-") as name:
        yield Path(name)


@dataclass(frozen=True)
class Reading:
    """What the model was read for, beyond the levels: its controls, single numbers, and sentences to know."""

    readings: Readings
    cells: list[Cell]
    controls: list[Cell]
    facts: dict[str, Any]
    findings: tuple[str, ...]
    stamp: str


def read_for_audit(
    model: Model,
    questions: Questions,
    levels: Sequence[Level],
    folder: Path,
    *,
    controls: bool = True,
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> Reading:
    """Readings of a model for an audit, with those that its controls and checks need.

    With controls the final hidden state is read too, all logits where they are at most 2000, and the untrained model at
    its final state and the most tokens.

    Args:
        levels: with lenses that are fitted, see `with_lenses`.
        folder: keeps readings.
    """
    start = time.perf_counter()
    checks: list[Level] = [Hidden((-1,))] if controls else []
    if controls and readout_of(model).vocabulary <= EVERY_LOGIT:
        checks.append(TopLogits(None))
    options = answer_tokens(model, questions.answers or ())
    wanted = list(dict.fromkeys([*levels, *checks]))
    passing: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "progress": progress}
    tokens = sorted({token for tokens in options.values() for token in tokens})
    readings = read_model(model, questions, wanted, folder / "readings", tokens=tokens, **passing)
    cells, findings = list(cells_of(levels, readings)), list[str]()
    there = [cell.name for cell in cells]
    of_controls = [replace(it, control=CHECK) for it in cells_of(checks, readings) if it.name not in there]
    numbers = sorted({cell.k for cell in cells if cell.level in ("logits", "logprobs") and cell.k})
    for k in numbers if controls else ():
        of_controls.append(
            Cell("logits", partial(_tokens, readings, "random", k), k=k, control=RANDOM_TOKENS)
        )
    if controls:
        of_controls.append(Cell("answer", OneHot(readings.answers), control=ANSWER_ONLY))
        plain = untrained(model, seed)
        if plain is None:
            findings.append("There is no untrained control: transformers cannot build this network anew.")
        else:
            few: list[Level] = [
                Hidden((-1,)),
                *([TopLogprobs(numbers[-1], encodings=("served",))] if numbers else []),
            ]
            fresh = read_model(plain, questions, few, folder / "untrained", **passing)
            of_controls += [replace(cell, control=UNTRAINED) for cell in cells_of(few, fresh)]
    facts: dict[str, Any] = {
        "prompts": readings.n,
        "states": readings.plan.depth,
        "vocabulary": readings.vocabulary,
    }
    facts |= {"readings_bytes": readings.plan.bytes, "reading_seconds": time.perf_counter() - start}
    facts |= task_accuracy(readings, questions, options)
    return Reading(readings, cells, of_controls, facts, tuple(findings), sha256(readings.folder / FACTS))


def with_lenses(
    levels: Sequence[Level],
    model: Model,
    questions: Questions,
    texts: Sequence[str] | None,
    folder: Path,
    seed: int = 0,
) -> tuple[list[Level], list[str]]:
    """Levels with the lenses that are asked for by name or folder, fitted or read; and what a reader has to know.

    Args:
        levels: some of them trajectories.
        model: the lenses are of it.
        questions: their prompts are the texts where none are given.
        texts: what lenses are fitted on.
        folder: keeps fitted lenses, so that an audit that goes on reads them.
        seed: of what is drawn.
    """
    given, findings = list[Level](), list[str]()
    for level in levels:
        if (
            not isinstance(level, Trajectory)
            or not isinstance(level.lens, str | Path)
            or level.lens == "logit"
        ):
            given.append(level)
            continue
        kind = LENSES.get(str(level.lens))
        if kind is None:
            given.append(replace(level, lens=TunedLens.from_pretrained(level.lens, model)))
            continue
        kept = folder / str(level.lens)
        if not kept.is_dir():
            if texts is None:
                findings.append(
                    f"The {level.lens} lens was fitted on the prompts of the questions themselves."
                )
            kind.fit(model, questions.texts if texts is None else texts, seed=seed).save_pretrained(kept)
        given.append(replace(level, lens=kind.from_pretrained(kept, model)))
    return given, findings


def cells_of(levels: Sequence[Level], readings: Readings) -> Iterator[Cell]:
    """Cells of levels in their order: one per state, lens, or number of tokens and encoding.

    A number of tokens beyond the vocabulary is the whole vocabulary. Random tokens are controls, not cells of a level.
    """
    for level in levels:
        if isinstance(level, Hidden):
            chosen = range(readings.plan.depth) if level.states is None else level.states
            for state in dict.fromkeys(state % readings.plan.depth for state in chosen):
                yield Cell("hidden", partial(_hidden, readings, state), layer=state)
        elif isinstance(level, Trajectory):
            yield Cell(
                "trajectory", partial(_trajectory, readings, level.key), k=level.top, lens=level.lens_name
            )
        elif isinstance(level, TopLogits) and level.k is None:
            yield Cell("logits", partial(_every, readings))
        elif isinstance(level, TopLogits | TopLogprobs):
            for encoding in level.encodings:
                for k in dict.fromkeys(min(k, readings.vocabulary) for k in level.ks):
                    if encoding != "random":
                        part = partial(_top, readings, level, encoding, k)
                        yield Cell(level.name, part, encoding, k, setting=setting_of(level))
        elif isinstance(level, Answer):
            yield Cell("answer", OneHot(readings.answers))


def _hidden(readings: Readings, state: int, rows: np.ndarray) -> np.ndarray:
    return np.asarray(readings.hidden(state)[rows])


def _trajectory(readings: Readings, key: str, rows: np.ndarray) -> np.ndarray:
    return np.asarray(readings.trajectory(key)[rows])


def _every(readings: Readings, rows: np.ndarray) -> np.ndarray:
    return np.asarray(readings.all_logits()[rows])


def _tokens(readings: Readings, which: str, k: int, rows: np.ndarray) -> np.ndarray:
    ids = readings.fixed_ids if which == "fixed" else readings.random_ids
    return np.asarray(readings.tokens(ids[:k])[rows])


def _top(
    readings: Readings, level: TopLogits | TopLogprobs, encoding: Any, k: int, rows: np.ndarray
) -> np.ndarray:
    if isinstance(level, TopLogits):
        return (
            _tokens(readings, "fixed", k, rows)
            if encoding == "fixed"
            else encode(readings.top_logits(k).rows(rows), encoding)
        )
    if encoding != "fixed":
        top = readings.serve(k, decimals=level.decimals, temperature=level.temperature)
        return encode(top.rows(rows), encoding)
    logits = _tokens(readings, "fixed", k, rows) / level.temperature
    values = logits - readings.normaliser(level.temperature)[rows, None]
    return np.asarray(values if level.decimals is None else np.round(values, level.decimals))


def setting_of(level: Level) -> str:
    """How log-probabilities are served, in words; empty for other levels and for nothing special.

    >>> setting_of(TopLogprobs(20, decimals=2, temperature=0.5))
    '2 decimals, temperature 0.5'
    """
    if not isinstance(level, TopLogprobs):
        return ""
    rounded = (
        "" if level.decimals is None else f"{level.decimals} decimal{'' if level.decimals == 1 else 's'}"
    )
    heated = "" if level.temperature == 1.0 else f"temperature {level.temperature:g}"
    return ", ".join(filter(None, [rounded, heated]))


def answer_tokens(model: Model, answers: Sequence[str]) -> dict[str, set[int]]:
    """Tokens with which each distinct right answer may start: as it is written, and after a space.

    Answers of which no token is known, and "" for none, are left out.
    """
    tokenizer, found = model.tokenizer, dict[str, set[int]]()
    if tokenizer is None:
        return found
    for answer in dict.fromkeys(answers):
        ids = set()
        for text in (answer, f" {answer}") if answer.strip() else ():
            row = tokenizer(text, add_special_tokens=False)["input_ids"]
            first = next((token for token in row if str(tokenizer.decode([token])).strip()), None)
            if first is not None and first != tokenizer.unk_token_id:
                ids.add(int(first))
        if ids:
            found[answer] = ids
    return found


def task_accuracy(
    readings: Readings, questions: Questions, options: Mapping[str, set[int]]
) -> dict[str, dict[str, float]]:
    """Accuracy of the model in its own task, with Wilson's interval over groups; empty where no right answer is known.

    Args:
        readings: of the questions.
        questions: with their right answers.
        options: tokens with which each right answer may start.

    Returns:
        `task_accuracy`: the greedy answer starts as the right one does. `task_accuracy_among_answers`: the right answer
        has the largest logit among all right answers of the file, as yes against no. Each value, low, high and n.
    """
    rows = [row for row, answer in enumerate(questions.answers or ()) if answer in options]
    if not rows:
        return {}
    assert questions.answers is not None
    right = [options[questions.answers[row]] for row in rows]
    greedy = np.array([int(answer) in ids for answer, ids in zip(readings.answers[rows], right, strict=True)])
    accuracies = {"task_accuracy": _share(greedy, questions.groups[rows])}
    if len(options) > 1:
        best = np.stack([readings.tokens(sorted(ids))[rows].max(axis=1) for ids in options.values()], axis=1)
        names = [list(options)[place] for place in best.argmax(axis=1)]
        chosen = np.array([name == questions.answers[row] for name, row in zip(names, rows, strict=True)])
        accuracies["task_accuracy_among_answers"] = _share(chosen, questions.groups[rows])
    return accuracies


def _share(right: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    clusters = np.unique(groups, return_inverse=True)[1]
    low, high = wilson_of_clusters(right.astype(float), np.zeros(len(right), dtype=int), clusters, 1)
    return {"value": float(right.mean()), "low": float(low[0]), "high": float(high[0]), "n": len(right)}
