"""When a mixture is updated, and for how long each update's probes run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Schedule = Literal["none", "light", "dense"]

PAPER_STEPS = 2048
"""Total steps for which the paper states its schedules (arXiv 2605.10770)."""
PAPER_PROBE = 128
"""Longest probe of the paper, in steps of a run of `PAPER_STEPS`."""

_DOUBLING_FROM: dict[str, int] = {"none": 64, "light": 8, "dense": 2}


@dataclass(frozen=True)
class Interval:
    """Steps between two updates: where it starts, how long the mixture stays, how long each probe runs."""

    start: int
    horizon: int
    probe_steps: int


def update_steps(schedule: Schedule | int | Sequence[int], steps: int) -> tuple[int, ...]:
    """The steps of a run at which its mixture is chosen anew; the first is 0.

    The named schedules double the gap each time: from 64 ("none"), 8 ("light") or 2 ("dense") in a run of 2048
    steps, scaled to other totals; updates that round to the same step are one. An integer is a fixed gap; a sequence
    names the steps.

    >>> update_steps("none", 2048)
    (0, 64, 128, 256, 512, 1024)
    >>> update_steps("light", 256)
    (0, 1, 2, 4, 8, 16, 32, 64, 128)
    >>> update_steps(100, 320)
    (0, 100, 200, 300)
    """
    if isinstance(schedule, int):
        return tuple(range(0, steps, schedule))
    if not isinstance(schedule, str):
        return tuple(sorted({0, *(step for step in schedule if step < steps)}))
    doubling, step = [], _DOUBLING_FROM[schedule]
    while step < PAPER_STEPS:
        doubling.append(step)
        step *= 2
    scaled = {max(1, round(step * steps / PAPER_STEPS)) for step in doubling}
    return (0, *sorted(step for step in scaled if step < steps))


def intervals(
    schedule: Schedule | int | Sequence[int], steps: int, longest_probe: int | None
) -> list[Interval]:
    """The intervals of a run, each with its probe length c = min(H, longest_probe).

    Args:
        schedule: as in `update_steps`.
        steps: total steps of the run.
        longest_probe: cap on c; None for the paper's 128 steps, scaled to the total as the schedule is.

    >>> intervals("none", 2048, None)[-1]
    Interval(start=1024, horizon=1024, probe_steps=128)
    """
    cap = longest_probe or max(1, round(PAPER_PROBE * steps / PAPER_STEPS))
    edges = (*update_steps(schedule, steps), steps)
    return [Interval(a, b - a, min(b - a, cap)) for a, b in pairwise(edges)]
