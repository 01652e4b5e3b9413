"""What a mixer will ask of a run beside training and the evaluation grid, told before the run starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trimtab.adapt.ledger import Ledger
from trimtab.adapt.roles import Roles
from trimtab.train.fit import Fit, evaluation_steps


@dataclass(frozen=True)
class Needs:
    """The most that a mixer asks of a run: less where the run stops early or the mixer then needs less.

    Attributes:
        probe_steps: optimiser steps that will be rolled back, over all training domains.
        whole_readings: how often `Fit.eval_sequences` of every evaluation domain are read off the evaluation grid; a
            question at a point of the grid finds them read.
        sampled_readings: how often `Fit.probe_sequences` of them are read, between points of the grid and on trial.
        gradient_sequences: sequences read forward and backward for gradients that train nothing.
    """

    probe_steps: int = 0
    whole_readings: int = 0
    sampled_readings: int = 0
    gradient_sequences: int = 0

    def ledger(self, fit: Fit, roles: Roles) -> Ledger:
        """The ledger of a run that asks for this and goes to its end, if no validation split is too short.

        >>> from trimtab.adapt.roles import make_roles
        >>> roles = make_roles(["math", "web"], ["safety"], ["math"], {"safety": 0.05})
        >>> Needs(whole_readings=2).ledger(Fit(eval_sequences=10), roles).probe_sequences
        60
        """
        domains, grid = len(roles.evaluate), evaluation_steps(fit.steps, fit.eval_points)
        read = self.whole_readings * fit.eval_sequences + self.sampled_readings * fit.probe_sequences
        return Ledger(
            training_steps=fit.steps,
            probe_steps=self.probe_steps,
            monitoring_sequences=len(grid) * domains * fit.eval_sequences,
            probe_sequences=domains * read,
            gradient_sequences=self.gradient_sequences,
        )


def off_grid(asked: Iterable[int], fit: Fit) -> int:
    """How many of these steps are no point of the evaluation grid, so that a reading there costs.

    >>> off_grid((0, 5, 6, 10), Fit(steps=320, eval_points=8))
    2
    """
    grid = frozenset(evaluation_steps(fit.steps, fit.eval_points))
    if isinstance(asked, range):
        return len(asked) - sum(step in asked for step in grid)
    return sum(step not in grid for step in asked)
