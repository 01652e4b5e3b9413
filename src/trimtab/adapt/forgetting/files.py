"""A law on disk: JSON that `save` wrote, of which every number is checked before anything is planned with it."""

from __future__ import annotations

import math
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
        return _fitted(record, NAMES[kind]), _ranges(record, COLUMNS[kind])
    except TrimtabError as error:
        raise DataError(f"{path}: {error}") from error


def _fitted(record: Mapping[str, Any], names: tuple[str, ...]) -> Fitted:
    given = _mapping(_field(record, "coefficients"), "coefficients")
    if set(given) != set(names):
        got = ", ".join(map(repr, given)) or "none"
        odd = next((name for name in given if name not in names), "")
        raise DataError(f"coefficients: {explain(got[:80], ', '.join(names), nearest(odd, names))}")
    coefficients = {name: _coefficient(name, given[name], f"coefficients.{name}") for name in names}
    draws = [_draw(row, names, f"draws[{k}]") for k, row in enumerate(_list(record, "draws"))]
    residuals = [_number(value, f"residuals[{k}]") for k, value in enumerate(_list(record, "residuals"))]
    if not residuals:
        raise DataError(f"residuals: {explain('none', 'one per run that was fitted')}")
    return Fitted(
        coefficients=coefficients,
        draws=np.array(draws, dtype=float).reshape(-1, len(names)),
        residuals=np.array(residuals, dtype=float),
        agreeing=_agreeing(_field(record, "agreeing")),
        at_bounds=_at_bounds(_list(record, "at_bounds"), names),
        loss=_loss(_field(record, "loss")),
    )


def _draw(row: Any, names: tuple[str, ...], where: str) -> list[float]:
    if not isinstance(row, list) or len(row) != len(names):
        got = f"{len(row)} values" if isinstance(row, list) else _shown(row)
        expected = f"{len(names)} numbers: {', '.join(names)}"
        raise DataError(f"{where}: {explain(got, expected)}")
    return [_coefficient(name, value, f"{where}, {name}") for name, value in zip(names, row, strict=True)]


def _coefficient(name: str, value: Any, where: str) -> float:
    number = _number(value, where)
    low, high = EXPONENTS if name in ("alpha", "beta") else (0.0, math.inf)
    if not low <= number <= high or (number == 0 and name in ("A", "B")):
        expected = _SIGNS.get(name, f"from {low:g} to {high:g}, as a fit has it")
        raise DataError(f"{where}: {explain(_shown(value), f'a number {expected}')}")
    return number


def _ranges(record: Mapping[str, Any], columns: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    given = _mapping(_field(record, "ranges"), "ranges")
    return {name: _range(_field(given, name, "ranges."), name) for name in columns}


def _range(value: Any, name: str) -> tuple[float, float]:
    where, expected = f"ranges.{name}", "the least and the largest of what was fitted: [low, high]"
    if not isinstance(value, list) or len(value) != 2:
        raise DataError(f"{where}: {explain(_shown(value), expected)}")
    low, high = (_number(end, where) for end in value)
    fine = 0 <= low <= high <= 1 if name == "inject" else 0 < low <= high
    if not fine:
        what = "shares from 0 to 1" if name == "inject" else "numbers above 0"
        raise DataError(f"{where}: {explain(_shown(value), f'{what}, the least first')}")
    return low, high


def _agreeing(value: Any) -> float:
    number = _number(value, "agreeing")
    if not 0 <= number <= 1:
        raise DataError(f"agreeing: {explain(_shown(value), 'a share from 0 to 1')}")
    return number


def _at_bounds(value: list[Any], names: tuple[str, ...]) -> tuple[str, ...]:
    if odd := [name for name in value if name not in names]:
        raise DataError(f"at_bounds: {explain(_shown(odd[0]), ' or '.join(names))}")
    return tuple(value)


def _loss(value: Any) -> str:
    if value not in get_args(Loss):
        raise DataError(f"loss: {explain(_shown(value), ' or '.join(map(repr, get_args(Loss))))}")
    return str(value)


def _number(value: Any, where: str) -> float:
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        if fine and math.isfinite(number := float(value)):
            return number
    except OverflowError:
        pass
    raise DataError(f"{where}: {explain(_shown(value), 'a finite number')}")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: {explain(_shown(value), f'a mapping, as in {EXPECTED}')}")
    return value


def _list(record: Mapping[str, Any], name: str) -> list[Any]:
    value = _field(record, name)
    if not isinstance(value, list):
        raise DataError(f"{name}: {explain(_shown(value), 'a list')}")
    return value


def _field(record: Mapping[str, Any], name: str, inside: str = "") -> Any:
    if name not in record:
        raise DataError(f"{inside}{name}: {explain('nothing', EXPECTED, nearest(name, record))}")
    return record[name]


def _shown(value: Any) -> str:
    """A JSON value, shortened."""
    if isinstance(value, list | dict):
        return (
            f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value)}" if value else f"{value}"
        )
    return f"{value!r:.40}"
