"""Which evaluation domains a run must improve, must keep, and only watches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from trimtab.errors import ConfigProblems, Problem, nearest

Role = Literal["target", "constraint", "monitored"]

MOST_DOMAINS = 1000
"""Domains of a run: each is read at every evaluation, and a picture of its own on the page."""
LEAST_SCALE_NATS = 0.01
"""What a gap is counted in where its tolerance is zero or less than this, so that nothing is divided by zero."""


@dataclass(frozen=True)
class Roles:
    """The domains of a run by role.

    Attributes:
        train: training domains, in the order of mixture weights.
        evaluate: evaluation domains, in the order of losses; every training domain is among them.
        targets: evaluation domains to improve.
        tolerances: nats per token by which each constraint may rise above the base model's loss.
    """

    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    targets: tuple[str, ...]
    tolerances: Mapping[str, float]

    def role(self, domain: str) -> Role:
        """The role of an evaluation domain."""
        if domain in self.targets:
            return "target"
        return "constraint" if domain in self.tolerances else "monitored"

    def tolerance(self, domain: str) -> float:
        """The tolerance of a constraint; nan for every other domain."""
        return self.tolerances.get(domain, math.nan)

    @property
    def trainable_targets(self) -> tuple[str, ...]:
        """The targets one can train on."""
        return tuple(name for name in self.targets if name in self.train)


def make_roles(
    train: Sequence[str], evaluate: Sequence[str], targets: Sequence[str], tolerances: Mapping[str, float]
) -> Roles:
    """Roles with every training domain evaluated too, training domains first.

    Raises:
        ConfigProblems: tolerances that are no mapping of domains to them.
    """
    given: Any = tolerances
    if not isinstance(given, Mapping):
        got, expected = f"a {type(given).__name__}", "a mapping of domains to tolerances, in nats per token"
        raise ConfigProblems([Problem("constraints", got, expected, "{'web': 0.02}")])
    names = (*train, *(name for name in evaluate if name not in train))
    return Roles(tuple(train), names, tuple(targets), dict(tolerances))


def role_problems(roles: Roles) -> Iterator[Problem]:
    """Every mistake in the naming of targets and constraints."""
    if not roles.train:
        yield Problem("train", "no domain", "at least one domain to train on")
    if len(roles.evaluate) > MOST_DOMAINS:
        yield Problem("train and evaluate", f"{len(roles.evaluate):,} domains", f"at most {MOST_DOMAINS:,}")
    for name in [name for name in roles.evaluate if not str(name).strip()]:
        where = "train" if name in roles.train else "evaluate"
        yield Problem(where, f"{name!r} as the name of a domain", "a text that is not blank")
    if not roles.targets:
        yield Problem("targets", "no target", "at least one domain to improve", nearest("", roles.train))
    for name in dict.fromkeys(roles.targets):
        if roles.targets.count(name) > 1:
            yield Problem("targets", f"{name!r} twice", "each target once")
        if name not in roles.evaluate:
            yield Problem("targets", repr(name), _one_of(roles), nearest(name, roles.evaluate))
        if name in roles.tolerances:
            yield Problem(f"constraints.{name}", "a target", "a domain that is not a target")
    yield from tolerance_problems(roles)


def tolerance_problems(roles: Roles) -> Iterator[Problem]:
    """Constraints that are not evaluated, or whose tolerance is no number of zero or more."""
    for name, tolerance in roles.tolerances.items():
        if name not in roles.evaluate:
            yield Problem(f"constraints.{name}", repr(name), _one_of(roles), nearest(name, roles.evaluate))
        given: Any = tolerance
        number = isinstance(given, Real) and not isinstance(given, bool)
        if not (number and math.isfinite(tolerance) and tolerance >= 0):
            expected = "a tolerance of zero or more, in nats per token"
            got = str(given) if number else repr(given)
            yield Problem(f"constraints.{name}", got, expected, "" if number else "a number, such as 0.02")


def _one_of(roles: Roles) -> str:
    return f"one of the domains {', '.join(map(repr, roles.evaluate))}"
