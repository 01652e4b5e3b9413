"""The training loop: mixture-weighted steps and exact evaluation, on one process or several, between interrupts."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from trimtab.data.stream import MixtureStream
from trimtab.data.tokens import Batch, TokenDomain, TokenSplit
from trimtab.errors import ConfigError, DivergedError, explain
from trimtab.models.batches import evaluating
from trimtab.models.load import Model
from trimtab.runs.paths import processes
from trimtab.seeds import derive, seed_draws
from trimtab.train import state
from trimtab.train.evaluation import batched, sequence_losses, token_nll
from trimtab.train.losses import SequenceLosses
from trimtab.train.settings import Fit
from trimtab.train.state import Snapshot


def accelerator() -> Accelerator:
    """The processes of one launch, as Accelerate sees them; it moves nothing to a device.

    torchrun starts processes without saying on what. On a machine without a GPU they are joined through the CPU (gloo):
    Accelerate alone would take each of them for the only one, and each would do the whole run.

    Raises:
        ConfigError: the environment tells of processes that cannot be joined, or Accelerate sees another number.
    """
    world = processes()
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # to find one another
    missing = next((name for name in needed if name not in os.environ), "")
    if world > 1 and missing:
        hint = "unset WORLD_SIZE, for one process"
        got = f"WORLD_SIZE={world} without {missing}"
        raise ConfigError(explain(got, "a launch by torchrun or accelerate", hint))
    joined = Accelerator(device_placement=False, cpu=world > 1 and not torch.cuda.is_available())
    if "WORLD_SIZE" in os.environ and joined.num_processes != world:
        got = f"{joined.num_processes} process(es) of WORLD_SIZE={world}"
        raise ConfigError(explain(got, "all of them together", "ACCELERATE_USE_CPU=1, or one process"))
    return joined


class Paused(KeyboardInterrupt):
    """An interrupt that was held back to a moment at which the state is whole."""


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C (and SIGTERM) back until the yielded function is called; that call raises Paused.

    A second signal raises KeyboardInterrupt at once. Outside the main thread, where Python
    delivers no signals, the function does nothing. Handlers are put back afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    caught: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    def check() -> None:
        if caught:
            raise Paused

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def join_batches(batches: Sequence[Batch]) -> Batch:
    """One batch from several, padded on the right to the longest."""
    width = max(batch.input_ids.shape[1] for batch in batches)

    def join(tensors: Sequence[Tensor], fill: int) -> Tensor:
        return torch.cat([F.pad(t, (0, width - t.shape[1]), value=fill) for t in tensors])

    return Batch(
        input_ids=join([b.input_ids for b in batches], 0),
        attention_mask=join([b.attention_mask for b in batches], 0),
        labels=join([b.labels for b in batches], -100),
    )


@dataclass(frozen=True)
class StepStats:
    """Statistics of one optimiser step.

    Attributes:
        loss: mean loss of the global batch, nats per token.
        grad_norm: norm of its gradient, before clipping.
        examples: sequences drawn, by domain; domains without any are left out.
        nll: summed negative log-likelihood of those sequences, in nats.
        tokens: loss-carrying tokens of those sequences.
    """

    loss: float
    grad_norm: float
    examples: Mapping[str, int] = field(default_factory=dict)
    nll: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)


class Loop:
    """AdamW on a mixture of domains, one global batch per step, the same samples on one process and on many.

    The loop owns the optimiser, the data cursor and the step count; the caller owns the mixture. Every step
    seeds torch's generators from (seed, step, process), so that dropout does not depend on what ran before.
    Run it inside `trimtab.seeds.isolated` to leave the caller's generators alone.

    Attributes:
        device: that of the model, for inputs; it does not move while it trains.
        step_count: steps that the model has behind it.
        steps_taken: steps that this loop took, also those that were undone.
        sharded: whether processes hold parts of the parameters, so that they have to make forward passes together.

    Args:
        model: the model to train in place; only `model.trainable()` changes.
        domains: training domains by name, each with a "train" split; their order is the order of weights.
        fit: the settings.
        seed: of the sample order and of dropout.
        optimizer: someone else's, who takes the steps that stay; this loop then makes trials only. None for AdamW.
    """

    def __init__(
        self,
        model: Model,
        domains: Mapping[str, TokenDomain],
        fit: Fit,
        *,
        seed: int,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.accelerator = accelerator()
        self.model, self.fit, self.seed, self.step_count = model, fit, seed, 0
        self.steps_taken = 0
        self.device = model.device  # once, since it takes a walk through the modules
        self.splits: dict[str, TokenSplit] = {name: d.splits["train"] for name, d in domains.items()}
        self.parameters = model.trainable()
        trained, fused = list(self.parameters.values()), self.device.type in {"cpu", "cuda"}
        self.optimizer = optimizer or torch.optim.AdamW(
            trained, lr=fit.lr, betas=fit.betas, weight_decay=fit.weight_decay, fused=fused
        )
        sizes = {name: len(split) for name, split in self.splits.items()}
        self.stream = MixtureStream(sizes, fit.batch_size, seed)
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.sharded = False
        self._wrapped: nn.Module = model.module
        if self.world > 1 and optimizer is None:
            self._wrapped = self.accelerator.prepare_model(model.module, device_placement=False)

    @property
    def domains(self) -> tuple[str, ...]:
        """The training domains, in the order of mixture weights."""
        return tuple(self.splits)

    def lr_at(self, step: int) -> float:
        """The learning rate of optimiser step `step` (0-based)."""
        return self.fit.lr_at(step)

    def set_rate(self) -> None:
        """Give the optimiser the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_at(self.step_count)

    def step(self, weights: Sequence[float], *, alone: bool = False) -> StepStats:
        """One optimiser step on a global batch drawn with these mixture weights.

        Args:
            weights: one share per training domain, on the simplex.
            alone: this process takes the whole batch and exchanges no gradient (a dealt probe).

        Raises:
            DivergedError: the loss or its gradient is not finite; parameters and moments are as they were.
        """
        if self.fit.shares == "tokens":
            examples = [w / s.mean_target_tokens for w, s in zip(weights, self.splits.values(), strict=True)]
            weights = [e / sum(examples) for e in examples]
        rows = self.stream.draw(weights)
        rank = 0 if alone else self.rank
        mine = rows if alone else rows[self.rank :: self.world]
        seed_draws(derive(self.seed, "step", self.step_count, rank), self.device)
        tokens: Counter[str] = Counter()
        for name, row in rows:
            tokens[name] += int(self.splits[name].target_tokens([row])[0])
        loss, nll = self._backward(mine, tokens.total(), alone)
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.fit.clip_norm or float("inf"))
        if not (math.isfinite(loss) and torch.isfinite(norm)):
            self.optimizer.zero_grad()
            got = f"the loss or the gradient of step {self.step_count} is not finite"
            raise DivergedError(f"{got}; try a lower lr")
        self.set_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_count += 1
        self.steps_taken += 1
        drawn, examples_drawn = {name: nll[name] for name in tokens}, Counter(name for name, _ in rows)
        return StepStats(loss, float(norm), examples_drawn, drawn, dict(tokens))

    def evaluate(
        self, splits: Mapping[str, TokenSplit], limit: int | None, *, alone: bool = False
    ) -> dict[str, SequenceLosses]:
        """The loss of each sequence of each split, read without touching the model.

        The sequences are the first `limit` of an order fixed by the domain's name, so every run, mixer and
        seed reads the same ones. With several processes the batches are dealt out and gathered again.

        Args:
            splits: what to read, by domain.
            limit: sequences per domain at most; None for all.
            alone: this process reads everything by itself.
        """
        nll_of, size = partial(self._token_nll, self.model.module), self.fit.eval_batch_size
        shared = (0, 1) if alone else (self.rank, self.world)
        # Buffers into which shards are gathered outlive a pass; those made in inference mode could not be trained with.
        with evaluating(self.model.module), nullcontext() if self.sharded else torch.inference_mode():
            return sequence_losses(nll_of, splits, limit, size, self.device, *shared, even=self.sharded)

    def gradient(self, split: TokenSplit, rows: Sequence[int]) -> Tensor:
        """The gradient of the mean loss on these rows at the present weights, flat over the trainable parameters.

        Read in evaluation mode, so without dropout: the gradient of the loss that evaluations report. It is this
        process's own, not exchanged; parameters, their `.grad`, modes and torch's generators stay as they are.

        Args:
            split: where the rows are.
            rows: their numbers, at least one.

        Returns:
            (P,) nats per token and unit of parameter, in float32, or float64 for a float64 model.
        """
        parameters, tokens = list(self.parameters.values()), int(split.target_tokens(rows).sum())
        wide = torch.float64 if parameters[0].dtype == torch.float64 else torch.float32
        total = torch.zeros(sum(p.numel() for p in parameters), dtype=wide, device=self.device)
        with state.rng_kept(), evaluating(self.model.module, gradients=True):
            for chunk in batched(rows, self.fit.micro_batch_size or self.fit.batch_size):
                nll = self._token_nll(self.model.module, split.batch(chunk).to(self.device)).sum()
                parts = torch.autograd.grad(
                    nll / tokens, parameters, allow_unused=True, materialize_grads=True
                )
                total += torch.cat([part.flatten().to(wide) for part in parts])
        return total

    def snapshot(self) -> Snapshot:
        """A copy of all state that training depends on."""
        return Snapshot(
            step=self.step_count,
            parameters=state.copy_parameters(self.parameters),
            moments=state.copy_moments(self.parameters, self.optimizer),
            stream=self.stream.state(),
            rng=state.rng_states(),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Return to `snapshot`, bit for bit."""
        state.put_parameters(self.parameters, snapshot.parameters)
        state.put_moments(self.parameters, self.optimizer, snapshot.moments)
        self.optimizer.zero_grad()
        self.stream.restore(dict(snapshot.stream))
        state.put_rng_states(snapshot.rng)
        self.step_count = snapshot.step

    def _backward(
        self, rows: Sequence[tuple[str, int]], tokens: int, alone: bool
    ) -> tuple[float, dict[str, float]]:
        """Accumulate the gradient of the mean loss over the `tokens` of the global batch.

        Returns:
            The mean loss, and the summed negative log-likelihood of each domain; both gathered.
        """
        self.model.module.train()
        module = self.model.module if alone else self._wrapped
        micro = batched(rows, self.fit.micro_batch_size or max(1, len(rows)))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        by_row = []
        for index, chunk in enumerate(micro):
            last = index == len(micro) - 1
            batch = join_batches([self.splits[name].batch([row]) for name, row in chunk])
            with nullcontext() if alone or last else self.accelerator.no_sync(module):
                per_token = self._token_nll(module, batch.to(self.device))
                nll = per_token.sum()
                loss = nll * ((1 if alone else self.world) / tokens)
                loss.backward()  # type: ignore[no-untyped-call]
            total += nll.detach().double()
            by_row.append(per_token.detach().sum(1, dtype=torch.float64))
        places = [self.domains.index(name) for name, _ in rows]
        by_domain = np.bincount(places, torch.cat(by_row).cpu().numpy(), len(self.splits))
        sums = torch.cat([total[None], torch.from_numpy(by_domain).to(total)])
        if self.world > 1 and not alone:
            sums = self.accelerator.reduce(sums)
        whole, *parts = sums.tolist()
        return whole / tokens, dict(zip(self.domains, parts, strict=True))

    def _token_nll(self, module: nn.Module, batch: Batch) -> Tensor:
        """Negative log-likelihood of each predicted token (B, T-1), zero where there is no loss."""
        half = self.fit.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
            logits = module(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return token_nll(logits, batch.labels)
