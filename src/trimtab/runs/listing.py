"""Runs found on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from trimtab.errors import CheckpointError, TrimtabError
from trimtab.runs.files import read_text
from trimtab.runs.lines import read_object
from trimtab.runs.lock import is_locked
from trimtab.runs.places import RESULT
from trimtab.runs.record import RunStatus
from trimtab.runs.yamltext import load_yaml

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
    return sorted((read_run(path, home) for path in _find(home)), key=lambda run: (run.created, run.name))


def read_run(path: Path, home: Path | None = None) -> RunSummary:
    """What the folder of one run says; never fails on a damaged one."""
    name = path.relative_to(home).as_posix() if home is not None else path.as_posix()
    try:
        record = read_object(path / "run.json", _LIMIT)
        status, created, facts = record.get("status"), record.get("created"), record.get("facts", {})
        known = isinstance(status, str) and status in get_args(RunStatus)
        if not known or not isinstance(created, str) or not isinstance(facts, dict):
            return _damaged(path, name)
        return RunSummary(path, name, _truly(path, str(status)), created, facts, read_config_of(path))
    except (TrimtabError, OSError):
        return _damaged(path, name)


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


def _damaged(path: Path, name: str) -> RunSummary:
    return RunSummary(path, name, "damaged", "", {}, {})


def _truly(path: Path, status: str) -> str:
    """The status, corrected where its writer was killed before it could write another."""
    if status != "running" or is_locked(path):
        return status
    return "done" if (path / RESULT).is_file() else "killed"


def _find(folder: Path) -> Iterator[Path]:
    waiting = [folder]
    while waiting:
        try:
            inside = sorted(waiting.pop().iterdir())
        except OSError:
            continue
        for inner in inside:
            if os.path.lexists(inner / "run.json"):
                yield inner
            elif not inner.name.startswith(".") and not inner.is_symlink() and inner.is_dir():
                waiting.append(inner)
