"""One function over many cells, each with a folder: parallel, resumable, and no failure stops the others.

Grids of config overrides: `seed=0..4` and `fit.lr=1e-4,3e-4` make ten cells.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from trimtab.errors import CheckpointError, ConfigError, ConfigProblems, Problem, explain, nearest
from trimtab.runs.atomic import refuse_link
from trimtab.runs.executors import (
    Executor,
    Function,
    read_cell,
    require_ray,
    run_here,
    run_in_processes,
    run_on_ray,
    status_of,
)
from trimtab.runs.files import load_yaml
from trimtab.runs.folder import take_lock
from trimtab.runs.paths import safe_name
from trimtab.runs.serialise import plain

MOST_CELLS = 10_000
"""Cells of a grid; each is a whole config, checked before the first one starts."""

_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")


def expand(axes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every combination of the values of the axes, by name, as dotted overrides.

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
                raise _refusal(f"{axis!r:.200}", "key=value,value,...", "seed=0..4")
            if key in values:
                raise _refusal(f"{key!r:.200} twice", "each key once")
            values[key] = _values(text)
        except ConfigProblems as error:
            problems += error.problems
    cells = math.prod(map(len, values.values()))
    if cells > MOST_CELLS:
        problems += _too_many(" ".join(axes), cells).problems
    if problems:
        raise ConfigProblems(problems)
    combinations = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    named = {",".join(f"{key}={_shown(each)}" for key, each in cell.items()): cell for cell in combinations}
    if len(named) < len(combinations):  # texts with commas in them, that read like other cells
        named = {json.dumps(cell, default=str): cell for cell in combinations}
    return named


def _values(text: str) -> list[Any]:
    """The values of one axis."""
    try:
        parts = [_range(value) for value in load_yaml(f"[{text}]")]
    except yaml.YAMLError:
        raise _refusal(f"{text!r:.200}", "values in YAML, with commas between", "1e-4,3e-4") from None
    if not parts:
        raise _refusal(f"{text!r:.200}", "at least one value", "0..4")
    if not all(map(len, parts)):
        raise _refusal(f"{text!r:.200}", "a range that goes up", "0..4")
    if sum(map(len, parts)) > MOST_CELLS:
        raise _too_many(text, sum(map(len, parts)))
    values = [value for part in parts for value in part]
    if len(set(map(_shown, values))) < len(values):
        raise _refusal(f"{text!r:.200}", "each value once")
    return values


def _refusal(got: str, expected: str, hint: str = "") -> ConfigProblems:
    return ConfigProblems([Problem("--over", got, expected, hint)])


def _too_many(text: str, cells: int) -> ConfigProblems:
    return _refusal(f"{text!r:.200}, {cells:,} cells", f"at most {MOST_CELLS:,}")


def _range(value: Any) -> Sequence[Any]:
    """The whole numbers that `a..b` stands for, not listed; any other value as it is."""
    span = _RANGE.fullmatch(value) if isinstance(value, str) else None
    return [value] if span is None else range(int(span[1]), int(span[2]) + 1)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


Backend = Literal["loky", "ray"]
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
    tell = progress or (lambda *_: None)
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    folders = {name: folder / safe_name(name) for name in cells}
    lock = take_lock(folder)
    try:
        for name, path in folders.items():
            refuse_link(path)
            known = read_cell(path)
            if known is not None and known["cell"] != plain(cells[name]):
                got = f"another cell {name!r} in {folder} than is there already"
                raise CheckpointError(explain(got, "the same cells", "another folder"))
        work = {name: (cells[name], path) for name, path in folders.items() if status_of(path) != "done"}
        executor: Executor = run_on_ray if backend == "ray" else run_in_processes
        run = run_here if not work or (backend == "loky" and jobs == 1) else executor
        with closing(run(function, work, jobs)) as names:
            for ended, _ in enumerate(names, start=len(cells) - len(work) + 1):
                tell(ended, len(cells))
    finally:
        os.close(lock)
    records = {name: read_cell(path) or {"status": None} for name, path in folders.items()}
    failed = [name for name, record in records.items() if record["status"] == "failed"]
    errors = {name: (folders[name] / "error.txt").read_text(encoding="utf-8").strip() for name in failed}
    return SweepResult(
        results={name: each["result"] for name, each in records.items() if each["status"] == "done"},
        failures={name: error.rpartition("\n")[2] for name, error in errors.items()},
        folders=folders,
    )


def check_backend(backend: str) -> None:
    """Raise a ConfigError when there is no such backend, or it is not installed."""
    if backend not in get_args(Backend):
        choices = get_args(Backend)
        raise ConfigError(
            f"backend: {explain(repr(backend), f'one of {choices}', nearest(backend, choices))}"
        )
    if backend == "ray":
        require_ray()
