"""Any result value as plain JSON values."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Set
from enum import Enum
from pathlib import PurePath
from typing import Any


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
    return _plain_object(value, finite)


def _plain_object(value: Any, finite: bool) -> Any:
    if isinstance(value, list | tuple):
        return [plain(item, finite=finite) for item in value]
    if isinstance(value, Set):
        return sorted(plain(item, finite=finite) for item in value)
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name), finite=finite)
            for field in dataclasses.fields(value)
        }
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
