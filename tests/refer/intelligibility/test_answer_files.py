"""Answers of people read back: whatever spreadsheets did to them, and nothing that is not an answer to this task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listen_worlds import hostile_task, rows, text
from trimtab.errors import ConfigProblems, DataError
from trimtab.refer.intelligibility.answer_files import check, read_answers
from trimtab.refer.intelligibility.task import ANSWER_COLUMNS, Task, letters


@pytest.fixture(scope="module")
def task() -> Task:
    return hostile_task()


def saved(folder: Path, content: str | bytes, name: str = "answers.csv") -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def meant(task: Task) -> list[tuple[Any, ...]]:
    return [
        (trial.item, task.pictures[trial.candidates[0]], trial.speaker, "abc", 1.5 + k / 1000)
        for k, trial in enumerate(task.trials)
    ]


EXCEL: dict[str, Callable[[str], str | bytes]] = {
    "as saved": lambda content: content,
    "line feeds": lambda content: content.replace("\r\n", "\n"),
    "carriage returns": lambda content: content.replace("\r\n", "\r"),
    "mark": lambda content: "\ufeff" + content,
    "semicolons": lambda content: content.replace(",", ";"),
    "tabs": lambda content: content.replace(",", "\t"),
    "quotes": lambda content: "\r\n".join(
        ",".join(f'"{cell}"' for cell in line.split(",")) for line in content.split("\r\n")[:-1]
    ),
    "empty lines and cells": lambda content: content.replace("\r\n", ",,\r\n\r\n") + ",,,,\r\n\n",
    "blanks around": lambda content: content.replace(",", " , "),
    "capitals": lambda content: content.replace("listener_id", "Listener_ID"),
    "columns moved": lambda content: "\n".join(
        ",".join(line.split(",")[::-1]) for line in content.split("\r\n") if line
    ),
    "a column more": lambda content: "\n".join(line + ",x" for line in content.split("\r\n") if line),
}


@pytest.mark.parametrize("how", EXCEL)
def test_what_spreadsheets_and_mail_do_is_read(how: str, task: Task, tmp_path: Path) -> None:
    answers = read_answers([saved(tmp_path, EXCEL[how](text(rows(task))))], task)
    assert list(answers.choices) == ["item", "choice", "speaker", "listener_id", "seconds"]
    assert list(answers.choices.itertuples(index=False, name=None)) == meant(task)
    assert (answers.answered, answers.asked, answers.repeated) == ({"abc": 10}, {"abc": 10}, 0)


def test_people_are_counted_and_the_same_answer_counts_once(task: Task, tmp_path: Path) -> None:
    early = saved(tmp_path, text(rows(task, n=3)), "early.csv")
    whole = saved(tmp_path, text(rows(task)), "whole.csv")
    other = saved(tmp_path, text(rows(task, "xyz", n=4)), "other.csv")
    answers = read_answers([early, whole, other, whole], task)
    assert answers.answered == {"abc": 10, "xyz": 4}
    assert answers.asked == {"abc": 10, "xyz": 10}
    assert answers.repeated == 3 + 10
    both = saved(tmp_path, text(rows(task)) + text(rows(task, "xyz", n=4)), "both.csv")
    assert read_answers([both], task).answered == {"abc": 10, "xyz": 4}


def test_with_one_block_a_person_is_asked_its_captions(tmp_path: Path) -> None:
    task = hostile_task(once=True)
    first = [row for row, trial in zip(rows(task), task.trials, strict=True) if trial.block == 1]
    cells = [[*row[:2], k + 1, len(first), *row[4:7]] for k, row in enumerate(first)]
    answers = read_answers([saved(tmp_path, text([[*row, check(row)] for row in cells]))], task)
    assert answers.asked == {"abc": sum(trial.block == 1 for trial in task.trials)} == answers.answered


def changed(table: list[list[Any]], row: int, column: str, value: Any, *, sealed: bool = False) -> str:
    table[row][ANSWER_COLUMNS.index(column)] = value
    if sealed:
        table[row][-1] = check(table[row][:-1])
    return text(table)


def test_edited_foreign_and_cut_files_are_told_with_their_lines(task: Task, tmp_path: Path) -> None:
    table = lambda: rows(task, n=4)  # noqa: E731
    another = task.trials[0].candidates[1]
    stranger = next(one for one in task.pictures if one not in task.trials[1].candidates)
    foreign = letters("another", 12)
    cases: list[tuple[str | bytes, str]] = [
        (
            changed(table(), 0, "choice", another),
            r":2: got a row that was changed, expected cells that agree",
        ),
        (changed(table(), 2, "milliseconds", "1.5"), r":4: got a row that was changed"),
        (changed(table(), 1, "check", "bbbbbbbb"), r":3: got a row that was changed"),
        (
            changed(table(), 0, "task", foreign, sealed=True),
            rf":2: got an answer to task '{foreign}', expected one",
        ),
        (
            changed(table(), 0, "trial", "bcdfg", sealed=True),
            r":2: got trial 'bcdfg', expected a trial of task",
        ),
        (
            changed(table(), 1, "choice", stranger, sealed=True),
            rf":3: got choice '{stranger}', expected a candidate",
        ),
        (changed(table(), 1, "milliseconds", "x", sealed=True), r":3: got a place or time that is no number"),
        (
            changed(table(), 1, "milliseconds", "-5", sealed=True),
            r":3: got a place or time that is no number",
        ),
        (text(rows(task, "=1+2")), r":2: got listener '=1\+2', expected a letter"),
        (changed(table(), 3, "check", ""), r":5: got no check, expected a whole row; try .* cut short"),
        (text(table())[:-30], r":5: got (no|a row).*"),
        (text(table()[:2]), r"csv: got 2 of 4 rows of listener 'abc', without row 3, expected all of them"),
        (text(table()[1:]), r"csv: got 3 of 4 rows of listener 'abc', without row 1"),
        (text([*table(), *rows(task, n=5)[4:]]), r"of 5 rows of listener 'abc', without row 1"),
        (text(table())[: len(",".join(ANSWER_COLUMNS)) + 2], r"got no answers, expected at least one"),
        (text(table()).replace("milliseconds", "ms"), r"csv: got no column 'milliseconds' in the first line"),
        (text(table()).replace("place", "of", 1), r"csv: got no column 'place'"),
        (text(table()).partition("\r\n")[2], r"csv: got no column 'task' in the first line"),
        ("", r"csv: got an empty file, expected answers that a task page saved; try"),
        (",,;\r\n\r\n", r"csv: got an empty file"),
        (text(table()).encode("utf-16"), r"csv: got bytes that are not UTF-8"),
        (text(table()).replace(",", "\0,", 1), r"csv: got no column 'task'"),
        ("PK\x03\x04", r"csv: got no column 'task'"),
    ]
    for content, message in cases:
        with pytest.raises((ConfigProblems, DataError), match=message):
            read_answers([saved(tmp_path, content)], task)
    with pytest.raises(DataError, match="got no such file"):
        read_answers([tmp_path / "none.csv"], task)


def test_another_answer_to_the_same_caption_is_no_second_answer(task: Task, tmp_path: Path) -> None:
    first = saved(tmp_path, text(rows(task)), "first.csv")
    later = rows(task, choices={task.trials[-1].id: task.trials[-1].candidates[2]})
    message = r"later.csv:11: got another answer of listener 'abc' than .*first.csv:11 to the caption of"
    with pytest.raises(ConfigProblems, match=message):
        read_answers([first, saved(tmp_path, text(later), "later.csv")], task)


def test_all_problems_come_at_once_and_few_are_told(task: Task, tmp_path: Path) -> None:
    bad = [[*row[:-1], "bbbbbbbb"] for row in rows(task)]
    files = [saved(tmp_path, text(bad), f"{k}.csv") for k in range(3)]
    with pytest.raises(ConfigProblems) as told:
        read_answers(files, task)
    assert len(told.value.problems) == 21
    assert str(told.value.problems[-1]) == "more: got 10 further problems, expected none"


@given(st.text("abc|,019", max_size=12), st.integers(0, 11), st.sampled_from("abc|,019"))
def test_one_changed_letter_changes_the_check(word: str, place: int, letter: str) -> None:
    """FNV-1a is a bijection of its state at each byte, so one changed byte is always found."""
    other = word[:place] + letter + word[place + 1 :]
    if len(other) == len(word):
        assert (check([word]) == check([other])) == (word == other)
    assert len(check([word])) == 8


def test_the_check_is_fnv_1a() -> None:
    """Test vectors of the authors: http://www.isthe.com/chongo/src/fnv/test_fnv.c, 32 bits."""
    consonants = "bcdfghjklmnpqrstvwxz"
    for word, value in (("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)):
        digits = [value // 20**k % 20 for k in range(8)]
        assert check([word]) == "".join(consonants[digit] for digit in digits)
