"""Where things are kept that outlive a process: the cache and the runs."""

from __future__ import annotations

import contextlib
import os
from difflib import get_close_matches
from pathlib import Path

import platformdirs

from trimtab.errors import Problem

_ALIKE = 0.75
"""How alike two names are where one is told instead of the other, from 0 to 1."""


def cache_home() -> Path:
    """The folder of lab models and tokenised data: `$TRIMTAB_CACHE`, else the platform's user cache.

    The folder need not exist yet. Nothing in it is precious: all of it can be built again.
    """
    named = os.environ.get("TRIMTAB_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("trimtab"))


def runs_home() -> Path:
    """The folder that runs go to unless told otherwise: `$TRIMTAB_RUNS`, else `./runs`."""
    return Path(os.environ.get("TRIMTAB_RUNS") or "runs").expanduser()


def neighbour(path: Path) -> str:
    """What to try instead of a path that is not there: the name beside it that is really alike, if there is one.

    Names are compared without their endings, which make all files of a folder look alike.
    """
    with contextlib.suppress(OSError, ValueError):
        there = {_stem(one.name): one.name for one in path.parent.iterdir() if one.name != path.name}
        close = get_close_matches(_stem(path.name), there, n=1, cutoff=_ALIKE)
        if close:
            return str(path.parent / there[close[0]])
    return "a path relative to the current directory"


def _stem(name: str) -> str:
    """What a file's name says, without its endings."""
    return name.casefold().partition(".")[0] or name.casefold()


def missing_file(where: str, source: str, expected: str = "a file") -> list[Problem]:
    """The problem of a config's file that is not there; `lab:` names are not looked up.

    >>> missing_file("concepts", "lab:shown")
    []
    """
    path = Path(source).expanduser()
    if source.startswith("lab:") or path.is_file():
        return []
    return [Problem(where, repr(source), expected, neighbour(path))]
