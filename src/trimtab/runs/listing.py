"""Runs found on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trimtab.errors import CheckpointError
from trimtab.runs.lines import read_json
from trimtab.runs.lock import is_locked
from trimtab.runs.yamltext import load_yaml


@dataclass(frozen=True)
class RunSummary:
    """A run as its folder tells it.

    Attributes:
        path: the folder.
        name: the folder relative to where the search began.
        status: that of run.json; "killed" when it says running and no process holds the run; "damaged" when it
            cannot be read.
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
    """The runs below a folder, oldest first; runs inside a run (members of a group) are left out."""
    return sorted((read_run(path, home) for path in _find(home)), key=lambda run: (run.created, run.name))


def read_run(path: Path, home: Path | None = None) -> RunSummary:
    """What the folder of one run says; never fails on a damaged one."""
    name = path.relative_to(home).as_posix() if home is not None else path.as_posix()
    try:
        record = read_json(path / "run.json")
        status = record["status"]
        if status == "running" and not is_locked(path):
            status = "killed"
        return RunSummary(
            path, name, status, record["created"], record.get("facts", {}), read_config_of(path)
        )
    except (CheckpointError, OSError, KeyError, TypeError):
        return RunSummary(path, name, "damaged", "", {}, {})


def read_config_of(path: Path) -> dict[str, Any]:
    """The config of a run, as plain values.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        config = load_yaml((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"got no readable config.yaml in {path}, expected the folder of a run"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"got damaged text in {path / 'config.yaml'}, expected the config of a run")
    return config


def _find(folder: Path) -> Iterator[Path]:
    for inner in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (inner / "run.json").is_file():
            yield inner
        elif inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
            yield from _find(inner)
