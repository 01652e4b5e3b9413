"""One function over many cells, each with a folder: parallel, resumable, and no failure stops the others."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from trimtab.errors import CheckpointError, ConfigError, explain, nearest
from trimtab.runs.atomic import refuse_link
from trimtab.runs.grid import expand
from trimtab.runs.lock import take_lock
from trimtab.runs.names import safe_name
from trimtab.runs.plain import plain
from trimtab.runs.sweep_cell import Function, Progress, Tally, Work, one_cell, read_cell, status_of
from trimtab.runs.sweep_processes import run_in_processes
from trimtab.runs.sweep_ray import require_ray, run_on_ray

__all__ = ["Backend", "SweepResult", "check_backend", "expand", "sweep"]

Backend = Literal["loky", "ray"]


@dataclass(frozen=True)
class SweepResult:
    """What came of the cells, by name and in their order.

    Attributes:
        results: what the function returned, as plain JSON values.
        failures: the last line of each failed cell's error; the whole of it is in the cell's `error.txt`.
        folders: the folder of every cell.
    """

    results: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)


def sweep(
    function: Function,
    cells: Mapping[str, Any],
    folder: str | Path,
    *,
    jobs: int = 1,
    backend: Backend = "loky",
    progress: Progress | None = None,
) -> SweepResult:
    """Call `function(cell, folder of the cell)` for every cell and collect what it returns.

    The same call again goes on: finished cells are not repeated, failed, killed and interrupted ones are called
    again with the same folder. Ctrl-C (or SIGTERM) interrupts the cells that run, once each, and waits until
    they have ended; a second one kills them. A cell whose process dies is tried once more.

    On Ray all of this holds where every machine sees `folder` under the same path (a shared file system), but for two
    things. A cell that is tried once more is not alone on its machine. And where the sweep itself is killed while the
    cluster lives on, Ray ends the cells that run without the interrupt by which they could save; they begin again from
    what they had saved before. Files, packages and environment variables that cells need must be on every machine.

    Args:
        function: importable by other processes; what it returns must have a plain JSON form.
        cells: anything `plain` takes, by name.
        folder: holds one folder per cell (`safe_name` of its name) with `cell.json` and, after a failure,
            `error.txt` besides what the function writes there.
        jobs: processes, each with one thread; with 1 and "loky" the cells run here, one after the other.
        backend: "loky" for processes of this machine; "ray" for tasks of one CPU each on the Ray cluster that runs
            (found as `ray.init(address="auto")` does), or on one of `jobs` processes that is started here.
        progress: told after each cell how many have ended and how many there are.

    Raises:
        ConfigError: no such backend, or Ray is not installed; before any work.
        CheckpointError: another process sweeps in this folder, or a cell in it was another one.
        KeyboardInterrupt: interrupted; nothing that was finished is lost.
    """
    check_backend(backend)
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    folders = {name: folder / safe_name(name) for name in cells}
    lock = take_lock(folder)
    try:
        _check_cells(cells, folders)
        waiting = [name for name in cells if status_of(folders[name]) != "done"]
        run = run_on_ray if backend == "ray" else _run_here if jobs == 1 else run_in_processes
        tally = Tally(len(cells), len(cells) - len(waiting), progress)
        run(function, {name: (cells[name], folders[name]) for name in waiting}, jobs, tally)
    finally:
        os.close(lock)
    return _collect(folders)


def check_backend(backend: str) -> None:
    """Raise a ConfigError when there is no such backend, or it is not installed."""
    if backend not in get_args(Backend):
        choices = get_args(Backend)
        raise ConfigError(
            f"backend: {explain(repr(backend), f'one of {choices}', nearest(backend, choices))}"
        )
    if backend == "ray":
        require_ray()


def _run_here(function: Function, work: Work, jobs: int, tally: Tally) -> None:  # noqa: ARG001
    for cell, folder in work.values():
        if one_cell(function, cell, folder) == "interrupted":
            raise KeyboardInterrupt
        tally.add()


def _check_cells(cells: Mapping[str, Any], folders: Mapping[str, Path]) -> None:
    for name, folder in folders.items():
        refuse_link(folder)
        known = read_cell(folder)
        if known is not None and known["cell"] != plain(cells[name]):
            got = f"another cell {name!r} in {folder.parent} than is there already"
            raise CheckpointError(explain(got, "the same cells", "another folder"))


def _collect(folders: Mapping[str, Path]) -> SweepResult:
    found = {name: read_cell(folder) or {"status": None} for name, folder in folders.items()}
    return SweepResult(
        results={name: each["result"] for name, each in found.items() if each["status"] == "done"},
        failures={
            name: _last_line(folders[name] / "error.txt")
            for name, each in found.items()
            if each["status"] == "failed"
        },
        folders=dict(folders),
    )


def _last_line(path: Path) -> str:
    lines: Sequence[str] = path.read_text(encoding="utf-8").strip().splitlines()
    return lines[-1] if lines else ""
