"""Slopes S_ij: how much a step on training domain j moves evaluation loss i, measured in one of two ways.

Read off blocks: the run itself is cut into short blocks and nothing is rolled back. The first blocks lean towards one
domain each, which tells the domains apart. After them every block has the mixture that was last solved for, and may
lean beyond it towards the domain that the mixture owes most, so that slopes stay identified while the mixture is kept
on average. At each border a few sequences are read, slopes are fitted to all blocks so far, and the mixture is solved
for again.

Rolled-back probes: trial runs that are undone, as in the paper (arXiv 2605.10770), or freed of what momentum carries
over.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float

from trimtab.adapt.cost import Interval
from trimtab.adapt.dynamics.planning import LossState, MeasuredSlopes, Planning
from trimtab.adapt.mixer import Needs, State, off_grid
from trimtab.adapt.session import Roles, Session, Trials
from trimtab.numerics.simplex import blended, fit_slopes
from trimtab.train.losses import SequenceLosses, change
from trimtab.train.settings import Fit, evaluation_steps

SETTLED = 0.1
"""Last share of a run in which blocks lean no more, so that it does not end on a single domain."""
FIRST = 1 / 8
"""Largest share of a run that its first blocks take, one per domain."""
MEMORY = 1.0
"""Share of a run after which what a block taught counts 1 / e."""


@dataclass(frozen=True)
class Blocks:
    """How a run is cut into blocks.

    Attributes:
        roles: the domains by role.
        total: steps of the run.
        grid: its evaluation steps.
        steps: of a block.
        first: steps of each of the first blocks, which lean towards one domain each.
        order: of the domains in the first blocks: those that are no targets first, which does the least harm.
        lean: share of a block that goes to one domain beyond the mixture.
    """

    roles: Roles
    total: int
    grid: Sequence[int]
    steps: int
    first: int
    order: tuple[int, ...]
    lean: float

    @classmethod
    def of(cls, roles: Roles, total: int, grid: Sequence[int], blocks: int, lean: float) -> Blocks:
        """The blocks of a run of `total` steps that is cut into `blocks`."""
        train, steps = roles.train, max(1, round(total / blocks))
        first = max(1, min(steps, int(FIRST * total / len(train))))
        order = tuple(sorted(range(len(train)), key=lambda k: train[k] in roles.targets))
        return cls(roles, total, grid, steps, first, order, lean)

    def first_mixture(self, step: int) -> Float[np.ndarray, " N"] | None:
        """The mixture of a first block at this step, half targets and half the rest but for its lean; None later."""
        number = step // self.first
        if number >= len(self.order):
            return None
        train, targets = self.roles.train, self.roles.trainable_targets
        others = len(train) - len(targets)
        even = np.array([1 / len(targets) if name in targets else 1 / max(1, others) for name in train])
        lean = max(self.lean, 0.5)
        mixture: np.ndarray = (1 - lean) * even / even.sum() + lean * np.eye(len(train))[self.order[number]]
        return mixture

    def next_border(self, step: int) -> int:
        """The end of the block that begins here; none crosses a point of the evaluation grid: its reading is free."""
        first = step // self.first < len(self.order)
        end = (step // self.first + 1) * self.first if first else step + self.steps
        return min(end, self.total, *self.grid[bisect_right(self.grid, step) :][:1])

    def borders(self) -> list[int]:
        """Where blocks begin, from step 0."""
        steps = [0]
        while (step := self.next_border(steps[-1])) < self.total:
            steps.append(step)
        return steps

    def lean_towards(
        self, step: int, mixture: Float[np.ndarray, " N"], credit: Sequence[float]
    ) -> tuple[Float[np.ndarray, " N"], list[float]]:
        """The leaning mixture of the block that begins here, and each domain's credit after it, in blocks."""
        if step >= (1 - SETTLED) * self.total:
            return mixture, list(credit)
        balances = np.array(credit) + mixture
        richest = int(balances.argmax())
        balances[richest] -= 1
        return (1 - self.lean) * mixture + self.lean * np.eye(len(mixture))[richest], balances.tolist()


@dataclass(frozen=True)
class BlockHistory:
    """Block history: effective steps and loss changes of the blocks of a run so far, as plain numbers.

    Attributes:
        step: of the last reading.
        weights: the mixture since then.
        average: (N,) the mixtures in the optimiser's first moment then (see `blended`).
        exposure: (N,) steps on each domain until then, as the optimiser's first moment saw them, each counted as its
            learning rate's share of the peak.
        credit: (N,) the sum of mixtures so far less the blocks that leaned towards each domain, in blocks.
        nll: (M, n) summed negative log-likelihood of each sampled sequence then.
        offset: (M,) by how much a change on all validation sequences exceeds that on the sampled ones, when last known.
        error: (M,) standard error of the change on all validation sequences, when last known.
        ends: (K,) the step at which each block ended.
        worths: (K, N) effective steps of each block on each domain.
        changes: (K, M) what happened to each loss in it.
        errors: (K, M) standard errors of that.
    """

    step: int = 0
    weights: Sequence[float] = field(default_factory=list)
    average: Sequence[float] = field(default_factory=list)
    exposure: Sequence[float] = field(default_factory=list)
    credit: Sequence[float] = field(default_factory=list)
    nll: Sequence[Sequence[float]] = field(default_factory=list)
    offset: Sequence[float] = field(default_factory=list)
    error: Sequence[float] = field(default_factory=list)
    ends: Sequence[int] = field(default_factory=list)
    worths: Sequence[Sequence[float]] = field(default_factory=list)
    changes: Sequence[Sequence[float]] = field(default_factory=list)
    errors: Sequence[Sequence[float]] = field(default_factory=list)

    def with_mixture(self, weights: Float[np.ndarray, " N"], credit: Sequence[float]) -> State:
        """The state of a mixer that goes on with this mixture."""
        return asdict(replace(self, weights=weights.tolist(), credit=list(credit)))

    def with_block(
        self, session: Session, planning: Planning, sampled: Mapping[str, SequenceLosses]
    ) -> BlockHistory:
        """The history with the steps since the last reading as one more block."""
        mixtures = [np.array(self.weights)] * (session.step - self.step)
        shares, average = blended(np.array(self.average), self.step, mixtures, session.momentum)
        before = np.array(self.exposure)
        steps = (shares * session.rates(self.step, session.step)[:, None]).sum(axis=0)
        moved = [
            change(sampled[name], replace(sampled[name], nll=np.array(nll)))
            for name, nll in zip(sampled, self.nll, strict=True)
        ]
        return replace(
            self,
            average=average.tolist(),
            exposure=(before + steps).tolist(),
            ends=[*self.ends, session.step],
            worths=[*self.worths, planning.gained(before, steps).tolist()],
            changes=[*self.changes, [m.value for m in moved]],
            errors=[*self.errors, [m.standard_error for m in moved]],
        )


def block_needs(fit: Fit, roles: Roles, blocks: int, lean: float) -> Needs:
    """Planned cost of blocks: a sampled reading at each border that is no point of the evaluation grid."""
    plan = Blocks.of(roles, fit.steps, evaluation_steps(fit.steps, fit.eval_points), blocks, lean)
    return Needs(sampled_readings=off_grid(plan.borders(), fit))


def read_block(
    session: Session, planning: Planning, state: State, of: Sequence[str] | None = None
) -> tuple[BlockHistory, LossState]:
    """The history with the block that ends here, and the loss state.

    Between points of the evaluation grid only the sampled sequences are read; what they leave out is taken from the
    last time all were.

    Args:
        session: the run.
        planning: what steps are worth.
        state: the history so far, as plain numbers.
        of: the M evaluation domains to read; all of them if None, and always the same.
    """
    names = session.roles.evaluate if of is None else of
    sampled = session.sampled_losses(names)
    n, m = [0.0] * len(session.roles.train), [0.0] * len(names)
    start = {"average": n, "exposure": n, "credit": n, "offset": m, "error": m}
    history = BlockHistory(**(state or start))
    base = {name: session.reference[name].first(len(sampled[name].nll)) for name in names}
    moved = np.array([change(sampled[name], base[name]).value for name in names])
    if session.step in session.grid:
        whole = [change(session.losses()[name], session.reference[name]) for name in names]
        offset = [w.value - float(m) for w, m in zip(whole, moved, strict=True)]
        history = replace(history, offset=offset, error=[w.standard_error for w in whole])
    if session.step > history.step:
        history = history.with_block(session, planning, sampled)
    history = replace(history, step=session.step, nll=[sampled[name].nll.tolist() for name in names])
    return history, LossState(moved + np.array(history.offset), np.array(history.error))


def fitted(session: Session, history: BlockHistory, blocks: int, memory: float = MEMORY) -> MeasuredSlopes:
    """Slopes from all blocks so far, older ones counting less: recursive least squares with forgetting."""
    trust = np.exp((np.array(history.ends) - session.step) / (memory * session.steps))
    fit = fit_slopes(np.array(history.worths), np.array(history.changes), np.array(history.errors), trust)
    steps = max(1, round(session.steps / blocks))
    return MeasuredSlopes(fit.slopes, fit.standard_errors, np.array(history.exposure), steps)


SlopeRule = Literal["whole", "second-half", "momentum"]


def read_after(rule: SlopeRule, steps: int) -> tuple[int, ...]:
    """The steps of a trial after which losses are read: its end and, where the rule asks for it, its half."""
    half = steps // 2
    return (half, steps) if rule != "whole" and half else (steps,)


def probe_needs(spans: Sequence[Interval], rule: SlopeRule, fit: Fit, roles: Roles) -> Needs:
    """Planned cost of probes: all losses at each update, and a trial of each training domain with its readings."""
    trials = len(roles.train)
    return Needs(
        probe_steps=trials * sum(span.probe_steps for span in spans),
        whole_readings=off_grid((span.start for span in spans), fit),
        sampled_readings=trials * sum(len(read_after(rule, span.probe_steps)) for span in spans),
    )


def measure(
    session: Session, planning: Planning, rule: SlopeRule, steps: int, state: State
) -> MeasuredSlopes:
    """Rolled-back probes: slopes from a trial of `steps` steps on each training domain.

    "whole" takes the change over the whole probe (arXiv 2605.10770). "second-half" leaves out its first half, in
    which the optimiser still moves where the last mixture pointed. "momentum" uses both halves and works out
    how much of each domain the optimiser's first moment held at every step; its standard errors include the scatter
    between the halves, hence the choice of training batches.
    """
    trials = session.trials(read_after(rule, steps))
    if rule == "momentum":
        return freed_of_momentum(session, planning, trials, state)
    before = exposed(session, state)
    start = trials.readings[-2] if len(trials.readings) > 1 else 0
    worth = planning.effective(before + steps) - planning.effective(before + start)
    return MeasuredSlopes(trials.changes[-1] / worth, trials.errors[-1] / worth, before, steps)


def freed_of_momentum(session: Session, planning: Planning, trials: Trials, state: State) -> MeasuredSlopes:
    """Slopes freed of momentum: least squares of trial changes on the domains' parts of the first moment."""
    n, steps = len(session.roles.train), trials.readings[-1]
    average, before = first_moment(session, state), exposed(session, state)
    finite = np.flatnonzero(np.isfinite(trials.changes).all(axis=(0, 1)))
    slopes, standard_errors = np.full((2, *trials.changes.shape[1:]), np.nan)
    worths, changes, errors = [], [], []
    for j in finite:
        shares, _ = blended(average, session.step, [np.eye(n)[j]] * steps, session.momentum)
        for r, (start, stop) in enumerate(pairwise((0, *trials.readings))):
            there = before + shares[:start].sum(axis=0)
            worths.append(planning.gained(there, shares[start:stop].sum(axis=0)))
            changes.append(trials.changes[r, :, j])
            errors.append(trials.errors[r, :, j])
    if len(finite):
        fit = fit_slopes(np.array(worths)[:, finite], np.array(changes), np.array(errors))
        slopes[:, finite], standard_errors[:, finite] = fit.slopes, fit.standard_errors
    return MeasuredSlopes(slopes, standard_errors, before, steps)


def first_moment(session: Session, state: State) -> Float[np.ndarray, " N"]:
    """The moving average of mixtures in the optimiser's first moment now, not corrected for its start."""
    if not state:
        return np.zeros(len(session.roles.train))
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


def remember(session: Session, weights: Float[np.ndarray, " N"], state: State) -> State:
    """The state that `first_moment` and `exposed` need at the next update."""
    average, exposure = first_moment(session, state).tolist(), exposed(session, state).tolist()
    return {"step": session.step, "weights": weights.tolist(), "average": average, "exposure": exposure}
