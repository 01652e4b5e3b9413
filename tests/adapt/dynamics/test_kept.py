"""Kept probes of planned mixtures: how a run is cut into blocks, what is read off them; nothing is rolled back."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_run import SLOPES, Straight
from fake_session import CONSTRAINTS, ROLES, TARGETS
from trimtab import DynaMiCS, finetune
from trimtab.adapt.dynamics import slopes
from trimtab.adapt.dynamics.planning import Planning
from trimtab.adapt.dynamics.slopes import BlockHistory, Blocks
from trimtab.adapt.session import make_roles
from trimtab.errors import DivergedError
from trimtab.train.loop import Loop
from trimtab.train.settings import evaluation_steps
from worlds import QUICK, evaluated, model, trainable

few = settings(max_examples=60, deadline=None)
ASKED: dict[str, Any] = {"targets": TARGETS, "constraints": CONSTRAINTS, "mass": "planned"}
NAMES = ["a", "b", "c", "d", "e"]


# Blocks


def moment(step: int, steps: int, points: int, domains: int = 3, targets: int = 1) -> Any:
    roles = make_roles(NAMES[:domains], ["safety"], NAMES[:targets], {"safety": 0.05})
    return SimpleNamespace(roles=roles, step=step, steps=steps, grid=evaluation_steps(steps, points))


def blocks_of(now: Any, blocks: int, lean: float) -> Blocks:
    return Blocks.of(now.roles, now.steps, now.grid, blocks, lean)


runs = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 400),
        "points": st.integers(1, 16),
        "domains": st.integers(1, 5),
        "targets": st.integers(1, 5),
    }
)


@given(run=runs, blocks=st.integers(1, 80), lean=st.floats(0, 1))
@few
def test_blocks_tile_the_run_and_none_crosses_a_reading(
    run: dict[str, int], blocks: int, lean: float
) -> None:
    run["targets"] = min(run["targets"], run["domains"])
    plan, borders = blocks_of(moment(0, **run), blocks, lean), [0]
    while borders[-1] < run["steps"]:
        borders.append(plan.next_border(borders[-1]))
    assert borders == sorted(set(borders))
    assert borders[-1] == run["steps"]
    assert set(moment(0, **run).grid) <= set(borders)
    longest = max(plan.steps, plan.first)
    assert max(b - a for a, b in itertools.pairwise(borders)) <= longest
    assert plan.steps == max(1, round(run["steps"] / blocks))


@given(run=runs, blocks=st.integers(1, 80), lean=st.floats(0, 1))
@few
def test_first_blocks_are_one_per_domain_and_at_most_an_eighth_of_the_run(
    run: dict[str, int], blocks: int, lean: float
) -> None:
    """Or one step each, where the run is too short for that."""
    run["targets"] = min(run["targets"], run["domains"])
    plan, n = blocks_of(moment(0, **run), blocks, lean), run["domains"]
    mixtures = [plan.first_mixture(step) for step in range(run["steps"])]
    first = [mixture for mixture in mixtures if mixture is not None]
    assert len(first) == min(run["steps"], n * plan.first)
    assert plan.first == 1 or len(first) <= run["steps"] / 8
    assert mixtures[len(first) :] == [None] * (run["steps"] - len(first))
    for mixture in first:
        assert mixture.min() >= 0
        assert mixture.sum() == pytest.approx(1, abs=1e-12)
    leading = list(dict.fromkeys(int(mixture.argmax()) for mixture in first[:: plan.first]))
    assert plan.order == (*range(run["targets"], n), *range(run["targets"]))
    assert lean <= 0.5 or leading == list(plan.order)[: len(leading)]


def test_first_blocks_by_hand() -> None:
    """Half the target, half the two others, but for the half that leans: to the others first."""
    plan = blocks_of(moment(0, 320, 8), 40, 0.5)
    assert (plan.steps, plan.first, plan.order) == (8, 8, (1, 2, 0))
    mixtures = [plan.first_mixture(step) for step in (0, 7, 8, 16, 23)]
    expected = [[0.25, 0.625, 0.125]] * 2 + [[0.25, 0.125, 0.625]] + [[0.75, 0.125, 0.125]] * 2
    np.testing.assert_allclose(mixtures, expected, atol=1e-15)
    assert plan.first_mixture(24) is None


def test_first_blocks_lean_by_half_at_least() -> None:
    """Without that, a lean of zero would tell no domain from another."""
    plan = blocks_of(moment(0, 320, 8), 40, 0.0)
    np.testing.assert_allclose(plan.first_mixture(0), [0.25, 0.625, 0.125], atol=1e-15)
    plan = blocks_of(moment(0, 320, 8), 40, 1.0)
    np.testing.assert_allclose(plan.first_mixture(0), [0.0, 1.0, 0.0], atol=1e-15)


def test_borders_by_hand() -> None:
    plan = blocks_of(moment(0, 320, 8), 40, 0.5)
    asked = {0: 5, 5: 8, 8: 9, 9: 16, 16: 24, 24: 30, 30: 38, 53: 54, 54: 62, 313: 320}
    assert {step: plan.next_border(step) for step in asked} == asked


shares = st.lists(st.lists(st.floats(0.001, 1), min_size=4, max_size=4), min_size=1, max_size=60)


@given(found=shares, lean=st.floats(0, 1))
@few
def test_leaning_keeps_the_mixture_on_average(found: list[list[float]], lean: float) -> None:
    """What is owed sums to nothing and stays within a few blocks, so that over many the mixture is what was asked."""
    plan, credit = Blocks(ROLES, 320, (), 8, 8, (0, 1, 2, 3), lean), [0.0] * 4
    asked, given = np.zeros(4), np.zeros(4)
    for row in found:
        mixture = np.array(row) / sum(row)
        leant, credit = plan.lean_towards(0, mixture, credit)
        assert leant.min() >= 0
        assert leant.sum() == pytest.approx(1, abs=1e-9)
        assert np.abs(leant - mixture).max() <= lean + 1e-12
        asked, given = asked + mixture, given + leant
        assert sum(credit) == pytest.approx(0, abs=1e-9)
        assert min(credit) > -1
        assert max(credit) < 2
    np.testing.assert_allclose(asked - given, lean * np.array(credit), atol=1e-9)


def test_the_last_tenth_leans_no_more() -> None:
    plan, mixture = Blocks(ROLES, 320, (), 8, 8, (0, 1, 2), 0.5), np.array([0.2, 0.3, 0.5])
    leant, credit = plan.lean_towards(287, mixture, [0.4, 0.0, -0.4])
    np.testing.assert_allclose(leant, [0.6, 0.15, 0.25], atol=1e-15)
    assert credit == pytest.approx([-0.4, 0.3, 0.1], abs=1e-15)
    leant, credit = plan.lean_towards(288, mixture, [0.4, 0.0, -0.4])
    np.testing.assert_array_equal(leant, mixture)
    assert credit == [0.4, 0.0, -0.4]


# What is read off them


@pytest.mark.parametrize(
    ("returns", "momentum", "lean"),
    [
        (0.5, 0.0, 0.0),
        (1.0, 0.9, 0.0),
        (1.0, 0.0, 0.5),
        (0.5, 0.9, 0.5),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in ((1.0, 0.0, 0.0), (0.5, 0.9, 0.0), (0.5, 0.0, 0.5), (1.0, 0.9, 0.5))
        ),
    ],
)
def test_where_losses_move_as_slopes_say_the_slopes_are_found(
    returns: float, momentum: float, lean: float
) -> None:
    """From the first question after the first blocks on, also while the mixture changes."""
    world = Straight(steps=96, momentum=momentum, returns=returns)
    mixer = DynaMiCS(**ASKED, returns=returns, lean=lean)
    log: BlockHistory | None = None
    for step, decision in world.run(mixer):
        log = BlockHistory(**decision.state)
        if step < 3 * 2:
            assert decision.update is None
            continue
        assert decision.update is not None
        # The state's log is the one the slopes were fitted to.
        now = SimpleNamespace(step=step, steps=96)
        np.testing.assert_allclose(slopes.fitted(now, log, 40).slopes, SLOPES, rtol=0, atol=1e-8)  # type: ignore[arg-type]
    assert log is not None
    assert log.ends[-1] == log.step
    assert len(log.ends) == len(log.worths) == len(log.changes) == len(log.errors) > 40


def test_what_a_block_was_worth_is_what_the_first_moment_held() -> None:
    world = Straight(steps=96, returns=0.5)
    decisions = world.run(DynaMiCS(**ASKED, returns=0.5), until=40)
    twin = Straight(steps=96, returns=0.5)
    worths, ends = [], []
    for (step, decision), (after, _) in itertools.pairwise(decisions):
        before = twin.planning.effective(twin.seen)
        twin.train(decision.weights, after - step)
        worths.append(twin.planning.effective(twin.seen) - before)
        ends.append(after)
    log = BlockHistory(**decisions[-1][1].state)
    assert list(log.ends) == ends
    np.testing.assert_allclose(log.worths, worths, rtol=0, atol=1e-12)
    np.testing.assert_allclose(log.exposure, twin.seen, rtol=0, atol=1e-12)
    np.testing.assert_allclose(log.average, twin.average, rtol=0, atol=1e-12)


def test_older_blocks_count_less() -> None:
    """Two blocks on one domain, at the start and a whole run later: weights 1 / e and 1."""
    log = BlockHistory(
        exposure=[2.0], ends=[0, 100], worths=[[1.0], [1.0]], changes=[[-1.0], [-2.0]], errors=[[1.0]] * 2
    )
    pace = slopes.fitted(SimpleNamespace(step=100, steps=100), log, 40)  # type: ignore[arg-type]
    assert pace.slopes[0, 0] == pytest.approx(-(1 / np.e + 2) / (1 / np.e + 1), abs=1e-12)
    assert (pace.exposure.tolist(), pace.steps) == ([2.0], 2)


def test_between_readings_of_the_grid_what_sampling_leaves_out_is_taken_from_the_last() -> None:
    """The sampled sequences move 1.3 times as much as all."""
    world, planning = Straight(steps=96, tilt=0.3), Planning()
    log, now = slopes.read_block(world.session(), planning, {})
    np.testing.assert_array_equal(now.change, 0)
    world.train([0.5, 0.25, 0.25], 6)
    assert world.step in world.grid
    log, now = slopes.read_block(
        world.session(), planning, log.with_mixture(np.array([0.5, 0.25, 0.25]), [0.0] * 3)
    )
    at_six = world.moved()
    np.testing.assert_allclose(now.change, at_six, rtol=0, atol=1e-12)
    np.testing.assert_allclose(log.offset, -0.3 * at_six, rtol=0, atol=1e-12)
    known = now.error
    assert (known > 0).all()
    np.testing.assert_allclose(log.changes, [1.3 * at_six], rtol=0, atol=1e-12)
    world.train([0.0, 0.0, 1.0], 2)
    assert world.step not in world.grid
    log, now = slopes.read_block(
        world.session(), planning, log.with_mixture(np.array([0.0, 0.0, 1.0]), [0.0] * 3)
    )
    np.testing.assert_allclose(now.change, 1.3 * world.moved() - 0.3 * at_six, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(now.error, known)
    np.testing.assert_allclose(log.changes[1], 1.3 * (world.moved() - at_six), rtol=0, atol=1e-12)


def test_asked_twice_at_a_step_it_learns_once() -> None:
    world = Straight()
    log, _ = slopes.read_block(world.session(), Planning(), {})
    world.train([1.0, 0.0, 0.0])
    state = log.with_mixture(np.array([1.0, 0.0, 0.0]), [0.0] * 3)
    once, _ = slopes.read_block(world.session(), Planning(), state)
    twice, _ = slopes.read_block(
        world.session(), Planning(), once.with_mixture(np.array([1.0, 0, 0]), [0.0] * 3)
    )
    assert once.ends == twice.ends == [1]


def test_the_log_survives_json() -> None:
    world, mixer = Straight(steps=96), DynaMiCS(**ASKED)
    decisions = world.run(mixer, until=30)
    step, last = decisions[-1]
    world.train(last.weights, (last.ask_at or 0) - world.step)
    read = json.loads(json.dumps(last.state))
    one, two = mixer.decide(world.session(), last.state), mixer.decide(world.session(), read)
    assert step < world.step
    assert one.weights == two.weights
    assert json.dumps(one.state) == json.dumps(two.state)


def test_a_run_that_leans_keeps_what_it_plans_on_average() -> None:
    """Beside each answer the one that does not lean, from the same log."""
    world, mixer = Straight(steps=160), DynaMiCS(**ASKED, lean=0.5)
    state: Any = {}
    owed, leant = np.zeros(3), 0
    while world.step < 160:
        decision, solved = (m.decide(world.session(), state) for m in (mixer, replace(mixer, lean=0.0)))
        if decision.update is not None:
            assert decision.update.solution.weights.tolist() == list(decision.weights)
            owed += np.array(solved.weights) - decision.weights
            leant += decision.weights != solved.weights
            assert world.step < 144 or decision.weights == solved.weights
            assert np.abs(owed).max() < 0.5 * 2
        state = decision.state
        world.train(decision.weights, (decision.ask_at or 160) - world.step)
    assert leant > 20


def test_constraints_hold_where_slopes_are_exact() -> None:
    """The plan reaches to the end and the world does what it says, so that nothing is lost there."""
    world = Straight(steps=320, momentum=0.9, returns=0.5)
    world.run(DynaMiCS(**ASKED))
    moved = dict(zip(ROLES.evaluate, world.moved(), strict=True))
    assert moved["math"] < -0.2
    assert all(moved[name] <= tolerance * 1.05 for name, tolerance in CONSTRAINTS.items())


def test_a_loss_that_left_the_finite_numbers_ends_the_run() -> None:
    world = Straight()
    (asked,) = world.run(DynaMiCS(**ASKED), until=1)[:1]
    world.slopes = np.where(SLOPES == -0.02, np.inf, SLOPES)
    with pytest.raises(DivergedError, match=r"the loss of math at step 1 is not finite; try a lower lr"):
        DynaMiCS(**ASKED).decide(world.session(), asked[1].state)


# In a run


KEPT = DynaMiCS(**ASKED | {"constraints": {"web": 0.3, "safety": 0.3}}, blocks=4, lean=0.5)
DOMAINS = {"train": trainable(), "evaluate": evaluated()}
EACH_STEP = replace(QUICK, checkpoint_every=1)


class AbortError(Exception):
    """A stop that no code of ours expects."""


def run(out: Path) -> tuple[dict[str, torch.Tensor], Any]:
    handle = model(dropout=0.1)
    result = finetune(handle, **DOMAINS, mixer=KEPT, fit=EACH_STEP, out=out)
    return dict(handle.module.state_dict()), result


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, torch.Tensor], Any]:
    """A run that nothing stopped: its metrics, the weights left in the model, and what it says."""
    out = tmp_path_factory.mktemp("whole") / "run"
    weights, result = run(out)
    return (out / "metrics.jsonl").read_bytes(), weights, result


def test_nothing_is_rolled_back(whole: tuple[bytes, dict[str, torch.Tensor], Any]) -> None:
    """Borders at 0, 1, 2, 5 and 12 are on the grid; those at 3, 8 and 11 read 4 sequences of 5 domains each."""
    result = whole[2]
    assert (result.cost.probe_steps, result.cost.training_steps, result.cost.training_multiple) == (
        0,
        12,
        1.0,
    )
    assert result.mixtures["step"].tolist() == [0, 1, 2, 3, 5, 8, 11]
    assert result.cost.evaluation_batches == (5 * 5 * 8 + 3 * 5 * 4) / 4
    assert [update.step for update in result.slopes] == [3, 5, 8, 11]
    assert result.status == "feasible"


# Steps 4, 7, 9 and 10 are inside of blocks, 3, 5 and 8 begin them.
@pytest.mark.parametrize("stop", [1, 3, 4, 5, 7, 8, 10])
def test_a_stop_between_blocks_or_inside_of_one_changes_nothing(
    stop: int,
    whole: tuple[bytes, dict[str, torch.Tensor], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Loop.step

    def step(self: Loop, weights: Any, **options: Any) -> Any:
        if self.step_count == stop:
            raise AbortError
        return original(self, weights, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", step)
        with pytest.raises(AbortError):
            run(tmp_path / "run")
    weights, _ = run(tmp_path / "run")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == whole[0]
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole[1].items())
