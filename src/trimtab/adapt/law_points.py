"""The runs that a law is fitted to: checked, and refused where they cannot determine what is asked."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from trimtab.errors import DataError, explain, nearest

Points = Mapping[str, Float[np.ndarray, " n"]]

LOSSES = ("loss_pt", "loss_pt0", "loss_ft")
_RANGES = {"params": "above 0", "tokens": "above 0", "inject": "shares from 0 to below 1"} | dict.fromkeys(
    LOSSES, "above 0 nats per token"
)


def points_of(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, Float[np.ndarray, " n"]]:
    """Some columns of a frame as float arrays.

    Raises:
        DataError: it is no frame, or a column is missing, there twice or holds what it cannot.
    """
    if not hasattr(frame, "columns"):
        got, expected = f"a {type(frame).__name__}", f"a frame with columns {', '.join(columns)}"
        raise DataError(f"frame: {explain(got, expected, 'pandas.DataFrame(...)')}")
    missing = [name for name in columns if name not in frame]
    if missing:
        got = f"columns {', '.join(map(str, frame.columns))}"
        raise DataError(
            f"frame: {explain(got, ', '.join(columns), nearest(missing[0], map(str, frame.columns)))}"
        )
    if twice := [name for name in columns if (frame.columns == name).sum() > 1]:
        raise DataError(f"frame: {explain(f'several columns {twice[0]}', 'one column of each name')}")
    return {name: _column(frame, name) for name in columns}


def runs_of(frame: pd.DataFrame) -> np.ndarray | None:
    """(n,) a number per row, the same for rows that agree in the column `run`; None where there is no such column.

    Raises:
        DataError: a row without a run, among rows that have one.
    """
    if "run" not in frame:
        return None
    numbers, _ = pd.factorize(frame["run"], sort=True)
    if (numbers < 0).any():
        row = int(np.flatnonzero(numbers < 0)[0])
        raise DataError(f"run: {explain(f'no value in row {row}', 'the name of a run in every row')}")
    return np.asarray(numbers)


def _column(frame: pd.DataFrame, name: str) -> Float[np.ndarray, " n"]:
    column = frame[name]
    if column.dtype == object:  # a whole number beyond the largest float is infinite, not a fault
        column = column.map(
            lambda one: math.inf if isinstance(one, int) and abs(one) > sys.float_info.max else one
        )
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    fine = np.isfinite(values) & ((values >= 0) & (values < 1) if name == "inject" else values > 0)
    if not fine.all():
        row = int(np.flatnonzero(~fine)[0])
        raise DataError(f"{name}: {explain(f'{_shown(frame[name].iloc[row])} in row {row}', _RANGES[name])}")
    return values


def _shown(value: object) -> str:
    """A cell as its reader would write it, without the names of types.

    >>> _shown(np.float64("nan")), _shown(np.float64(-0.5)), _shown("1 %")
    ('no value (nan)', '-0.5', "'1 %'")
    """
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return "no value (nan)"
    text = repr(value) if isinstance(value, str) else f"{value}"
    return text if len(text) <= 40 else f"{text[:37]}..."


def refuse_undetermined(points: Points, needed: Mapping[str, str]) -> None:
    """Refuse points that do not vary in what a coefficient depends on.

    Args:
        points: the columns.
        needed: column -> the coefficient that only its variation tells.

    Raises:
        DataError: a column has one value throughout; says which coefficient cannot be determined.
    """
    for column, coefficient in needed.items():
        values = np.unique(points[column])
        if len(values) < 2:
            got = f"{values[0]:g} throughout" if len(values) else "no run"
            expected = f"at least two values: nothing else determines {coefficient}"
            raise DataError(f"{column}: {explain(got, expected)}")


def ranges_of(points: Points, columns: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The least and the largest value of some columns."""
    return {name: (float(points[name].min()), float(points[name].max())) for name in columns}
