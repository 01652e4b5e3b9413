"""Runs found on disk."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from trimtab.errors import CheckpointError, TrimtabError, explain
from trimtab.runs.files import load_yaml, read_text
from trimtab.runs.folder import RunStatus, is_locked
from trimtab.runs.paths import RESULT
from trimtab.runs.serialise import read_object

MOST_FOLDERS = 200_000
"""Folders that are looked through for runs."""
_LIMIT = 2**20
"""Bytes that the config or the record of a run may have: many times what they ever had."""


@dataclass(frozen=True)
class RunSummary:
    """A run as its folder tells it.

    Attributes:
        path: the folder.
        name: the folder relative to where the search began.
        status: that of run.json; where it says running and no process holds the run, "done" if its result is there,
            else "killed"; "damaged" when it cannot be read.
        created: date and time (UTC), empty when unknown.
        facts: what the run noted beside its status.
        config: the resolved config.
    """

    path: Path
    name: str
    status: str
    created: str
    facts: dict[str, Any]
    config: dict[str, Any]


def list_runs(home: Path) -> list[RunSummary]:
    """The runs below a folder, oldest first; runs inside a run (members of a group) are left out.

    A damaged run is listed as such; a folder that may not be looked into is left out.
    """
    record = Path("run.json")
    records = [path for each in _below(home, record) for path in find_below(each, record, inside=False)]
    return sorted((read_run(path.parent, home) for path in records), key=lambda run: (run.created, run.name))


def read_run(path: Path, home: Path | None = None) -> RunSummary:
    """What the folder of one run says; never fails on a damaged one."""
    name = path.relative_to(home).as_posix() if home is not None else path.as_posix()
    try:
        record = read_object(path / "run.json", _LIMIT)
        status, created, facts = record.get("status"), record.get("created"), record.get("facts", {})
        known = isinstance(status, str) and status in get_args(RunStatus)
        if not known or not isinstance(created, str) or not isinstance(facts, dict):
            raise CheckpointError(explain(f"damaged text in {path / 'run.json'}", "the record of a run"))
        if status == "running" and not is_locked(path):  # its writer was killed before it could write another
            status = "done" if (path / RESULT).is_file() else "killed"
        return RunSummary(path, name, str(status), created, facts, read_config_of(path))
    except (TrimtabError, OSError):
        return RunSummary(path, name, "damaged", "", {}, {})


def read_config_of(path: Path) -> dict[str, Any]:
    """The config of a run, as plain values.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    known = path / "config.yaml"
    try:
        config = load_yaml(read_text(known, "the config of a run", error=CheckpointError, limit=_LIMIT))
    except Exception as error:
        # YAML that was damaged fails in PyYAML in many ways: KeyError, TypeError, AttributeError, ValueError, ...
        raise CheckpointError(
            f"got no readable config.yaml in {path}, expected the folder of a run"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"got damaged text in {known}, expected the config of a run")
    return config


def find_below(folder: Path, wanted: Path, *, inside: bool = True) -> list[Path]:
    """Every `wanted` in a folder or below it, sorted; links and hidden folders are not looked into.

    Args:
        folder: where to look, however deep; what may not be looked into is left out.
        wanted: a relative path, such as `run.json`.
        inside: whether to look further inside a folder that has it; if not, a link to such a folder counts.

    Raises:
        CheckpointError: there are more than `MOST_FOLDERS` folders.
    """
    found, waiting, seen = [], [folder], 0
    while waiting:
        here = waiting.pop()
        seen += 1
        if seen > MOST_FOLDERS:
            got = f"more than {MOST_FOLDERS:,} folders in {folder}"
            raise CheckpointError(explain(got, "the folder of a run, a group or a sweep"))
        if os.path.lexists(here / wanted):
            found.append(here / wanted)
            if not inside:
                continue
        waiting += _below(here, None if inside else wanted)
    return sorted(found)


def _below(folder: Path, wanted: Path | None) -> list[Path]:
    """The folders in a folder that are no links and not hidden, and all that leads to what is wanted; [] if shut."""
    below: list[Path] = []
    with contextlib.suppress(OSError):
        for each in folder.iterdir():
            is_open = not each.name.startswith(".") and not each.is_symlink() and each.is_dir()
            below += [each] if is_open or (wanted and os.path.lexists(each / wanted)) else []
    return below
