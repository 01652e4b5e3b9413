"""Paths: where the cache and the runs are kept, what keeps a path from being used, and file names made from any text.

Folders that are expensive to make are built once, by the first process that needs them.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

import platformdirs
from filelock import FileLock

from trimtab.errors import NEAR, ConfigProblems, Problem
from trimtab.runs.atomic import atomic_directory

RESULT = Path("artifacts/result.json")
"""Where a run's folder keeps what the finished run came to."""

MODEL = "model"
"""The folder in a run's folder that holds the model, or the adapter, that the run came to."""

MOST_NAMES = 10_000
"""Names of a folder that are looked through for the nearest one."""


def as_path(source: str | Path, where: str = "path", expected: str = "a path") -> Path:
    """A path from a config or command line, with `~` put in full, after a check that it can be looked up at all.

    Args:
        source: the path; it need not exist.
        where: what to call it in the message, such as the key of a config.
        expected: what it should be.

    Raises:
        ConfigProblems: nothing, a user that is not there, a character that no path has, a name too long, a link to
            itself, or a folder on the way that may not be entered.

    >>> as_path("~nosuchuser/x", "model")
    Traceback (most recent call last):
    trimtab.errors.ConfigProblems: model: got '~nosuchuser/x' (no such user), expected a path
    """
    problem = path_problem(where, source, expected)
    if problem is not None:
        raise ConfigProblems([problem])
    return Path(source).expanduser()


def path_problem(where: str, source: str | Path, expected: str = "a path") -> Problem | None:
    """The problem of a path that cannot be looked up; None where it can be, whether or not something is there.

    An empty text is none, though `Path("")` is the current folder: a variable that was not set ends there.
    """
    if not os.fspath(source):
        return Problem(where, "''", expected)
    try:
        os.stat(Path(source).expanduser())  # noqa: PTH116 (tells why, which `exists` does not)
    except RuntimeError:
        return Problem(where, f"{_short(source)} (no such user)", expected)
    except ValueError as error:  # a NUL, or half a character
        return Problem(where, f"{_short(source)} ({str(error).partition(':')[0]})", expected)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        return Problem(where, f"{_short(source)} ({os.strerror(error.errno or 0)})", expected)
    return None


def _short(source: str | Path) -> str:
    text = str(source)
    return repr(text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}")


def cache_home() -> Path:
    """The folder of lab models and tokenised data: `$TRIMTAB_CACHE`, else the platform's user cache.

    The folder need not exist yet. Nothing in it is precious: all of it can be built again.

    Raises:
        ConfigProblems: it is set to what no path can be.
    """
    named = os.environ.get("TRIMTAB_CACHE")
    if named:
        return as_path(named, "$TRIMTAB_CACHE", "a folder")
    return Path(platformdirs.user_cache_dir("trimtab"))


def runs_home() -> Path:
    """The default folder of runs: `$TRIMTAB_RUNS`, else `./runs`.

    Raises:
        ConfigProblems: it is set to what no path can be.
    """
    return as_path(os.environ.get("TRIMTAB_RUNS") or "runs", "$TRIMTAB_RUNS", "a folder")


def is_first() -> bool:
    """Whether this is the process that writes and speaks, of all that one launch started: `$RANK` is 0 or not set."""
    rank = os.environ.get("RANK") or "0"
    return rank == "0" or not rank.isdigit()


def processes() -> int:
    """The number of processes of one launch: `$WORLD_SIZE`, else 1.

    Raises:
        ConfigProblems: it is set to what is no whole number above 0.
    """
    named = os.environ.get("WORLD_SIZE") or "1"
    if not (named.isascii() and named.isdigit() and len(named) < 10 and int(named)):
        problem = Problem("$WORLD_SIZE", _short(named), "a whole number above 0", "unset WORLD_SIZE")
        raise ConfigProblems([problem])
    return int(named)


def neighbour(path: Path) -> str:
    """The hint for a path that does not exist: the nearest name in its folder.

    Names are compared without their endings, which many share: `maths.jsonl` is not near `empty.jsonl`.
    """
    try:
        there = path.parent if path.parent.is_dir() else Path()
        names = sorted(one.name for one in islice(there.iterdir(), MOST_NAMES) if one.exists())
    except (OSError, ValueError):
        return "a path relative to the current directory"
    if path.name in names:  # it is there, but it is not what is wanted
        return ""
    stems = {Path(name).stem: name for name in reversed(names)}
    close = get_close_matches(path.stem, stems, n=1, cutoff=NEAR)
    if not close:
        return "a path relative to the current directory"
    same = [name for name in names if Path(name).stem == close[0] and Path(name).suffix == path.suffix]
    return f"{there / (same or [stems[close[0]]])[0]}"


def missing_file(where: str, source: str, expected: str = "a file") -> list[Problem]:
    """The problem of a config's file that is not there; `lab:` names are not looked up.

    >>> missing_file("concepts", "lab:shown")
    []
    """
    if source.startswith("lab:"):
        return []
    if (problem := path_problem(where, source, expected)) is not None:
        return [problem]
    path = Path(source).expanduser()
    if not path.exists():
        return [Problem(where, _short(source), expected, neighbour(path))]
    if path.is_file() and os.access(path, os.R_OK):
        return []
    kind = "which may not be read" if path.is_file() else "a pipe or a device"
    kind = "a folder" if path.is_dir() else kind
    return [Problem(where, f"{_short(source)}, {kind}", expected)]


def missing_source(where: str, source: str, expected: str, *, folders: bool = True) -> list[Problem]:
    """`missing_file` of a source: a file, a glob or, with `folders`, a folder; `hf:owner/name` is not looked up."""
    if source.startswith(("lab:", "hf:") if folders else "lab:"):
        named = source.strip() not in ("hf:", "lab:")
        return [] if named else [Problem(where, repr(source), expected)]
    if (problem := path_problem(where, source, expected)) is not None:
        return [problem]
    path = Path(source).expanduser()
    if source and path.is_dir():
        return [] if folders else [Problem(where, f"{_short(source)}, a folder", expected, f"{source}/*")]
    if source and path.exists():
        return missing_file(where, source, expected)
    matches = source and any(glob.iglob(str(path), recursive=True))  # noqa: PTH207
    return [] if matches else [Problem(where, _short(source), expected, neighbour(path))]


_PLAIN = re.compile(r"[A-Za-z0-9_=+][A-Za-z0-9_=+.,-]*")
_LOOKS_CHANGED = re.compile(r".*-[0-9a-f]{12}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST = 80


def safe_name(text: str) -> str:
    """One path component for `text`: it cannot leave its folder, and different texts stay different.

    Short plain names stay as they are; every other text is cleaned and gets a hash of the original.
    A plain name that looks like one with a hash gets a hash too, so that nobody can forge a collision.

    >>> safe_name("dynamics-light")
    'dynamics-light'
    >>> safe_name("../x")
    'x-d6b96a97d147'
    """
    is_plain = _PLAIN.fullmatch(text) and len(text) <= _LONGEST and not text.endswith(".")
    if is_plain and not _RESERVED.fullmatch(text) and not _LOOKS_CHANGED.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    cleaned = re.sub(r"[^A-Za-z0-9_=+.,-]+", "_", text).lstrip("._-")[: _LONGEST - 20].rstrip("._-")
    return f"{cleaned or 'name'}-{digest}" if not _RESERVED.fullmatch(cleaned) else f"name-{digest}"


def built_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, after `build` has filled it, here or in another process.

    The first to ask builds under a lock while the others wait; a build that fails or is killed leaves nothing
    and the next one starts again. The lock's file stays next to the folder.

    Args:
        folder: where the result belongs.
        build: fills the empty folder it is given.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            with atomic_directory(folder, replace=False) as temporary:
                build(temporary)
    return folder
