"""DynaMiCS with slopes from elsewhere: what it would do with better ones, and with worthless ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from trimtab import DynaMiCS
from trimtab.adapt.cost import Interval
from trimtab.adapt.dynamics.planning import MeasuredSlopes
from trimtab.adapt.dynamics.slopes import BlockHistory
from trimtab.adapt.mixer import State
from trimtab.adapt.session import Session
from trimtab.seeds import derive


@dataclass(frozen=True)
class ShuffledSlopes(DynaMiCS):
    """Negative control: the right slopes, under the wrong domains. What it gains, it does not owe to slopes."""

    def measured(self, session: Session, span: Interval, state: State) -> MeasuredSlopes:
        return shuffled(super().measured(session, span, state), session.step)

    def tracked(self, session: Session, history: BlockHistory) -> MeasuredSlopes:
        return shuffled(super().tracked(session, history), session.step)


@dataclass(frozen=True)
class OracleSlopes(DynaMiCS):
    """Upper bound: probes four times as long as planned, at most one interval long, whatever they cost."""

    def measured(self, session: Session, span: Interval, state: State) -> MeasuredSlopes:
        longer = min(4 * span.probe_steps, span.horizon)
        return super().measured(session, replace(span, probe_steps=longer), state)


def shuffled(measured: MeasuredSlopes, step: int) -> MeasuredSlopes:
    """The same slopes with their columns in another order: a derangement, so that no domain has its own."""
    n = measured.slopes.shape[1]
    turn = 1 + np.random.default_rng(derive(0, "shuffled", step)).integers(n - 1)
    order = np.roll(np.arange(n), turn)
    return replace(measured, slopes=measured.slopes[:, order], errors=measured.errors[:, order])
