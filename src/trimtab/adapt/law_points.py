"""The runs that a law is fitted to: checked, and refused where they cannot determine what is asked."""

from __future__ import annotations

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
        DataError: a column is missing or holds what it cannot.
    """
    missing = [name for name in columns if name not in frame]
    if missing:
        got = f"columns {', '.join(map(str, frame.columns))}"
        raise DataError(
            f"frame: {explain(got, ', '.join(columns), nearest(missing[0], map(str, frame.columns)))}"
        )
    return {name: _column(frame, name) for name in columns}


def _column(frame: pd.DataFrame, name: str) -> Float[np.ndarray, " n"]:
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
    fine = np.isfinite(values) & ((values >= 0) & (values < 1) if name == "inject" else values > 0)
    if not fine.all():
        row = int(np.flatnonzero(~fine)[0])
        raise DataError(f"{name}: {explain(f'{frame[name].iloc[row]!r} in row {row}', _RANGES[name])}")
    return values


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
