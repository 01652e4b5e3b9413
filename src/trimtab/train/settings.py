"""The settings of one training run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from trimtab.errors import Problem, not_among
from trimtab.runs.brief import brief
from trimtab.runs.files import bound_problems

Packing = Literal["packed", "padded"]
Shares = Literal["examples", "tokens"]
LearningRateSchedule = Literal["constant", "linear", "cosine"]
Precision = Literal["fp32", "bf16"]
_LEAST = (
    {"eval_sequences": 2, "probe_sequences": 2, "test_sequences": 2}
    | dict.fromkeys(
        ("steps", "batch_size", "micro_batch_size", "eval_batch_size", "eval_points", "checkpoint_every"), 1
    )
    | {"crossings": 0}
)
"""The least value of each count; one sequence does not show how noisy a loss is."""
MOST_LR = 100.0
"""The largest learning rate: a step of AdamW moves each weight by about the rate."""
MOST_MARGIN = 1000
"""Standard errors of a margin; beyond, limits are so far off that no solver tells them from infinity."""
_CHOICES = {"packing": Packing, "shares": Shares, "lr_schedule": LearningRateSchedule, "precision": Precision}


@dataclass(frozen=True)
class Fit:
    """Training settings: how long and how a model is trained, how often and on how much it is evaluated.

    Attributes:
        steps: optimiser steps of the run.
        batch_size: sequences per optimiser step, over all processes.
        micro_batch_size: sequences per forward pass of one process; None for no accumulation.
        seq_len: tokens per sequence; longer documents are cut.
        packing: "packed" fills every sequence with text; "padded" keeps one record per sequence.
        shares: what a mixture weight is a share of, sequences ("examples") or loss-carrying tokens ("tokens").
        lr: peak learning rate of AdamW, above 0; AdamW moves each weight by about so much a step, so beyond 100 nothing
            can be learned.
        lr_schedule: the shape after warm-up; "linear" and "cosine" end at zero.
        warmup_steps: steps of linear warm-up.
        weight_decay: decoupled weight decay.
        betas: the decay rates of AdamW's two moments.
        clip_norm: largest gradient norm; None leaves gradients alone.
        precision: "bf16" runs forward passes under autocast; weights and moments are float32 while they are trained.
        activation_checkpointing: keep one tensor per layer and compute the rest again in the backward pass: less
            memory, one more forward pass a step, the same gradients.
        eval_sequences: validation sequences per domain, the same ones at every evaluation.
        probe_sequences: how many of them a probe is judged on.
        test_sequences: test sequences per domain, read before and after the run; None for all.
        eval_batch_size: sequences per forward pass in evaluation.
        eval_points: points of the geometric evaluation grid (see `evaluation_steps`).
        crossings: readings between points of the grid, at most: each just before a constraint is foreseen to cross its
            limit (see `trimtab.adapt.crossing`), so that the last checkpoint which keeps it is not lost.
        margin: standard errors by which a checkpoint must keep each constraint on validation data in order to be
            chosen; 0 takes the estimate at its word.
        checkpoint_every: steps between resumable checkpoints.
    """

    steps: int = 2048
    batch_size: int = 8
    micro_batch_size: int | None = None
    seq_len: int = 512
    packing: Packing = "packed"
    shares: Shares = "examples"
    lr: float = 1e-4
    lr_schedule: LearningRateSchedule = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 1.0
    precision: Precision = "fp32"
    activation_checkpointing: bool = False
    eval_sequences: int = 256
    probe_sequences: int = 128
    test_sequences: int | None = None
    eval_batch_size: int = 16
    eval_points: int = 16
    crossings: int = 0
    margin: float = 0.0
    checkpoint_every: int = 100

    __repr__ = brief

    def lr_at(self, step: int) -> float:
        """The learning rate of optimiser step `step` (0-based).

        >>> [Fit(steps=10, lr=1.0, lr_schedule="linear", warmup_steps=2).lr_at(s) for s in (0, 1, 2, 6)]
        [0.5, 1.0, 1.0, 0.5]
        """
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        if self.lr_schedule == "linear":
            return self.lr * (1 - done)
        if self.lr_schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        return self.lr

    def problems(self, where: str = "fit") -> Iterator[Problem]:
        """Every setting that cannot work."""
        for name, value in vars(self).items():
            least = _LEAST.get(name, -math.inf)
            if name in _LEAST and value is not None and value < least:
                expected = f"at least {least}" + (", so that the noise is known" if least == 2 else "")
                if name in ("micro_batch_size", "test_sequences"):
                    expected += ", or null"
                yield Problem(f"{where}.{name}", str(value), expected)
        for problem in bound_problems(self):
            yield replace(problem, where=f"{where}.{problem.where}")
        for name, choices in _CHOICES.items():
            if (word := getattr(self, name)) not in get_args(choices):
                yield not_among(f"{where}.{name}", word, get_args(choices))
        probed_part = f"at most eval_sequences={self.eval_sequences}: a probe is judged on some of them"
        rules = (
            ("seq_len", self.seq_len >= 2, "at least 2, so that a token is predicted"),
            ("lr", 0 < self.lr <= MOST_LR, f"a number above 0, at most {MOST_LR:g}"),
            ("clip_norm", self.clip_norm is None or self.clip_norm > 0, "a positive number, or null"),
            ("margin", 0 <= self.margin <= MOST_MARGIN, f"0 to {MOST_MARGIN} standard errors"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "zero or more"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"),
            ("warmup_steps", 0 <= self.warmup_steps <= self.steps, f"0 to steps={self.steps}"),
            ("probe_sequences", self.probe_sequences <= self.eval_sequences, probed_part),
        )
        for name, fine, expected in rules:
            if not fine:
                yield Problem(f"{where}.{name}", str(getattr(self, name)), expected)


def evaluation_steps(steps: int, points: int) -> tuple[int, ...]:
    """The steps at which a run is evaluated: 0, then a geometric grid that ends at `steps`.

    Every mixer is judged on this same grid, so none gains by being looked at more often. Steps that round
    together are evaluated once; the grid begins near steps / 64, where forgetting begins to show.

    >>> evaluation_steps(320, 8)
    (0, 5, 9, 16, 30, 54, 98, 177, 320)
    """
    first = max(1.0, steps / 64)
    if points > 5 * steps + 2:  # finer than steps: below, no number from round(first) on would be left out
        return (0, *range(max(1, round(first)), steps + 1))
    ratio = (steps / first) ** (1 / max(1, points - 1))
    return (0, *sorted({max(1, round(steps / ratio**k)) for k in range(points)}))
