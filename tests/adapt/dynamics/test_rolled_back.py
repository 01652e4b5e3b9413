"""Rolled-back probes: three ways to read slopes off trials, against the twin's own trials and planted truths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import unigram as uni
from fake_run import SLOPES, Straight
from fake_session import CONSTRAINTS, TARGETS, session
from trimtab import DynaMiCS
from trimtab.adapt.dynamics import slopes as rolled_back
from trimtab.adapt.dynamics.planning import MeasuredSlopes, Planning
from trimtab.adapt.session import SlopeEstimate
from unigram import Twin, counts
from unigram_run import EVALUATE, FIT, TRAIN, open_session, read_by_twin, unigram_loop, warmed_up

ONE_HOT = np.eye(3)
ON_WEB = {"step": 0, "weights": [0.0, 0.0, 1.0], "average": [0.0] * 3, "exposure": [0.0] * 3}
"""What is remembered of an update at step 0 that put everything on web."""


def twins_changes(twin: Twin, start: int, readings: tuple[int, ...]) -> np.ndarray:
    """(R, M, N) nats since step `start`, up to each reading, on three sequences of each domain."""
    found = np.empty((len(readings), len(EVALUATE), len(TRAIN)))
    for column, name in enumerate(TRAIN):
        trial = twin.copy()
        for step in range(readings[-1]):
            trial.step(counts(TRAIN[name][:4]), FIT.lr_at(start + step))
            for reading in (r for r, length in enumerate(readings) if length == step + 1):
                for row, judged in enumerate(EVALUATE):
                    (after, tokens), (before, _) = (read_by_twin(each, judged, 3) for each in (trial, twin))
                    found[reading, row, column] = (after - before).sum() / tokens.sum()
    return found


def test_whole_is_the_papers_slope() -> None:
    loop, twin = warmed_up(3)
    opened = open_session(loop)
    pace = rolled_back.measure(opened, Planning(), "whole", 4, ON_WEB)
    estimate = opened.probe(4)
    np.testing.assert_allclose(pace.slopes, estimate.slopes, rtol=0, atol=1e-14)
    np.testing.assert_allclose(pace.errors, estimate.standard_errors, rtol=0, atol=1e-14)
    np.testing.assert_allclose(pace.slopes, twins_changes(twin, 3, (4,))[0] / 4, rtol=0, atol=1e-10)
    assert pace.exposure.tolist() == [0.0, 0.0, 3.0]
    assert pace.steps == 4


@pytest.mark.parametrize("steps", [4, 5])
def test_second_half_leaves_the_first_out(steps: int) -> None:
    loop, twin = warmed_up(3)
    pace = rolled_back.measure(open_session(loop), Planning(), "second-half", steps, ON_WEB)
    half = steps // 2
    until_half, until_end = twins_changes(twin, 3, (half, steps))
    np.testing.assert_allclose(pace.slopes, (until_end - until_half) / (steps - half), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rule", ["second-half", "momentum"])
def test_a_probe_of_one_step_has_no_halves(rule: Any) -> None:
    opened = open_session(unigram_loop())
    pace = rolled_back.measure(opened, Planning(), rule, 1, {})
    np.testing.assert_allclose(pace.slopes, opened.probe(1).slopes, rtol=0, atol=1e-12)
    assert opened.probe_steps == 6


@pytest.mark.parametrize("returns", [1.0, 0.5])
def test_momentum_is_least_squares_on_what_the_first_moment_held(returns: float) -> None:
    """Three steps on web come first; of each trial step the twin's first moment is distinguished by domain."""
    loop, twin = warmed_up(3)
    opened, planning = open_session(loop), Planning(returns=returns)
    pace = rolled_back.measure(opened, planning, "momentum", 5, ON_WEB)
    trials, beta, before = opened.trials((2, 5)), FIT.betas[0], np.array([0.0, 0.0, 3.0])
    held = np.zeros(3)
    for _ in range(3):
        held = beta * held + (1 - beta) * ONE_HOT[2]
    exposures, changes, errors = [], [], []
    until = twins_changes(twin, 3, (2, 5))
    for j in range(3):
        average, seen = held, before
        for r, length in enumerate((2, 3)):
            start = seen
            for _ in range(length):
                taken = 3 + round(float((seen - before).sum())) + 1
                average = beta * average + (1 - beta) * ONE_HOT[j]
                seen = seen + average / (1 - beta**taken)
            exposures.append(planning.effective(seen) - planning.effective(start))
            changes.append(until[r, :, j] - (until[0, :, j] if r else 0))
            errors.append(trials.errors[r, :, j])
    for row in range(4):
        scale = 1 / np.array(errors)[:, row]
        slopes = np.linalg.lstsq(
            np.array(exposures) * scale[:, None], np.array(changes)[:, row] * scale, rcond=None
        )[0]
        np.testing.assert_allclose(pace.slopes[row], slopes, rtol=0, atol=1e-10)
    assert (pace.errors > 0).all()


# Memory


def test_what_is_carried_over_updates_is_the_sum_over_all_steps() -> None:
    """Three updates at uneven gaps against every step written out."""
    world, state, seen, held = Straight(momentum=0.9), {}, np.zeros(3), np.zeros(3)
    mixtures = np.random.default_rng(0).dirichlet(np.ones(3), 4)
    for weights, gap in zip(mixtures, (1, 7, 2, 5), strict=True):
        now = world.session()
        np.testing.assert_allclose(rolled_back.first_moment(now, state), held, rtol=0, atol=1e-12)
        np.testing.assert_allclose(rolled_back.exposed(now, state), seen, rtol=0, atol=1e-12)
        state = dict(rolled_back.remember(now, weights, state))
        world.train(weights, gap)
        seen = seen + gap * weights
        for _ in range(gap):
            held = 0.9 * held + 0.1 * weights
    np.testing.assert_allclose(rolled_back.first_moment(world.session(), state), held, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        rolled_back.first_moment(world.session(), state), world.average, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(rolled_back.exposed(world.session(), state), seen, rtol=0, atol=1e-12)


def test_nothing_is_carried_at_the_start() -> None:
    now = Straight().session()
    assert rolled_back.first_moment(now, {}).tolist() == [0.0] * 3
    assert rolled_back.exposed(now, {}).tolist() == [0.0] * 3


# Planted truths


def paces(world: Straight, state: Any, planning: Planning) -> dict[str, MeasuredSlopes]:
    rules: tuple[Any, ...] = ("whole", "second-half", "momentum")
    return {rule: rolled_back.measure(world.session(), planning, rule, 8, state) for rule in rules}


def test_momentum_finds_planted_slopes_where_the_others_are_biased() -> None:
    """After twenty steps on web, the first steps of every trial still go its way."""
    world = Straight(momentum=0.9)
    world.train([0.0, 0.0, 1.0], 20)
    found = paces(world, ON_WEB, Planning())
    off = {rule: np.abs(pace.slopes - SLOPES).max() for rule, pace in found.items()}
    assert off["momentum"] < 1e-12
    assert off["whole"] > off["second-half"] > 1e-3
    np.testing.assert_allclose(found["whole"].slopes[:, 2], SLOPES[:, 2], atol=1e-12)


def test_without_momentum_all_three_agree() -> None:
    world = Straight(momentum=0.0)
    world.train([0.0, 0.0, 1.0], 20)
    for pace in paces(world, ON_WEB, Planning()).values():
        np.testing.assert_allclose(pace.slopes, SLOPES, rtol=0, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_diminishing_returns_are_divided_out(momentum: float) -> None:
    world, planning = Straight(momentum=momentum, returns=0.5), Planning(returns=0.5)
    np.testing.assert_allclose(paces(world, {}, planning)["momentum"].slopes, SLOPES, rtol=0, atol=1e-12)
    world.train([0.5, 0.3, 0.2], 10)
    state = {**ON_WEB, "weights": [0.5, 0.3, 0.2]}
    found = paces(world, state, planning)
    if not momentum:
        for pace in found.values():
            np.testing.assert_allclose(pace.slopes, SLOPES, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["momentum"].exposure, [5, 3, 2], atol=1e-12)
    np.testing.assert_allclose(found["momentum"].slopes, SLOPES, rtol=0, atol=1e-9)


def test_scatter_between_the_halves_widens_the_errors() -> None:
    """Stated errors are .001 a half; halves that agree shrink them by sqrt(4 / 7), as three of six numbers are free."""
    given = SlopeEstimate(SLOPES, np.full(SLOPES.shape, 5e-4), 4)
    asked, torn = session(slopes=given), session(slopes=given)

    def uneven(readings: Any) -> Any:
        trials = asked.trials(readings)
        trials.changes[1] += 0.05
        return trials

    torn.trials = uneven
    plain, wide = (rolled_back.measure(each, Planning(), "momentum", 4, {}) for each in (asked, torn))
    np.testing.assert_allclose(plain.errors, 1e-3 / (2 * np.sqrt(2)) * np.sqrt(4 / 7), rtol=1e-9)
    chi2 = 3 * 2 * (0.025 / 1e-3) ** 2
    np.testing.assert_allclose(wide.errors, plain.errors * np.sqrt(1 + chi2 / 4), rtol=1e-9)
    np.testing.assert_allclose(wide.slopes, SLOPES + 0.025 / 2, rtol=0, atol=1e-12)


# Trials that diverge


@pytest.mark.parametrize("rule", ["whole", "second-half", "momentum"])
def test_a_diverged_trial_is_a_column_of_nan_that_gets_no_weight(rule: Any) -> None:
    world = Straight()
    world.train([0.0, 0.0, 1.0], 6)
    now = world.session()

    def broken(readings: Any) -> Any:
        trials = world.trials(readings)
        trials.changes[..., 0] = trials.errors[..., 0] = math.nan
        return trials

    now.trials = broken
    pace = rolled_back.measure(now, Planning(), rule, 4, ON_WEB)
    assert np.isnan(pace.slopes[:, 0]).all()
    assert np.isnan(pace.errors[:, 0]).all()
    assert np.isfinite(pace.slopes[:, 1:]).all()
    mixer = DynaMiCS(targets=TARGETS, constraints=CONSTRAINTS, slopes=rule, schedule=6, probe_steps=4)
    decision = mixer.decide(now, ON_WEB)
    assert decision.weights[0] == 0.0
    assert sum(decision.weights) == pytest.approx(1, abs=1e-9)


def test_when_all_trials_diverge_there_is_no_slope() -> None:
    class Broken(uni.Unigram):
        def forward(self, *inputs: Any, **more: Any) -> Any:
            out = super().forward(*inputs, **more)
            out.logits = out.logits * (math.nan if self.training else 1.0)
            return out

    for rule in ("whole", "second-half", "momentum"):
        pace = rolled_back.measure(open_session(unigram_loop(module=Broken())), Planning(), rule, 4, {})  # type: ignore[arg-type]
        assert np.isnan(pace.slopes).all()
        assert np.isnan(pace.errors).all()
