"""What the environment says: where the cache and the runs are kept, and how many processes there are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

from trimtab.errors import ConfigProblems, Problem, nearest

RESULT = Path("artifacts/result.json")
"""Where a run's folder keeps what the finished run came to."""


def cache_home() -> Path:
    """The folder of lab models and tokenised data: `$TRIMTAB_CACHE`, else the platform's user cache.

    The folder need not exist yet. Nothing in it is precious: all of it can be built again.

    Raises:
        ConfigProblems: the variable names the home of a user that there is not.
    """
    named = os.environ.get("TRIMTAB_CACHE")
    return _home("TRIMTAB_CACHE", named) if named else Path(platformdirs.user_cache_dir("trimtab"))


def runs_home() -> Path:
    """The folder that runs go to unless told otherwise: `$TRIMTAB_RUNS`, else `./runs`.

    Raises:
        ConfigProblems: the variable names the home of a user that there is not.
    """
    return _home("TRIMTAB_RUNS", os.environ.get("TRIMTAB_RUNS") or "runs")


def world_size() -> int:
    """How many processes one launch has started, by `$WORLD_SIZE`, which torchrun and accelerate set; 1 without it.

    Raises:
        ConfigProblems: it is no whole number above 0.
    """
    told = os.environ.get("WORLD_SIZE") or "1"
    if not (told.isascii() and told.isdigit() and 0 < len(told) < 10 and int(told)):
        raise ConfigProblems([Problem("WORLD_SIZE", repr(told), "a number of processes", "unset WORLD_SIZE")])
    return int(told)


def neighbour(path: Path) -> str:
    """What to try instead of a path that is not there: the nearest name beside it."""
    there = path.parent if _is(path.parent, Path.is_dir) else Path()
    try:
        close = nearest(path.name, [p.name for p in there.iterdir()])
    except OSError:  # a folder that may not be read
        close = ""
    return f"{path.parent / close.strip(chr(39))}" if close else "a path relative to the current directory"


def missing_file(where: str, source: str, expected: str = "a file") -> list[Problem]:
    """The problem of a config's file that is not there; `lab:` names are not looked up.

    >>> missing_file("concepts", "lab:shown")
    []
    """
    if source.startswith("lab:"):
        return []
    try:
        path = Path(source).expanduser()
    except RuntimeError:  # ~nosuchuser
        return [Problem(where, repr(source), expected, "a path without ~")]
    if _is(path, Path.is_file):
        return []
    return [Problem(where, repr(source), expected, neighbour(path))]


def _home(variable: str, text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigProblems([Problem(variable, repr(text), "a folder", "a path without ~")]) from error


def _is(path: Path, question: Callable[[Path], bool]) -> bool:
    """Whether a path is of a kind; no path is that the system cannot take (too long, a null character)."""
    try:
        return question(path)
    except (OSError, ValueError):
        return False
