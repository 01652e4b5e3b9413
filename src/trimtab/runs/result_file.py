"""The result of a finished run as one JSON file in its folder: plain values, and frames as columns and rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import write_atomic
from trimtab.runs.lines import read_json
from trimtab.runs.places import RESULT
from trimtab.runs.plain import to_json


def write_result(
    folder: str | Path, schema: int, values: Mapping[str, Any], *, indent: int | None = None
) -> Path:
    """Write what a run came to into its folder; readers see all of it or nothing.

    Args:
        folder: of the run.
        schema: version of what `values` holds.
        values: JSON values, and frames; nan becomes null.
        indent: of the JSON text.

    Returns:
        The folder.
    """
    told = {name: _split(it) if isinstance(it, pd.DataFrame) else it for name, it in values.items()}
    write_atomic(Path(folder) / RESULT, to_json({"schema": schema, **told}, indent=indent) + "\n")
    return Path(folder)


def read_result(folder: str | Path, schema: int) -> dict[str, Any]:
    """The values that `write_result` wrote, without the schema; null is nan again in frames, None elsewhere.

    Raises:
        CheckpointError: there is none (yet), or one of another schema.
    """
    found = finished(folder)
    if found.get("schema") != schema:
        raise CheckpointError(explain(f"result schema {found.get('schema')}", f"schema {schema}"))
    return {name: _joined(value) for name, value in found.items() if name != "schema"}


def finished(folder: str | Path) -> dict[str, Any]:
    """The file of a finished run as it is.

    Raises:
        CheckpointError: there is none (yet), or it is damaged.
    """
    if not (Path(folder) / RESULT).exists():
        raise CheckpointError(explain(f"no finished result in {folder}", "a finished run", "resuming it"))
    found: dict[str, Any] = read_json(Path(folder) / RESULT)
    return found


def numeric(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with null as nan in columns of numbers; columns that hold text or truth values are left as they are.

    >>> numeric(pd.DataFrame({"word": ["a", "b"], "share": [0.5, None]})).dtypes["share"]
    dtype('float64')
    """
    frame = frame.copy()
    for name in frame.columns:
        if len(frame) and not any(isinstance(value, str | bool) for value in frame[name]):
            frame[name] = pd.to_numeric(frame[name])
    return frame


def _split(frame: pd.DataFrame) -> dict[str, Any]:
    return {"columns": list(frame.columns), "rows": frame.to_numpy(dtype=object).tolist()}


def _joined(value: Any) -> Any:
    if not isinstance(value, Mapping) or set(value) != {"columns", "rows"}:
        return value
    return numeric(pd.DataFrame(value["rows"], columns=value["columns"]))
