"""What runs the cells of a sweep: this process, processes of this machine (joblib's loky), or a Ray cluster.

An executor yields the name of each cell that has ended. Whichever it is, no failure stops the others, an interrupt
reaches each running cell once (a file that their processes watch says so), and a cell whose process dies is tried once
more.

Ray is not reached through joblib's backend for it (Ray 2.60): that hands results back only when all are there, and one
process that dies ends the whole call.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args

from joblib import Parallel, delayed, parallel_config

from trimtab.errors import CheckpointError, ConfigError, explain
from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import plain, read_object, to_json

CellStatus = Literal["running", "done", "failed", "interrupted"]
Function = Callable[[Any, Path], Any]
Work = Mapping[str, tuple[Any, Path]]
"""Cell and folder by name."""
Executor = Callable[[Function, Work, int], Generator[str, None, None]]
"""Runs cells, so many at a time, and yields the name of each that has ended, well or not."""
Outcomes = Iterator[tuple[str, CellStatus | None]]
"""Names of cells with what came of them; None where the process of one died."""

KILLED_TWICE = "its process was killed twice: out of memory?\n"
LOOK = 0.5
"""Seconds between two looks at whether a sweep on Ray was stopped."""


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


@contextmanager
def watched(stop: Path) -> Iterator[None]:
    """Interrupt this process when the sweep is stopped, or when the process that started this one is gone."""
    parent, ended = os.getppid(), threading.Event()
    main = threading.main_thread().ident if hasattr(signal, "pthread_kill") else None

    def watch() -> None:
        while not ended.wait(0.2):
            if stop.exists() or os.getppid() != parent:
                # To the main thread, so that it also ends a wait there.
                signal.pthread_kill(main, signal.SIGINT) if main else signal.raise_signal(signal.SIGINT)
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


def run_here(function: Function, work: Work, jobs: int) -> Generator[str, None, None]:  # noqa: ARG001
    """The executor of one job: cells one after the other, in this process."""
    for name, (cell, folder) in work.items():
        if one_cell(function, cell, folder) == "interrupted":
            raise KeyboardInterrupt
        yield name


def run_in_processes(function: Function, work: Work, jobs: int) -> Generator[str, None, None]:
    """The executor of this machine; a cell whose process died is tried once more, alone."""
    yield from _twice(partial(_by_loky, function, jobs), work, alone=True)


def run_on_ray(function: Function, work: Work, jobs: int) -> Generator[str, None, None]:
    """The executor of a Ray cluster; cells whose process died are tried once more at the end."""
    with _cluster(jobs) as ray:
        yield from _twice(partial(_by_ray, ray, function, jobs), work, alone=False)


def _twice(run: Callable[[Work, Path], Outcomes], work: Work, *, alone: bool) -> Generator[str, None, None]:
    """Run cells, and once more those whose process died; KeyboardInterrupt, once all have ended, after an interrupt."""
    stop = next(iter(work.values()))[1].parent / ".stop"
    with stop_on_signal(stop) as stopped:
        died = []
        for name, status in run(work, stop):
            if status is None:
                died.append(name)
            elif status != "interrupted":
                yield name
        batches = [[name] for name in died] if alone else [died] if died else []
        work_again = ({} if stopped() else {name: work[name] for name in batch} for batch in batches)
        for name, status in chain.from_iterable(run(again, stop) for again in work_again):
            if status is None and not stopped():
                write_failure(*work[name], KILLED_TWICE)
            if status != "interrupted":
                yield name
        if stopped():
            raise KeyboardInterrupt


def _in_a_worker(
    function: Function, name: str, cell: Any, folder: Path, stop: Path
) -> tuple[str, CellStatus]:
    """One cell on one thread of a process that others started, with interrupts blocked perhaps (Ray does so)."""
    if stop.exists():
        return name, "interrupted"
    if os.name == "posix":
        if os.getpgrp() != os.getpid():  # keep a terminal's Ctrl-C away: the watcher interrupts, once
            os.setpgrp()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if (torch := sys.modules.get("torch")) is not None:  # the environment limits the other libraries
        torch.set_num_threads(1)
    with watched(stop):
        return name, one_cell(function, cell, folder)


def _by_loky(function: Function, jobs: int, work: Work, stop: Path) -> Outcomes:
    """Cells in processes. When one dies, all end: those that ran are suspects, and the others begin again.

    joblib does not always raise then: its generator may also end early, without the results that are left.
    """
    left = dict(work)
    while left and not stop.exists():
        calls = [delayed(_in_a_worker)(function, name, *left[name], stop) for name in left]
        processes = parallel_config("loky", n_jobs=min(jobs, max(2, len(left))), inner_max_num_threads=1)
        with processes, suppress(BrokenProcessPool):
            for name, status in Parallel(return_as="generator_unordered", batch_size=1)(calls):
                del left[name]
                yield name, status
        for name in [name for name in left if status_of(left[name][1]) == "running"] or list(left):
            del left[name]
            yield name, None


def require_ray() -> None:
    """Raise a ConfigError when Ray is not installed; imports nothing."""
    if importlib.util.find_spec("ray") is None:
        got = "'ray', which is not installed"
        raise ConfigError(f"backend: {explain(got, 'Ray, or loky', 'pip install trimtab[cluster]')}")


def _by_ray(ray: Any, function: Function, jobs: int, work: Work, stop: Path) -> Outcomes:
    """Cells as tasks, `jobs` of them at a time."""
    # Ray would repeat a task whose process died at once, and nobody would learn of it.
    task = ray.remote(num_cpus=1, max_retries=0)(_in_a_worker)
    shipped, waiting, running = ray.put(function), list(work), dict[Any, str]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs and not stop.exists():
                name = waiting.pop(0)
                running[task.remote(shipped, name, *work[name], stop)] = name
            if not running:
                return
            for ref in ray.wait(list(running), num_returns=1, timeout=LOOK)[0]:
                name = running.pop(ref)
                yield name, _answer(ray, ref)
    finally:
        for ref in running:
            ray.cancel(ref, force=True)


def _answer(ray: Any, ref: Any) -> CellStatus | None:
    """What came of a task; None where its process died. What our own code raised there is raised here."""
    try:
        status: CellStatus = ray.get(ref)[1]
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError:
        return None
    return status


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
