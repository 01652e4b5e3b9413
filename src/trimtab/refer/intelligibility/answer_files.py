"""Answer files of a task page: CSV as browsers save it and as spreadsheets and mail leave it, read into choices.

Each row carries the fingerprint of its task, its place among all rows of its file and a check of its cells, so that
answers to another task, files cut short and edited cells are told from what people chose.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from trimtab.errors import ConfigProblems, DataError, Problem, explain, nearest, problem_of, refusal
from trimtab.refer.intelligibility.task import ANSWER_COLUMNS, LETTERS, Task, Trial
from trimtab.runs.files import read_text

CHOICES = ("item", "choice", "speaker", "listener_id", "seconds")
_EXPECTED = "answers that a task page saved"
_FILE_LIMIT = 16 * 2**20
_MOST_TOLD = 20
_LISTENER = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_ROUNDS = 2**32


@dataclass(frozen=True)
class Answers:
    """Answers of people to a task.

    Attributes:
        choices: item, choice (the name of a picture), speaker, listener_id, seconds (for which the caption was in view
            before the answer, not counting what a reload lost); in the order in which each person was asked.
        asked: listener_id -> number of captions that this person was asked.
        repeated: answers that were in several files alike, and count once.
    """

    choices: pd.DataFrame
    asked: Mapping[str, int]
    repeated: int

    @property
    def answered(self) -> dict[str, int]:
        """listener_id -> number of answers."""
        return {str(who): int(n) for who, n in self.choices.groupby("listener_id", sort=False).size().items()}


@dataclass(frozen=True)
class _Row:
    where: str
    listener: str
    place: int
    of: int
    trial: Trial
    choice: str
    milliseconds: int


def read_answers(files: Iterable[str | Path], task: Task) -> Answers:
    """The answers in files that people sent, or that were pasted from what they copied.

    Commas, semicolons or tabs between cells, quotes, a byte order mark, any line ends and empty lines are fine, as are
    rows of several people in one file. A person who stopped early counts with the answers given.

    Args:
        files: the files.
        task: to which they should be answers, see `read_task`.

    Raises:
        DataError: a file that cannot be read, or no answer at all.
        ConfigProblems: answers to another task, unknown trials or pictures, cells that were edited, files cut short, or
            two answers of one person to one caption; each with its file and line.
    """
    rows: list[_Row] = []
    problems: list[Problem] = []
    for path in map(Path, files):
        rows.extend(_rows_of(path, task, problems))
    problems += _clashes(rows)
    if problems:
        more = len(problems) - _MOST_TOLD
        told = [Problem("more", f"{more} further problems", "none")] if more > 0 else []
        raise ConfigProblems([*problems[:_MOST_TOLD], *told])
    first: dict[tuple[str, str], _Row] = {}
    for row in rows:
        first.setdefault((row.listener, row.trial.id), row)
    person = {who: number for number, who in enumerate(dict.fromkeys(row.listener for row in rows))}
    kept = sorted(first.values(), key=lambda row: (person[row.listener], row.place))
    if not kept:
        raise DataError(explain("no answers", "at least one"))
    table = [
        (row.trial.item, task.pictures[row.choice], row.trial.speaker, row.listener, row.milliseconds / 1000)
        for row in kept
    ]
    return Answers(pd.DataFrame(table, columns=list(CHOICES)), _asked(kept, task), len(rows) - len(kept))


def check(cells: Sequence[object]) -> str:
    """FNV-1a (32 bits) of cells with bars between, in letters: the page computes the same.

    It finds slips, not fraud: nothing that a person holds could.

    >>> check(["a", 1]) != check(["a", 2])
    True
    """
    value = 0x811C9DC5
    for byte in "|".join(map(str, cells)).encode():
        value = (value ^ byte) * 0x01000193 % _ROUNDS
    word = ""
    for _ in range(8):
        value, place = divmod(value, len(LETTERS))
        word += LETTERS[place]
    return word


def _rows_of(path: Path, task: Task, problems: list[Problem]) -> Iterator[_Row]:
    """The rows of a file that are answers; what is wrong with the others is added to the problems."""
    found: list[_Row] = []
    trials, wrong = {trial.id: trial for trial in task.trials}, len(problems)
    for number, cells in _cells(path):
        try:
            found.append(_row(f"{path}:{number}", cells, task, trials))
        except DataError as error:
            problems.append(problem_of(f"{path}:{number}", error))
    if len(problems) == wrong:
        problems.extend(_gaps(path, found))
    yield from found


def _cells(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column, whatever stands between them."""
    text = read_text(path, _EXPECTED, limit=_FILE_LIMIT)
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip(' ,;\t"')]
    if not lines:
        raise refusal(path, "an empty file", _EXPECTED, "asking for the text of the page's last screen")
    mark = next((one for one in ";\t" if one in lines[0][1]), ",")
    rows = csv.reader((line for _, line in lines), delimiter=mark)
    try:
        table = [[cell.strip() for cell in row] for row in rows]
    except csv.Error as error:
        raise refusal(path, f"no CSV ({error})", _EXPECTED) from error
    head = [name.lower() for name in table[0]]
    while head and not head[-1]:
        head.pop()
    missing = [name for name in ANSWER_COLUMNS if name not in head]
    if missing or len(set(head)) < len(head):
        got = f"no column {missing[0]!r} in the first line" if missing else "a column twice in the first line"
        hint = nearest(missing[0], head) if missing else ""
        raise refusal(path, got, f"{', '.join(ANSWER_COLUMNS)} in the first line", hint)
    for (number, _), row in zip(lines[1:], table[1:], strict=True):
        if row[: len(head)] != table[0][: len(head)]:  # the head again, where files were put together
            yield number, dict(zip(head, [*row, *[""] * len(head)], strict=False))


def _row(where: str, cells: Mapping[str, str], task: Task, trials: Mapping[str, Trial]) -> _Row:
    """One answer, checked by itself."""
    values = [cells[name] for name in ANSWER_COLUMNS]
    if values[0] and values[0] != task.fingerprint and len(values[0]) == len(task.fingerprint):
        hint = "the task that this person was given"
        raise DataError(
            explain(f"an answer to task {values[0]!r}", f"one to task {task.fingerprint!r}", hint)
        )
    if not all(values):
        name = ANSWER_COLUMNS[values.index("")]
        raise DataError(explain(f"no {name}", "a whole row", "asking for the file again: it was cut short"))
    fingerprint, listener, place, of, trial, choice, milliseconds, given = values
    if check(values[:-1]) != given:
        hint = "the file as the page saved it"
        raise DataError(explain("a row that was changed", "cells that agree with their check", hint))
    if fingerprint != task.fingerprint or trial not in trials:
        raise DataError(explain(f"trial {trial!r}", f"a trial of task {task.fingerprint!r}"))
    if not _LISTENER.fullmatch(listener):
        raise DataError(
            explain(f"listener {listener!r:.80}", "a letter, then letters, digits, - and _, 64 at most")
        )
    if choice not in trials[trial].candidates:
        raise DataError(explain(f"choice {choice!r}", f"a candidate of trial {trial!r}"))
    try:
        numbers = [int(cell) for cell in (place, of, milliseconds)]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0:
        raise DataError(explain("a place or time that is no number", "whole numbers, at least 0"))
    return _Row(where, listener, numbers[0], numbers[1], trials[trial], choice, numbers[2])


def _gaps(path: Path, rows: Sequence[_Row]) -> Iterator[Problem]:
    """Rows that a file promises and lacks: each tells how many there are."""
    whole = {(row.listener, row.of): set[int]() for row in rows}
    for row in rows:
        whole[row.listener, row.of].add(row.place)
    for (listener, of), places in whole.items():
        missing = sorted(set(range(1, of + 1)) - places)
        if missing or max(places) > of:
            got = f"{len(places)} of {of} rows of listener {listener!r}, without row {missing[0] if missing else of}"
            yield Problem(str(path), got, "all of them", "asking for the file again: it was cut short")


def _clashes(rows: Sequence[_Row]) -> Iterator[Problem]:
    """Two different answers of one person to one caption."""
    first: dict[tuple[str, str], _Row] = {}
    for row in rows:
        other = first.setdefault((row.listener, row.trial.id), row)
        if (other.choice, other.milliseconds) != (row.choice, row.milliseconds):
            got = f"another answer of listener {row.listener!r} than {other.where} to the caption of {row.trial.item!r}"
            yield Problem(row.where, got, "one", "the later file alone: the last answer may be changed")


def _asked(rows: Sequence[_Row], task: Task) -> dict[str, int]:
    """How many captions each person was asked; of one block where each person has one."""
    sizes = [sum(trial.block == block for trial in task.trials) for block in range(task.blocks)]
    return {row.listener: sizes[row.trial.block] if task.once else len(task.trials) for row in rows}
