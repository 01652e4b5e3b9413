"""A world in which losses move exactly as slopes say, and a run in it without a model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from fake_session import BASE, ROLES
from trimtab.adapt.dynamics.planning import Planning
from trimtab.adapt.mixer import Decision, Mixer
from trimtab.adapt.session import Clock, Roles, Trials
from trimtab.train.losses import SequenceLosses, change
from trimtab.train.settings import evaluation_steps

SLOPES = np.array(
    [[-0.02, 0.001, 0.002], [0.003, -0.01, 0.0], [0.004, 0.001, -0.01], [0.006, -0.002, -0.004]]
)
"""What a first step on math, code and web does to each of `ROLES.evaluate`, nats."""


class Straight:
    """Losses move by `slopes @ worth` of what the optimiser's first moment has held of each domain.

    Of four sequences the first two are the sampled ones; they move by `1 + tilt` times as much as all four together.
    """

    def __init__(
        self,
        slopes: np.ndarray = SLOPES,
        *,
        roles: Roles = ROLES,
        steps: int = 64,
        points: int = 4,
        momentum: float = 0.9,
        returns: float = 1.0,
        tilt: float = 0.0,
    ) -> None:
        self.slopes, self.roles, self.steps, self.momentum, self.tilt = slopes, roles, steps, momentum, tilt
        self.grid = evaluation_steps(steps, points)
        self.planning = Planning(returns=returns)
        self.step, self.average, self.seen = 0, np.zeros(slopes.shape[1]), np.zeros(slopes.shape[1])

    def train(self, weights: Sequence[float], steps: int = 1) -> None:
        """Steps of one mixture; Adam's first moment (Kingma & Ba 2015) written out."""
        for _ in range(steps):
            self.step += 1
            self.average = self.momentum * self.average + (1 - self.momentum) * np.array(weights)
            self.seen = self.seen + self.average / (1 - self.momentum**self.step)

    def moved(self) -> np.ndarray:
        """(M,) nats since step 0."""
        moved: np.ndarray = self.slopes @ self.planning.effective(self.seen)
        return moved

    def losses(self) -> dict[str, SequenceLosses]:
        """Four sequences of ten tokens of each domain."""
        shares = 1 + self.tilt * np.array([1.0, 1.0, -1.0, -1.0])
        return {
            name: SequenceLosses(10 * (BASE + move * shares), np.full(4, 10))
            for name, move in zip(self.roles.evaluate, self.moved(), strict=True)
        }

    def trials(self, readings: Sequence[int]) -> Trials:
        """What one domain at a time does from here, on the sampled sequences."""
        columns = []
        for one_hot in np.eye(len(self.average)):
            trial, before, rows = copy.deepcopy(self), self.sampled(), []
            for length in np.diff([0, *readings]):
                trial.train(one_hot, int(length))
                now = trial.sampled()
                rows.append([change(now[name], before[name]) for name in self.roles.evaluate])
                before = now
            columns.append(rows)
        values, errors = (
            np.array([[[getattr(m, name) for m in row] for row in rows] for rows in columns]).transpose(
                1, 2, 0
            )
            for name in ("value", "standard_error")
        )
        return Trials(tuple(readings), values, errors)

    def sampled(self) -> dict[str, SequenceLosses]:
        """The first two sequences."""
        return {name: losses.first(2) for name, losses in self.losses().items()}

    def session(self) -> Any:
        """The run at this step, as its mixer sees it."""
        whole, sampled = self.losses(), self.sampled()
        same = SequenceLosses(np.full(4, 10 * BASE), np.full(4, 10))
        return SimpleNamespace(
            roles=self.roles,
            step=self.step,
            steps=self.steps,
            grid=self.grid,
            reference=dict.fromkeys(self.roles.evaluate, same),
            losses=lambda: whole,
            sampled_losses=lambda of=None: {name: sampled[name] for name in of or self.roles.evaluate},
            rates=lambda start, stop: np.ones(stop - start),
            trials=self.trials,
            clock=Clock(),
            margin=0.0,
            momentum=self.momentum,
        )

    def run(self, mixer: Mixer, until: int | None = None) -> list[tuple[int, Decision]]:
        """Every question of a run from here to `until`, and its answer."""
        asked: list[tuple[int, Decision]] = []
        ask_at: int | None = self.step
        while self.step < (self.steps if until is None else until):
            if ask_at == self.step:
                asked.append((self.step, mixer.decide(self.session(), asked[-1][1].state if asked else {})))
                ask_at = asked[-1][1].ask_at
            self.train(asked[-1][1].weights)
        return asked
