"""The cells of a sweep as tasks of a Ray cluster, or of one that is started on this machine.

Not through joblib's Ray backend (Ray 2.60): it hands results back only when all are there, and one process that dies
ends the whole call, so neither progress nor "no failure stops the others" would hold.
"""

from __future__ import annotations

import importlib
import importlib.util
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError, explain
from trimtab.runs.sweep_cell import KILLED_TWICE, CellStatus, Function, Tally, Work, one_cell, write_failure
from trimtab.runs.sweep_processes import on_one_thread
from trimtab.runs.sweep_signals import leave_group, stop_on_signal, watched

LOOK = 0.5
"""Seconds between two looks at whether the sweep was stopped."""


def require_ray() -> None:
    """Raise a ConfigError when Ray is not installed; imports nothing."""
    if importlib.util.find_spec("ray") is None:
        got = "'ray', which is not installed"
        raise ConfigError(f"backend: {explain(got, 'Ray, or loky', 'pip install trimtab[cluster]')}")


def run_on_ray(function: Function, work: Work, jobs: int, tally: Tally) -> None:
    """All cells as tasks, `jobs` of them at a time; a cell whose process died is tried once more at the end."""
    if not work:
        return
    stop = next(iter(work.values()))[1].parent / ".stop"
    with _cluster(jobs) as ray, stop_on_signal(stop) as stopped:
        died = _as_tasks(ray, function, work, jobs, tally, stop)
        again = {} if stopped() else {name: work[name] for name in died}
        for name in _as_tasks(ray, function, again, jobs, tally, stop):
            if not stopped():
                write_failure(*work[name], KILLED_TWICE)
                tally.add()
        if stopped():
            raise KeyboardInterrupt


def _as_tasks(ray: Any, function: Function, work: Work, jobs: int, tally: Tally, stop: Path) -> list[str]:
    """Run cells as tasks; the names of those whose process died."""
    # Ray would repeat a task whose process died at once, and nobody would learn of it.
    task = ray.remote(num_cpus=1, max_retries=0)(_in_a_task)
    shipped = ray.put(function)
    waiting, running, died = list(work), dict[Any, str](), list[str]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs and not stop.exists():
                name = waiting.pop(0)
                running[task.remote(shipped, *work[name], stop)] = name
            if not running:
                return died
            for ref in ray.wait(list(running), num_returns=1, timeout=LOOK)[0]:
                name = running.pop(ref)
                status = _answer(ray, ref)
                died += [name] if status is None else []
                if status in ("done", "failed"):
                    tally.add()
    finally:
        for ref in running:
            ray.cancel(ref, force=True)
    return died


def _answer(ray: Any, ref: Any) -> CellStatus | None:
    """What came of a task; None where its process died. What our own code raised there is raised here."""
    try:
        status: CellStatus | None = ray.get(ref)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError:
        return None
    return status


def _in_a_task(function: Function, cell: Any, folder: Path, stop: Path) -> CellStatus:
    """One cell on one thread, in a process that Ray started with interrupts blocked."""
    if stop.exists():
        return "interrupted"
    leave_group()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    on_one_thread()
    with watched(stop):
        return one_cell(function, cell, folder)


@contextmanager
def _cluster(jobs: int) -> Iterator[Any]:
    """Ray: as the caller started it, else a running cluster, else one of `jobs` processes on this machine."""
    ray = importlib.import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    before = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        ray.init(address="local", num_cpus=jobs, include_dashboard=False, **quiet)
    try:
        yield ray
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)  # Ray puts its own
