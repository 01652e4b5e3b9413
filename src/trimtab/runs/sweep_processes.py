"""The cells of a sweep in processes of this machine, through joblib's loky."""

from __future__ import annotations

import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed, parallel_config

from trimtab.runs.sweep_cell import (
    KILLED_TWICE,
    CellStatus,
    Function,
    Tally,
    Work,
    one_cell,
    status_of,
    write_failure,
)
from trimtab.runs.sweep_signals import leave_group, stop_on_signal, watched


def run_in_processes(function: Function, work: Work, jobs: int, tally: Tally) -> None:
    """All cells in processes; when a process dies, its cell is tried once more, alone with a process."""
    if not work:
        return
    stop = next(iter(work.values()))[1].parent / ".stop"
    with stop_on_signal(stop) as stopped:
        left = _in_processes(function, work, jobs, tally, stop)
        suspects = [name for name in left if status_of(work[name][1]) == "running"]
        while left and suspects and not stopped():
            unsuspected = {name: work[name] for name in left if name not in suspects}
            left = _in_processes(function, unsuspected, jobs, tally, stop)
            suspects += [name for name in left if status_of(work[name][1]) == "running"]
        for name in suspects:
            if not stopped() and _in_processes(function, {name: work[name]}, 2, tally, stop):
                write_failure(*work[name], KILLED_TWICE)
                tally.add()
        if stopped():
            raise KeyboardInterrupt


def on_one_thread() -> None:
    """Hold torch to one thread, where it is loaded; the other libraries have their limits in the environment."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _in_processes(function: Function, work: Work, jobs: int, tally: Tally, stop: Path) -> list[str]:
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
    """One cell on one thread."""
    if stop.exists():
        return name, None
    leave_group()
    on_one_thread()
    with watched(stop):
        return name, one_cell(function, cell, folder)
