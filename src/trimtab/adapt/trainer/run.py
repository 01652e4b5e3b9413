"""A run that another trainer makes: what `trimtab.adapt.run` does at a step, without the training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from trimtab.adapt import choosing, metrics
from trimtab.adapt.metrics import Progress, Row
from trimtab.adapt.mixer import Mixer
from trimtab.adapt.session import Clock, Roles, Session
from trimtab.data.mixture_rows import Key
from trimtab.data.stream import MixtureStream
from trimtab.data.tokens import TokenDomain
from trimtab.errors import CheckpointError, explain
from trimtab.runs.serialise import plain
from trimtab.train.hosted import HostedLoop
from trimtab.train.loop import StepStats
from trimtab.train.losses import Change, SequenceLosses, change

Saved = Mapping[str, Any]
_LOSSES = ("reference", "base")


class HostedRun:
    """A run of one mixer in a trainer that takes the steps.

    Args:
        loop: follows the trainer.
        roles: the domains by role.
        domains: every evaluation domain, tokenised, with "validation" and "test" splits.
        mixer: the policy.

    Attributes:
        progress: the mixture now, the mixer's state and the best step.
        reference: the base model's losses on the validation sequences.
        base: the same on the test sequences.
    """

    def __init__(
        self, loop: HostedLoop, roles: Roles, domains: Mapping[str, TokenDomain], mixer: Mixer
    ) -> None:
        self.loop, self.roles, self.mixer = loop, roles, mixer
        self.fingerprints = {name: domain.fingerprint for name, domain in domains.items()}
        self.validation = {name: domains[name].splits["validation"] for name in roles.evaluate}
        self.test = {name: domains[name].splits["test"] for name in roles.evaluate}
        self.progress = Progress(weights=(1 / len(roles.train),) * len(roles.train))
        self.reference: dict[str, SequenceLosses] = {}
        self.base: dict[str, SequenceLosses] = {}

    @property
    def passes(self) -> float:
        """Passes over the training rows: those drawn, of all there are."""
        stream = self.loop.stream.state()
        return float(sum(stream["drawn"].values()) / sum(stream["sizes"].values()))

    def start(self) -> None:
        """Read the base model."""
        self.reference = self.loop.evaluate(self.validation, self.loop.fit.eval_sequences)
        self.base = self.loop.evaluate(self.test, self.loop.fit.test_sequences)

    def ahead(self) -> Iterator[Sequence[Key]]:
        """The global batches from where training stands, while the mixture stays; looking changes nothing."""
        mine = self.loop.stream
        stream = MixtureStream(mine.sizes, mine.batch_size, mine.seed)
        stream.restore(mine.state())
        while True:
            yield stream.draw(self.progress.weights)

    def at_step(self) -> list[Row]:
        """Do what is due at this step: read, judge, ask. The rows that tell of it.

        Raises:
            DivergedError: a loss is not finite, or the mixer finds no mixture.
        """
        loop, progress, rows = self.loop, self.progress, list[Row]()
        heard = progress.training_losses
        session = Session(loop, self.roles, self.validation, self.reference, Clock(), training_losses=heard)
        if choosing.is_read(progress, session):
            losses: Mapping[str, SequenceLosses] = self.reference
            if session.step:
                losses = loop.evaluate(self.validation, loop.fit.eval_sequences)
            session.know(losses)
            rows.append(metrics.evaluation_row(session.step, "validation", losses, self.reference))
            choosing.refuse_infinity(session)
            progress, _ = choosing.judge(progress, session, losses)
            progress = choosing.look_ahead(progress, session, loop.fit)
        if progress.ask_at == session.step < loop.fit.steps:
            progress, decision = choosing.ask(progress, session, self.mixer)
            rows.append(metrics.decision_row(self.roles, session.step, decision))
        self.progress = progress
        return rows

    def follow(self, heard: Mapping[int, tuple[float, int]]) -> None:
        """Take note of a step that the trainer took.

        Args:
            heard: place in the global batch -> nats and tokens of its row, where training losses are listened to.
        """
        rows = self.loop.follow(self.progress.weights)
        nll, tokens = dict[str, float](), dict[str, int]()
        for place, (nats, count) in sorted(heard.items()):
            name = rows[place][0]
            nll[name], tokens[name] = nll.get(name, 0.0) + nats, tokens.get(name, 0) + count
        self.progress = self.progress.trained(StepStats(math.nan, math.nan, nll=nll, tokens=tokens))

    def finish(self) -> tuple[Row, dict[str, Change]]:
        """The test losses of the weights that are in the model: a row, and each domain's change since the base."""
        losses = self.loop.evaluate(self.test, self.loop.fit.test_sequences)
        row = metrics.evaluation_row(self.loop.step_count, "test", losses, self.base)
        return row, {name: change(read, self.base[name]) for name, read in losses.items()}

    def state(self) -> Saved:
        """What `restore` needs, as JSON."""
        read: dict[str, Mapping[str, SequenceLosses]] = {"reference": self.reference, "base": self.base}
        return {
            "data": self.fingerprints,
            "step": self.loop.step_count,
            "stream": self.loop.stream.state(),
            "progress": plain(asdict(self.progress)),
            **{
                part: {name: plain(vars(one)) for name, one in losses.items()}
                for part, losses in read.items()
            },
        }

    def restore(self, saved: Saved) -> None:
        """Go on from a `state()`.

        Raises:
            CheckpointError: it is damaged, or of other data or domains.
        """
        try:
            if saved["data"] != self.fingerprints:
                got = "a checkpoint of a run on other data"
                raise CheckpointError(explain(got, "the same records", "a run from the start"))
            self.loop.stream.restore(saved["stream"])
            self.progress = replace(Progress.read(saved["progress"]), stop=None)
            self.loop.step_count = int(saved["step"])
            self.reference, self.base = (_read(saved[part]) for part in _LOSSES)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            got = f"a state of the mixture that cannot be read ({error!r:.80})"
            raise CheckpointError(explain(got, "that of a checkpoint")) from error


def _read(losses: Mapping[str, Mapping[str, Any]]) -> dict[str, SequenceLosses]:
    return {
        name: SequenceLosses(**{part: np.asarray(values) for part, values in one.items()})
        for name, one in losses.items()
    }
