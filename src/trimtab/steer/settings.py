"""Settings of estimators that cannot work, all told at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from trimtab.errors import ConfigProblems, Problem, not_among
from trimtab.models.pooling import Pool
from trimtab.runs.reading import typed_problems

Ranges = Mapping[str, tuple[Callable[[Any], bool], str]]

CHOICES: Mapping[str, Any] = {"pool": Pool}
RANGES: Ranges = {
    **dict.fromkeys(("gamma", "alpha"), (lambda x: 0 <= x < math.inf, "a finite number, 0 or above")),
    "lr": (lambda x: 0 < x < math.inf, "a finite number above 0"),
    "p": (lambda x: 1 <= x < math.inf, "a finite order, at least 1"),
    **dict.fromkeys(("steps", "batch_size", "max_tokens", "heads"), (lambda x: x >= 1, "at least 1")),
}
"""What a setting of this name may be, whichever estimator has it; None always does."""


def setting_problems(estimator: Any, choices: Mapping[str, Any]) -> Iterator[Problem]:
    """Values of another type than declared, words that are no choice and numbers out of range.

    Args:
        estimator: a dataclass.
        choices: the literal type of each setting of its own that is a word.
    """
    words = (name for name in (*CHOICES, *choices) if getattr(estimator, name, None) is not None)
    if mistyped := typed_problems(estimator, without=("sites", *words)):
        yield from mistyped
        return
    for name, allowed in {**CHOICES, **choices}.items():
        if (word := getattr(estimator, name, None)) is not None and word not in get_args(allowed):
            yield not_among(name, word, get_args(allowed))
    for name, (fine, expected) in RANGES.items():
        if (value := getattr(estimator, name, None)) is not None and not fine(value):
            yield Problem(name, repr(value), expected)
    if estimator.sites is not None and not estimator.sites:
        yield Problem("sites", repr(estimator.sites), "at least one site", "'residual'")


def refuse(problems: Iterator[Problem]) -> None:
    """Raise if there is any.

    Raises:
        ConfigProblems: with all of them.
    """
    if found := list(problems):
        raise ConfigProblems(found)
