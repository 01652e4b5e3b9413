"""What a mixer is: asked at a step, it answers with a mixture, and with when it wants to be asked again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from trimtab.adapt.needs import Needs
from trimtab.adapt.roles import Roles
from trimtab.adapt.session import Session, SlopeEstimate
from trimtab.errors import Problem
from trimtab.numerics.simplex import MixtureSolution
from trimtab.train.fit import Fit

State = Mapping[str, Any]
"""What a mixer remembers from one question to the next, also over a resume; JSON-able."""


@dataclass(frozen=True)
class Update:
    """A mixture chosen from measured slopes: what was measured and what was concluded.

    Attributes:
        horizon: steps for which the mixture stays.
        estimate: the slopes.
        solution: the mixture, the losses it predicts at the horizon, conflicts and shadow prices.
    """

    horizon: int
    estimate: SlopeEstimate
    solution: MixtureSolution


@dataclass(frozen=True)
class Decision:
    """What a mixer answers.

    Attributes:
        weights: the mixture, one share per training domain.
        ask_at: the step at which it wants to be asked again; None for never.
        state: JSON-able; handed back at the next question, also after a resume.
        update: the slopes and the solution behind the mixture, where there are any.
        stop: end the run here, with this reason.
    """

    weights: tuple[float, ...]
    ask_at: int | None = None
    state: State = field(default_factory=dict)
    update: Update | None = None
    stop: str | None = None


class Mixer(Protocol):
    """What the loop needs of a mixer."""

    @property
    def kind(self) -> str:
        """The name of the policy in configs and tables."""

    @property
    def targets(self) -> Sequence[str]:
        """Evaluation domains to improve."""

    @property
    def constraints(self) -> Mapping[str, float]:
        """Tolerance in nats per token of each evaluation domain to keep."""

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """Every setting that cannot work with these domains."""

    def needs(self, fit: Fit, roles: Roles) -> Needs:
        """What it will ask of such a run beside training and the evaluation grid, at most."""

    def decide(self, session: Session, state: State) -> Decision:
        """The mixture from this step on."""


class NoProbes:
    """What mixers share that roll no training back: nothing to refuse and nothing to pay for unless they say so."""

    def problems(self, roles: Roles) -> Iterator[Problem]:  # noqa: ARG002
        """No setting of this mixer can be wrong."""
        return iter(())

    def needs(self, fit: Fit, roles: Roles) -> Needs:  # noqa: ARG002
        """Nothing beside training and the evaluation grid."""
        return Needs()
