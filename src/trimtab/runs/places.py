"""Where things are kept that outlive a process: the cache and the runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from trimtab.errors import Problem, nearest


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
    """What to try instead of a path that is not there: the nearest name beside it."""
    there = path.parent if path.parent.is_dir() else Path()
    close = nearest(path.name, [p.name for p in there.iterdir()])
    return f"{path.parent / close.strip(chr(39))}" if close else "a path relative to the current directory"


def missing_file(where: str, source: str, expected: str = "a file") -> list[Problem]:
    """The problem of a config's file that is not there; `lab:` names are not looked up.

    >>> missing_file("concepts", "lab:shown")
    []
    """
    path = Path(source).expanduser()
    if source.startswith("lab:") or path.is_file():
        return []
    return [Problem(where, repr(source), expected, neighbour(path))]
