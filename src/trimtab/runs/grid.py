"""Grids of config overrides: `seed=0..4` and `fit.lr=1e-4,3e-4` make ten cells."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import yaml

from trimtab.errors import ConfigProblems, Problem
from trimtab.runs.yamltext import load_yaml

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
    problems: list[Problem] = []
    values: dict[str, list[Any]] = {}
    for axis in axes:
        key, _, text = axis.partition("=")
        found = _problem(axis, key in values) or _values(text)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            values[key] = found
    cells = math.prod(map(len, values.values()))
    if cells > MOST_CELLS:
        problems.append(_too_many(" ".join(axes), cells))
    if problems:
        raise ConfigProblems(problems)
    combinations = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    named = {cell_name(cell): cell for cell in combinations}
    if len(named) < len(combinations):  # texts with commas in them, that read like other cells
        named = {json.dumps(cell, default=str): cell for cell in combinations}
    return named


def cell_name(cell: dict[str, Any]) -> str:
    """What a cell is called: its overrides, `seed=0,fit.lr=0.0001` say."""
    return ",".join(f"{key}={_shown(value)}" for key, value in cell.items())


def _problem(axis: str, again: bool) -> Problem | None:
    key, _, text = axis.partition("=")
    if not key.strip() or not text.strip():
        return Problem("--over", f"{axis!r:.200}", "key=value,value,...", "seed=0..4")
    return Problem("--over", f"{key!r} twice", "each key once") if again else None


def _values(text: str) -> list[Any] | Problem:
    try:
        parts = [_range(value) for value in load_yaml(f"[{text}]")]
    except yaml.YAMLError:
        return Problem("--over", f"{text!r:.200}", "values in YAML, with commas between", "1e-4,3e-4")
    if not parts:
        return Problem("--over", f"{text!r:.200}", "at least one value", "0..4")
    if not all(map(len, parts)):
        return Problem("--over", f"{text!r:.200}", "a range that goes up", "0..4")
    if sum(map(len, parts)) > MOST_CELLS:
        return _too_many(text, sum(map(len, parts)))
    found = [value for part in parts for value in part]
    if len({_shown(value) for value in found}) < len(found):
        return Problem("--over", f"{text!r:.200}", "each value once")
    return found


def _too_many(text: str, cells: int) -> Problem:
    return Problem("--over", f"{text!r:.200}, {cells:,} cells", f"at most {MOST_CELLS:,}")


def _range(value: Any) -> Sequence[Any]:
    """The whole numbers that `a..b` stands for, not listed; any other value as it is."""
    span = _RANGE.fullmatch(value) if isinstance(value, str) else None
    return [value] if span is None else range(int(span[1]), int(span[2]) + 1)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
