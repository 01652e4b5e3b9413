"""Plain values: what JSON can hold, and nothing pretended."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.runs.serialise import differences, plain, to_json


class Colour(Enum):
    RED = "red"


class Kind(StrEnum):
    A = "a"


@dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Pair(Path("a/b"), (1, 2)), {"left": "a/b", "right": [1, 2]}),
        ({1: {3, 1, 2}, "b": frozenset("a")}, {"1": [1, 2, 3], "b": ["a"]}),
        (np.array([[1.5, np.nan]]), [[1.5, None]]),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (Kind.A, "a"),
        (-math.inf, None),
    ],
)
def test_values(value: Any, expected: Any) -> None:
    assert plain(value) == expected
    assert json.loads(to_json(value)) == expected


def test_infinity_is_kept_where_asked_for() -> None:
    assert plain({"a": (math.inf,)}, finite=False) == {"a": [math.inf]}


@pytest.mark.parametrize("value", [object(), Pair(1, 2j), Pair, [len], Colour.RED])
def test_what_has_no_plain_form(value: Any) -> None:
    with pytest.raises(TypeError, match="expected something JSON can hold"):
        plain(value)


def test_differences() -> None:
    old = {"a": 1, "b": {"c": math.nan, "d": [1]}, "e": None}
    assert list(differences(old, {**old, "b": {"c": float("nan"), "d": [1]}})) == []
    assert [key for key, _, _ in differences(old, {"a": 1.0, "b": {"c": 0.0, "d": [2]}, "f": 1})] == [
        "a", "b.c", "b.d", "e", "f",
    ]  # fmt: skip
    assert [key for key, _, _ in differences([1], [2])] == ["(all of it)"]
