"""A law on disk: JSON that `save` wrote, of which every number is checked before anything is planned with it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from trimtab.adapt.forgetting.fitting import EXPONENTS, Fitted
from trimtab.errors import DataError, TrimtabError, explain, nearest
from trimtab.numerics.curves import Loss
from trimtab.runs.files import read_json

EXPECTED = "a law written by save()"
NAMES = {"forgetting": ("A", "B", "alpha", "beta"), "fine-tuning": ("A", "alpha", "beta", "E")}
"""Coefficients of each law, in the order in which it is written."""
COLUMNS = {"forgetting": ("params", "tokens", "inject"), "fine-tuning": ("params", "tokens")}
_SIGNS = {"A": "above 0", "B": "above 0", "E": "of 0 or above"}


def read_law(path: str | Path, kind: str) -> tuple[Fitted, dict[str, tuple[float, float]]]:
    """The numbers of a law, and the ranges of the runs that it was fitted to.

    Args:
        path: the file.
        kind: "forgetting" or "fine-tuning".

    Raises:
        DataError: the file is missing, no regular one, damaged or that of another law, or a number in it is none that
            a law has: nan, infinite, a coefficient of the wrong sign, an exponent that no fit gives, another number of
            draws per refit, a range that is none. The field is named.
    """
    record = read_json(path, EXPECTED)
    try:
        record = _mapping(record, "the file")
        if record.get("law") != kind:
            got = f"a law of {record['law']!s:.40}" if "law" in record else "no law"
            raise DataError(explain(got, f"a law of {kind}"))
        return _fitted(record, NAMES[kind]), {name: _range(record, name) for name in COLUMNS[kind]}
    except TrimtabError as error:
        raise DataError(f"{path}: {error}") from error


def _fitted(record: Mapping[str, Any], names: tuple[str, ...]) -> Fitted:
    given = _mapping(_field(record, "coefficients"), "coefficients")
    if set(given) != set(names):
        got = ", ".join(map(repr, given)) or "none"
        odd = next((name for name in given if name not in names), "")
        raise DataError(f"coefficients: {explain(got[:80], ', '.join(names), nearest(odd, names))}")
    draws = []
    for k, row in enumerate(_list(record, "draws")):
        if not isinstance(row, list) or len(row) != len(names):
            got = f"{len(row)} values" if isinstance(row, list) else _shown(row)
            expected = f"{len(names)} numbers: {', '.join(names)}"
            raise DataError(f"draws[{k}]: {explain(got, expected)}")
        draws.append(
            [_coefficient(name, x, f"draws[{k}], {name}") for name, x in zip(names, row, strict=True)]
        )
    residuals = [_number(value, f"residuals[{k}]") for k, value in enumerate(_list(record, "residuals"))]
    agreeing, at_bounds = _field(record, "agreeing"), _list(record, "at_bounds")
    loss, losses = _field(record, "loss"), get_args(Loss)
    if not residuals:
        raise DataError(f"residuals: {explain('none', 'one per run that was fitted')}")
    if not 0 <= _number(agreeing, "agreeing") <= 1:
        raise _refused("agreeing", agreeing, "a share from 0 to 1")
    if strange := [name for name in at_bounds if name not in names]:
        raise _refused("at_bounds", strange[0], " or ".join(names))
    if loss not in losses:
        raise _refused("loss", loss, " or ".join(map(repr, losses)))
    return Fitted(
        coefficients={name: _coefficient(name, given[name], f"coefficients.{name}") for name in names},
        draws=np.array(draws, dtype=float).reshape(-1, len(names)),
        residuals=np.array(residuals, dtype=float),
        agreeing=float(agreeing),
        at_bounds=tuple(at_bounds),
        loss=str(loss),
    )


def _coefficient(name: str, value: Any, where: str) -> float:
    number = _number(value, where)
    low, high = EXPONENTS if name in ("alpha", "beta") else (0.0, math.inf)
    if not low <= number <= high or (number == 0 and name in ("A", "B")):
        raise _refused(
            where, value, f"a number {_SIGNS.get(name, f'from {low:g} to {high:g}, as a fit has it')}"
        )
    return number


def _range(record: Mapping[str, Any], name: str) -> tuple[float, float]:
    value, where = _field(_mapping(_field(record, "ranges"), "ranges"), name, "ranges."), f"ranges.{name}"
    if not isinstance(value, list) or len(value) != 2:
        raise _refused(where, value, "the least and the largest of what was fitted: [low, high]")
    low, high = (_number(end, where) for end in value)
    share = name == "inject"
    if not (0 <= low <= high <= 1 if share else 0 < low <= high):
        raise _refused(
            where, value, f"{'shares from 0 to 1' if share else 'numbers above 0'}, the least first"
        )
    return low, high


def _number(value: Any, where: str) -> float:
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    if (
        fine and abs(value) <= sys.float_info.max
    ):  # not nan, not infinite, no whole number beyond the largest float
        return float(value)
    raise _refused(where, value, "a finite number")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _refused(where, value, f"a mapping, as in {EXPECTED}")
    return value


def _list(record: Mapping[str, Any], name: str) -> list[Any]:
    value = _field(record, name)
    if not isinstance(value, list):
        raise _refused(name, value, "a list")
    return value


def _field(record: Mapping[str, Any], name: str, inside: str = "") -> Any:
    if name not in record:
        raise DataError(f"{inside}{name}: {explain('nothing', EXPECTED, nearest(name, record))}")
    return record[name]


def _refused(where: str, value: Any, expected: str) -> DataError:
    return DataError(f"{where}: {explain(_shown(value), expected)}")


def _shown(value: Any) -> str:
    """A JSON value, shortened."""
    if value and isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)}"
    return str(value) if isinstance(value, list | dict) else f"{value!r:.40}"
