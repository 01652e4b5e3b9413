"""JSON of runs: any value as plain JSON values, files of rows that grow, and the result of a finished run as one file.

A result is written with its frames as columns and rows, and its SHA-256 in a file of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from pathlib import Path, PurePath
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pandas as pd

from trimtab.errors import CheckpointError, TrimtabError, explain
from trimtab.runs.atomic import full_disk_is_clear, sha256, write_atomic
from trimtab.runs.files import check_regular, parse_json, read_bytes, read_text
from trimtab.runs.paths import RESULT


def plain(value: Any, *, finite: bool = True) -> Any:
    """`value` as JSON values: mappings, lists, strings, numbers, booleans, None.

    Tuples and sets (sorted) become lists, dataclasses mappings, paths strings; arrays, tensors and their
    scalars become numbers or nested lists. JSON has no nan and no infinity: both become None, unless
    `finite=False` keeps them (YAML has them).

    Raises:
        TypeError: the value, or something inside it, has no plain form.

    >>> plain({"loss": float("nan"), "shape": (2, 3)})
    {'loss': None, 'shape': [2, 3]}
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) or not finite else None
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Mapping):
        return {str(key): plain(item, finite=finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, finite=finite) for item in value]
    if isinstance(value, Set):
        return sorted(plain(item, finite=finite) for item in value)
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name), finite=finite) for name in names}
    if hasattr(value, "tolist"):
        return plain(value.tolist(), finite=finite)
    raise TypeError(f"got {type(value).__name__} {value!r:.80}, expected something JSON can hold")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """`plain(value)` as strict JSON; floats are written so that they read back exactly."""
    return json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys at which two plain values differ, each with the old and the new value.

    >>> list(differences({"fit": {"lr": 1}, "seed": 0}, {"fit": {"lr": 2}, "seed": 0}))
    [('fit.lr', 1, 2)]
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{where}.{key}" if where else str(key)
            yield from differences(old.get(key, _ABSENT), new.get(key, _ABSENT), inner)
    elif type(old) is not type(new) or (old != new and (old == old or new == new)):
        yield where or "(all of it)", old, new


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


LIMIT = 512 * 2**20
"""Bytes that a JSON file of a run may have."""


class JsonLines:
    """A file of JSON lines that only grows, except when a resume cuts it back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            check_regular(path, "rows of a run", error=CheckpointError)
            whole = path.read_bytes()
            kept = whole.rfind(b"\n") + 1
            if kept < len(whole):
                os.truncate(path, kept)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line; after an error the file is as before."""
        line = (to_json(row) + "\n").encode()
        before = self.offset()
        try:
            with full_disk_is_clear(self.path), self.path.open("ab") as file:
                file.write(line)
        except BaseException:
            if self.offset() > before:
                os.truncate(self.path, before)
            raise

    def offset(self, *, sync: bool = False) -> int:
        """The length of the file in bytes; `sync` puts them on the disk first."""
        if not self.path.exists():
            return 0
        if sync:
            with self.path.open("ab") as file:
                os.fsync(file.fileno())
        return self.path.stat().st_size

    def truncate(self, offset: int) -> None:
        """Cut the file back to `offset` bytes; CheckpointError when it is shorter than that."""
        if offset > self.offset():
            got = f"{self.offset()} bytes in {self.path}"
            raise CheckpointError(explain(got, f"at least the checkpoint's {offset}"))
        if self.path.exists():
            os.truncate(self.path, offset)


def digest(path: Path, size: int) -> str:
    """The SHA-256 of the first `size` bytes of a file, in hexadecimal; of none where it is missing."""
    checksum, left = hashlib.sha256(), size
    if path.exists():
        check_regular(path, "rows of a run", error=CheckpointError)
        with path.open("rb") as file:
            while left and (part := file.read(min(left, 2**20))):
                checksum.update(part)
                left -= len(part)
    return checksum.hexdigest()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file; [] when it is missing; a torn last line is left out.

    Raises:
        CheckpointError: any other line is not JSON; it is named.
    """
    if not path.exists():
        return []
    lines = read_bytes(path, "rows of a run", error=CheckpointError).split(b"\n")[:-1]
    rows = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        row = _parsed(line, f"{where}: {explain('damaged text', 'a JSON row')}")
        if not isinstance(row, dict):
            raise CheckpointError(f"{where}: {explain(f'a {type(row).__name__}', 'a JSON row')}")
        rows.append(row)
    return rows


def read_json(path: Path, limit: int = LIMIT) -> Any:
    """The value in a JSON file of a run.

    Raises:
        CheckpointError: it is missing, no regular file, larger than `limit` bytes, nested too deep, or not JSON.
    """
    if not path.exists():
        raise CheckpointError(explain(f"no file {path}", "one written by a run"))
    expected = "JSON written by a run"
    raw = read_bytes(path, expected, error=CheckpointError, limit=limit)
    return _parsed(raw, explain(f"damaged text in {path}", expected))


def read_object(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """The mapping in a JSON file of a run; see `read_json`, and CheckpointError for another value."""
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise CheckpointError(explain(f"damaged text in {path}", "a JSON object written by a run"))
    return value


def _parsed(raw: bytes, message: str) -> Any:
    try:
        return parse_json(raw.decode("utf-8"), "", "JSON", error=CheckpointError)
    except (UnicodeDecodeError, CheckpointError) as error:
        raise CheckpointError(message) from error


Result = TypeVar("Result")
SEAL = RESULT.with_name("result.sha256")
DAMAGE = (ArithmeticError, AttributeError, AssertionError, LookupError, RecursionError, TypeError, ValueError)
"""What values that are not as they were written make fail."""


def write_result(
    folder: str | Path, schema: int, values: Mapping[str, Any], *, indent: int | None = None
) -> Path:
    """Write the result of a run into its folder; readers see all of it or nothing.

    Args:
        folder: of the run.
        schema: version of what `values` holds.
        values: JSON values, and frames; nan becomes null.
        indent: of the JSON text.

    Returns:
        The folder.
    """
    written: dict[str, Any] = {"schema": schema, **values}
    for name, it in values.items():
        if isinstance(it, pd.DataFrame):
            written[name] = {"columns": list(it.columns), "rows": it.to_numpy(dtype=object).tolist()}
    (Path(folder) / SEAL).unlink(missing_ok=True)
    write_atomic(Path(folder) / RESULT, to_json(written, indent=indent) + "\n")
    seal(folder)
    return Path(folder)


def seal(folder: str | Path) -> None:
    """Write the SHA-256 of a run's result to a file of its own, once the result is written."""
    write_atomic(Path(folder) / SEAL, sha256(Path(folder) / RESULT) + "\n")


def is_sealed(folder: str | Path) -> bool:
    """Whether a run's result is what was written, by its SHA-256; earlier versions noted none.

    Raises:
        CheckpointError: it is not.
    """
    if not (Path(folder) / SEAL).exists():
        return False
    result = check_regular(Path(folder) / RESULT, "the result of a run", error=CheckpointError)
    noted = read_text(Path(folder) / SEAL, "a SHA-256", error=CheckpointError, limit=1024).strip()
    if noted != sha256(result):
        hint = f"deleting {SEAL.name} beside it, if you changed it yourself"
        raise CheckpointError(explain(f"damaged {result}", "the bytes that were written (SHA-256)", hint))
    return True


@contextlib.contextmanager
def reading_result(path: str | Path) -> Iterator[None]:
    """Turn errors of a damaged result, while it becomes a value, into a CheckpointError with its file.

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
    result = finished(folder)
    if result.get("schema") != schema:
        got = f"result schema {result.get('schema')!r:.80}"
        raise CheckpointError(f"{Path(folder) / RESULT}: {explain(got, f'schema {schema}')}")
    values = {name: value for name, value in result.items() if name != "schema"}
    with reading_result(folder):
        for name, value in values.items():
            if isinstance(value, Mapping) and set(value) == {"columns", "rows"}:
                values[name] = numeric(pd.DataFrame(value["rows"], columns=value["columns"]))
        return values


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
