"""Replay that ends where the target's validation loss has turned: the early stopping of the forgetting laws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from trimtab.adapt.mixer import Decision, State
from trimtab.adapt.mixers import Replay
from trimtab.adapt.roles import Roles
from trimtab.adapt.session import Session
from trimtab.errors import Problem


@dataclass(frozen=True)
class ReplayUntilRise(Replay):
    """`Replay` that stops once `patience` readings of the evaluation grid in a row did not beat the lowest.

    The checkpoint kept is that of the lowest reading, as without it; what is saved are the steps behind the minimum.
    """

    patience: int = 3

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """Those of replay; a patience below one."""
        yield from super().problems(roles)
        if self.patience < 1:
            yield Problem("mixer.patience", str(self.patience), "at least 1")

    def decide(self, session: Session, state: State) -> Decision:
        """The same mixture, until the minimum is behind."""
        losses, targets = session.losses(), session.roles.targets
        reading = sum(losses[name].loss for name in targets) / len(targets)
        lowest = float(state.get("lowest", reading))
        bad = 0 if reading <= lowest else int(state["bad"]) + 1
        return replace(
            super().decide(session, state),
            ask_at=next((step for step in session.grid if step > session.step), None),
            state={"lowest": min(lowest, reading), "bad": bad},
            stop=f"the target rose {bad} readings in a row" if bad >= self.patience else None,
        )
