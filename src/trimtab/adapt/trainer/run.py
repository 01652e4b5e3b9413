"""A run that another trainer makes: what `trimtab.adapt.run` does at a step, without the training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.distributed.tensor import DTensor

from trimtab.adapt import choosing, metrics
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.metrics import Progress, Row
from trimtab.adapt.mixer import Mixer
from trimtab.adapt.record import data_notes, data_table, examples
from trimtab.adapt.session import Clock, Roles, Session
from trimtab.adapt.trainer.arguments import WORDS
from trimtab.data.mixture_rows import Key
from trimtab.data.stream import MixtureStream
from trimtab.data.tokens import TokenDomain
from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import CHECKSUMS
from trimtab.runs.serialise import plain
from trimtab.train import state
from trimtab.train.hosted import HostedLoop, reshard
from trimtab.train.loop import StepStats
from trimtab.train.losses import SequenceLosses

Saved = Mapping[str, Any]
_LOSSES = ("reference", "base")
FREE = ("micro_batch_size", "eval_batch_size")
"""Settings in which a run may go on otherwise: how many of the same rows are computed at a time."""


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
        rows: of the metrics so far, but for those of training steps, which are in the trainer's log.
    """

    def __init__(
        self, loop: HostedLoop, roles: Roles, domains: Mapping[str, TokenDomain], mixer: Mixer
    ) -> None:
        self.loop, self.roles, self.mixer, self.domains = loop, roles, mixer, domains
        self.rows: list[Row] = []
        self._since = time.perf_counter()
        self.fingerprints = {name: domain.fingerprint for name, domain in domains.items()}
        self.validation = {name: domains[name].splits["validation"] for name in roles.evaluate}
        self.test = {name: domains[name].splits["test"] for name in roles.evaluate}
        self.progress = Progress(weights=(1 / len(roles.train),) * len(roles.train))
        self.reference: dict[str, SequenceLosses] = {}
        self.base: dict[str, SequenceLosses] = {}
        self.base_mark = ""

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
        loop, progress, rows, clock = self.loop, self.progress, list[Row](), Clock()
        heard = progress.training_losses
        session = Session(loop, self.roles, self.validation, self.reference, clock, training_losses=heard)
        if choosing.is_read(progress, session):
            losses: Mapping[str, SequenceLosses] = self.reference
            if session.step:
                with clock.time("evaluation"):
                    losses = loop.evaluate(self.validation, loop.fit.eval_sequences)
            session.know(losses)
            progress = progress.spent(monitoring_sequences=sum(len(read.nll) for read in losses.values()))
            rows.append(metrics.evaluation_row(session.step, "validation", losses, self.reference))
            choosing.refuse_infinity(session)
            progress, _ = choosing.judge(progress, session, losses)
            progress = choosing.look_ahead(progress, session, loop.fit)
        if progress.ask_at == session.step < loop.fit.steps:
            progress, decision = choosing.ask(progress, session, self.mixer)
            rows.append(metrics.decision_row(self.roles, session.step, decision))
        self.progress = progress.spent(
            probe_steps=session.probe_steps,
            probe_sequences=session.probe_sequences,
            gradient_sequences=session.gradient_sequences,
            seconds=clock.seconds,
        )
        rows = [plain(row) for row in rows]
        self.rows += rows
        self._since = time.perf_counter()
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
        stats, now = StepStats(math.nan, math.nan, nll=nll, tokens=tokens), time.perf_counter()
        spent = {"training": now - self._since}
        self.progress = self.progress.trained(stats).spent(training_steps=1, seconds=spent)

    def tested(self) -> dict[str, SequenceLosses]:
        """The test losses of the weights that are in the model; noted in the rows."""
        losses = self.loop.evaluate(self.test, self.loop.fit.test_sequences)
        self.rows.append(plain(metrics.evaluation_row(self.loop.step_count, "test", losses, self.base)))
        return losses

    def result(
        self, losses: Mapping[str, SequenceLosses], label: str, config: Mapping[str, Any]
    ) -> FinetuneResult:
        """The result of a run whose best weights, or the base's, are in the model.

        Args:
            losses: of these weights, on the test sequences.
            label: name of the run in tables.
            config: what is needed to do it again.
        """
        fit, tokenizer = self.loop.fit, self.loop.model.tokenizer
        data = data_table(self.domains, self.roles.train, fit)
        rows = [*self.rows[:-1], self.rows[-1] | {"step": self.progress.best_step}]
        return metrics.make_result(
            rows,
            self.progress,
            self.roles,
            fit,
            label=label,
            config=config,
            base=self.base,
            final=losses,
            data=data,
            data_notes=data_notes(self.domains, data, fit),
            examples=examples(self.domains, self.roles.train, tokenizer) if tokenizer else None,
        )

    def keep_base(self, folder: Path) -> None:
        """Keep the weights that training starts from, each process its part where they are sharded."""
        if self.loop.sharded or not self.loop.rank:
            values = {name: local(one).clone() for name, one in self.loop.parameters.items()}
            state.save_weights(self._base(folder), values)
        self.base_mark = mark_of(folder)

    def has_base(self, folder: Path) -> bool:
        """Whether the weights that this run began with are kept there, and not those of another run."""
        return self._base(folder).is_dir() and self.base_mark in ("", mark_of(folder))

    def put_base(self, folder: Path) -> None:
        """Put the kept weights back.

        Raises:
            CheckpointError: they are missing or damaged, or of other parameters; nothing is changed then.
        """
        mine = {name: local(one) for name, one in self.loop.parameters.items()}
        state.put_parameters(mine, state.load_weights(self._base(folder)))
        reshard(self.loop.model.module)

    def _base(self, folder: Path) -> Path:
        return folder / f"part-{self.loop.rank if self.loop.sharded else 0}"

    def exported(self) -> Saved:
        """What `restore` needs, as JSON."""
        read: dict[str, Mapping[str, SequenceLosses]] = {"reference": self.reference, "base": self.base}
        return {
            "data": self.fingerprints,
            "fit": plain(self.loop.fit),
            "step": self.loop.step_count,
            "base_mark": self.base_mark,
            "stream": self.loop.stream.state(),
            "progress": plain(asdict(self.progress)),
            "rows": self.rows,
            **{
                part: {name: plain(vars(one)) for name, one in losses.items()}
                for part, losses in read.items()
            },
        }

    def restore(self, saved: Saved) -> None:
        """Go on from what was `exported`.

        Raises:
            CheckpointError: it is damaged, or of other data or domains.
        """
        try:
            now = self.exported()
            for part, others in (("data", dict(saved["data"])), ("fit", dict(saved["fit"]))):
                for name, value in now[part].items():
                    if name not in FREE and others.get(name) != value:
                        got = f"a checkpoint of a run with other data in {name}"
                        if part == "fit":
                            got = f"a checkpoint of a run with another {WORDS.get(name, name)}"
                            got += f" (was {others.get(name)}, now {value})"
                        raise CheckpointError(explain(got, "the same", "a run from the start"))
            self.loop.stream.restore(saved["stream"])
            self.progress = replace(Progress.read(saved["progress"]), stop=None)
            self.rows = [_in_order(row, self.roles.evaluate) for row in saved["rows"]]
            self.loop.step_count, self.base_mark = int(saved["step"]), str(saved["base_mark"])
            self.reference, self.base = (_read(saved[part]) for part in _LOSSES)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            got = f"a state of the mixture that cannot be read ({error!r:.80})"
            raise CheckpointError(explain(got, "that of a checkpoint")) from error


def mark_of(folder: Path) -> str:
    """What kept base weights are known by: the checksums of the first part; "" where this process sees none."""
    file = folder / "part-0" / CHECKSUMS
    return sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _in_order(row: Row, domains: Sequence[str]) -> Row:
    """A row whose mappings are in the order of domains again, which a trainer's file does not keep."""
    return {
        key: {name: value[name] for name in sorted(value, key=domains.index)}
        if isinstance(value, Mapping)
        else value
        for key, value in row.items()
    }


def local(parameter: Tensor) -> Tensor:
    """The part of a parameter that this process holds, or all of it."""
    part: Tensor = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return part.detach()


def _read(losses: Mapping[str, Mapping[str, Any]]) -> dict[str, SequenceLosses]:
    return {
        name: SequenceLosses(**{part: np.asarray(values) for part, values in one.items()})
        for name, one in losses.items()
    }
