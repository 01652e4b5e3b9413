"""One cell of a sweep: what its folder says of it, and how many have ended."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import write_atomic
from trimtab.runs.lines import read_object
from trimtab.runs.plain import plain, to_json

CellStatus = Literal["running", "done", "failed", "interrupted"]
Function = Callable[[Any, Path], Any]
Progress = Callable[[int, int], None]
Work = Mapping[str, tuple[Any, Path]]
"""Cell and folder by name."""

KILLED_TWICE = "its process was killed twice: out of memory?\n"


@dataclass
class Tally:
    """How many cells have ended, told to whoever wants to know."""

    total: int
    ended: int
    progress: Progress | None

    def add(self) -> None:
        """One more."""
        self.ended += 1
        if self.progress is not None:
            self.progress(self.ended, self.total)


def one_cell(function: Function, cell: Any, folder: Path) -> CellStatus:
    """Call the function, and write what came of it into the folder."""
    folder.mkdir(exist_ok=True)
    _write(cell, folder, "running")
    try:
        result = plain(function(cell, folder))
    except KeyboardInterrupt:
        _write(cell, folder, "interrupted")
        return "interrupted"
    except Exception:
        write_failure(cell, folder, traceback.format_exc())
        return "failed"
    (folder / "error.txt").unlink(missing_ok=True)
    _write(cell, folder, "done", result)
    return "done"


def write_failure(cell: Any, folder: Path, error: str) -> None:
    """Say in the folder that the cell failed, and why."""
    write_atomic(folder / "error.txt", error)
    _write(cell, folder, "failed")


def status_of(folder: Path) -> CellStatus | None:
    """What the folder says; None where nothing began."""
    found = read_cell(folder)
    status: CellStatus | None = None if found is None else found["status"]
    return status


def read_cell(folder: Path) -> dict[str, Any] | None:
    """The status, the cell and the result that the folder holds; None where nothing began.

    Raises:
        CheckpointError: what is there is damaged.
    """
    record = folder / "cell.json"
    if not record.exists():
        return None
    found = read_object(record)
    if not {"cell", "result"} <= set(found) or found.get("status") not in get_args(CellStatus):
        raise CheckpointError(explain(f"damaged text in {record}", "a cell of a sweep", f"deleting {folder}"))
    return found


def _write(cell: Any, folder: Path, status: CellStatus, result: Any = None) -> None:
    write_atomic(folder / "cell.json", to_json({"status": status, "cell": cell, "result": result}) + "\n")
