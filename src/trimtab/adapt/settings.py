"""Refusals that several mixers share."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.adapt.roles import Roles
from trimtab.errors import Problem


def mass_problems(where: str, mass: float, roles: Roles) -> Iterator[Problem]:
    """A share outside 0 to 1, or one side of it without a domain."""
    if not 0 <= mass <= 1:
        yield Problem(where, str(mass), "a share between 0 and 1")
    yield from side_problems(roles, where)


def side_problems(roles: Roles, where: str = "mixer") -> Iterator[Problem]:
    """No target to train on, or nothing else."""
    if not roles.trainable_targets:
        yield no_trainable_target()
    if all(name in roles.targets for name in roles.train):
        yield Problem(where, "only targets to train on", "a training domain that is not a target")


def no_trainable_target() -> Problem:
    """The problem of a mixer that trains on targets."""
    return Problem("mixer", "no target among the training domains", "at least one to train on")


def positive_problems(**settings: float) -> Iterator[Problem]:
    """Settings that are not finite numbers above zero."""
    for name, value in settings.items():
        if not 0 < value < float("inf"):
            yield Problem(f"mixer.{name}", str(value), "a finite number above zero")


def share_problems(**settings: float) -> Iterator[Problem]:
    """Settings outside [0, 1)."""
    for name, value in settings.items():
        if not 0 <= value < 1:
            yield Problem(f"mixer.{name}", str(value), "a number from 0 to below 1")


def count_problems(**settings: int) -> Iterator[Problem]:
    """Settings below one."""
    for name, value in settings.items():
        if value < 1:
            yield Problem(f"mixer.{name}", str(value), "at least 1")
