"""Settings: learning rates against transformers' schedulers, the evaluation grid, and what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from trimtab.adapt.finetune import refuse
from trimtab.errors import ConfigProblems
from trimtab.train.settings import Fit, evaluation_steps


def schedule_of_transformers(name: str, warmup: int, steps: int) -> list[float]:
    make = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = make(optimizer, warmup, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_learning_rates_after_warm_up_are_those_of_transformers(name: Any, warmup: int) -> None:
    fit = Fit(steps=15, lr=0.3, lr_schedule=name, warmup_steps=warmup)
    theirs = schedule_of_transformers(name, warmup, 15)
    ours = [fit.lr_at(step) for step in range(15)]
    assert ours[warmup:] == pytest.approx(theirs[warmup:], abs=1e-15)


def test_warm_up_rises_in_equal_steps_to_the_peak() -> None:
    """transformers begins at zero, which wastes a step; ours is theirs, one step ahead."""
    fit = Fit(steps=15, lr=0.3, lr_schedule="linear", warmup_steps=4)
    theirs = schedule_of_transformers("linear", 4, 15)
    assert [fit.lr_at(step) for step in range(4)] == pytest.approx(theirs[1:5], abs=1e-15)


def test_a_constant_rate_is_constant() -> None:
    assert {Fit(steps=9, lr=0.3).lr_at(step) for step in range(9)} == {0.3}


def test_a_run_that_is_all_warm_up_divides_by_nothing() -> None:
    fit = Fit(steps=4, lr=1.0, lr_schedule="cosine", warmup_steps=4)
    assert [fit.lr_at(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("steps", "points"), itertools.product([1, 2, 7, 64, 320, 2048], [1, 2, 3, 16, 50]))
def test_the_evaluation_grid_begins_at_zero_rises_and_ends_at_the_end(steps: int, points: int) -> None:
    grid = evaluation_steps(steps, points)
    assert grid[0] == 0
    assert grid[-1] == steps
    assert all(a < b for a, b in itertools.pairwise(grid))
    assert len(grid) <= points + 1


def test_the_evaluation_grid_is_geometric_from_a_64th_of_the_run() -> None:
    grid = evaluation_steps(64_000, 10)
    logs = [math.log(step) for step in grid[1:]]
    gaps = [b - a for a, b in itertools.pairwise(logs)]
    assert grid[1] == 1000
    assert gaps == pytest.approx([math.log(64) / 9] * 9, abs=1e-3)


def test_the_defaults_have_no_problem() -> None:
    assert list(Fit().problems()) == []


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("steps", 0, r"fit\.steps: got 0, expected at least 1"),
        ("batch_size", 0, r"fit\.batch_size: got 0, expected at least 1"),
        ("micro_batch_size", 0, r"fit\.micro_batch_size: got 0, expected at least 1, or null"),
        ("seq_len", 1, r"fit\.seq_len: got 1, expected at least 2"),
        ("lr", 0.0, r"fit\.lr: got 0\.0, expected a number above 0, at most 100"),
        ("lr", math.nan, r"fit\.lr: got nan, expected a number above 0, at most 100"),
        ("lr", 1e3, r"fit\.lr: got 1000\.0, expected a number above 0, at most 100"),
        ("lr", math.inf, r"fit\.lr: got inf, expected a number above 0, at most 100"),
        ("warmup_steps", 11, r"fit\.warmup_steps: got 11, expected 0 to steps=10"),
        ("warmup_steps", -1, r"fit\.warmup_steps: got -1, expected 0 to steps=10"),
        ("weight_decay", -0.1, r"fit\.weight_decay: got -0\.1, expected zero or more"),
        ("weight_decay", math.nan, r"fit\.weight_decay: got nan"),
        ("betas", (0.9, 1.0), r"fit\.betas: got \(0\.9, 1\.0\), expected two numbers in \[0, 1\)"),
        ("clip_norm", 0.0, r"fit\.clip_norm: got 0\.0, expected a positive number, or null"),
        ("clip_norm", math.nan, r"fit\.clip_norm: got nan"),
        ("eval_sequences", 1, r"fit\.eval_sequences: got 1, expected at least 2, so that the noise is known"),
        (
            "probe_sequences",
            1,
            r"fit\.probe_sequences: got 1, expected at least 2, so that the noise is known",
        ),
        ("probe_sequences", 300, r"fit\.probe_sequences: got 300, expected at most eval_sequences=256"),
        ("test_sequences", 1, r"fit\.test_sequences: got 1, expected at least 2, .*, or null"),
        ("eval_batch_size", 0, r"fit\.eval_batch_size: got 0, expected at least 1"),
        ("eval_points", 0, r"fit\.eval_points: got 0, expected at least 1"),
        ("checkpoint_every", 0, r"fit\.checkpoint_every: got 0, expected at least 1"),
        ("lr_schedule", "cosin", r"fit\.lr_schedule: got 'cosin', expected .*; try 'cosine'"),
        ("precision", "bfloat16", r"fit\.precision: got 'bfloat16', expected 'fp32' or 'bf16'"),
        ("shares", "token", r"fit\.shares: got 'token', expected .*; try 'tokens'"),
        ("packing", "pad", r"fit\.packing: got 'pad', expected .*; try 'padded'"),
    ],
)
def test_each_impossible_setting_is_named(setting: str, value: object, message: str) -> None:
    fit = replace(Fit(steps=10), **{setting: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigProblems, match=message):
        refuse(fit.problems())


def test_all_problems_are_found_at_once() -> None:
    fit = Fit(steps=0, lr=-1.0, batch_size=0)
    assert {problem.where for problem in fit.problems("there")} == {
        "there.steps",
        "there.lr",
        "there.batch_size",
    }
