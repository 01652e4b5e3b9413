"""One function over many cells, each with a folder: parallel, resumable, and no failure stops the others."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from joblib import Parallel, delayed, parallel_config

from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import write_atomic
from trimtab.runs.grid import expand
from trimtab.runs.lines import read_json
from trimtab.runs.lock import take_lock
from trimtab.runs.names import safe_name
from trimtab.runs.plain import plain, to_json

__all__ = ["SweepResult", "expand", "sweep"]

CellStatus = Literal["running", "done", "failed", "interrupted"]
Function = Callable[[Any, Path], Any]
Progress = Callable[[int, int], None]


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
    progress: Progress | None = None,
) -> SweepResult:
    """Call `function(cell, folder of the cell)` for every cell and collect what it returns.

    The same call again goes on: finished cells are not repeated, failed, killed and interrupted ones are called
    again with the same folder. Ctrl-C (or SIGTERM) interrupts the cells that run, once each, and waits until
    they have ended; a second one kills them.

    Args:
        function: importable by other processes; what it returns must have a plain JSON form.
        cells: anything `plain` takes, by name.
        folder: holds one folder per cell (`safe_name` of its name) with `cell.json` and, after a failure,
            `error.txt` besides what the function writes there.
        jobs: processes, each with one thread; with 1 the cells run here, one after the other.
        progress: told after each cell how many have ended and how many there are.

    Raises:
        CheckpointError: another process sweeps in this folder, or a cell in it was another one.
        KeyboardInterrupt: interrupted; nothing that was finished is lost.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folders = {name: folder / safe_name(name) for name in cells}
    lock = take_lock(folder)
    try:
        _check_cells(cells, folders)
        waiting = [name for name in cells if _status(folders[name]) != "done"]
        run = _run_here if jobs == 1 else _run_apart
        tally = _Tally(len(cells), len(cells) - len(waiting), progress)
        run(function, {name: (cells[name], folders[name]) for name in waiting}, jobs, tally)
    finally:
        os.close(lock)
    return _collect(folders)


Work = Mapping[str, tuple[Any, Path]]


@dataclass
class _Tally:
    """How many cells have ended, told to whoever wants to know."""

    total: int
    ended: int
    progress: Progress | None

    def add(self) -> None:
        self.ended += 1
        if self.progress is not None:
            self.progress(self.ended, self.total)


def _run_here(function: Function, work: Work, jobs: int, tally: _Tally) -> None:  # noqa: ARG001
    for cell, folder in work.values():
        status = _one_cell(function, cell, folder)
        if status == "interrupted":
            raise KeyboardInterrupt
        tally.add()


def _run_apart(function: Function, work: Work, jobs: int, tally: _Tally) -> None:
    """All cells in processes; when a process dies, its cell is tried once more, alone with a process."""
    if not work:
        return
    stop = next(iter(work.values()))[1].parent / ".stop"
    with _stop_on_signal(stop) as stopped:
        left = _in_processes(function, work, jobs, tally, stop)
        suspects = [name for name in left if _status(work[name][1]) == "running"]
        while left and suspects and not stopped():
            unsuspected = {name: work[name] for name in left if name not in suspects}
            left = _in_processes(function, unsuspected, jobs, tally, stop)
            suspects += [name for name in left if _status(work[name][1]) == "running"]
        for name in suspects:
            if not stopped() and _in_processes(function, {name: work[name]}, 2, tally, stop):
                _write_failure(*work[name], "its process was killed twice: out of memory?\n")
                tally.add()
        if stopped():
            raise KeyboardInterrupt


def _in_processes(function: Function, work: Work, jobs: int, tally: _Tally, stop: Path) -> list[str]:
    """Run cells in processes; the names of those left over when a process died, else none."""
    left = list(work)
    calls = [delayed(_in_a_worker)(function, name, *work[name], stop) for name in work]
    with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        try:
            for name, status in Parallel(return_as="generator_unordered", batch_size=1)(calls):
                left.remove(name)
                if status in ("done", "failed"):
                    tally.add()
        except BrokenProcessPool:
            return left
    return []


def _in_a_worker(
    function: Function, name: str, cell: Any, folder: Path, stop: Path
) -> tuple[str, CellStatus | None]:
    """One cell on one thread; signals come from the watcher only, so that each cell gets exactly one."""
    if stop.exists():
        return name, None
    if os.name == "posix" and os.getpgrp() != os.getpid():
        os.setpgrp()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
    with _watched(stop):
        return name, _one_cell(function, cell, folder)


@contextmanager
def _watched(stop: Path) -> Iterator[None]:
    """Interrupt this process when the sweep is stopped, or when the process that runs the sweep is gone."""
    parent, ended = os.getppid(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            if stop.exists() or os.getppid() != parent:
                _interrupt()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        if os.getppid() != parent:  # nobody waits for the answer
            os._exit(1)


def _interrupt() -> None:
    """Ctrl-C for this process; sent to its main thread, so that it also ends a wait there."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def _stop_on_signal(stop: Path) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM makes the file `stop`, which the workers watch; the second is a real one."""
    stop.unlink(missing_ok=True)

    def hold(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if stop.exists():
            raise KeyboardInterrupt
        stop.touch()

    mine = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if mine else ()
    before = {number: signal.signal(number, hold) for number in numbers}
    try:
        yield stop.exists
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.unlink(missing_ok=True)


def _one_cell(function: Function, cell: Any, folder: Path) -> CellStatus:
    folder.mkdir(exist_ok=True)
    _write(cell, folder, "running")
    try:
        result = plain(function(cell, folder))
    except KeyboardInterrupt:
        _write(cell, folder, "interrupted")
        return "interrupted"
    except Exception:
        _write_failure(cell, folder, traceback.format_exc())
        return "failed"
    (folder / "error.txt").unlink(missing_ok=True)
    _write(cell, folder, "done", result)
    return "done"


def _write(cell: Any, folder: Path, status: CellStatus, result: Any = None) -> None:
    write_atomic(folder / "cell.json", to_json({"status": status, "cell": cell, "result": result}) + "\n")


def _write_failure(cell: Any, folder: Path, error: str) -> None:
    write_atomic(folder / "error.txt", error)
    _write(cell, folder, "failed")


def _status(folder: Path) -> CellStatus | None:
    record = folder / "cell.json"
    status: CellStatus | None = read_json(record)["status"] if record.exists() else None
    return status


def _check_cells(cells: Mapping[str, Any], folders: Mapping[str, Path]) -> None:
    for name, folder in folders.items():
        record = folder / "cell.json"
        if record.exists() and read_json(record)["cell"] != plain(cells[name]):
            got = f"another cell {name!r} in {folder.parent} than is there already"
            raise CheckpointError(explain(got, "the same cells", "another folder"))


def _collect(folders: Mapping[str, Path]) -> SweepResult:
    found = {name: read_json(folder / "cell.json") for name, folder in folders.items()}
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
