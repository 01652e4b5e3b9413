"""What the benchmarks of the real model share: their options, their cells, and the head of a record.

The model is `lab:smollm2`, SmolLM2-135M-Instruct with dequantised Q4_1 weights. Numbers are those of these weights.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from trimtab import load
from trimtab.lab.smollm2 import PACKAGE, VERSION, WEIGHTS
from trimtab.models.load import Model
from trimtab.numerics.bootstrap import Interval
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.paths import safe_name
from trimtab.runs.serialise import plain, to_json
from trimtab.runs.sweep import read_cell, sweep

RESULTS = Path(__file__).parents[1] / "results" / "real"
DIGITS = 5
PLACES = ("model", "data", "networks")
"""Keys of cells that say where something lies; a folder that moved may be gone on with."""
PACKAGES = ("trimtab", "torch", "transformers", "scikit-learn", "numpy")


def options(name: str, about: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark here: processes, folder of the cells, file of the result, and gathering only.

    Args:
        name: of the benchmark, which names its folder and its result.
        about: the docstring of the script; its first line is shown.
    """
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(f"runs/benchmark-real-{name}"))
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    parser.add_argument(
        "--gather", action="store_true", help="run nothing; the result of the cells that are there"
    )
    return parser


@cache
def model_of(folder: str, dtype: str = "float32") -> Model:
    """The model of a folder on the CPU, one thread; loaded once per process and never trained."""
    torch.set_num_threads(1)
    return load(folder, device="cpu", dtype=dtype)


def results_of(
    run: Callable[[Mapping[str, Any], Path], Any], every: Mapping[str, Any], asked: argparse.Namespace
) -> dict[str, Any]:
    """Results of the cells by name: run, or with `--gather` only read."""
    if asked.gather:
        return kept(every, asked.folder)
    done = sweep(run, every, asked.folder, jobs=asked.jobs, progress=_tell, may_change=PLACES)
    for name, error in done.failures.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return done.results


def kept(every: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Results of the cells that have ended, read from their files; another sweep may be at work."""
    records = {name: read_cell(folder / safe_name(name)) for name in every}
    return {name: one["result"] for name, one in records.items() if one and one["status"] == "done"}


def head(command: str, settings: Any, packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """What every record says of its run: command, date, model and weights, versions, hardware, settings."""
    record: dict[str, Any] = plain(
        {
            "command": command,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "model": {"name": "SmolLM2-135M-Instruct", "weights": WEIGHTS, "package": f"{PACKAGE} {VERSION}"},
            "versions": {one: version(one) for one in packages} | {"python": platform.python_version()},
            "hardware": hardware(),
            "settings": settings,
        }
    )
    return record


def write(path: Path, record: Mapping[str, Any]) -> None:
    """A result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_json(plain(rounded(record)), indent=1) + "\n")


def span(found: Interval) -> dict[str, Any]:
    """An interval as plain values: value, low, high, n."""
    return {name: getattr(found, name) for name in ("value", "low", "high", "n")}


def rounded(value: Any) -> Any:
    """Numbers in five significant digits, inside lists and mappings too.

    >>> rounded({"a": [0.1234567, 3]})
    {'a': [0.12346, 3]}
    """
    if isinstance(value, Mapping):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _tell(ended: int, total: int) -> None:
    print(f"{time.strftime('%H:%M:%S', time.gmtime())} {ended} of {total} cells", file=sys.stderr, flush=True)
