"""Leak audit of a transcript: what responses that were really served give away, without the model that wrote them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from trimtab.data.tables import check_columns, label_text, read_table
from trimtab.errors import ConfigProblems, DataError, Problem, explain, nearest, refusal
from trimtab.job import Progress
from trimtab.models.chat import is_missing
from trimtab.read.leaks.assessment import Assessment, assess, assessment_problems, with_mitigations
from trimtab.read.leaks.audit import bound_problems
from trimtab.read.leaks.cells import Against
from trimtab.read.leaks.classifiers import DEFAULT
from trimtab.read.leaks.encodings import TopTokens
from trimtab.read.leaks.levels import Level
from trimtab.read.leaks.levels import level_problems as list_problems
from trimtab.read.leaks.mitigated import served_in
from trimtab.read.leaks.mitigations import DEFAULT as MITIGATIONS
from trimtab.read.leaks.mitigations import mitigation_of, mitigation_problems
from trimtab.read.leaks.questions import Accounting, Questions, frame_of, label_rows, listed_names
from trimtab.read.leaks.result import LeaksResult
from trimtab.read.leaks.served import Mitigation
from trimtab.read.leaks.task import accuracy, all_known, graded
from trimtab.read.leaks.transcript_cells import level_problems, sampled, transcript_cells
from trimtab.read.leaks.transcript_files import Position, Response, Responses, read_responses

KEY = "custom_id"
"""What joins responses and labels, where nothing else is named."""
ASKED = "@user"
"""In the place of a column: what the user says in the request is what a caller knows anyway."""


@dataclass(frozen=True, eq=False)
class Transcript:
    """Served responses with their labels, checked.

    Attributes:
        questions: labels, roles, groups, and what is known anyway; prompts are the requests where they are recorded.
        tops: one for each audited answer token, in order: the (n, k) tokens that were served there, k the same for all.
        answers: (n, tokens) the tokens that were written, as numbers of the vocabulary; -1 where there is none.
        findings: what a reader has to know, a sentence each.
    """

    questions: Questions
    tops: tuple[TopTokens, ...]
    answers: Int[np.ndarray, "n tokens"]
    findings: tuple[str, ...]

    @property
    def served(self) -> int:
        """Number of tokens that are served at each answer token."""
        return self.tops[0].k

    @property
    def right(self) -> Bool[np.ndarray, " n"] | None:
        """Whether each right answer begins with the written token, see `graded`; None where some are not known."""
        vocabulary = self.tops[0].vocabulary or ()
        return all_known(graded([vocabulary[token] for token in self.answers[:, 0]], self.questions.answers))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with what was served."""
        digest = hashlib.sha256(repr(self.tops[0].vocabulary).encode("utf-8", "surrogatepass"))
        for part in (self.answers, *(one for top in self.tops for one in (top.ids, top.values))):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:16]


def read_transcript(
    path: str | Path,
    attributes: Sequence[str],
    *,
    group: str | None = None,
    background: Sequence[str] = (),
    labels: str | Path | pd.DataFrame | None = None,
    key: str = KEY,
    question: str | None = None,
    positions: int = 1,
) -> Transcript:
    """Transcript of served responses with its labels.

    Labels are columns beside each response, or those of a table that is joined by a key. Rows are set aside, and
    counted, without log-probabilities, without the key, the group or any label; see `read_responses` and `label_rows`.

    Args:
        path: JSON lines, one response each; see `trimtab.read.leaks.transcript_files` for the forms.
        attributes: columns to audit.
        group: column of what must not be split between folds, such as a user; None: the choices of one response are
            a group.
        background: attributes of things that the request is not about; audited too.
        labels: a table (CSV, TSV or Parquet, or a frame), one row for each key.
        key: column that joins them, on both sides.
        question: column of what a caller knows anyway, else `question` where it is there; "@user" is what the user
            says in the request. None of them: nothing is known.
        positions: answer tokens that are audited together.

    Raises:
        DataError: what `read_responses` and `label_rows` refuse; labels without the key, or with one twice.
        ConfigError: a number of positions below 1.
    """
    if isinstance(positions, bool) or not isinstance(positions, int) or positions < 1:
        raise ConfigProblems([Problem("positions", repr(positions)[:60], "at least 1, whole")])
    read = read_responses(path, positions=positions)
    frame, aside, notes = _labelled(read.responses, labels, key)
    if question is not None and question != ASKED:
        _check_column(frame, question, "question")
    labelled = label_rows(
        frame, attributes, group=group, background=background, aside=aside, twins=_twins(read), where=_WHERE
    )
    kept = [read.responses[row] for row in labelled.rows]
    questions = Questions(
        prompts=_requests(kept),
        attributes=labelled.attributes,
        roles=labelled.roles,
        groups=labelled.groups,
        accounting=_with_set_aside(labelled.accounting, read.set_aside),
        known=_known(kept, frame.iloc[labelled.rows], question),
        answers=_column(frame.iloc[labelled.rows], "answer"),
    )
    tops, answers, found = _top_tokens(kept, read.served, positions)
    if group is None:
        notes += _repeated(kept)
    return Transcript(questions, tops, answers, (*read.findings, *notes, *found))


_WHERE = "responses"


def audit_transcript(
    path: str | Path,
    attributes: Sequence[str],
    *,
    group: str | None = None,
    background: Sequence[str] = (),
    labels: str | Path | pd.DataFrame | None = None,
    key: str = KEY,
    question: str | None = None,
    positions: int = 1,
    levels: Sequence[Level] | None = None,
    baseline: Against = "question",
    mitigations: Sequence[Mitigation] = MITIGATIONS,
    classifiers: Sequence[str] = DEFAULT,
    controls: bool = True,
    max_bits: float | None = None,
    seed: int = 0,
    jobs: int = 1,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> LeaksResult:
    """Audit of responses that were really served with top log-probabilities; no model is needed.

    Classifiers are trained to recover each attribute from what a caller received, in nested cross-validation grouped
    by `group`; what they recover beyond the words of the question is the leak, in bits (arXiv 2604.09885, section 3,
    for the encodings "sorted" and "served").

    Args:
        path: see `read_transcript`, as for `group`, `background`, `labels`, `key`, `question` and `positions`.
        attributes: columns to recover.
        levels: `TopLogprobs` and `Answer`; None for 1, 2, 5, 10, 20 tokens as far as served, all served, the answer.
        baseline: bits are above the words of the "question", or above the shares of the "classes".
        mitigations: tried on what was served at the first answer token, the classifiers trained anew on each.
        classifiers: of `estimate_leak`.
        controls: measure the controls as well.
        max_bits: bound on the bits of any level, see `LeaksResult.passed`.
        seed: of all that is drawn.
        jobs: processes, one thread each.
        folder: keeps finished cells, so that a call that was killed goes on; None keeps nothing.
        progress: called with the steps done and in all.

    Raises:
        DataError: a transcript or labels that cannot be used.
        ConfigError: levels that a transcript does not have.
    """
    start = time.perf_counter()
    names = listed_names(attributes, background)
    problems = [*setting_problems(levels, mitigations, names, max_bits)]
    problems += assessment_problems(
        baseline=baseline, classifiers=classifiers, seed=seed, jobs=jobs, folder=folder
    )
    if problems:
        raise ConfigProblems(problems)
    mitigations = [mitigation_of(one) for one in mitigations]
    transcript = read_transcript(
        path,
        attributes,
        group=group,
        background=background,
        labels=labels,
        key=key,
        question=question,
        positions=positions,
    )
    how = Assessment(
        baseline=baseline,
        classifiers=classifiers,
        controls=controls,
        max_bits=max_bits,
        seed=seed,
        jobs=jobs,
        store=None if folder is None else Path(folder) / "cells",
        stamp=transcript.fingerprint,
        progress=progress,
    )
    result = assess_transcript(transcript, levels, mitigations, how=how)
    return replace(result, label=Path(path).name, seconds=time.perf_counter() - start)


def setting_problems(
    levels: Sequence[Level] | None,
    mitigations: Sequence[Mitigation],
    attributes: Sequence[str],
    max_bits: float | None,
) -> Iterator[Problem]:
    """Problems of the settings of an audit of a transcript that can be seen before it is read."""
    if levels is not None and (wrong := [*list_problems(levels)]):
        yield from wrong
    else:
        yield from level_problems(levels or ())
    yield from mitigation_problems(mitigations, attributes, model=False)
    yield from bound_problems(max_bits, ())


def assess_transcript(
    transcript: Transcript,
    levels: Sequence[Level] | None = None,
    mitigations: Sequence[Mitigation] = (),
    *,
    how: Assessment,
) -> LeaksResult:
    """Result of the audit of a transcript that was read; for `levels` see `transcript_cells`."""
    questions = transcript.questions
    cells, controls = transcript_cells(transcript.tops, transcript.answers, levels)
    facts: dict[str, Any] = {"responses": len(questions), "served": transcript.served}
    facts |= {"answer_tokens": len(transcript.tops), "sampled": sampled(transcript.tops, transcript.answers)}
    first_alone = ["Mitigations were tried on the first answer token alone"] if mitigations else []
    first_alone = first_alone if len(transcript.tops) > 1 else []
    right = transcript.right
    if right is not None:
        facts["task_accuracy"] = accuracy(right.astype(float), questions.groups)
    result = assess(
        questions,
        cells,
        controls if how.controls else (),
        facts=facts,
        findings=(*transcript.findings, *first_alone),
        how=how,
    )
    served = served_in(transcript.tops[0], transcript.answers[:, 0])
    return with_mitigations(result, served, questions, mitigations, right=right, how=how)


def _labelled(
    responses: Sequence[Response], labels: str | Path | pd.DataFrame | None, key: str
) -> tuple[pd.DataFrame, pd.Series[Any], list[str]]:
    """Columns of each response, those of the table of labels put over its own; why rows are set aside; findings."""
    frame = frame_of([{"custom_id": one.id, **one.columns} for one in responses], "responses")
    aside = pd.Series([None] * len(frame), dtype=object)
    if labels is None:
        return frame, aside, []
    at = "labels" if isinstance(labels, pd.DataFrame) else f"labels {labels}"
    table = labels if isinstance(labels, pd.DataFrame) else read_table(labels)
    _check_column(table, key, at)
    given = [None if is_missing(one) else label_text(one) for one in table[key]]
    places = {name: place for place, name in enumerate(given) if name is not None}
    if len(places) < len(given) - given.count(None):
        twice = next(name for name in places if given.count(name) > 1)
        raise refusal(at, f"{key} {twice!r} twice", "one row for each key", "another key")
    if key not in frame:
        raise refusal(
            "responses", f"no {key!r} beside them", f"the key of {at}", nearest(key, map(str, frame))
        )
    wanted = [None if is_missing(one) or one == "" else label_text(one) for one in frame[key]]
    found = np.array([places.get(name, -1) if name is not None else -1 for name in wanted])
    aside[found < 0] = f"no row of the labels with their {key}"
    aside[np.array([name is None for name in wanted])] = f"no {key}"
    if not (found >= 0).any():
        got = f"no {key} of the responses, such as {next(filter(None, wanted), None)!r}"
        raise refusal(at, got, "the same keys on both sides", f"keys such as {next(iter(places), None)!r}")
    taken = table.drop(columns=[key]).iloc[np.maximum(found, 0)].reset_index(drop=True)
    frame = frame.drop(columns=[name for name in taken if name in frame]).join(taken)
    unused = len(places) - len(set(found[found >= 0]))
    return frame, aside, [f"{unused} rows of the labels belong to no response"] if unused else []


def _check_column(frame: pd.DataFrame, column: str, where: str) -> None:
    try:
        check_columns(frame, [column])
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _twins(read: Responses) -> pd.Series[Any]:
    """What says that responses belong together where no group is named: their id, else their line."""
    return pd.Series([one.id or f"line {one.line}" for one in read.responses], dtype=object)


def _repeated(kept: Sequence[Response]) -> list[str]:
    """The finding that requests repeat, which makes leaks too large where no group says so."""
    lines = {one.line: repr(one.messages) for one in kept if one.messages}
    again = len(lines) - len(set(lines.values()))
    hint = "where they come from one input, name a group, or leaks are overstated"
    return [f"{again} responses answer a request that another one answers too; {hint}"] if again else []


def _requests(kept: Sequence[Response]) -> tuple[str, ...]:
    """The whole text of each request; () where none is recorded."""
    texts = tuple("\n".join(text for _, text in one.messages) for one in kept)
    return texts if any(texts) else ()


def _known(kept: Sequence[Response], frame: pd.DataFrame, question: str | None) -> Sequence[str] | None:
    if question == ASKED:
        texts = ["\n".join(text for role, text in one.messages if role == "user") for one in kept]
        if not any(texts):
            raise DataError(explain("no request beside the responses", "what the user says", "a column"))
        return texts
    return _column(frame, question or "question")


def _column(frame: pd.DataFrame, name: str) -> Sequence[str] | None:
    """Texts of a column, "" where there is none; None where no row has one."""
    if name not in frame:
        return None
    texts = ["" if is_missing(one) else label_text(one) for one in frame[name]]
    return texts if any(texts) else None


def _with_set_aside(accounting: Accounting, more: Mapping[str, int]) -> Accounting:
    """The accounting with rows that were set aside before labels were looked at."""
    frame = accounting.frame
    here = frame[frame["where"] == _WHERE]
    aside = dict(more) | {str(why): int(n) for why, n in zip(here["why"], here["rows"], strict=True)}
    rows = aside.pop("in") + sum(more.values())
    aside.pop("used")
    return Accounting.of(_WHERE, rows, aside) + Accounting(frame[frame["where"] != _WHERE])


def _top_tokens(
    kept: Sequence[Response], served: int, positions: int
) -> tuple[tuple[TopTokens, ...], Int[np.ndarray, "n tokens"], list[str]]:
    """Top tokens and written tokens of each answer token, in one vocabulary; what does not fit is said."""
    every = {name for one in kept for at in one.positions for name in (at.answer, *at.tokens)}
    vocabulary = tuple(sorted(every))
    number = {name: place for place, name in enumerate(vocabulary)}
    tops, answers = [], np.full((len(kept), positions), -1, dtype=np.int64)
    fewer = more = 0
    for place in range(positions):
        ids = np.full((len(kept), served), -1, dtype=np.int64)
        values = np.full((len(kept), served), np.nan)
        for row, one in enumerate(kept):
            if place < len(one.positions):
                at: Position = one.positions[place]
                answers[row, place] = number[at.answer]
                ids[row, : min(served, len(at.tokens))] = [number[name] for name in at.tokens[:served]]
                values[row, : min(served, len(at.values))] = at.values[:served]
                fewer += len(at.tokens) < served
                more += len(at.tokens) > served
        tops.append(TopTokens(ids, values, vocabulary))
    notes = []
    if fewer:
        notes.append(
            f"{fewer} answer tokens were served with fewer than {served} tokens; the missing ones are floored"
        )
    if more:
        notes.append(
            f"{more} answer tokens were served with more than {served} tokens; those beyond were left out"
        )
    return tuple(tops), answers, notes
