"""A session: the roles of a run's domains, its losses now, and trial runs that leave no trace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from jaxtyping import Float

from trimtab.data.tokens import TokenSplit
from trimtab.errors import ConfigProblems, DivergedError, Problem, nearest
from trimtab.train.evaluation import evaluation_rows
from trimtab.train.loop import Loop
from trimtab.train.losses import SequenceLosses, change
from trimtab.train.settings import evaluation_steps

Role = Literal["target", "constraint", "monitored"]

MOST_DOMAINS = 1000
"""Domains of a run: each is read at every evaluation, and a picture of its own on the page."""
LEAST_SCALE_NATS = 0.01
"""What a gap is counted in where its tolerance is zero or less than this, so that nothing is divided by zero."""


@dataclass(frozen=True)
class Roles:
    """The domains of a run by role.

    Attributes:
        train: training domains, in the order of mixture weights.
        evaluate: evaluation domains, in the order of losses; every training domain is among them.
        targets: evaluation domains to improve.
        tolerances: nats per token by which each constraint may rise above the base model's loss; as given, and numbers
            of zero or more once `role_problems` has no objection.
    """

    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    targets: tuple[str, ...]
    tolerances: Mapping[str, Any]

    def role(self, domain: str) -> Role:
        """The role of an evaluation domain."""
        if domain in self.targets:
            return "target"
        return "constraint" if domain in self.tolerances else "monitored"

    def tolerance(self, domain: str) -> float:
        """The tolerance of a constraint; nan for every other domain."""
        return float(self.tolerances.get(domain, math.nan))

    @property
    def trainable_targets(self) -> tuple[str, ...]:
        """The targets one can train on."""
        return tuple(name for name in self.targets if name in self.train)


def make_roles(
    train: Sequence[str], evaluate: Sequence[str], targets: Sequence[str], tolerances: Any
) -> Roles:
    """Roles with every training domain evaluated too, training domains first.

    Raises:
        ConfigProblems: tolerances that are no mapping of domains to them.
    """
    if not isinstance(tolerances, Mapping):
        got, expected = (
            f"a {type(tolerances).__name__}",
            "a mapping of domains to tolerances, in nats per token",
        )
        raise ConfigProblems([Problem("constraints", got, expected, "{'web': 0.02}")])
    names = (*train, *(name for name in evaluate if name not in train))
    return Roles(tuple(train), names, tuple(targets), dict(tolerances))


def role_problems(roles: Roles) -> Iterator[Problem]:
    """Every mistake in the naming of targets and constraints, and tolerances that are no number of zero or more."""
    one_of = f"one of the domains {', '.join(map(repr, roles.evaluate))}"
    if not roles.train:
        yield Problem("train", "no domain", "at least one domain to train on")
    if not roles.evaluate:
        return  # nothing that a target or a constraint could be
    if len(roles.evaluate) > MOST_DOMAINS:
        yield Problem("train and evaluate", f"{len(roles.evaluate):,} domains", f"at most {MOST_DOMAINS:,}")
    for name in [name for name in roles.evaluate if not str(name).strip()]:
        where = "train" if name in roles.train else "evaluate"
        yield Problem(where, f"{name!r} as the name of a domain", "a text that is not blank")
    if not roles.targets:
        yield Problem("targets", "no target", "at least one domain to improve", nearest("", roles.train))
    for name in dict.fromkeys(roles.targets):
        if roles.targets.count(name) > 1:
            yield Problem("targets", f"{name!r} twice", "each target once")
        if name not in roles.evaluate:
            yield Problem("targets", repr(name), one_of, nearest(name, roles.evaluate))
        if name in roles.tolerances:
            yield Problem(f"constraints.{name}", "a target", "a domain that is not a target")
    for name, tolerance in roles.tolerances.items():
        if name not in roles.evaluate:
            yield Problem(f"constraints.{name}", repr(name), one_of, nearest(name, roles.evaluate))
        number = isinstance(tolerance, Real) and not isinstance(tolerance, bool)
        if not (number and 0 <= tolerance < math.inf):
            expected, hint = "a tolerance of zero or more, in nats per token", "a number, such as 0.02"
            got = str(tolerance) if number else repr(tolerance)
            yield Problem(f"constraints.{name}", got, expected, "" if number else hint)


@dataclass(frozen=True)
class SlopeEstimate:
    """Slope estimate: the change of each evaluation loss per step on each training domain.

    Attributes:
        slopes: (M, N) nats per token and step; a column of nan where the probe diverged.
        standard_errors: (M, N) of the slopes, over the evaluation sequences (paired): the probe's own choice of
            training batches is not in them.
        steps: length c of each probe.
    """

    slopes: Float[np.ndarray, "M N"]
    standard_errors: Float[np.ndarray, "M N"]
    steps: int


@dataclass(frozen=True)
class Trials:
    """Trials: the change of each evaluation loss on trial runs on each training domain, which were undone.

    Attributes:
        readings: the R steps after which losses were read; the last is the length of the trials.
        changes: (R, M, N) since the reading before, nats per token; a column of nan where the trial diverged.
        errors: (R, M, N) standard errors of the changes, over the evaluation sequences (paired).
    """

    readings: tuple[int, ...]
    changes: Float[np.ndarray, "R M N"]
    errors: Float[np.ndarray, "R M N"]


@dataclass(frozen=True)
class GradientProducts:
    """Gradient products: how far a small step down each training loss lowers each evaluation loss, to first order.

    Attributes:
        products: (M, N) inner product of the gradients of evaluation loss i and of training loss j, in squared nats
            per token and squared unit of parameter; positive where training on j helps i.
        evaluate: the M evaluation domains.
        sequences: read for each gradient.
    """

    products: Float[np.ndarray, "M N"]
    evaluate: tuple[str, ...]
    sequences: int


@dataclass
class Clock:
    """Seconds spent by part of the work."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add the time of a block to `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - start)

    def add(self, part: str, seconds: float) -> None:
        """Add seconds to `part`."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


class Session:
    """A run at one step, as its mixer sees it.

    Attributes:
        roles: the domains by role.
        step: optimiser steps taken so far.
        steps: total steps of the run.
        grid: the steps at which every mixer's run is evaluated.
        reference: the base model's losses on the validation sequences, by evaluation domain.
        sizes: rows of each training domain's train split.
        momentum: decay of the optimiser's first moment.
        margin: standard errors by which a checkpoint must keep each constraint to be chosen.
        training_losses: mean loss of the sequences trained on since the mixer was last asked, nats per token, by
            training domain; domains of which nothing was drawn are left out.
        probe_steps, probe_sequences, gradient_sequences: what the services have cost at this step.
    """

    def __init__(
        self,
        loop: Loop,
        roles: Roles,
        splits: Mapping[str, TokenSplit],
        reference: Mapping[str, SequenceLosses],
        clock: Clock,
        pause: Callable[[], None] = lambda: None,
        training_losses: Mapping[str, float] | None = None,
    ) -> None:
        self.roles, self.reference, self.clock = roles, reference, clock
        self.step, self.steps = loop.step_count, loop.fit.steps
        self.grid = evaluation_steps(loop.fit.steps, loop.fit.eval_points)
        self.sizes = {name: len(split) for name, split in loop.splits.items()}
        self.training_losses = dict(training_losses or {})
        self.probe_steps = self.probe_sequences = self.gradient_sequences = 0
        self._loop, self._splits, self._pause = loop, splits, pause
        self._losses: Mapping[str, SequenceLosses] | None = None
        self._sampled: dict[str, SequenceLosses] = {}
        self.momentum, self.margin = loop.fit.betas[0], loop.fit.margin

    def rates(self, start: int, stop: int) -> Float[np.ndarray, " n"]:
        """The learning rate of each step from `start` to before `stop`, as a share of the peak."""
        return np.array([self._loop.lr_at(step) / self._loop.fit.lr for step in range(start, stop)])

    def know(self, losses: Mapping[str, SequenceLosses]) -> None:
        """Take the losses that the evaluation grid has just read, so that they are not read again."""
        self._losses = losses

    def losses(self) -> Mapping[str, SequenceLosses]:
        """The validation losses at this step, by evaluation domain; read once per step."""
        if self._losses is None:
            self._losses = self._read(self._loop.fit.eval_sequences)
        return self._losses

    def gradients(self, sequences: int, of: Sequence[str] | None = None) -> GradientProducts:
        """Inner products of the gradients of evaluation losses with those of training losses, at these weights.

        An evaluation loss is read on the first `sequences` validation sequences of the fixed evaluation order, a
        training loss on the `sequences` rows that would come next from its domain; both without dropout, as mean
        nats per token. Nothing is trained and nothing left behind: no gradient, no moved data cursor. Held at once
        are the N training gradients and one other. With several processes each computes everything alone and the
        first one's answer counts.

        Args:
            sequences: per domain, at least 1; fewer where a validation split has fewer.
            of: the evaluation domains; all of them if None.
        """
        names, loop = tuple(self.roles.evaluate if of is None else of), self._loop
        judged = {name: evaluation_rows(name, len(self._splits[name]), sequences) for name in names}
        with self.clock.time("gradients"):
            ahead = {name: loop.stream.ahead(name, sequences) for name in self.roles.train}
            training = torch.stack([loop.gradient(loop.splits[name], rows) for name, rows in ahead.items()])
            rows = [training @ loop.gradient(self._splits[name], judged[name]) for name in names]
            products = np.array([row.double().tolist() for row in rows]).reshape(len(names), len(training))
        if loop.world > 1:
            (products,) = broadcast_object_list([products])
        self.gradient_sequences += sequences * len(training) + sum(map(len, judged.values()))
        return GradientProducts(products, names, sequences)

    def sampled_losses(self, of: Sequence[str] | None = None) -> Mapping[str, SequenceLosses]:
        """Sampled losses, a cheaper reading: those of the first `probe_sequences` validation sequences.

        Free where all validation sequences have been read at this step.

        Args:
            of: the evaluation domains; all of them if None.
        """
        names, limit = self.roles.evaluate if of is None else of, self._loop.fit.probe_sequences
        if self._losses is not None:
            return {name: self._losses[name].first(limit) for name in names}
        if unread := [name for name in names if name not in self._sampled]:
            self._sampled |= self._read(limit, unread)
        return {name: self._sampled[name] for name in names}

    def _read(self, limit: int, of: Sequence[str] | None = None) -> Mapping[str, SequenceLosses]:
        splits = self._splits if of is None else {name: self._splits[name] for name in of}
        with self.clock.time("probe evaluation"):
            losses = self._loop.evaluate(splits, limit)
        self.probe_sequences += sum(len(read.nll) for read in losses.values())
        return losses

    def probe(self, steps: int) -> SlopeEstimate:
        """Train `steps` steps on each training domain alone, from here; return the slopes, then undo everything.

        S_ij = (L_i after - L_i now) / c on the same sequences before and after (arXiv 2605.10770).

        Args:
            steps: length c of each probe, at least 1.
        """
        trials = self.trials((steps,))
        return SlopeEstimate(trials.changes[-1] / steps, trials.errors[-1] / steps, steps)

    def trials(self, readings: Sequence[int]) -> Trials:
        """Train on each training domain alone, from here, and read what moved on the way; then undo everything.

        With several processes each takes some of the domains, on whole batches and without exchanging gradients,
        so the changes are those a single process measures.

        Args:
            readings: steps after which to read, rising; the last is the length of the trials.
        """
        self.losses()
        before = self.sampled_losses()
        with self.clock.time("snapshot"):
            snapshot = self._loop.snapshot()
        columns = []
        for index in range(self._loop.rank, len(self.roles.train), self._loop.world):
            try:
                columns.append((index, self._column(index, readings, before)))
            finally:
                with self.clock.time("snapshot"):
                    self._loop.restore(snapshot)
        if self._loop.world > 1:
            columns = sorted(gather_object(columns), key=lambda item: item[0])
        changes, errors = np.stack([column for _, column in columns], axis=-1)
        read = sum(len(losses.nll) for losses in before.values())
        self.probe_steps += readings[-1] * len(columns)
        self.probe_sequences += read * len(columns) * len(readings)
        return Trials(tuple(readings), changes, errors)

    def _column(
        self, index: int, readings: Sequence[int], before: Mapping[str, SequenceLosses]
    ) -> Float[np.ndarray, "2 R M"]:
        """Changes and their errors under one domain; nan throughout if the trial leaves the finite numbers."""
        one_hot = [float(k == index) for k in range(len(self.roles.train))]
        shape, read, previous = (2, len(readings), len(before)), [], before
        try:
            for start, stop in pairwise((0, *readings)):
                with self.clock.time("probe training"):
                    for _ in range(stop - start):
                        self._pause()
                        self._loop.step(one_hot, alone=True)
                with self.clock.time("probe evaluation"):
                    after = self._loop.evaluate(self._splits, self._loop.fit.probe_sequences, alone=True)
                read.append([change(after[name], previous[name]) for name in self.roles.evaluate])
                previous = after
        except DivergedError:
            return np.full(shape, math.nan)
        self._pause()
        column = np.array([[[m.value, m.standard_error] for m in moved] for moved in read]).transpose(2, 0, 1)
        return column if np.isfinite(column[0]).all() else np.full(shape, math.nan)
