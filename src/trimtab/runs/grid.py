"""Grids of config overrides: `seed=0..4` and `fit.lr=1e-4,3e-4` make ten cells."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from trimtab.errors import ConfigProblems, Problem
from trimtab.runs.yamltext import load_yaml

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def expand(axes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every combination of the values of the axes, by name, as dotted overrides.

    An axis is `key=v,v,...`; the values are YAML, and `a..b` means all whole numbers from a to b.

    Raises:
        ConfigProblems: an axis without key or values, twice the same key or value, a range that goes down.

    >>> expand(["seed=0..1", "mixer={kind: uniform}"])
    {'seed=0,mixer={"kind": "uniform"}': {'seed': 0, 'mixer': {'kind': 'uniform'}}, \
'seed=1,mixer={"kind": "uniform"}': {'seed': 1, 'mixer': {'kind': 'uniform'}}}
    """
    problems: list[Problem] = []
    values = {}
    for axis in axes:
        key, _, text = axis.partition("=")
        found = _problem(axis, key in values) or _values(text)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            values[key] = found
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
        return Problem("--over", repr(axis), "key=value,value,...", "seed=0..4")
    return Problem("--over", f"{key!r} twice", "each key once") if again else None


def _values(text: str) -> list[Any] | Problem:
    try:
        found = list(_with_ranges(load_yaml(f"[{text}]")))
    except yaml.YAMLError:
        return Problem("--over", repr(text), "values in YAML, with commas between", "1e-4,3e-4")
    except ValueError as error:
        return Problem("--over", repr(text), str(error), "0..4")
    if len({_shown(value) for value in found}) < len(found):
        return Problem("--over", repr(text), "each value once")
    return found


def _with_ranges(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        span = _RANGE.fullmatch(value) if isinstance(value, str) else None
        if span is None:
            yield value
            continue
        first, last = int(span[1]), int(span[2])
        if last < first:
            raise ValueError("a range that goes up")
        yield from range(first, last + 1)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
