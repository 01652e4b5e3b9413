"""The cells of a sweep in processes of this machine, through joblib's loky.

The cells of a sweep as tasks of a Ray cluster, or of one that is started on this machine.

Not through joblib's Ray backend (Ray 2.60): it hands results back only when all are there, and one process that dies
ends the whole call, so neither progress nor "no failure stops the others" would hold.

One cell of a sweep: what its folder says of it, and how many have ended.

How a sweep is stopped: a file that the processes of its cells watch, so that each of them is interrupted once.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args

from joblib import Parallel, delayed, parallel_config

from trimtab.errors import CheckpointError, ConfigError, explain
from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import plain, read_object, to_json

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


@contextmanager
def stop_on_signal(stop: Path) -> Iterator[Callable[[], bool]]:
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


def leave_group() -> None:
    """Keep a terminal's Ctrl-C from this process, so that its cell is interrupted once: by the watcher."""
    if os.name == "posix" and os.getpgrp() != os.getpid():
        os.setpgrp()


@contextmanager
def watched(stop: Path) -> Iterator[None]:
    """Interrupt this process when the sweep is stopped, or when the process that started this one is gone."""
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
