"""When a mixer that updates at a fixed rhythm is asked again."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.errors import Problem

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


def rhythm_problems(every: int | None) -> Iterator[Problem]:
    """A gap below one step."""
    if every is not None and every < 1:
        yield Problem("mixer.every", str(every), "at least 1 step, or null for a sixteenth of the run")
