"""The result of a finished run as one JSON file in its folder: plain values, and frames as columns and rows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pandas as pd

from trimtab.errors import CheckpointError, TrimtabError, explain
from trimtab.runs.atomic import write_atomic
from trimtab.runs.checksums import sha256
from trimtab.runs.files import check_regular, read_text
from trimtab.runs.lines import read_object
from trimtab.runs.places import RESULT
from trimtab.runs.plain import to_json

Result = TypeVar("Result")
SEAL = RESULT.with_name("result.sha256")
DAMAGE = (ArithmeticError, AttributeError, AssertionError, LookupError, RecursionError, TypeError, ValueError)
"""What values that are not as they were written make fail."""


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
    (Path(folder) / SEAL).unlink(missing_ok=True)
    write_atomic(Path(folder) / RESULT, to_json({"schema": schema, **told}, indent=indent) + "\n")
    seal(folder)
    return Path(folder)


def seal(folder: str | Path) -> None:
    """Note the SHA-256 of a run's result beside it, once it is written."""
    write_atomic(Path(folder) / SEAL, sha256(Path(folder) / RESULT) + "\n")


def is_sealed(folder: str | Path) -> bool:
    """Whether a run's result is what was written, by its SHA-256; earlier versions noted none.

    Raises:
        CheckpointError: it is not.
    """
    if not (Path(folder) / SEAL).exists():
        return False
    result = Path(folder) / RESULT
    check_regular(result, "the result of a run", error=CheckpointError)
    if read_text(Path(folder) / SEAL, "a SHA-256", error=CheckpointError, limit=1024).strip() != sha256(
        result
    ):
        hint = f"deleting {SEAL.name} beside it, if you changed it yourself"
        raise CheckpointError(explain(f"damaged {result}", "the bytes that were written (SHA-256)", hint))
    return True


@contextlib.contextmanager
def reading_result(path: str | Path) -> Iterator[None]:
    """Tell whatever a damaged result makes fail, while it is turned into a value, as a CheckpointError with its file.

    Args:
        path: the file of the result, or the folder of its run.
    """
    file = Path(path) / RESULT if Path(path).is_dir() else Path(path)
    try:
        yield
    except TrimtabError:
        raise
    except DAMAGE as error:
        got = f"values that are no result ({type(error).__name__}: {str(error)[:200]})"
        raise CheckpointError(f"{file}: {explain(got, 'a result as a run writes it')}") from error


def checked(cls: type[Result], values: Mapping[str, Any]) -> Result:
    """A result's dataclass, made of values that are of the kinds its annotations ask for.

    Raises:
        TypeError: a value is missing, unknown or of another kind; it is named.
    """
    for name, hint in get_type_hints(cls).items():
        if name in values and not _fits(values[name], hint):
            raise TypeError(f"{name} is {values[name]!r:.80}")
    return cls(**values)


def read_result(folder: str | Path, schema: int) -> dict[str, Any]:
    """The values that `write_result` wrote, without the schema; null is nan again in frames, None elsewhere.

    Raises:
        CheckpointError: there is none (yet), or one of another schema.
    """
    found = finished(folder)
    if found.get("schema") != schema:
        got = f"result schema {found.get('schema')!r:.80}"
        raise CheckpointError(f"{Path(folder) / RESULT}: {explain(got, f'schema {schema}')}")
    with reading_result(folder):
        return {name: _joined(value) for name, value in found.items() if name != "schema"}


def finished(folder: str | Path) -> dict[str, Any]:
    """The file of a finished run as it is.

    Raises:
        CheckpointError: there is none (yet), or it is damaged.
    """
    if not os.path.lexists(Path(folder) / RESULT):
        raise CheckpointError(explain(f"no finished result in {folder}", "a finished run", "resuming it"))
    return read_object(Path(folder) / RESULT)


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


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value that was read is of a kind that an annotation allows."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    if origin in (tuple, list, Sequence):
        return isinstance(value, (tuple, list)) and all(_fits(each, inner[0]) for each in value)
    return isinstance(value, origin or hint)


def _split(frame: pd.DataFrame) -> dict[str, Any]:
    return {"columns": list(frame.columns), "rows": frame.to_numpy(dtype=object).tolist()}


def _joined(value: Any) -> Any:
    if not isinstance(value, Mapping) or set(value) != {"columns", "rows"}:
        return value
    return numeric(pd.DataFrame(value["rows"], columns=value["columns"]))
