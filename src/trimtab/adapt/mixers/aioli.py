"""Aioli: learn in part of each round what each domain does to each loss, by training that stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from trimtab.adapt.mixer import (
    COUNT,
    POSITIVE,
    SHARE,
    Decision,
    Goals,
    Needs,
    NoProbes,
    Range,
    State,
    changes,
    off_grid,
)
from trimtab.adapt.mixers.online import in_units
from trimtab.adapt.roles import Roles
from trimtab.adapt.session import Session
from trimtab.numerics.simplex import exponentiated, spread
from trimtab.train.settings import Fit


@dataclass(frozen=True)
class Aioli(Goals, NoProbes):
    """Exponentiated gradient on a linear mixing law that is learnt by training, and relearnt each round.

    The law: a few steps on mixture p lower loss i by sum_j A_ij p_j. A round begins with a sweep: a few steps, kept,
    on each mixture (1 - smoothing) e_j + smoothing / N in turn, with a reading of the losses after each; beta_ij is
    what loss i fell by then, and A solves the linear system of the law. Then p_j <- p_j exp(eta sum_i A_ij),
    normalised, is trained on until the round ends.

    Source: Chen, Hu, Lourie, Cho, Re 2024 (arXiv 2411.05735, algorithms 1 and 2), where i runs over the training
    domains. The source has no constraints: here i runs over targets and constraints alike, and a constraint with
    room to spare counts as much as one without. The source takes the domains in random order and leaves A in nats;
    here each sweep goes the other way round than the one before, and with `normalise` the sums over i are divided
    by the largest of their absolute values, as a few steps of fine-tuning move losses by thousandths of a nat.

    Assumes that the law is linear and that what a few steps do tells what the rest of the round will do.

    Attributes:
        rounds: of the run; fewer where a round would be shorter than two sweeps.
        delta: part of each round that is spent on sweeps, at least one step a mixture.
        sweeps: of a round; beta is averaged over them.
        smoothing: of the mixtures of a sweep.
        eta: log-weight per round and unit (per nat without `normalise`).
        ema: weight of earlier rounds in A, as in the source: the shares then start from equal ones in each round;
            None to let the shares go on from the last ones.
        normalise: whether eta is without unit.
    """

    rounds: int = 4
    delta: float = 0.25
    sweeps: int = 1
    smoothing: float = 0.25
    eta: float = 1.0
    ema: float | None = None
    normalise: bool = True
    kind: Literal["aioli"] = "aioli"
    ranges: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("rounds", "sweeps"), COUNT),
        "eta": POSITIVE,
        **dict.fromkeys(("smoothing", "ema"), SHARE),
        "delta": (lambda x: 0 < x < 1, "a part between 0 and 1"),
    }

    def needs(self, fit: Fit, roles: Roles) -> Needs:
        """All losses at each mixture of a sweep and once after it."""
        return Needs(whole_readings=off_grid(self.questions(fit.steps, len(roles.train)), fit))

    def decide(self, session: Session, state: State) -> Decision:
        """The next mixture of a sweep, or the mixture for the rest of the round."""
        names, now = len(session.roles.train), list(changes(session).values())
        known: dict[str, Any] = dict(state) or {
            "round": 0,
            "slot": -1,
            "weights": list(spread(session.roles.train, session.roles.train)),
            "average": None,
        }
        slots = self.sweeps * names
        if known["slot"] == slots:
            known |= {"round": known["round"] + 1, "slot": -1}
        if known["slot"] == -1:
            known["gained"] = [[0.0] * names for _ in now]
        else:
            self._book(known, now)
        known |= {"slot": known["slot"] + 1, "before": now}
        if known["slot"] < slots:
            length = self._length(session.steps, names)
            mixture = self.mixtures(names)[self._turn(known, names)]
            return self._until(session, mixture.tolist(), session.step + length, known)
        self._learn(known)
        end = (known["round"] + 1) * session.steps // self._rounds(session.steps, names)
        return self._until(session, known["weights"], end, known)

    def mixtures(self, names: int) -> Float[np.ndarray, "N N"]:
        """The mixtures of a sweep, one per row."""
        rows: np.ndarray = (1 - self.smoothing) * np.eye(names) + self.smoothing / names
        return rows

    def questions(self, steps: int, names: int) -> list[int]:
        """Every step at which it is asked in a run of `steps` steps on `names` domains."""
        rounds, length = self._rounds(steps, names), self._length(steps, names)
        starts = (number * steps // rounds for number in range(rounds))
        asked = [start + k * length for start in starts for k in range(self.sweeps * names + 1)]
        return [step for step in asked if step < steps]

    def _turn(self, known: Mapping[str, Any], names: int) -> int:
        """Whose mixture it is: sweeps go forward and backward in turn."""
        sweep, place = divmod(known["slot"], names)
        backward = (known["round"] * self.sweeps + sweep) % 2
        return names - 1 - place if backward else int(place)

    def _book(self, known: dict[str, Any], now: Sequence[float]) -> None:
        """Add what the losses fell by to the column of the mixture that has just been trained on."""
        turn = self._turn(known, len(known["weights"]))
        gained = [list(row) for row in known["gained"]]
        for row, before, after in zip(gained, known["before"], now, strict=True):
            row[turn] += (before - after) / self.sweeps
        known["gained"] = gained

    def _learn(self, known: dict[str, Any]) -> None:
        """Solve for A, and update the shares."""
        law = np.linalg.solve(self.mixtures(len(known["weights"])), np.array(known["gained"]).T).T
        before = known["weights"]
        if self.ema is not None:
            if known["average"] is not None:
                law = (1 - self.ema) * law + self.ema * np.array(known["average"])
            known["average"], before = law.tolist(), [1 / len(before)] * len(before)
        push = law.sum(0)
        weights = exponentiated(before, self.eta * (in_units(push) if self.normalise else push))
        known["weights"] = [float(weight) for weight in weights]

    def _rounds(self, steps: int, names: int) -> int:
        fitting = steps // (2 * self.sweeps * names)
        return max(1, min(self.rounds, fitting))

    def _length(self, steps: int, names: int) -> int:
        """Steps on each mixture of a sweep; the shortest round has a step left for what was learnt."""
        rounds, slots = self._rounds(steps, names), self.sweeps * names
        return max(1, min(int(self.delta * steps / (rounds * slots)), (steps // rounds - 1) // slots))

    @staticmethod
    def _until(session: Session, weights: Sequence[float], end: int, known: State) -> Decision:
        return Decision(tuple(weights), end if end < session.steps else None, known)
