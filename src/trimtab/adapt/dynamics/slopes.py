"""Probes that are training: a run cut into short blocks, and slopes read off the run itself.

Nothing is rolled back. The first blocks lean towards one domain each, which tells the domains apart. After them every
block has the mixture that was last solved for, and may lean beyond it towards the domain that the mixture owes most, so
that slopes stay identified while the mixture is kept on average. At each border a few sequences are read, slopes
are fitted to all blocks so far, and the mixture is solved for again.

Slopes from trial runs that are undone: as the paper takes them, or freed of what momentum carries over.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from trimtab.adapt.cost import Interval
from trimtab.adapt.dynamics.planning import Pace, Planning, Standing
from trimtab.adapt.mixer import Needs, State, off_grid
from trimtab.adapt.roles import Roles
from trimtab.adapt.session import Session, Trials
from trimtab.numerics.slopes import blended, fit_slopes
from trimtab.train.losses import SequenceLosses, change
from trimtab.train.settings import Fit, evaluation_steps

SETTLED = 0.1
"""Last share of a run in which blocks lean no more, so that it does not end on a single domain."""
FIRST = 1 / 8
"""Largest share of a run that its first blocks take, one per domain."""
MEMORY = 1.0
"""Share of a run after which what a block taught counts 1 / e."""


@dataclass(frozen=True)
class Moment:
    """A step of a run that is only planned: as much of a session as borders depend on."""

    roles: Roles
    step: int
    steps: int
    grid: Sequence[int]


@dataclass(frozen=True)
class Blocks:
    """How a run is cut into blocks.

    Attributes:
        steps: of a block.
        first: steps of each of the first blocks, which lean towards one domain each.
        order: of the domains in the first blocks: those that are no targets first, which does the least harm.
        lean: share of a block that goes to one domain beyond the mixture.
    """

    steps: int
    first: int
    order: tuple[int, ...]
    lean: float

    @classmethod
    def of(cls, session: Session | Moment, blocks: int, lean: float) -> Blocks:
        """The blocks of a run that is cut into `blocks`."""
        train, targets = session.roles.train, session.roles.targets
        steps = max(1, round(session.steps / blocks))
        first = max(1, min(steps, int(FIRST * session.steps / len(train))))
        return cls(steps, first, tuple(sorted(range(len(train)), key=lambda k: train[k] in targets)), lean)

    def first_mixture(self, session: Session | Moment) -> Float[np.ndarray, " N"] | None:
        """The mixture of a first block at this step, half targets and half the rest but for its lean; None later."""
        number = session.step // self.first
        if number >= len(self.order):
            return None
        train, targets = session.roles.train, session.roles.trainable_targets
        others = len(train) - len(targets)
        even = np.array([1 / len(targets) if name in targets else 1 / max(1, others) for name in train])
        lean = max(self.lean, 0.5)
        mixture: np.ndarray = (1 - lean) * even / even.sum() + lean * np.eye(len(train))[self.order[number]]
        return mixture

    def next_border(self, session: Session | Moment) -> int:
        """The end of the block that begins here; none crosses a point of the evaluation grid: its reading is free."""
        first = session.step // self.first < len(self.order)
        end = (session.step // self.first + 1) * self.first if first else session.step + self.steps
        return min(end, session.steps, *session.grid[bisect_right(session.grid, session.step) :][:1])

    def lean_towards(
        self, session: Session, mixture: Float[np.ndarray, " N"], credit: Sequence[float]
    ) -> tuple[Float[np.ndarray, " N"], list[float]]:
        """The mixture of the block that begins here, and what each domain is owed after it, in blocks."""
        if session.step >= (1 - SETTLED) * session.steps:
            return mixture, list(credit)
        owed = np.array(credit) + mixture
        richest = int(owed.argmax())
        owed[richest] -= 1
        return (1 - self.lean) * mixture + self.lean * np.eye(len(mixture))[richest], owed.tolist()


@dataclass(frozen=True)
class Log:
    """What a run has taught so far, as plain numbers.

    Attributes:
        step: of the last reading.
        weights: the mixture since then.
        average: (N,) the mixtures in the optimiser's first moment then (see `blended`).
        exposure: (N,) steps on each domain until then, as the optimiser's first moment saw them.
        credit: (N,) what each domain is owed, in blocks.
        nll: (M, n) summed negative log-likelihood of each sampled sequence then.
        offset: (M,) by how much a change on all validation sequences exceeds that on the sampled ones, when last known.
        error: (M,) standard error of the change on all validation sequences, when last known.
        ends: (K,) the step at which each block ended.
        worths: (K, N) what each block was worth on each domain.
        changes: (K, M) what happened to each loss in it.
        errors: (K, M) standard errors of that.
    """

    step: int = 0
    weights: Sequence[float] = ()
    average: Sequence[float] = ()
    exposure: Sequence[float] = ()
    credit: Sequence[float] = ()
    nll: Sequence[Sequence[float]] = ()
    offset: Sequence[float] = ()
    error: Sequence[float] = ()
    ends: Sequence[int] = ()
    worths: Sequence[Sequence[float]] = ()
    changes: Sequence[Sequence[float]] = ()
    errors: Sequence[Sequence[float]] = ()

    def with_mixture(self, weights: Float[np.ndarray, " N"], credit: Sequence[float]) -> State:
        """The state of a mixer that goes on with this mixture."""
        return asdict(replace(self, weights=weights.tolist(), credit=list(credit)))


def block_needs(fit: Fit, roles: Roles, blocks: int, lean: float) -> Needs:
    """A sampled reading at each border that is no point of the evaluation grid."""
    now = Moment(roles, 0, fit.steps, evaluation_steps(fit.steps, fit.eval_points))
    plan, borders = Blocks.of(now, blocks, lean), []
    while now.step < now.steps:
        borders.append(now.step)
        now = replace(now, step=plan.next_border(now))
    return Needs(sampled_readings=off_grid(borders, fit))


def read(session: Session, planning: Planning, state: State) -> tuple[Log, Standing]:
    """The log with the block that ends here, and where the losses stand.

    Between points of the evaluation grid only the sampled sequences are read; what they leave out is taken from the
    last time all were.
    """
    log = Log(**state) if state else _begin(session)
    names, sampled = session.roles.evaluate, session.sampled_losses()
    moved = np.array([_since_start(session, name, sampled[name]) for name in names])
    if session.step in session.grid:
        whole = [change(session.losses()[name], session.reference[name]) for name in names]
        offset = [w.value - float(m) for w, m in zip(whole, moved, strict=True)]
        log = replace(log, offset=offset, error=[w.standard_error for w in whole])
    if session.step > log.step:
        log = replace(log, **_block(session, planning, log, sampled))
    log = replace(log, step=session.step, nll=[sampled[name].nll.tolist() for name in names])
    return log, Standing(moved + np.array(log.offset), np.array(log.error))


def fitted(session: Session, log: Log, blocks: int) -> Pace:
    """Slopes from all blocks so far, older ones counting less: recursive least squares with forgetting."""
    trust = np.exp((np.array(log.ends) - session.step) / (MEMORY * session.steps))
    fit = fit_slopes(np.array(log.worths), np.array(log.changes), np.array(log.errors), trust)
    steps = max(1, round(session.steps / blocks))
    return Pace(fit.slopes, fit.standard_errors, np.array(log.exposure), steps)


def _begin(session: Session) -> Log:
    n, m = len(session.roles.train), len(session.roles.evaluate)
    zeros: dict[str, Any] = {name: [0.0] * n for name in ("average", "exposure", "credit")}
    zeros |= {name: [0.0] * m for name in ("offset", "error")}
    return Log(**zeros, ends=[], worths=[], changes=[], errors=[])


def _since_start(session: Session, name: str, now: SequenceLosses) -> float:
    return change(now, session.reference[name].first(len(now.nll))).value


def _block(
    session: Session, planning: Planning, log: Log, sampled: Mapping[str, SequenceLosses]
) -> dict[str, Any]:
    """What the log gains from the steps since the last reading."""
    mixtures = [np.array(log.weights)] * (session.step - log.step)
    shares, average = blended(np.array(log.average), log.step, mixtures, session.momentum)
    before = np.array(log.exposure)
    after = before + shares.sum(axis=0)
    moved = [
        change(sampled[name], replace(sampled[name], nll=np.array(nll)))
        for name, nll in zip(session.roles.evaluate, log.nll, strict=True)
    ]
    return {
        "average": average.tolist(),
        "exposure": after.tolist(),
        "ends": [*log.ends, session.step],
        "worths": [*log.worths, (planning.worth(after) - planning.worth(before)).tolist()],
        "changes": [*log.changes, [m.value for m in moved]],
        "errors": [*log.errors, [m.standard_error for m in moved]],
    }


SlopeRule = Literal["whole", "second-half", "momentum"]


def read_after(rule: SlopeRule, steps: int) -> tuple[int, ...]:
    """The steps of a trial after which losses are read: its end and, where the rule asks for it, its half."""
    half = steps // 2
    return (half, steps) if rule != "whole" and half else (steps,)


def trial_needs(spans: Sequence[Interval], rule: SlopeRule, fit: Fit, roles: Roles) -> Needs:
    """All losses at each update, and a trial of each training domain with its readings."""
    trials = len(roles.train)
    return Needs(
        probe_steps=trials * sum(span.probe_steps for span in spans),
        whole_readings=off_grid((span.start for span in spans), fit),
        sampled_readings=trials * sum(len(read_after(rule, span.probe_steps)) for span in spans),
    )


def measure(session: Session, planning: Planning, rule: SlopeRule, steps: int, state: State) -> Pace:
    """Probe every training domain for `steps` steps and read slopes off.

    "whole" takes the change over the whole probe (arXiv 2605.10770). "second-half" leaves out its first half, in
    which the optimiser still moves where the last mixture pointed. "momentum" uses both halves and works out
    how much of each domain the optimiser's first moment held at every step; its standard errors include the scatter
    between the halves, hence the choice of training batches.
    """
    trials = session.trials(read_after(rule, steps))
    if rule == "momentum":
        return _freed_of_momentum(session, planning, trials, state)
    before = exposed(session, state)
    start = trials.readings[-2] if len(trials.readings) > 1 else 0
    worth = planning.worth(before + steps) - planning.worth(before + start)
    return Pace(trials.changes[-1] / worth, trials.errors[-1] / worth, before, steps)


def carried(session: Session, state: State) -> Float[np.ndarray, " N"]:
    """The moving average of mixtures in the optimiser's first moment now, not corrected for its start."""
    n = len(session.roles.train)
    if not state:
        return np.zeros(n)
    taken = int(state["step"])
    mixtures = [np.array(state["weights"])] * (session.step - taken)
    return blended(np.array(state["average"]), taken, mixtures, session.momentum)[1]


def exposed(session: Session, state: State) -> Float[np.ndarray, " N"]:
    """Steps on each domain so far."""
    if not state:
        return np.zeros(len(session.roles.train))
    since = (session.step - int(state["step"])) * np.array(state["weights"])
    exposure: np.ndarray = np.array(state["exposure"]) + since
    return exposure


def remember(session: Session, weights: Float[np.ndarray, " N"], state: State) -> Mapping[str, Any]:
    """What `carried` needs at the next update."""
    return {
        "step": session.step,
        "weights": weights.tolist(),
        "average": carried(session, state).tolist(),
        "exposure": exposed(session, state).tolist(),
    }


def _freed_of_momentum(session: Session, planning: Planning, trials: Trials, state: State) -> Pace:
    n, steps = len(session.roles.train), trials.readings[-1]
    average, before = carried(session, state), exposed(session, state)
    good = np.flatnonzero(np.isfinite(trials.changes).all(axis=(0, 1)))
    exposures, changes, errors = [], [], []
    for j in good:
        shares, _ = blended(average, session.step, [np.eye(n)[j]] * steps, session.momentum)
        for r, (start, stop) in enumerate(zip((0, *trials.readings), trials.readings, strict=False)):
            path = before + shares[:start].sum(axis=0)
            exposures.append(planning.worth(path + shares[start:stop].sum(axis=0)) - planning.worth(path))
            changes.append(trials.changes[r, :, j])
            errors.append(trials.errors[r, :, j])
    slopes = np.full(trials.changes.shape[1:], np.nan)
    spread = slopes.copy()
    if len(good):
        fit = fit_slopes(np.array(exposures)[:, good], np.array(changes), np.array(errors))
        slopes[:, good], spread[:, good] = fit.slopes, fit.standard_errors
    return Pace(slopes, spread, before, steps)
