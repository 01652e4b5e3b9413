"""Probes: slopes and standard errors against closed forms, and no trace of them afterwards."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import unigram as uni
import worlds
from trimtab.adapt.session import Clock, Session, make_roles
from trimtab.data.tokens import TokenSplit, tokenise
from trimtab.errors import DivergedError
from trimtab.seeds import isolated
from trimtab.train.loop import Loop, Paused
from trimtab.train.state import Snapshot
from unigram import counts
from unigram_run import EVALUATE, FIT, ROLES, TRAIN, open_session, read_by_twin, unigram_loop, warmed_up


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("length", [1, 4])
def test_slopes_and_their_errors_are_those_of_the_twin(start: int, length: int) -> None:
    loop, twin = warmed_up(start)
    estimate = open_session(loop).probe(length)
    assert estimate.slopes.shape == estimate.standard_errors.shape == (4, 3)
    assert estimate.steps == length
    for column, name in enumerate(TRAIN):
        trial = twin.copy()
        for step in range(start, start + length):
            trial.step(counts(TRAIN[name][:4]), FIT.lr_at(step))
        for row, judged in enumerate(ROLES.evaluate):
            before, tokens = read_by_twin(twin, judged, 3)
            moved = read_by_twin(trial, judged, 3)[0] - before
            slope = moved.sum() / tokens.sum() / length
            residual = moved / length - slope * tokens
            error = math.sqrt(3 / 2 * (residual**2).sum()) / tokens.sum()
            assert estimate.slopes[row, column] == pytest.approx(slope, abs=1e-10)
            assert estimate.standard_errors[row, column] == pytest.approx(error, abs=1e-10)
    assert np.linalg.matrix_rank(estimate.slopes) == 3


@pytest.mark.parametrize("readings", [(1,), (1, 4), (2, 3, 6)])
def test_trials_tell_what_moved_between_readings(readings: tuple[int, ...]) -> None:
    loop, twin = warmed_up(3)
    trials = open_session(loop).trials(list(readings))
    assert trials.readings == readings
    assert trials.changes.shape == trials.errors.shape == (len(readings), 4, 3)
    for column, name in enumerate(TRAIN):
        trial, before = twin.copy(), {judged: read_by_twin(twin, judged, 3)[0] for judged in EVALUATE}
        for reading, (start, stop) in enumerate(itertools.pairwise((0, *readings))):
            for step in range(3 + start, 3 + stop):
                trial.step(counts(TRAIN[name][:4]), FIT.lr_at(step))
            for row, judged in enumerate(ROLES.evaluate):
                nll, tokens = read_by_twin(trial, judged, 3)
                moved, before[judged] = nll - before[judged], nll
                change = moved.sum() / tokens.sum()
                residual = moved - change * tokens
                error = math.sqrt(3 / 2 * (residual**2).sum()) / tokens.sum()
                assert trials.changes[reading, row, column] == pytest.approx(change, abs=1e-10)
                assert trials.errors[reading, row, column] == pytest.approx(error, abs=1e-10)


def test_what_moved_between_readings_adds_up_to_the_probe() -> None:
    loop, _ = warmed_up(2)
    session = open_session(loop)
    slopes = session.probe(5).slopes
    np.testing.assert_allclose(session.trials((2, 4, 5)).changes.sum(axis=0) / 5, slopes, rtol=0, atol=1e-12)


def test_a_domain_does_most_for_itself() -> None:
    """The unigram domains share few tokens, so that each one's own slope is the lowest of its row."""
    loop, _ = warmed_up(0)
    slopes = open_session(loop).probe(4).slopes
    assert [int(k) for k in slopes[:3].argmin(1)] == [0, 1, 2]
    assert (np.diag(slopes) < 0).all()


# No trace


def llama_session(
    *, taken: int, pause: Callable[[], None] = lambda: None, **options: Any
) -> tuple[Loop, Session]:
    fit = replace(worlds.QUICK, lr=1e-2)
    model = worlds.model(dropout=0.2, **options)
    tokens = {name: tokenise(d, model, seq_len=16) for name, d in worlds.trainable().items()}
    loop = Loop(model, tokens, fit, seed=4)
    for _ in range(taken):
        loop.step([0.5, 0.25, 0.25])
    splits: Mapping[str, TokenSplit] = {name: d.splits["validation"] for name, d in tokens.items()}
    roles = make_roles(list(tokens), [], ["math"], {})
    return loop, Session(loop, roles, splits, loop.evaluate(splits, 8), Clock(), pause)


def flat(snapshot: Snapshot) -> dict[str, Tensor]:
    moments = {f"{name}/{key}": t for name, state in snapshot.moments.items() for key, t in state.items()}
    return {**snapshot.parameters, **moments, **snapshot.rng}


def assert_same(found: Snapshot, expected: Snapshot) -> None:
    assert flat(found).keys() == flat(expected).keys()
    for name, tensor in flat(found).items():
        assert torch.equal(tensor, flat(expected)[name]), name
    assert (found.step, found.stream) == (expected.step, expected.stream)


def assert_same_state(loop: Loop, expected: Snapshot) -> None:
    assert_same(loop.snapshot(), expected)
    assert all(parameter.grad is None for parameter in loop.parameters.values())


@pytest.mark.parametrize("taken", [0, 2])
@pytest.mark.parametrize("adapter", [None, {"r": 2, "dropout": 0.3}], ids=["full", "LoRA"])
def test_a_probe_leaves_no_trace(taken: int, adapter: Any) -> None:
    with isolated(1):
        loop, session = llama_session(taken=taken, adapter=adapter)
        before = loop.snapshot()
        first = session.probe(3)
        assert_same_state(loop, before)
        again = session.probe(3)
    np.testing.assert_array_equal(first.slopes, again.slopes)
    np.testing.assert_array_equal(first.standard_errors, again.standard_errors)
    assert (first.slopes != 0).all()


@pytest.mark.parametrize("taken", [0, 2])
def test_training_goes_on_as_if_nothing_had_been_probed(taken: int) -> None:
    snapshots = []
    for probes in (0, 2):
        with isolated(1):
            loop, session = llama_session(taken=taken)
            for _ in range(probes):
                session.trials((1, 2))
            for _ in range(3):
                loop.step([0.2, 0.2, 0.6])
            snapshots.append(loop.snapshot())
    assert_same(*snapshots)


@pytest.mark.parametrize("taken", [0, 2])
@pytest.mark.parametrize("calls", [1, 2, 4, 9])
def test_an_interrupt_inside_a_probe_leaves_no_trace(taken: int, calls: int) -> None:
    """Called before each of 3 x 2 steps and once after each reading: in steps, between and after them."""
    countdown = iter(range(calls - 1, -1, -1))

    def pause() -> None:
        if next(countdown) == 0:
            raise Paused

    with isolated(1):
        loop, session = llama_session(taken=taken, pause=pause)
        before = loop.snapshot()
        with pytest.raises(Paused):
            session.probe(2)
        assert_same_state(loop, before)


def test_an_error_inside_a_probe_leaves_no_trace() -> None:
    with isolated(1):
        loop, session = llama_session(taken=1)
        before = loop.snapshot()
        hook = loop.model.module.register_forward_hook(fail_at(4))
        session.losses()
        with pytest.raises(RuntimeError, match="out of memory"):
            session.probe(3)
        hook.remove()
        assert_same_state(loop, before)


def fail_at(call: int) -> Callable[..., None]:
    calls = itertools.count(1)

    def hook(*_: object) -> None:
        if next(calls) == call:
            raise RuntimeError("out of memory")

    return hook


# Divergence


class Poison(uni.Unigram):
    """Training on a batch with this token gives nan."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token = token

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        out = super().forward(input_ids, attention_mask)
        if self.training and (input_ids == self.token).any():
            out.logits = out.logits * math.nan
        return out


class Fuse(uni.Unigram):
    """The n-th training pass gives nan."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.left = passes

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        out = super().forward(input_ids, attention_mask)
        self.left -= self.training
        if self.training and self.left == 0:
            out.logits = out.logits * math.nan
        return out


def test_a_probe_that_diverges_is_a_column_of_nan() -> None:
    """Only code has token 4."""
    loop, plain = unigram_loop(module=Poison(4)), unigram_loop()
    before = loop.snapshot()
    estimate, expected = open_session(loop).probe(3), open_session(plain).probe(3)
    assert np.isnan(estimate.slopes[:, 1]).all()
    assert np.isnan(estimate.standard_errors[:, 1]).all()
    np.testing.assert_array_equal(estimate.slopes[:, [0, 2]], expected.slopes[:, [0, 2]])
    assert_same_state(loop, before)


def test_a_trial_that_diverges_late_is_nan_at_every_reading() -> None:
    """Code's first reading is finite; what it said is not to be trusted."""
    trials = open_session(unigram_loop(module=Fuse(5))).trials((1, 3))
    assert np.isnan(trials.changes[:, :, 1]).all()
    assert np.isnan(trials.errors[:, :, 1]).all()
    assert np.isfinite(trials.changes[:, :, 0]).all()


def test_a_probe_that_makes_one_reading_infinite_is_a_column_of_nan() -> None:
    """The last step of a probe may leave the finite numbers, which only the reading after it shows: here on code,
    which alone has token 4 in every row."""

    class Explodes(uni.Unigram):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            out = super().forward(input_ids, attention_mask)
            trained = not torch.equal(self.theta, torch.linspace(-0.5, 0.5, 7, dtype=torch.float64))
            if trained and not self.training and (input_ids == 4).any():
                out.logits = out.logits * math.inf
            return out

    estimate = open_session(unigram_loop(module=Explodes())).probe(1)
    assert np.isnan(estimate.slopes).all()
    assert np.isnan(estimate.standard_errors).all()


def test_a_diverging_step_elsewhere_is_not_hidden() -> None:
    with pytest.raises(DivergedError):
        unigram_loop(module=Poison(4)).step([0.0, 1.0, 0.0])


# Books


def test_what_a_probe_costs_is_booked() -> None:
    """Before: 4 + 3 + 5 + 3 sequences; after: 3 of each of 4 domains, for each of 3 probes of 5 steps."""
    loop = unigram_loop()
    session = open_session(loop)
    session.probe(5)
    assert session.probe_steps == 15
    assert session.probe_sequences == 15 + 3 * 12
    session.probe(2)
    assert session.probe_steps == 21
    assert session.probe_sequences == 15 + 2 * 3 * 12
    assert set(session.clock.seconds) == {"probe evaluation", "probe training", "snapshot"}


def test_every_reading_of_a_trial_is_booked() -> None:
    session = open_session(unigram_loop())
    session.trials((1, 2, 5))
    assert session.probe_steps == 15
    assert session.probe_sequences == 15 + 3 * 3 * 12


def test_a_sampled_reading_is_the_first_sequences_and_is_made_once() -> None:
    """3 sequences of each of 4 domains, as a trial reads them."""
    loop, twin = warmed_up(2)
    session = open_session(loop)
    found = session.sampled_losses()
    for name, losses in found.items():
        nll, tokens = read_by_twin(twin, name, 3)
        np.testing.assert_allclose(losses.nll, nll, rtol=0, atol=1e-10)
        np.testing.assert_array_equal(losses.tokens, tokens)
    again = session.sampled_losses()
    assert all(again[name] is losses for name, losses in found.items())
    assert (session.probe_sequences, session.probe_steps) == (12, 0)
    assert set(session.clock.seconds) == {"probe evaluation"}


def test_a_sampled_reading_is_free_where_all_sequences_were_read() -> None:
    session = open_session(unigram_loop())
    session.know(session.reference)
    for name, losses in session.sampled_losses().items():
        np.testing.assert_array_equal(losses.nll, session.reference[name].nll[:3])
    assert session.probe_sequences == 0


def test_readings_of_the_grid_are_not_read_again() -> None:
    loop = unigram_loop()
    session = open_session(loop)
    session.know(session.reference)
    assert session.losses() is session.reference
    session.probe(1)
    assert session.probe_sequences == 3 * 12


def test_a_session_knows_its_place() -> None:
    loop = unigram_loop()
    loop.step([1.0, 0.0, 0.0])
    session = open_session(loop)
    assert (session.step, session.steps) == (1, 40)
    assert session.grid[0] == 0
    assert session.grid[-1] == 40
    assert (session.momentum, session.margin) == (0.8, 0.0)


def test_a_clock_adds_up_also_after_an_error() -> None:
    clock = Clock()
    clock.add("solver", 1.5)
    with pytest.raises(ValueError, match="x"), clock.time("solver"):
        raise ValueError("x")
    assert clock.seconds["solver"] > 1.5
