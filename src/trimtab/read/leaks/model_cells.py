"""Cells of a model: what it is read for in an audit, its levels and controls."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.job import Progress
from trimtab.models.load import Model
from trimtab.models.readout import Readout, readout_of
from trimtab.models.untrained import untrained
from trimtab.read.leaks.cells import Cell
from trimtab.read.leaks.controls import ANSWER_ONLY, CHECK, RANDOM_TOKENS, UNTRAINED, OneHot
from trimtab.read.leaks.encodings import encode
from trimtab.read.leaks.levels import Answer, Hidden, Level, TopLogits, TopLogprobs, Trajectory
from trimtab.read.leaks.mitigated import served_by, temperatures_of
from trimtab.read.leaks.model_pass import read_model
from trimtab.read.leaks.questions import Questions
from trimtab.read.leaks.readings import Readings, facts_of
from trimtab.read.leaks.served import Mitigation, Served
from trimtab.read.leaks.task import all_known, first_tokens, graded, task_accuracy, texts_of
from trimtab.read.lenses.choice import NAMES, lens_of
from trimtab.read.lenses.lens import Lens

EVERY_LOGIT = 2000
"""Most logits of a vocabulary for which the checks read all of them without being asked."""


@dataclass(frozen=True)
class Reading:
    """What a model was read for.

    Attributes:
        readings: of the questions.
        cells: of the levels.
        controls: cells that read the model, and those that only checks need.
        facts: single numbers.
        findings: sentences that a reader should know.
        served: what a caller gets, for mitigations; None where no level is log-probabilities.
        right: (n,) whether each greedy answer starts as the right one; None where some right answer is not known.
    """

    readings: Readings
    cells: list[Cell]
    controls: list[Cell]
    facts: dict[str, Any]
    findings: tuple[str, ...]
    served: Served | None
    right: np.ndarray | None

    @property
    def stamp(self) -> str:
        """Fingerprint of the readings."""
        return str(facts_of(self.readings.folder)["fingerprint"])


def read_for_audit(
    model: Model,
    questions: Questions,
    levels: Sequence[Level],
    folder: Path,
    *,
    mitigations: Sequence[Mitigation] = (),
    controls: bool = True,
    batch_size: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> Reading:
    """Readings of a model for an audit, with those that its mitigations, controls and checks need.

    With controls the final hidden state is read too, all logits where they are at most 2000, and the untrained model at
    its final state and the most tokens.

    Args:
        levels: with lenses that are fitted, see `with_lenses`.
        folder: keeps readings.
    """
    start = time.perf_counter()
    readout = readout_of(model)
    needs: list[Level] = [Hidden((-1,))] if controls or any(one.inside for one in mitigations) else []
    if controls and readout.vocabulary <= EVERY_LOGIT:
        needs.append(TopLogits(None))
    options = first_tokens(model, questions.answers or ())
    how: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "progress": progress}
    readings = read_model(
        model,
        questions,
        list(dict.fromkeys([*levels, *needs])),
        folder / "readings",
        temperatures=temperatures_of(mitigations),
        tokens=sorted({token for ids in options.values() for token in ids}),
        **how,
    )
    cells = list(cells_of(levels, readings))
    of_controls, findings = list[Cell](), list[str]()
    if controls:
        there = [cell.name for cell in cells]
        of_controls = [replace(it, control=CHECK) for it in cells_of(needs, readings) if it.name not in there]
        of_controls += _plain_controls(cells, readings)
        if not readings.every:
            findings.append(
                f"All {readings.vocabulary:,} logits were not read, so that checks compare the top alone with the "
                "final hidden state; the level {logits: all} reads them."
            )
        if (plain := untrained(model, seed)) is None:
            findings.append("There is no untrained control: transformers cannot build this network anew.")
        else:
            of_controls += _untrained_controls(plain, questions, of_controls, folder / "untrained", how)
    served = served_as(levels, readings, questions, readout, options)
    said = texts_of(model, readings.answers)
    grades = graded(said, questions.answers, readings.answers, options)
    facts: dict[str, Any] = {"prompts": readings.n, "states": readings.plan.depth}
    facts |= {"vocabulary": readings.vocabulary, "readings_bytes": readings.plan.bytes}
    facts |= {"reading_seconds": time.perf_counter() - start} | task_accuracy(
        grades, readings, questions, options
    )
    return Reading(readings, cells, of_controls, facts, tuple(findings), served, all_known(grades))


def _plain_controls(cells: Sequence[Cell], readings: Readings) -> Iterator[Cell]:
    """Random tokens at each number of tokens of the cells, and the answer alone."""
    for k in sorted({cell.k for cell in cells if cell.level in ("logits", "logprobs") and cell.k}):
        yield Cell("logits", partial(_tokens, readings, "random", k), k=k, control=RANDOM_TOKENS)
    yield Cell("answer", OneHot(readings.answers), control=ANSWER_ONLY)


def _untrained_controls(
    plain: Model, questions: Questions, controls: Sequence[Cell], folder: Path, how: Mapping[str, Any]
) -> Iterator[Cell]:
    """The untrained model at its final hidden state, and at as many tokens as the largest control of them has."""
    most = max((cell.k or 0 for cell in controls), default=0)
    levels: list[Level] = [Hidden((-1,)), *([TopLogprobs(most, encodings=("served",))] if most else [])]
    readings = read_model(plain, questions, levels, folder, **how)
    return (replace(cell, control=UNTRAINED) for cell in cells_of(levels, readings))


def served_as(
    levels: Sequence[Level],
    readings: Readings,
    questions: Questions,
    readout: Readout,
    options: Mapping[str, set[int]],
) -> Served | None:
    """What a caller gets by the first level of log-probabilities, at its most tokens and with its rounding.

    Always at temperature 1, from which mitigations start. None where no level is log-probabilities.
    """
    level = next((level for level in levels if isinstance(level, TopLogprobs)), None)
    if level is None:
        return None
    answers = sorted({token for ids in options.values() for token in ids})
    last = readout if readings.plan.depth - 1 in readings.states else None
    served = served_by(readings, questions, max(level.ks), readout=last, options=answers)
    return replace(served, top=readings.serve(max(level.ks), decimals=level.decimals))


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
        source = level.lens if isinstance(level, Trajectory) else None
        if not isinstance(level, Trajectory) or not isinstance(source, str | Path) or source == "logit":
            given.append(level)
            continue
        lens: Any
        if source in NAMES:
            if texts is None:
                findings.append(f"The {source} lens was fitted on the prompts of the questions themselves.")
            lens = _fitted(str(source), model, questions, texts, folder, seed)
        else:
            lens = lens_of(source, model)
        given.append(replace(level, lens=lens))
    return given, findings


def _fitted(
    name: str, model: Model, questions: Questions, texts: Sequence[str] | None, folder: Path, seed: int
) -> Lens:
    """A lens fitted on texts, or on the prompts with their pictures; read where it was fitted before."""
    images = questions.images if texts is None else None
    chosen = questions.texts if texts is None else list(texts)
    facts = json.dumps([chosen, questions.fingerprint if images else "", model.fingerprint(), seed])
    kept = folder / f"{name}-{hashlib.sha256(facts.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    if not kept.is_dir():
        fitted: Any = lens_of(name, model, chosen, images=images, seed=seed)
        fitted.save_pretrained(kept)
    return lens_of(kept, model)


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
    if encoding == "fixed":
        return _tokens(readings, "fixed", k, rows)
    if isinstance(level, TopLogits):
        return encode(readings.top_logits(k).rows(rows), encoding)
    top = readings.serve(k, decimals=level.decimals, temperature=level.temperature)
    return encode(top.rows(rows), encoding)


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
