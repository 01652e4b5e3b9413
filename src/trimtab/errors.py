"""Exceptions of trimtab, and the message they share: got, expected, try."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class TrimtabError(Exception):
    """Base of all errors that trimtab raises on purpose."""


class ConfigError(TrimtabError, ValueError):
    """A setting is wrong, alone or together with another one."""


class DataError(TrimtabError, ValueError):
    """A data set is missing, empty, malformed or overlaps another."""


class ShapeError(TrimtabError, ValueError):
    """Arrays do not fit together."""


class ModelError(TrimtabError, ValueError):
    """A model cannot be loaded, or is of another kind than expected."""


class CheckpointError(TrimtabError, RuntimeError):
    """A checkpoint or run folder is damaged, or belongs to another run."""


class DivergedError(TrimtabError, ArithmeticError):
    """A training loss left the finite numbers."""


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, what was got, what was expected, what to try."""

    where: str
    got: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        tail = f"; try {self.hint}" if self.hint else ""
        return f"{self.where}: got {self.got}, expected {self.expected}{tail}"


class ConfigProblems(ConfigError):  # noqa: N818
    """A ConfigError that carries every problem of one config."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def not_among(where: str, got: object, choices: Iterable[str]) -> Problem:
    """The problem of a value that is none of a few allowed words.

    >>> print(not_among("fit.shares", "token", ["examples", "tokens"]))
    fit.shares: got 'token', expected 'examples' or 'tokens'; try 'tokens'
    """
    allowed = list(choices)
    return Problem(where, repr(got), " or ".join(map(repr, allowed)), nearest(str(got), allowed))


def explain(got: object, expected: str, hint: str = "") -> str:
    """The message of an error: what was got, what was expected, what to try.

    >>> explain("mth", "one of 'math', 'code'", "'math'")
    "got mth, expected one of 'math', 'code'; try 'math'"
    """
    tail = f"; try {hint}" if hint else ""
    return f"got {got}, expected {expected}{tail}"


def install_hint(extra: str) -> str:
    """How to install an extra of trimtab, which is on no package index.

    >>> install_hint("gguf")
    'pip install -e ".[gguf]" in the folder of trimtab'
    """
    return f'pip install -e ".[{extra}]" in the folder of trimtab'


def refusal(
    where: object, got: object, expected: str, hint: str = "", *, error: type[TrimtabError] = DataError
) -> TrimtabError:
    """The error of what is wrong at a place: a file with its line, a record, a domain, a site; "" for no place.

    >>> refusal("a.csv:3", "2 cells", "3, as the first line has")
    DataError('a.csv:3: got 2 cells, expected 3, as the first line has')
    """
    message = explain(got, expected, hint)
    return error(f"{where}: {message}" if where != "" else message)


_MESSAGE = re.compile(r".*?got (?P<got>.*?), expected (?P<expected>.*?)(?:; try (?P<hint>.*))?", re.DOTALL)


def problem_of_message(where: str, message: object) -> Problem | None:
    """A `Problem` parsed from an error's message; None where it does not say what was got and expected.

    >>> print(problem_of_message("train.web", DataError("domain 'web': got folder a, expected files; try a/*")))
    train.web: got folder a, expected files; try a/*
    """
    match = _MESSAGE.fullmatch(str(message))
    return Problem(where, match["got"], match["expected"], match["hint"] or "") if match else None


def problem_of(where: str, error: object) -> Problem:
    """Problem parsed from an error's message, or else with the whole message as what was got."""
    return problem_of_message(where, error) or Problem(where, str(error), "what a config can hold")


def placed_problem(where: str, error: object) -> Problem:
    """Problem parsed from an error's message, with the file and line that the message names beside the key.

    >>> print(placed_problem("train.web", DataError("a.jsonl:57: got a list, expected a mapping")))
    train.web, a.jsonl:57: got a list, expected a mapping
    """
    place, mark, _ = str(error).partition(": got ")
    if where:
        place = re.sub(rf"^(domain '[^']*'|{re.escape(where)})(, |: |$)", "", place)
    place = place if mark else ""
    return problem_of(", ".join(filter(None, (where, place))), error)


NEAR = 0.65
"""Least similarity of a spelling that is offered in the place of another, as `difflib` counts it."""


def _words(name: str) -> list[str]:
    return sorted(re.split(r"[^A-Za-z0-9]+", name))


def nearest(name: str, choices: Iterable[str], alike: float = NEAR) -> str:
    """The closest spelling to `name` among the choices, else one of the same words or with it as a word; or empty.

    Args:
        name: what was got.
        choices: what it may be.
        alike: the least similarity.

    >>> nearest("mth", ["math", "code"]), nearest("half", ["whole", "second-half"]), nearest("loss_ft", ["ft_loss"])
    ("'math'", "'second-half'", "'ft_loss'")
    """
    listed = list(choices)
    close = get_close_matches(name, listed, n=1, cutoff=alike)
    close = close or [choice for choice in listed if name in _words(choice) or _words(name) == _words(choice)]
    return repr(close[0]) if close else ""
