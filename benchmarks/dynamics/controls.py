"""DynaMiCS with worthless slopes: what it gains then, it does not owe to slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trimtab import DynaMiCS
from trimtab.adapt.dynamics.planning import MeasuredSlopes
from trimtab.adapt.dynamics.sides import Sides
from trimtab.adapt.dynamics.slopes import BlockHistory
from trimtab.adapt.session import Roles, Session
from trimtab.seeds import derive


@dataclass(frozen=True)
class ShuffledSlopes(DynaMiCS):
    """Negative control: the right slopes, under the wrong domains."""

    def sides(self, roles: Roles) -> Sides | None:
        """The sides of DynaMiCS, which misread their slopes."""
        found = super().sides(roles)
        return found and ShuffledSides(**vars(found))


@dataclass(frozen=True)
class ShuffledSides(Sides):
    """Two sides whose slopes are under the wrong domains."""

    def measured(self, session: Session, history: BlockHistory, names: Sequence[str]) -> MeasuredSlopes:
        """The same slopes with their columns in another order: a derangement, so that no domain has its own."""
        found = super().measured(session, history, names)
        n = found.slopes.shape[1]
        turn = 1 + np.random.default_rng(derive(0, "shuffled", session.step)).integers(n - 1)
        order = np.roll(np.arange(n), turn)
        return replace(found, slopes=found.slopes[:, order], errors=found.errors[:, order])
