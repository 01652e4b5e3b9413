"""Mixers of other papers: online data mixing by Exp3, gradient alignment after DoGE, and Aioli."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from trimtab.adapt import mixer
from trimtab.adapt.mixer import Decision, State
from trimtab.adapt.session import Roles, Session
from trimtab.errors import DivergedError
from trimtab.numerics.simplex import exponentiated, smoothed, spread
from trimtab.runs.brief import brief
from trimtab.train.settings import Fit


@dataclass(frozen=True)
class Exp3(mixer.Goals, mixer.NoProbes):
    """Online data mixing: more of the domains with a high training loss, by the bandit algorithm Exp3.

    At question t each domain drawn since the last one updates its reward, R_i <- a R_i + (1 - a) L_i / pi_i, with its
    mean training loss L_i in nats per token and its share pi_i; then pi_i = (1 - K eps_t) softmax(eps_{t-1} R)_i +
    eps_t, where eps_t = min(1/K, sqrt(ln K / (K t))) and eps_0 = 1/K. At first all K shares are equal.

    Source: Albalak, Pan, Raffel, Wang 2023 (arXiv 2312.02406, algorithm 1). There a turn is one optimiser step, and
    every domain is drawn in the warm-up; here a turn is `every` steps, the share of a domain decides how many of
    its sequences there are, and a domain of which none was drawn keeps its reward.

    Blind to targets and constraints: it never reads them. It assumes that a high loss means much to learn, as in
    pretraining; a domain with much noise in it then gets much of the batch.

    Attributes:
        every: steps between questions.
        decay: a, how much of a reward is kept.
    """

    every: int = 4
    decay: float = 0.9
    kind: Literal["exp3"] = "exp3"
    hears: ClassVar[bool] = True
    ranges: ClassVar[Mapping[str, mixer.Range]] = {"every": mixer.COUNT, "decay": mixer.SHARE}

    __repr__ = brief

    def decide(self, session: Session, state: State) -> Decision:
        """Equal shares at first, then a turn of the bandit at each question."""
        train = session.roles.train
        arms = len(train)
        turn = int(state.get("turn", -1)) + 1
        rewards = list(state.get("rewards", [0.0] * arms))
        shares = list(state.get("shares", [1 / arms] * arms))
        for k, name in enumerate(train):
            if name in session.training_losses:
                paid = session.training_losses[name] / shares[k]
                rewards[k] = self.decay * rewards[k] + (1 - self.decay) * paid
        if turn:
            softmax = exponentiated([1 / arms] * arms, exploration(arms, turn - 1) * np.asarray(rewards))
            least = exploration(arms, turn)
            shares = [float(share) for share in (1 - arms * least) * softmax + least]
        ask_at = mixer.next_question(session.step, session.steps, self.every)
        return Decision(tuple(shares), ask_at, {"turn": turn, "rewards": rewards, "shares": shares})


def exploration(arms: int, turn: int) -> float:
    """The least share of each arm at a turn, eps_t; 1 / arms up to about turn arms ln(arms).

    >>> exploration(4, 0), round(exploration(4, 50), 4)
    (0.25, 0.0833)
    """
    return min(1 / arms, math.sqrt(math.log(arms) / (arms * turn))) if turn else 1 / arms


@dataclass(frozen=True)
class GradientAlignment(mixer.Goals, mixer.ReadsLosses):
    """Gradient alignment: more of the domains whose gradient points along that of targets and constraints in need.

    w_j <- w_j exp(eta a_j), then a little of the uniform mixture, where a_j is the inner product of the gradient of
    training loss j with the gradient of the sum of the target losses and of the losses of all constraints that have
    at most `near` of their tolerance left, divided by the largest |a_k|: so eta has no unit.

    After DoGE (Fan, Pagliardini, Jaggi 2023, arXiv 2310.15393, algorithm 1), which aligns with the sum over all
    domains, at each step of a small proxy model, and scales by a constant. The source has no constraints: that they
    count once they are close to their limit is ours, and so are the scale and that it runs on the model itself,
    at a few steps.

    Assumes that a small gradient step says what training does: the optimiser's moments are left out, so a domain
    whose gradient is long counts for more than Adam makes of it.

    Attributes:
        near: part of a tolerance (of .01 nats at least) below which its constraint counts.
        eta: log-weight per question.
        smoothing: share of the uniform mixture.
        sequences: read for each gradient.
        every: steps between questions; None for a sixteenth of the run. Losses and gradients are read at each.
    """

    near: float = 0.5
    eta: float = 0.5
    smoothing: float = 0.05
    sequences: int = 8
    every: int | None = None
    kind: Literal["gradient-alignment"] = "gradient-alignment"
    ranges: ClassVar[Mapping[str, mixer.Range]] = {
        "eta": mixer.POSITIVE,
        **dict.fromkeys(("smoothing", "near"), mixer.SHARE),
        "sequences": mixer.COUNT,
        "every": mixer.RHYTHM,
    }

    __repr__ = brief

    def needs(self, fit: Fit, roles: Roles) -> mixer.Needs:
        """All losses at each question, and gradients as if every constraint were in need."""
        gradients = len(roles.train) + len(roles.targets) + len(roles.tolerances)
        times = len(mixer.questions(fit.steps, self.every))
        return replace(super().needs(fit, roles), gradient_sequences=times * gradients * self.sequences)

    def decide(self, session: Session, state: State) -> Decision:
        """An update from equal shares, and from the last shares at each further question."""
        train = session.roles.train
        in_need = [name for name, slack in mixer.slacks(session).items() if slack <= self.near]
        gradients = session.gradients(self.sequences, of=[*session.roles.targets, *in_need])
        alignment = gradients.products.sum(0)
        if not np.isfinite(alignment).all():
            raise DivergedError(f"a gradient at step {session.step} is not finite; try a lower lr")
        before = state.get("weights", spread(train, train))
        weights = smoothed(exponentiated(before, self.eta * in_units(alignment)), self.smoothing)
        return Decision(weights, self.next_question(session), {"weights": list(weights)})


def in_units(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Values divided by the largest absolute one, so that they lie in [-1, 1]; zeros stay zeros.

    >>> in_units(np.array([1.0, -4.0])).tolist()
    [0.25, -1.0]
    """
    largest = np.abs(values).max()
    scaled: np.ndarray = values / largest if largest > 0 else np.zeros_like(values)
    return scaled


@dataclass(frozen=True)
class Aioli(mixer.Goals, mixer.NoProbes):
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
    ranges: ClassVar[Mapping[str, mixer.Range]] = {
        **dict.fromkeys(("rounds", "sweeps"), mixer.COUNT),
        "eta": mixer.POSITIVE,
        **dict.fromkeys(("smoothing", "ema"), mixer.SHARE),
        "delta": (lambda x: 0 < x < 1, "a part between 0 and 1"),
    }

    __repr__ = brief

    def needs(self, fit: Fit, roles: Roles) -> mixer.Needs:
        """All losses at each mixture of a sweep and once after it."""
        return mixer.Needs(whole_readings=mixer.off_grid(self.questions(fit.steps, len(roles.train)), fit))

    def decide(self, session: Session, state: State) -> Decision:
        """The next mixture of a sweep, or the mixture for the rest of the round."""
        names, now = len(session.roles.train), list(mixer.changes(session).values())
        progress: dict[str, Any] = dict(state) or {
            "round": 0,
            "slot": -1,
            "weights": list(spread(session.roles.train, session.roles.train)),
            "average": None,
        }
        slots = self.sweeps * names
        if progress["slot"] == slots:
            progress |= {"round": progress["round"] + 1, "slot": -1}
        if progress["slot"] == -1:
            progress["gained"] = [[0.0] * names for _ in now]
        else:
            self._book(progress, now)
        progress |= {"slot": progress["slot"] + 1, "before": now}
        if progress["slot"] < slots:
            length = self._length(session.steps, names)
            mixture = self.mixtures(names)[self._turn(progress, names)]
            return self._until(session, mixture.tolist(), session.step + length, progress)
        law = np.linalg.solve(self.mixtures(names), np.array(progress["gained"]).T).T
        before = progress["weights"]
        if self.ema is not None:
            if progress["average"] is not None:
                law = (1 - self.ema) * law + self.ema * np.array(progress["average"])
            progress["average"], before = law.tolist(), [1 / names] * names
        push = in_units(law.sum(0)) if self.normalise else law.sum(0)
        progress["weights"] = [float(weight) for weight in exponentiated(before, self.eta * push)]
        end = (progress["round"] + 1) * session.steps // self._rounds(session.steps, names)
        return self._until(session, progress["weights"], end, progress)

    def mixtures(self, names: int) -> Float[np.ndarray, "N N"]:
        """The mixtures of a sweep, one per row."""
        rows: np.ndarray = (1 - self.smoothing) * np.eye(names) + self.smoothing / names
        return rows

    def questions(self, steps: int, names: int) -> list[int]:
        """Every step at which it is asked in a run of `steps` steps on `names` domains."""
        rounds, length = self._rounds(steps, names), self._length(steps, names)
        starts = (number * steps // rounds for number in range(rounds))
        borders = [start + k * length for start in starts for k in range(self.sweeps * names + 1)]
        return [step for step in borders if step < steps]

    def _turn(self, progress: Mapping[str, Any], names: int) -> int:
        """Whose mixture it is: sweeps go forward and backward in turn."""
        sweep, place = divmod(progress["slot"], names)
        backward = (progress["round"] * self.sweeps + sweep) % 2
        return names - 1 - place if backward else int(place)

    def _book(self, progress: dict[str, Any], now: Sequence[float]) -> None:
        """Add what the losses fell by to the column of the mixture that has just been trained on."""
        turn = self._turn(progress, len(progress["weights"]))
        gained = [list(row) for row in progress["gained"]]
        for row, before, after in zip(gained, progress["before"], now, strict=True):
            row[turn] += (before - after) / self.sweeps
        progress["gained"] = gained

    def _rounds(self, steps: int, names: int) -> int:
        fitting = steps // (2 * self.sweeps * names)
        return max(1, min(self.rounds, fitting))

    def _length(self, steps: int, names: int) -> int:
        """Steps on each mixture of a sweep; the shortest round has a step left for what was learnt."""
        rounds, slots = self._rounds(steps, names), self.sweeps * names
        return max(1, min(int(self.delta * steps / (rounds * slots)), (steps // rounds - 1) // slots))

    @staticmethod
    def _until(session: Session, weights: Sequence[float], end: int, progress: State) -> Decision:
        return Decision(tuple(weights), end if end < session.steps else None, progress)
