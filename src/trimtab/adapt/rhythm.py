"""When a mixer that updates at a fixed rhythm is asked again."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.adapt.needs import Needs, off_grid
from trimtab.errors import Problem
from trimtab.train.fit import Fit

UPDATES = 16
"""Updates of a run whose mixer leaves `every` open."""


def next_question(step: int, steps: int, every: int | None) -> int | None:
    """The next multiple of `every` after `step`; None when the run ends before it.

    Args:
        step: now.
        steps: of the run.
        every: steps between questions; None for a sixteenth of the run, at least one step.

    >>> next_question(40, 320, None), next_question(41, 320, 8), next_question(312, 320, 8)
    (60, 48, None)
    """
    gap = every or max(1, steps // UPDATES)
    later = (step // gap + 1) * gap
    return later if later < steps else None


def questions(steps: int, every: int | None) -> range:
    """Every step at which such a mixer is asked: 0 and the multiples of `every` below `steps`.

    >>> list(questions(32, 10))
    [0, 10, 20, 30]
    """
    return range(0, steps, every or max(1, steps // UPDATES))


def reads_losses(fit: Fit, every: int | None) -> Needs:
    """What a mixer needs that reads all validation sequences at each question."""
    return Needs(whole_readings=off_grid(questions(fit.steps, every), fit))


def rhythm_problems(every: int | None) -> Iterator[Problem]:
    """A gap below one step."""
    if every is not None and every < 1:
        yield Problem("mixer.every", str(every), "at least 1 step, or null for a sixteenth of the run")
