"""One function over many cells, each with a folder: parallel, resumable, and no failure stops the others.

A grid of config overrides makes the cells: `seed=0..4` and `fit.lr=1e-4,3e-4` make ten. An executor runs them, in this
process, in processes of this machine (joblib's loky) or on a Ray cluster, and yields the name of each that has ended;
an interrupt reaches each running cell once (a file that their processes watch says so), and a cell whose process dies
is tried once more.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import math
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args

import yaml
from joblib import Parallel, delayed, parallel_config

from trimtab.errors import (
    CheckpointError,
    ConfigError,
    ConfigProblems,
    Problem,
    explain,
    install_hint,
    nearest,
)
from trimtab.runs.atomic import refuse_link, write_atomic
from trimtab.runs.files import load_yaml
from trimtab.runs.folder import take_lock
from trimtab.runs.paths import safe_name
from trimtab.runs.serialise import plain, read_object, to_json

MOST_CELLS = 10_000
"""Cells of a grid; each is a whole config, checked before the first one starts."""

_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")


def expand(axes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The cells of a grid by name: every combination of the values of the axes, as dotted overrides.

    An axis is `key=v,v,...`; the values are YAML, and `a..b` means all whole numbers from a to b.

    Raises:
        ConfigProblems: an axis without key or values, twice the same key or value, a range that goes down, or more
            cells than `MOST_CELLS`, which are counted before any is made.

    >>> expand(["seed=0..1", "mixer={kind: uniform}"])
    {'seed=0,mixer={"kind": "uniform"}': {'seed': 0, 'mixer': {'kind': 'uniform'}}, \
'seed=1,mixer={"kind": "uniform"}': {'seed': 1, 'mixer': {'kind': 'uniform'}}}
    """
    values: dict[str, list[Any]] = {}
    problems: list[Problem] = []
    for axis in axes:
        key, _, text = axis.partition("=")
        try:
            if not key.strip() or not text.strip():
                raise _refusal(f"{axis!r:.200}", "key=value,value,...", "--over seed=0..4")
            if key in values:
                raise _refusal(f"{key!r:.200} twice", "each key once")
            values[key] = _values(text)
        except ConfigProblems as error:
            problems += error.problems
    cells = math.prod(map(len, values.values()))
    if cells > MOST_CELLS:
        problems += _refusal(f"{' '.join(axes)!r:.200}, {cells:,} cells", f"at most {MOST_CELLS:,}").problems
    if problems:
        raise ConfigProblems(problems)
    combinations = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    named = {",".join(f"{key}={_as_text(each)}" for key, each in cell.items()): cell for cell in combinations}
    if len(named) < len(combinations):  # texts with commas in them, that read like other cells
        named = {json.dumps(cell, default=str): cell for cell in combinations}
    return named


def _values(text: str) -> list[Any]:
    """The values of one axis; a range of whole numbers is counted before it is listed."""
    parts: list[Sequence[Any]] = []
    try:
        for value in load_yaml(f"[{text}]"):
            span = _RANGE.fullmatch(value) if isinstance(value, str) else None
            parts.append([value] if span is None else range(int(span[1]), int(span[2]) + 1))
    except yaml.YAMLError:
        raise _refusal(f"{text!r:.200}", "values in YAML, with commas between", "1e-4,3e-4") from None
    if not parts:
        raise _refusal(f"{text!r:.200}", "at least one value", "0..4")
    if not all(map(len, parts)):
        raise _refusal(f"{text!r:.200}", "a range that goes up", "0..4")
    if (cells := sum(map(len, parts))) > MOST_CELLS:
        raise _refusal(f"{text!r:.200}, {cells:,} cells", f"at most {MOST_CELLS:,}")
    values = list(itertools.chain.from_iterable(parts))
    if len(set(map(_as_text, values))) < len(values):
        raise _refusal(f"{text!r:.200}", "each value once")
    return values


def _refusal(got: str, expected: str, hint: str = "") -> ConfigProblems:
    return ConfigProblems([Problem("--over", got, expected, hint)])


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


Backend = Literal["loky", "ray"]


@dataclass(frozen=True)
class SweepResult:
    """The outcome of a sweep: results and errors of the cells, by name and in their order.

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
    progress: Callable[[int, int], None] | None = None,
    may_change: Collection[str] = (),
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
            (located as `ray.init(address="auto")` does), or on one of `jobs` processes that is started here.
        progress: called after each cell how many have ended and how many there are.
        may_change: keys of cells that may have other values when the sweep goes on.

    Raises:
        ConfigError: no such backend, or Ray is not installed; before any work.
        CheckpointError: another process sweeps in this folder, or a cell in it was another one.
        KeyboardInterrupt: interrupted; nothing that was finished is lost.
    """
    check_backend(backend)
    tell = progress or (lambda *_: None)
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    folders = {name: folder / safe_name(name) for name in cells}
    lock = take_lock(folder)
    try:
        for name, path in folders.items():
            refuse_link(path)
            earlier = read_cell(path)
            if earlier is not None and _fixed(earlier["cell"], may_change) != _fixed(
                plain(cells[name]), may_change
            ):
                got = f"another cell {name!r} in {folder} than is there already"
                raise CheckpointError(explain(got, "the same cells", "another folder"))
        work = {name: (cells[name], path) for name, path in folders.items() if status_of(path) != "done"}
        run = run_here if jobs == 1 or not work else run_in_processes
        run = run_on_ray if backend == "ray" and work else run
        with closing(run(function, work, jobs)) as names:
            for ended, _ in enumerate(names, start=len(cells) - len(work) + 1):
                tell(ended, len(cells))
    finally:
        os.close(lock)
    records = {name: read_cell(path) or {"status": None} for name, path in folders.items()}
    failed = [name for name, record in records.items() if record["status"] == "failed"]
    errors = {name: (folders[name] / "error.txt").read_text(encoding="utf-8").strip() for name in failed}
    results = {name: each["result"] for name, each in records.items() if each["status"] == "done"}
    return SweepResult(results, {name: error.rpartition("\n")[2] for name, error in errors.items()}, folders)


def _fixed(cell: Any, may_change: Collection[str]) -> Any:
    """A cell without the keys that are no part of its identity."""
    if not isinstance(cell, Mapping):
        return cell
    return {name: value for name, value in cell.items() if name not in may_change}


def check_backend(backend: str) -> None:
    """Raise a ConfigError when there is no such backend, or it is not installed."""
    choices, message = get_args(Backend), ""
    if backend not in choices:
        message = explain(repr(backend), f"one of {choices}", nearest(backend, choices))
    elif backend == "ray" and importlib.util.find_spec("ray") is None:
        message = explain("'ray', which is not installed", "Ray, or loky", install_hint("cluster"))
    if message:
        raise ConfigError(f"backend: {message}")


CellStatus = Literal["running", "done", "failed", "interrupted"]
Function = Callable[[Any, Path], Any]
Work = Mapping[str, tuple[Any, Path]]
"""Cell and folder by name."""
Outcomes = Iterator[tuple[str, CellStatus | None]]
"""Names of cells with what came of them; None where the process of one died."""


def one_cell(function: Function, cell: Any, folder: Path) -> CellStatus:
    """Call the function, and write its result or error into the folder."""
    folder.mkdir(exist_ok=True)
    _write(cell, folder, "running")
    try:
        result = plain(function(cell, folder))
    except KeyboardInterrupt:
        return _write(cell, folder, "interrupted")
    except Exception:
        return _write(cell, folder, "failed", error=traceback.format_exc())
    (folder / "error.txt").unlink(missing_ok=True)
    return _write(cell, folder, "done", result)


def _write(cell: Any, folder: Path, status: CellStatus, result: Any = None, *, error: str = "") -> CellStatus:
    """Write the status and result of the cell into its folder, and the error if it failed."""
    if error:
        write_atomic(folder / "error.txt", error)
    write_atomic(folder / "cell.json", to_json({"status": status, "cell": cell, "result": result}) + "\n")
    return status


def status_of(folder: Path) -> CellStatus | None:
    """The status of the cell in a folder; None where nothing began."""
    status: CellStatus | None = (read_cell(folder) or {}).get("status")
    return status


def read_cell(folder: Path) -> dict[str, Any] | None:
    """The status, the cell and the result that the folder holds; None where nothing began.

    Raises:
        CheckpointError: what is there is damaged.
    """
    path = folder / "cell.json"
    if not path.exists():
        return None
    record = read_object(path)
    if not {"cell", "result"} <= set(record) or record.get("status") not in get_args(CellStatus):
        raise CheckpointError(explain(f"damaged text in {path}", "a cell of a sweep", f"deleting {folder}"))
    return record


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
    """The executor of Ray: as the caller started it, else a running cluster, else one of `jobs` processes made here.

    Cells whose process died are tried once more at the end. Ray is not reached through joblib's backend for it (Ray
    2.60): that hands results back only when all are there, and one process that dies ends the whole call.
    """
    ray, before = importlib.import_module("ray"), signal.getsignal(signal.SIGTERM)
    is_ours, quiet = not ray.is_initialized(), {"log_to_driver": False, "logging_level": "error"}
    if is_ours:
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:
            ray.init(address="local", num_cpus=jobs, include_dashboard=False, **quiet)
    try:
        yield from _twice(partial(_by_ray, ray, function, jobs), work, alone=False)
    finally:
        if is_ours:
            ray.shutdown()
            signal.signal(signal.SIGTERM, before)  # Ray puts its own


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
        for name, status in itertools.chain.from_iterable(run(again, stop) for again in work_again):
            if status is None and not stopped():
                _write(*work[name], "failed", error="its process was killed twice: out of memory?\n")
            if status != "interrupted":
                yield name
        if stopped():
            raise KeyboardInterrupt


def _in_worker(function: Function, name: str, cell: Any, folder: Path, stop: Path) -> tuple[str, CellStatus]:
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
        calls = [delayed(_in_worker)(function, name, *left[name], stop) for name in left]
        processes = parallel_config("loky", n_jobs=min(jobs, max(2, len(left))), inner_max_num_threads=1)
        with processes, suppress(BrokenProcessPool):
            for name, status in Parallel(return_as="generator_unordered", batch_size=1)(calls):
                del left[name]
                yield name, status
        for name in [name for name in left if status_of(left[name][1]) == "running"] or list(left):
            del left[name]
            yield name, None


def _by_ray(ray: Any, function: Function, jobs: int, work: Work, stop: Path) -> Outcomes:
    """Cells as tasks, `jobs` of them at a time."""
    # Ray would silently repeat a task whose process died at once.
    task = ray.remote(num_cpus=1, max_retries=0)(_in_worker)
    shipped, waiting, running = ray.put(function), list(work), dict[Any, str]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs and not stop.exists():
                name = waiting.pop(0)
                running[task.remote(shipped, name, *work[name], stop)] = name
            if not running:
                return
            for ref in ray.wait(list(running), num_returns=1, timeout=0.5)[
                0
            ]:  # then look whether it was stopped
                name = running.pop(ref)
                yield name, _answer(ray, ref)
    finally:
        for ref in running:
            ray.cancel(ref, force=True)


def _answer(ray: Any, ref: Any) -> CellStatus | None:
    """The outcome of a task; None where its process died. What the code of trimtab raised there is raised here."""
    try:
        status: CellStatus = ray.get(ref)[1]
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            raise
        return None
    return status
