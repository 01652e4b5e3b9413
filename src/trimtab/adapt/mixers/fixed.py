"""Fixed mixtures, replay and early stopping: mixers that read at most the losses of the evaluation grid.

A mixer is a frozen dataclass of settings; all of them, DynaMiCS too, run on the same loop, data, evaluation grid and
ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from trimtab.adapt import mixer
from trimtab.adapt.mixer import Decision, State, target_mass
from trimtab.adapt.session import Roles, Session
from trimtab.errors import Problem, nearest
from trimtab.numerics.simplex import spread
from trimtab.runs.brief import brief


@dataclass(frozen=True)
class Uniform(mixer.Goals, mixer.NoProbes):
    """The same share for every training domain, throughout."""

    kind: Literal["uniform"] = "uniform"

    __repr__ = brief

    def decide(self, session: Session, state: State) -> Decision:  # noqa: ARG002
        """Equal shares."""
        return Decision(spread(session.roles.train, session.roles.train))


@dataclass(frozen=True)
class Proportional(mixer.Goals, mixer.NoProbes):
    """Shares in proportion to the rows of each domain's train split, throughout: those of the concatenated data.

    Assumes that how much there is of a domain says how much of it to train on.
    """

    kind: Literal["proportional"] = "proportional"

    __repr__ = brief

    def decide(self, session: Session, state: State) -> Decision:  # noqa: ARG002
        """Shares by size."""
        sizes = [session.sizes[name] for name in session.roles.train]
        return Decision(tuple(size / sum(sizes) for size in sizes))


@dataclass(frozen=True)
class Fixed(mixer.Goals, mixer.NoProbes):
    """One mixture throughout: given whole, or as the mass shared by the trainable targets.

    Attributes:
        weights: share of each training domain, scaled to sum to one; domains left out get none.
        target_mass: share of all trainable targets together; the rest is shared by the other domains.
    """

    weights: Mapping[str, float] | None = None
    target_mass: float | None = None
    kind: Literal["fixed"] = "fixed"

    __repr__ = brief

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """Both or neither of the two settings, unknown domains, impossible shares."""
        if (self.weights is None) == (self.target_mass is None):
            got = "neither" if self.weights is None else "both"
            yield Problem("mixer", got, "either `weights` or `target_mass`")
        for name, share in (self.weights or {}).items():
            if name not in roles.train:
                expected = f"one of the training domains {', '.join(map(repr, roles.train))}"
                yield Problem(f"mixer.weights.{name}", repr(name), expected, nearest(name, roles.train))
            if not 0 <= share < float("inf"):
                yield Problem(f"mixer.weights.{name}", str(share), "a share of zero or more")
        if self.weights is not None and not sum(self.weights.values()) > 0:
            yield Problem("mixer.weights", "no positive share", "at least one")
        if self.target_mass is not None:
            yield from mixer.mass_problems("mixer.target_mass", self.target_mass, roles)

    def decide(self, session: Session, state: State) -> Decision:  # noqa: ARG002
        """The given mixture."""
        train = session.roles.train
        if self.weights is not None:
            total = sum(self.weights.values())
            return Decision(tuple(self.weights.get(name, 0.0) / total for name in train))
        assert self.target_mass is not None
        return Decision(target_mass(session.roles, self.target_mass))


@dataclass(frozen=True)
class Replay(mixer.Goals, mixer.NoProbes):
    """Train on the targets and mix in a small share of other data, as one would against forgetting.

    Attributes:
        share: share of the replayed domains together.
        domains: what is replayed; empty for every training domain that is not a target.
    """

    share: float = 0.05
    domains: Sequence[str] = ()
    kind: Literal["replay"] = "replay"

    __repr__ = brief

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """Impossible shares, replayed domains that are unknown or targets."""
        yield from mixer.mass_problems("mixer.share", self.share, roles)
        others = [name for name in roles.train if name not in roles.targets]
        for name in dict.fromkeys(self.domains):
            if name not in others:
                expected = f"a training domain that is not a target: {', '.join(map(repr, others))}"
                yield Problem("mixer.domains", repr(name), expected, nearest(name, others))
            if list(self.domains).count(name) > 1:
                yield Problem("mixer.domains", f"{name!r} twice", "each domain once")

    def decide(self, session: Session, state: State) -> Decision:  # noqa: ARG002
        """Targets share 1 - share, replayed domains the rest."""
        return Decision(target_mass(session.roles, 1 - self.share, self.domains))


@dataclass(frozen=True)
class EarlyStoppedTarget(mixer.Goals, mixer.NoProbes):
    """Train on the targets alone and stop when a constraint is lost: the cheapest baseline.

    It is asked at each step of the run's evaluation grid and stops after `patience` readings in a row at which
    some constraint was broken on validation data.
    """

    patience: int = 2
    kind: Literal["early-stopped-target"] = "early-stopped-target"
    ranges: ClassVar[Mapping[str, mixer.Range]] = {"patience": mixer.COUNT}

    __repr__ = brief

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """A patience below one; no target to train on."""
        yield from super().problems(roles)
        yield from mixer.target_problems(roles)

    def decide(self, session: Session, state: State) -> Decision:
        """All mass on the targets, until the constraints are lost."""
        broken = [name for name in session.roles.tolerances if mixer.left(session, name) < 0]
        bad = int(state.get("bad", 0)) + 1 if broken else 0
        weights = spread(session.roles.train, session.roles.trainable_targets)
        lost = f"lost {', '.join(broken)} at {bad} reading{'s' * (bad > 1)} in a row"
        stop = lost if bad >= self.patience else None
        return Decision(weights, _next_reading(session), {"bad": bad}, stop=stop)


@dataclass(frozen=True)
class ReplayUntilRise(Replay):
    """`Replay` that stops once `patience` readings of the evaluation grid in a row did not beat the lowest.

    The checkpoint kept is that of the lowest reading, as without it; what is saved are the steps behind the minimum.
    """

    patience: int = 3

    __repr__ = brief

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """Those of replay; a patience below one."""
        yield from super().problems(roles)
        yield from mixer.range_problems(self, {"patience": mixer.COUNT})

    def decide(self, session: Session, state: State) -> Decision:
        """The same mixture, until the minimum is behind."""
        losses, targets = session.losses(), session.roles.targets
        reading = sum(losses[name].loss for name in targets) / len(targets)
        lowest = float(state.get("lowest", reading))
        bad = 0 if reading <= lowest else int(state["bad"]) + 1
        return replace(
            super().decide(session, state),
            ask_at=_next_reading(session),
            state={"lowest": min(lowest, reading), "bad": bad},
            stop=f"the target rose {bad} readings in a row" if bad >= self.patience else None,
        )


def _next_reading(session: Session) -> int | None:
    return next((step for step in session.grid if step > session.step), None)
