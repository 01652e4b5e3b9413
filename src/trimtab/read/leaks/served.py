"""What a server exposes of its next-token distribution, and what a mitigation of it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from trimtab.errors import ConfigProblems, Problem
from trimtab.models.readout import Readout
from trimtab.read.leaks.encodings import TopTokens
from trimtab.runs.config import show, typed_problems


@dataclass(frozen=True)
class Inside:
    """What is behind a model's outputs, for mitigations that a server alone can do well.

    Attributes:
        normaliser: temperature t -> (questions,) log sum exp(logits / t) over all tokens.
        states: (questions, d) raw hidden states after the last block; None where no mitigation needs them.
        readout: how the model reads them.
    """

    normaliser: Callable[[float], Float[np.ndarray, " questions"]]
    states: Float[np.ndarray, "questions d"] | None = None
    readout: Readout | None = None


@dataclass(frozen=True)
class Served:
    """The replies of a server to n questions, as a caller sees them.

    Attributes:
        top: log-probabilities (nats) of the k likeliest tokens at the answer position, over the whole vocabulary.
        answer: (n,) the id of the token that was answered, 0 or more; it need not be among the k.
        rows: (n,) which questions they answer; a mitigation that has to learn from some rows serves only the others.
        options: ids of tokens that are answers, such as yes and no, beside those that were answered anywhere.
        attributes: (questions, attributes) labels, for `Erase`; missing where a question has none.
        groups: (questions,) which questions belong together, for `Erase`.
        inside: None for a transcript, which has nothing but what was served.
    """

    top: TopTokens
    answer: Int[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]
    options: tuple[int, ...] = ()
    attributes: pd.DataFrame | None = None
    groups: Int[np.ndarray, " questions"] | None = None
    inside: Inside | None = None

    @property
    def k(self) -> int:
        """The number of tokens served for each question, at most."""
        return int(self.top.ids.shape[1])


class Mitigation(Protocol):
    """A change of what is served.

    Attributes:
        name: what it is called in YAML and in tables.
        inside: it needs the model, so a transcript cannot show it.
    """

    name: ClassVar[str]
    inside: ClassVar[bool]

    @property
    def setting(self) -> str:
        """Its strength in words; empty where it has none."""
        ...

    def __call__(self, served: Served, seed: int = 0) -> Served:
        """What an attacker sees instead; the argument is unchanged."""
        ...


def check_setting(
    mitigation: Mitigation, field: str, holds: Callable[[Any], bool], expected: str, hint: str
) -> None:
    """Refuse a setting of another type than it is declared, and a value that is out of range."""
    problems = [one for one in typed_problems(mitigation, mitigation.name) if one.where.endswith(f".{field}")]
    value = getattr(mitigation, field)
    if not problems and not holds(value):
        problems = [Problem(f"{mitigation.name}.{field}", show(value), expected, hint)]
    if problems:
        raise ConfigProblems(problems)
