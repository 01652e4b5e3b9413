"""The cost of a run in steps of plain training: as booked while it runs, and as a schedule of probes plans it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise, takewhile
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
    if isinstance(schedule, str):
        doubling = (_DOUBLING_FROM[schedule] << k for k in count())
        paper = takewhile(lambda step: step < PAPER_STEPS, doubling)
        schedule = [max(1, round(step * steps / PAPER_STEPS)) for step in paper]
    return tuple(sorted({0, *(step for step in schedule if step < steps)}))


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


FORWARD = 1 / 3
"""A forward pass costs a third of a training step (forward and backward)."""


@dataclass(frozen=True)
class Ledger:
    """Ledger of a run: steps, sequences read and seconds so far.

    Attributes:
        training_steps: optimiser steps that stayed in the model.
        probe_steps: optimiser steps that were rolled back.
        monitoring_sequences: sequences read on the shared evaluation grid, which every mixer pays.
        probe_sequences: sequences read for probes, before and after; a reading of the grid at the same step
            serves as the one before.
        seconds: by part of the work.
        gradient_sequences: sequences read forward and backward for gradients that trained nothing.
    """

    training_steps: int = 0
    probe_steps: int = 0
    monitoring_sequences: int = 0
    probe_sequences: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    gradient_sequences: int = 0

    def add(self, *, seconds: Mapping[str, float] | None = None, **counts: int) -> Ledger:
        """A ledger with these counts and seconds added."""
        spent = dict(self.seconds)
        for part, more in (seconds or {}).items():
            spent[part] = spent.get(part, 0.0) + more
        return replace(self, seconds=spent, **{name: getattr(self, name) + n for name, n in counts.items()})


@dataclass(frozen=True)
class CostReport:
    """Cost of a run, in counts and in multiples of one fixed-mixture run on the same evaluation grid.

    Attributes:
        training_steps: optimiser steps that stayed in the model.
        probe_steps: optimiser steps that were rolled back.
        evaluation_batches: batches of `batch_size` sequences read, in all.
        solver_seconds: time in the mixture solver.
        training_multiple: (training + probe steps + gradient sequences / `batch_size`) / steps of a fixed-mixture
            run.
        all_in_multiple: the same with every evaluation counted on both sides, a forward pass as a third of a step.
        seconds: wall-clock by part.
        gradient_batches: batches of `batch_size` sequences read forward and backward for gradients alone.
    """

    training_steps: int
    probe_steps: int
    evaluation_batches: float
    solver_seconds: float
    training_multiple: float
    all_in_multiple: float
    seconds: Mapping[str, float]
    gradient_batches: float = 0.0


def cost_report(ledger: Ledger, steps: int, grid_sequences: int, batch_size: int) -> CostReport:
    """The cost of a run against a fixed-mixture run of `steps` steps that reads `grid_sequences` sequences.

    A run that stopped early has multiples below one.
    """
    gradients = ledger.gradient_sequences / batch_size
    spent = ledger.training_steps + ledger.probe_steps + gradients
    read = ledger.monitoring_sequences + ledger.probe_sequences
    plain = steps + FORWARD * grid_sequences / batch_size
    return CostReport(
        training_steps=ledger.training_steps,
        probe_steps=ledger.probe_steps,
        evaluation_batches=read / batch_size,
        solver_seconds=ledger.seconds.get("solver", 0.0),
        training_multiple=spent / steps,
        all_in_multiple=(spent + FORWARD * read / batch_size) / plain,
        seconds=dict(ledger.seconds),
        gradient_batches=gradients,
    )
