"""How large the whole numbers of a config may be: nothing is listed, drawn or allocated by a number that is a slip."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trimtab.errors import Problem
from trimtab.seeds import seed_problem

MOST = {
    "batch_size": 10**5,
    "blocks": 10**4,
    "distractors": 10**4,
    "eval_batch_size": 10**5,
    "eval_points": 10**4,
    "jobs": 1024,
    "max_new_tokens": 10**6,
    "max_tokens": 10**7,
    "micro_batch_size": 10**5,
    "n_boot": 10**6,
    "rounds": 10**4,
    "seq_len": 10**7,
    "sequences": 10**6,
    "steps": 10**7,
    "sweeps": 10**4,
    "trials": 10**7,
}
"""Key -> the largest value that a config may give it, wherever it stands; far above any use, and soon refused."""

ANY = 10**12
"""The same for every other whole number."""


def bound_problems(config: Any) -> Iterator[Problem]:
    """Each whole number of a config that is out of bounds, and each seed that is none.

    Args:
        config: a dataclass; those inside it, mappings and sequences are looked into.

    >>> from trimtab.train.fit import Fit
    >>> [str(problem) for problem in bound_problems(Fit(steps=10**12))]
    ['steps: got 1000000000000, expected at most 10,000,000']
    """
    yield from _in(config, "", "")


def _in(value: Any, where: str, key: str) -> Iterator[Problem]:
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            inner = f"{where}.{field.name}" if where else field.name
            yield from _in(getattr(value, field.name), inner, field.name)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _in(each, f"{where}.{name}", key)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for number, each in enumerate(value):
            yield from _in(each, f"{where}[{number}]", key)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield from _of_number(value, where, key)


def _of_number(value: int, where: str, key: str) -> Iterator[Problem]:
    if key in ("seed", "seeds"):
        problem = seed_problem(where, value)
        if problem is not None:
            yield problem
    elif value > MOST.get(key, ANY):
        yield Problem(where, str(value), f"at most {MOST.get(key, ANY):,}")
