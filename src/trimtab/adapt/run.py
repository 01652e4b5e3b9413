"""One run, step by step: evaluate on the grid, ask the mixer, train, save; stop and go on at any moment."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from safetensors import safe_open

from trimtab.adapt import choosing, metrics
from trimtab.adapt.completions import HeldOut, completed, completions_frame
from trimtab.adapt.metrics import Progress, Row
from trimtab.adapt.mixer import Mixer
from trimtab.adapt.session import Clock, Roles, Session
from trimtab.data.tokens import TokenDomain
from trimtab.errors import CheckpointError, DivergedError, explain
from trimtab.numerics.simplex import is_mixture
from trimtab.runs.folder import RunFolder
from trimtab.runs.serialise import digest
from trimtab.train import state
from trimtab.train.loop import Loop, Paused
from trimtab.train.losses import SequenceLosses
from trimtab.train.state import Rounding, as_saved, rounded, rounding


class Watcher(Protocol):
    """A reader of a run's metrics while it goes on; it changes nothing."""

    def resume(self, rows: Sequence[Row], progress: Progress) -> None:
        """The run goes on: the rows of earlier sessions, and how far it is."""
        ...

    def row(self, row: Row) -> None:
        """A row was written."""
        ...


class Run:
    """A run of one mixer on one loop, kept in a folder.

    Everything that happens at a step is computed first and written at its end, so that at any moment the last
    checkpoint and the metrics up to its offset are a consistent past to go on from.

    Args:
        loop: the model with its optimiser and data.
        roles: the domains by role.
        domains: every evaluation domain, tokenised, with "validation" and "test" splits.
        mixer: the policy.
        folder: the run's folder; None on every process but the first, which alone writes.
        path: the same folder's path, on every process.
        clock: where time is booked.
        pause: called between steps, real and trial; may raise `Paused`.
        stored: the type that each parameter of a low-precision checkpoint is saved in; it is trained in float32.
        watchers: are told of every row that is written, on the first process.
    """

    def __init__(
        self,
        loop: Loop,
        roles: Roles,
        domains: Mapping[str, TokenDomain],
        mixer: Mixer,
        folder: RunFolder | None,
        path: Path,
        clock: Clock,
        pause: Callable[[], None],
        stored: Mapping[str, torch.dtype] | None = None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.stored, self.watchers = stored or {}, watchers
        self.loop, self.roles, self.mixer, self.folder = loop, roles, mixer, folder
        self.artifacts = path / "artifacts"
        self.clock, self.pause = clock, pause
        self.validation = {name: domains[name].splits["validation"] for name in roles.evaluate}
        self.test = {name: domains[name].splits["test"] for name in roles.evaluate}
        self.reference: dict[str, SequenceLosses] = {}
        self._untimed: dict[str, float] = {}

    def train(self) -> Progress:
        """Start or go on, to the end of the run. An interrupt leaves a checkpoint of the step it hit."""
        progress = self._resume() or self._start()
        try:
            while progress.stop is None:
                step = self.loop.step_count
                if step and (progress.probed or step % self.loop.fit.checkpoint_every == 0):
                    self._save(progress)
                progress = self._advance(progress)
        except Paused:
            self._save(progress)
            raise
        self._save(progress)
        return progress

    def finish(self, progress: Progress) -> dict[str, SequenceLosses]:
        """Put the best weights into the model; its losses on the test sequences, written to the metrics."""
        self._wait()
        self.put_weights(progress.best_step)
        losses = base = self._base_losses("test-base")
        if progress.best_step:
            with self.clock.time("test evaluation"):
                losses = self.loop.evaluate(self.test, self.loop.fit.test_sequences)
        self._write_losses("test", losses)
        if self.folder:
            self.folder.truncate_metrics(progress.offset)
            self._append(metrics.evaluation_row(progress.best_step, "test", losses, base))
        self._flush_timings()
        self._wait()
        return losses

    def completions(self, prompts: Sequence[HeldOut], step: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """What the base weights and those of `step`, which are in the model, write; a note where they write nothing."""
        model, batch_size = self.loop.model, self.loop.fit.eval_batch_size
        before = after = list[str]()
        untold = ""
        with self.clock.time("completions"):
            if prompts:
                after, untold = completed(model, prompts, batch_size)
                before = after
            if step and after:
                self.put_weights(0)
                try:
                    before, untold = completed(model, prompts, batch_size)
                finally:
                    self.put_weights(step)
        if untold:
            return completions_frame([], [], []), (untold,)
        return completions_frame(prompts, before, after), ()

    def put_weights(self, step: int) -> None:
        """Load the kept weights of `step` into the model."""
        values = state.load_weights(self._weights_folder(step))
        narrow = {name for name, value in values.items() if value.dtype == self.stored.get(name)}
        held = {name: value.float() if name in narrow else value for name, value in values.items()}
        state.put_parameters(self.loop.parameters, held)

    def _start(self) -> Progress:
        with self.clock.time("evaluation"):
            self.reference = self.loop.evaluate(self.validation, self.loop.fit.eval_sequences)
        with self.clock.time("test evaluation"):
            test = self.loop.evaluate(self.test, self.loop.fit.test_sequences)
        if self.folder:
            self.folder.truncate_metrics(0)
        self._write_losses("reference", self.reference)
        self._write_losses("test-base", test)
        self._keep_weights(0)
        progress = Progress(weights=(1 / len(self.roles.train),) * len(self.roles.train))
        self._save(progress)
        return progress

    def _resume(self) -> Progress | None:
        """Go on from the newest checkpoint that is whole; None where there is none at all."""
        unusable: list[state.DamagedCheckpointError] = []
        for saved in reversed(state.checkpoints(self.artifacts / "checkpoints")):
            try:
                progress = self._restore(saved)
            except state.DamagedCheckpointError as error:
                unusable.append(error)
                continue
            if unusable:
                warnings.warn(f"{unusable[0]}; going on from {saved.name}, which is whole", stacklevel=2)
            if self.folder:
                self.folder.truncate_metrics(progress.offset)
            rows = self.folder.rows() if self.folder and self.watchers else []
            for watcher in self.watchers:
                watcher.resume(rows, progress)
            self._wait()
            return progress
        if unusable:
            raise unusable[0]
        return None

    def _restore(self, saved: Path) -> Progress:
        """Put a checkpoint back, after a look at all that the run will need later.

        Raises:
            state.DamagedCheckpointError: it, or something that it counts on, is not what was written.
        """
        snapshot, extra = state.load_checkpoint(saved)
        try:
            noted = extra.pop("metrics_sha256", None)
            progress = Progress.read(extra)
            if not is_mixture(progress.weights, len(self.roles.train)):
                got = f"weights {progress.weights}"
                raise CheckpointError(explain(got, "a mixture of the training domains"))
            written = self.artifacts.parent / "metrics.jsonl"
            if noted is not None and digest(written, progress.offset) != noted:
                raise CheckpointError(explain(f"damaged {written}", "the rows that were written (SHA-256)"))
            for step in {0, progress.best_step}:
                state.check_weights(self._weights_folder(step))
            self._base_losses("test-base")
            self.reference = self._base_losses("reference")
            self.loop.restore(snapshot)
        except (RuntimeError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Besides a CheckpointError (a RuntimeError): cursor and generators are checked where they are put back.
            raise state.damaged(saved, error) from error
        return progress

    def _base_losses(self, name: str) -> dict[str, SequenceLosses]:
        """Losses of the base model, of every evaluation domain."""
        losses = metrics.read_losses(self.artifacts / name)
        if set(losses) != set(self.roles.evaluate):
            got = f"losses of {', '.join(losses)} in {self.artifacts / name}"
            raise CheckpointError(explain(got, f"of {', '.join(self.roles.evaluate)}"))
        return losses

    def _advance(self, progress: Progress) -> Progress:
        """One step: evaluate where the grid has a point, ask the mixer where it wants to be asked, train, book."""
        self.pause()
        losses_now = progress.training_losses
        session = Session(
            self.loop, self.roles, self.validation, self.reference, self.clock, self.pause, losses_now
        )
        rows: list[Row] = []
        try:
            if choosing.is_read(progress, session):
                rows.append(self._evaluate(session))
                progress = progress.spent(monitoring_sequences=_sequences(session.losses()))
                choosing.refuse_infinity(session)
                progress = self._judge(progress, session, rows)
                progress = choosing.look_ahead(progress, session, self.loop.fit)
            if session.step == self.loop.fit.steps:
                progress = replace(progress, stop="done")
            elif progress.ask_at == session.step:
                progress = self._ask(progress, session, rows)
            else:
                progress = replace(progress, probed=False)
            if progress.stop is None:
                with self.clock.time("training"):
                    stats = self.loop.step(progress.weights)
                progress = progress.trained(stats)
                rows.append(metrics.training_row(self.loop.step_count, stats))
        except DivergedError as error:
            progress = replace(progress, stop=f"diverged: {error}")
        progress = progress.spent(
            training_steps=self.loop.step_count - session.step,
            probe_steps=session.probe_steps,
            probe_sequences=session.probe_sequences,
            gradient_sequences=session.gradient_sequences,
        )
        return self._book(progress, rows)

    def _ask(self, progress: Progress, session: Session, rows: list[Row]) -> Progress:
        progress, decision = choosing.ask(progress, session, self.mixer)
        rows.append(metrics.decision_row(self.roles, session.step, decision))
        return progress

    def _evaluate(self, session: Session) -> Row:
        losses = self.reference
        with self.clock.time("evaluation"):
            if session.step:
                losses = self.loop.evaluate(self.validation, self.loop.fit.eval_sequences)
        session.know(losses)
        return metrics.evaluation_row(session.step, "validation", losses, self.reference)

    def _judge(self, progress: Progress, session: Session, rows: list[Row]) -> Progress:
        """Keep the weights if, as saved, they keep all constraints and the targets gained more than ever before."""
        judged, best = choosing.judge(progress, session, session.losses())
        if best and self.stored:
            with self.clock.time("evaluation"), rounded(self.loop.parameters, self.stored):
                losses = self.loop.evaluate(self.validation, self.loop.fit.eval_sequences)
            progress = progress.spent(monitoring_sequences=_sequences(losses))
            rows.append(self._rounding_row(session, losses))
            judged, best = choosing.judge(progress, session, losses)
        if best:
            with self.clock.time("checkpoint"):
                self._keep_weights(session.step)
        return judged

    def _rounding_row(self, session: Session, saved: Mapping[str, SequenceLosses]) -> Row:
        """A checkpoint that might be chosen, with what rounding to the checkpoint's types does to it.

        Every process has the same weights, but only one surely sees the folder of the base weights.

        Args:
            session: has the losses of the float32 weights.
            saved: validation losses of the weights as saved.
        """
        left = Rounding(math.nan, math.nan)
        if self.folder:
            with safe_open(self._weights_folder(0) / state.WEIGHTS, "pt") as base:
                left = rounding(self.loop.parameters, self.stored, base.get_tensor)
        trained = session.losses()
        return {
            "step": session.step,
            "event": "rounding",
            "types": sorted({str(dtype).removeprefix("torch.") for dtype in self.stored.values()}),
            **asdict(left),
            "loss_nats": {name: read.loss for name, read in saved.items()},
            "moved": {name: read.loss - trained[name].loss for name, read in saved.items()},
        }

    def _book(self, progress: Progress, rows: Sequence[Row]) -> Progress:
        with self.clock.time("bookkeeping"):
            if self.folder:
                for row in rows:
                    self._append(row)
        spent, self.clock.seconds = self.clock.seconds, {}
        for part, seconds in spent.items():
            self._untimed[part] = self._untimed.get(part, 0.0) + seconds
        offset = self.folder.metrics_offset() if self.folder else 0
        return replace(progress.spent(seconds=spent), offset=offset)

    def _append(self, row: Row) -> None:
        if self.folder:
            self.folder.append(row)
            for watcher in self.watchers:
                watcher.row(row)

    def _save(self, progress: Progress) -> None:
        if not self.folder:
            return
        with self.clock.time("checkpoint"):
            self.folder.truncate_metrics(progress.offset)
            self.folder.metrics_offset(sync=True)
            noted = digest(self.artifacts.parent / "metrics.jsonl", progress.offset)
            extra = {**asdict(progress), "metrics_sha256": noted}
            state.save_checkpoint(self.artifacts / "checkpoints", self.loop.snapshot(), extra)
            kept = {self._weights_folder(step) for step in (0, progress.best_step)}
            for folder in {*self.artifacts.glob("weights-*")} - kept:
                shutil.rmtree(folder)
        self._flush_timings()

    def _flush_timings(self) -> None:
        if self.folder:
            for part, seconds in self._untimed.items():
                self.folder.time(part, seconds, self.loop.step_count)
        self._untimed = {}

    def _weights_folder(self, step: int) -> Path:
        return self.artifacts / f"weights-{step:08d}"

    def _keep_weights(self, step: int) -> None:
        if self.folder:
            state.save_weights(self._weights_folder(step), as_saved(self.loop.parameters, self.stored))

    def _write_losses(self, name: str, losses: Mapping[str, SequenceLosses]) -> None:
        if self.folder:
            metrics.write_losses(self.artifacts / name, losses)

    def _wait(self) -> None:
        self.loop.accelerator.wait_for_everyone()


def _sequences(losses: Mapping[str, SequenceLosses]) -> int:
    return sum(len(read.nll) for read in losses.values())
