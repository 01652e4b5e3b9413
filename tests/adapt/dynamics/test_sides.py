"""Two sides: the rest's first shares, departures that pay, the share of the targets, and when a run gives up."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fake_run import Straight
from fake_session import CONSTRAINTS, ROLES, TARGETS
from trimtab import DynaMiCS
from trimtab.adapt.dynamics import sides
from trimtab.adapt.dynamics.sides import (
    EXPLORED,
    FLOOR,
    GLANCE,
    MENDED,
    MOST_WORTH,
    PACE,
    PATIENCE,
    SEEN,
    SHARES,
    STRANGER,
    Outlook,
    best_share,
    first_rest,
    given_up,
    judged,
    rest_mixture,
)
from trimtab.adapt.session import Roles, make_roles
from trimtab.errors import DivergedError

few = settings(max_examples=60, deadline=None)
ASKED: dict[str, Any] = {"targets": TARGETS, "constraints": CONSTRAINTS}
TRAINED = [name in ("code", "web") for name in ROLES.train]
"""The rest of `ROLES`."""


# First shares

parts = st.lists(st.sampled_from(["target", "constraint", "monitored"]), min_size=1, max_size=5)


@given(train=parts, evaluate=parts)
@few
def test_first_shares_follow_the_roles(train: list[str], evaluate: list[str]) -> None:
    """A constraint to train on has one part; a stranger a quarter of it where something judged is not trained on."""
    role = {f"train {k}": one for k, one in enumerate(train)} | {
        f"judged {k}": one for k, one in enumerate(evaluate)
    }
    names, more = list(role)[: len(train)], list(role)[len(train) :]
    tolerances = {name: 0.1 for name, one in role.items() if one == "constraint"}
    assume(set(train) != {"target"})
    roles = make_roles(names, more, [name for name, one in role.items() if one == "target"], tolerances)
    shares = dict(zip(names, first_rest(roles), strict=True))
    assert sum(shares.values()) == pytest.approx(1, abs=1e-12)
    assert all(shares[name] == 0 for name in names if role[name] == "target")
    own = [shares[name] for name in names if role[name] == "constraint"]
    strangers = [shares[name] for name in names if role[name] == "monitored"]
    if own:
        untrained = set(evaluate) & {"target", "constraint"}
        assert own == pytest.approx([own[0]] * len(own))
        assert strangers == pytest.approx([(STRANGER if untrained else 0.0) * own[0]] * len(strangers))
    else:
        assert strangers == pytest.approx([1 / len(strangers)] * len(strangers))


# Departures from them

STEPS, KAPPA = 40.0, 1.28
REST = ["a", "b", "c"]
WIDE = make_roles(["aim", *REST], ["far", "second"], ["aim", "second"], {"a": 0.1, "far": 0.1})
"""Two targets, of which one is not trained on, and two constraints, of which one is not."""


def outlook(seed: int, *, roles: Roles = WIDE, noise: float = 0.3, slack: Sequence[float] = ()) -> Outlook:
    """Random slopes and errors of what is judged; training on a domain lowers its own loss."""
    random, names = np.random.default_rng(seed), judged(roles)
    slopes = 1e-3 * random.normal(size=(len(names), len(roles.train)))
    for row, name in enumerate(names):
        if name in roles.train:
            slopes[row, roles.train.index(name)] -= 3e-3
    errors = 1e-3 * noise * random.uniform(0.2, 1.0, slopes.shape)
    room = iter(slack or random.uniform(-0.05, 0.1, len(names)))
    left = np.array([next(room) if name in roles.tolerances else math.nan for name in names])
    return Outlook(names, slopes, errors, left)


def worth(roles: Roles, ahead: Outlook) -> float:
    """Target nats per nat of the tightest constraint when mass moves from the first rest to the targets, by hand."""
    first, trained = first_rest(roles), roles.trainable_targets
    moved = {}
    for name, row in zip(ahead.names, ahead.slopes, strict=True):
        to = sum(row[roles.train.index(target)] for target in trained) / len(trained)
        moved[name] = to - sum(share * slope for share, slope in zip(first, row, strict=True))
    gain = -sum(moved[name] for name in roles.targets) / len(roles.targets)
    tightest = min(roles.tolerances, key=lambda name: ahead.slack[ahead.names.index(name)])
    if gain <= 0:
        return 0.0
    return min(MOST_WORTH, gain / moved[tightest]) if moved[tightest] > 0 else MOST_WORTH


def value(roles: Roles, ahead: Outlook, mixture: np.ndarray) -> float:
    """The objective of a mixture of the rest: the least slack that is surely left, less what the targets surely lose.

    The targets' mean has one error, that of a mean of independent ones.
    """
    departure, surely = mixture - first_rest(roles), KAPPA * STEPS
    left, lost, error = [], [], []
    for name, slopes, errors, slack in zip(ahead.names, ahead.slopes, ahead.errors, ahead.slack, strict=True):
        moved = STEPS * sum(slope * d for slope, d in zip(slopes, departure, strict=True))
        if name in roles.tolerances:
            spread = math.sqrt(sum((e * d) ** 2 for e, d in zip(errors, departure, strict=True)))
            left.append(slack - moved - surely * spread)
        else:
            lost.append(moved)
            error.append([(e * d) ** 2 for e, d in zip(errors, departure, strict=True)])
    spread = math.sqrt(sum(map(sum, error))) / len(lost)
    return worth(roles, ahead) * min(left) - sum(lost) / len(lost) - surely * spread


def grid(roles: Roles, parts: int) -> list[np.ndarray]:
    """Mixtures of the rest in steps of 1 / parts."""
    rest = [k for k, name in enumerate(roles.train) if name not in roles.targets]
    found = []
    for counts in itertools.product(range(parts + 1), repeat=len(rest) - 1):
        if sum(counts) <= parts:
            mixture = np.zeros(len(roles.train))
            mixture[rest] = np.array([*counts, parts - sum(counts)]) / parts
            found.append(mixture)
    return found


TWO = make_roles(["aim", "a", "b"], ["far"], ["aim"], {"a": 0.1, "far": 0.1})


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("roles", "parts"), [(TWO, 200), (WIDE, 40)], ids=["two", "three"])
def test_the_rest_is_the_best_of_all_mixtures(roles: Roles, parts: int, seed: int) -> None:
    ahead = outlook(seed, roles=roles)
    found = rest_mixture(roles, ahead, STEPS, KAPPA)
    values = [value(roles, ahead, mixture) for mixture in grid(roles, parts)]
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-9)
    assert found[0] == 0
    assert value(roles, ahead, found) >= max(values) - 1e-4 * (max(values) - min(values))


@pytest.mark.parametrize("seed", range(4))
def test_where_slopes_are_noise_the_rest_stays_as_it_was(seed: int) -> None:
    found = rest_mixture(WIDE, outlook(seed, noise=100.0, slack=(-0.05, 0.1)), STEPS, KAPPA)
    np.testing.assert_allclose(found, first_rest(WIDE), rtol=0, atol=1e-4)


def test_a_domain_that_surely_mends_the_tightest_constraint_gets_the_rest() -> None:
    """`b` is a stranger; nothing else does anything to `far`, which is broken."""
    ahead = outlook(0, roles=TWO, slack=(0.1, -0.05))
    slopes = np.zeros_like(ahead.slopes)
    slopes[list(ahead.names).index("far")] = [2e-3, 0.0, -2e-3]
    slopes[list(ahead.names).index("aim"), 0] = -2e-3
    clear = replace(ahead, slopes=slopes, errors=np.full_like(slopes, 1e-5))
    assert rest_mixture(TWO, clear, STEPS, KAPPA)[2] > 0.95
    np.testing.assert_allclose(
        rest_mixture(TWO, replace(clear, errors=np.full_like(slopes, 1e-1)), STEPS, KAPPA),
        first_rest(TWO),
        atol=1e-4,
    )


@given(seed=st.integers(0, 99), order=st.permutations(range(4)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_domains_only_orders_the_rest(seed: int, order: list[int]) -> None:
    ahead = outlook(seed)
    turned = make_roles([WIDE.train[k] for k in order], ["far", "second"], WIDE.targets, WIDE.tolerances)
    rows = [list(ahead.names).index(name) for name in judged(turned)]
    again = Outlook(
        judged(turned),
        ahead.slopes[np.ix_(rows, order)],
        ahead.errors[np.ix_(rows, order)],
        ahead.slack[rows],
    )
    expected = rest_mixture(WIDE, ahead, STEPS, KAPPA)[order]
    np.testing.assert_allclose(rest_mixture(turned, again, STEPS, KAPPA), expected, rtol=0, atol=2e-3)


@given(seed=st.integers(0, 99), unit=st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_the_unit_of_losses_does_not_matter(seed: int, unit: float) -> None:
    ahead, c = outlook(seed), 10**unit
    other = replace(ahead, slopes=c * ahead.slopes, errors=c * ahead.errors, slack=c * ahead.slack)
    np.testing.assert_allclose(
        rest_mixture(WIDE, other, STEPS, KAPPA), rest_mixture(WIDE, ahead, STEPS, KAPPA), rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("which", ["slopes", "errors"])
def test_a_domain_whose_slopes_are_not_known_gets_nothing(which: str) -> None:
    ahead = outlook(1)
    known = getattr(ahead, which).copy()
    known[:, 2] = math.nan
    found = rest_mixture(WIDE, replace(ahead, **{which: known}), STEPS, KAPPA)
    assert found[2] == 0
    assert found.sum() == pytest.approx(1, abs=1e-9)


def test_with_one_known_domain_or_no_step_ahead_there_is_no_departure() -> None:
    ahead = outlook(1)
    lone = ahead.slopes.copy()
    lone[:, 2:] = math.nan
    for one, steps in ((replace(ahead, slopes=lone), STEPS), (ahead, 0.0)):
        np.testing.assert_array_equal(rest_mixture(WIDE, one, steps, KAPPA), first_rest(WIDE))


# The share of the targets


def log_odds(share: float) -> float:
    return math.log(share / (1 - share))


def outcome(roles: Roles, ahead: Outlook, rest: np.ndarray, share: float) -> tuple[bool, float]:
    """Whether all constraints are ever kept, walked through in small steps; and the targets' fall when last they are.

    Where they are not within the first part of the steps: by how much the worst one is broken at the end, negative.
    """
    trained, fall, rates = roles.trainable_targets, 0.0, {}
    for name, row in zip(ahead.names, ahead.slopes, strict=True):
        to = sum(row[roles.train.index(target)] for target in trained) / len(trained)
        rates[name] = share * to + (1 - share) * float(row @ rest)
    limits = {name: ahead.slack[ahead.names.index(name)] for name in roles.tolerances}
    walked = np.linspace(0, STEPS, 4001)
    kept = np.all([rates[name] * walked <= limits[name] for name in limits], axis=0)
    if not kept[walked <= MENDED * STEPS].any():
        return False, -max(rates[name] * STEPS - limits[name] for name in limits)
    fall = -sum(rates[name] for name in roles.targets) / len(roles.targets)
    return True, float(fall * walked[kept][-1])


@pytest.mark.parametrize("seed", range(24))
def test_the_share_is_the_one_whose_targets_fall_furthest_within_the_constraints(seed: int) -> None:
    roles, ahead = (TWO, WIDE)[seed % 2], outlook(seed, roles=(TWO, WIDE)[seed % 2])
    rest, ends = first_rest(roles), log_odds(1 - FLOOR)
    shares = 1 / (1 + np.exp(-np.linspace(-ends, ends, SHARES)))
    found = best_share(roles, ahead, rest, STEPS)
    assert np.abs(shares - found).min() < 1e-12
    outcomes = [outcome(roles, ahead, rest, share) for share in shares]
    possible, best = any(kept for kept, _ in outcomes), outcome(roles, ahead, rest, found)
    assert best[0] == possible
    assert best[1] >= max(value for kept, value in outcomes if kept == possible) - 1e-3 * STEPS * 1e-2


def test_slopes_that_are_not_known_count_as_nothing() -> None:
    ahead = outlook(3, roles=TWO)
    unknown, zero = ahead.slopes.copy(), ahead.slopes.copy()
    unknown[:, 2], zero[:, 2] = math.nan, 0.0
    one, two = (
        best_share(TWO, replace(ahead, slopes=each), first_rest(TWO), STEPS) for each in (unknown, zero)
    )
    assert one == two


def test_of_shares_that_are_worth_the_same_the_least_is_taken_whatever_the_last_digits_say() -> None:
    ahead, generator = outlook(3, roles=TWO), np.random.default_rng(0)
    slopes, slack = ahead.slopes.copy(), ahead.slack.copy()
    limited = np.flatnonzero(np.isfinite(slack))
    slopes[limited], slack[limited] = 0.01, -1.0  # nothing mends, and every domain does the same harm
    for _ in range(20):
        noisy = replace(ahead, slopes=slopes * (1 + 1e-14 * generator.normal(size=slopes.shape)), slack=slack)
        assert best_share(TWO, noisy, first_rest(TWO), STEPS) == pytest.approx(FLOOR)


def mass(weights: Sequence[float]) -> float:
    """The share of the one target of `ROLES`."""
    return weights[0]


HURT = np.array([[-0.02, 0.0, 0.0], [0.0, -0.01, 0.0], [0.002, 0.0, -0.01], [0.02, 0.0, -0.004]])
"""math harms safety, web mends it; code is only monitored and does nothing else."""


def asked_of(slopes: np.ndarray, steps: int = 160, **options: Any) -> list[tuple[int, Any, np.ndarray]]:
    """Every question of a run in a straight world: its step, the answer, and the changes of losses then."""
    world, mixer = Straight(slopes, steps=steps, tilt=0.2, points=8), DynaMiCS(**ASKED, **options)
    found, state, ask_at = [], {}, 0
    while world.step < steps:
        decision = mixer.decide(world.session(), state)
        found.append((world.step, decision, world.moved()))
        state, ask_at = decision.state, decision.ask_at
        world.train(decision.weights, (ask_at or steps) - world.step)
    return found


def tightest(moved: np.ndarray) -> float:
    """The least slack, in tolerances."""
    now = dict(zip(ROLES.evaluate, moved, strict=True))
    return min((limit - now[name]) / limit for name, limit in CONSTRAINTS.items())


@pytest.fixture(scope="module")
def hurt() -> list[tuple[int, Any, np.ndarray]]:
    return asked_of(HURT)


def test_it_begins_with_half_and_the_first_shares(hurt: list[tuple[int, Any, np.ndarray]]) -> None:
    _, decision, _ = asked_of(HURT, lean=0.0)[0]
    assert mass(decision.weights) == pytest.approx(0.5)
    np.testing.assert_allclose(np.array(decision.weights)[1:] / 0.5, first_rest(ROLES)[1:], atol=1e-12)
    assert [one.update is None for _, one, _ in hurt] == [k < SEEN for k in range(len(hurt))]


def test_the_mass_moves_at_its_pace_and_at_first_with_the_slack(
    hurt: list[tuple[int, Any, np.ndarray]],
) -> None:
    assert {np.sign(tightest(moved)) for _, _, moved in hurt} == {-1.0, 1.0}
    for number, ((before, old, _), (step, new, moved)) in enumerate(itertools.pairwise(hurt), start=1):
        gone = log_odds(mass(new.weights)) - log_odds(mass(old.weights))
        assert abs(gone) <= PACE * (step - before) / 160 + 1e-9
        assert FLOOR - 1e-9 <= mass(new.weights) <= 1 - FLOOR + 1e-9
        if number < SEEN:
            assert abs(gone) <= PACE / 2 * (step - before) / 160 + 1e-9
            assert abs(tightest(moved)) < 0.1 or gone * tightest(moved) > 0


@pytest.mark.parametrize(("safety", "end"), [(0.02, FLOOR), (-0.02, 1 - FLOOR)])
def test_the_mass_ends_low_where_all_training_breaks_a_constraint_and_high_where_none_does(
    safety: float, end: float
) -> None:
    slopes = HURT.copy()
    slopes[3], slopes[2, 0] = safety, 0.0
    _, last, _ = asked_of(slopes)[-1]
    assert mass(last.weights) == pytest.approx(end)


def test_an_update_is_broken_where_a_constraint_is_and_monitored_domains_have_no_slopes(
    hurt: list[tuple[int, Any, np.ndarray]],
) -> None:
    for _, decision, moved in hurt:
        if decision.update is None:
            continue
        solution, estimate = decision.update.solution, decision.update.estimate
        if abs(tightest(moved)) > 0.1:
            assert solution.status == ("broken" if tightest(moved) < 0 else "kept")
        assert (solution.status == "broken") == bool(solution.conflicts)
        assert {ROLES.evaluate[k] for k in solution.conflicts} <= set(CONSTRAINTS)
        watched = [ROLES.role(name) == "monitored" for name in ROLES.evaluate]
        np.testing.assert_array_equal(np.isnan(estimate.slopes).all(axis=1), watched)
        np.testing.assert_array_equal(np.isnan(solution.predicted), watched)
        assert np.isnan(solution.shadow_prices).all()
        assert solution.weights.tolist() == pytest.approx(list(decision.weights))


def test_each_domain_leads_as_many_blocks_as_its_share_but_for_what_is_explored() -> None:
    """Beside each answer the one that does not lean, from the same state."""
    world, mixer, steps = Straight(HURT, steps=200, tilt=0.2, points=8), DynaMiCS(**ASKED), 200
    even, rest_only = np.array(TRAINED) / sum(TRAINED), np.array(TRAINED, dtype=float)
    lean, state, led, owed = mixer.settled("lean"), {}, np.zeros(3), np.zeros(3)
    while world.step < steps:
        decision, plain = (one.decide(world.session(), state) for one in (mixer, replace(mixer, lean=0.0)))
        share = mass(decision.weights)
        assert mass(plain.weights) == share
        given, rest = (np.array(one.weights) * rest_only / (1 - share) for one in (decision, plain))
        before, state = state, decision.state
        if world.step < (1 - sides.SETTLED) * steps:
            credit = np.array(before.get("credit", np.zeros(3)))
            leads = int((credit + (1 - EXPLORED) * rest + EXPLORED * even).argmax())
            part = (given[leads] - rest[leads]) / (1 - rest[leads]) if rest[leads] < 1 - 1e-9 else lean
            assert GLANCE * lean - 1e-9 <= part <= lean + 1e-9
            np.testing.assert_allclose(given, (1 - part) * rest + part * np.eye(3)[leads], atol=1e-9)
            led += np.eye(3)[leads]
            owed += (1 - EXPLORED) * rest + EXPLORED * even
        else:
            assert decision.weights == plain.weights
        np.testing.assert_allclose(state["credit"], owed - led, atol=1e-6)
        assert np.abs(owed - led).max() < 2
        world.train(decision.weights, (decision.ask_at or steps) - world.step)


@pytest.mark.parametrize(("code", "web", "low", "high"), [(-0.02, 0.0, 0.6, 1.0), (0.02, -0.02, 0.0, 0.1)])
def test_the_rest_goes_to_the_stranger_that_mends_what_cannot_be_trained_on(
    code: float, web: float, low: float, high: float
) -> None:
    """And away from one that harms it. What math does to safety is more than the first shares mend."""
    slopes = HURT.copy()
    slopes[3, 1:] = code, web
    _, last, _ = asked_of(slopes)[-1]
    assert low <= last.weights[1] / (1 - mass(last.weights)) <= high


def test_at_some_update_the_target_has_gained_and_every_constraint_is_kept() -> None:
    """Not at the last: a plan counts up to the last step at which all are kept."""
    assert any(moved[0] < -0.2 and tightest(moved) >= 0 for _, _, moved in asked_of(HURT, 320))


def test_the_state_survives_json_in_the_middle() -> None:
    world, mixer, state = Straight(HURT, steps=96, tilt=0.2), DynaMiCS(**ASKED), {}
    while world.step < 50:
        decision = mixer.decide(world.session(), state)
        state = decision.state
        world.train(decision.weights, (decision.ask_at or 96) - world.step)
    one, two = (mixer.decide(world.session(), each) for each in (state, json.loads(json.dumps(state))))
    assert one.weights == two.weights
    assert json.dumps(one.state) == json.dumps(two.state)


def test_a_judged_loss_that_left_the_finite_numbers_ends_the_run() -> None:
    world, mixer = Straight(HURT), DynaMiCS(**ASKED)
    ((_, asked),) = world.run(mixer, until=1)[:1]
    world.slopes = np.where(HURT == -0.02, np.inf, HURT)
    with pytest.raises(DivergedError, match=r"the loss of math at step 1 is not finite; try a lower lr"):
        mixer.decide(world.session(), asked.state)


# Giving up


def readings(*slack: float, every: int = 5) -> list[tuple[int, float]]:
    """Readings in a row, the last at step 50 of 100."""
    return [(50 - every * (len(slack) - 1 - k), one) for k, one in enumerate(slack)]


HALF: Any = SimpleNamespace(step=50, steps=100)
LOST = {"web": 0.02, "safety": -0.1}


@pytest.mark.parametrize("n", range(PATIENCE))
def test_it_does_not_give_up_before_it_has_been_patient(n: int) -> None:
    assert given_up(HALF, LOST, readings(*[-1.0] * n)) is None


@pytest.mark.parametrize("trend", [0.0, 0.1, -0.1 / PATIENCE])
def test_it_gives_up_what_does_not_come_back_until_the_end(trend: float) -> None:
    """At -5 tolerances with at most .1 of them won back per reading, of which ten are left."""
    slack = [-5.0 - trend * (PATIENCE - 1 - k) for k in range(PATIENCE)]
    told = given_up(HALF, LOST, readings(*slack))
    first = readings(*slack)[0][0]
    assert told == f"safety stays broken with the least target training there is, since step {first}"


@given(now=st.floats(-4, -0.01), won=st.floats(0.001, 2))
@few
def test_it_goes_on_while_the_trend_brings_the_constraint_back(now: float, won: float) -> None:
    """The trend of the last few readings, carried to the end of the run: ten readings more."""
    slack = [now - won * (PATIENCE - 1 - k) for k in range(PATIENCE)]
    assume(abs(now + 10 * won) > 1e-6)
    told = given_up(HALF, LOST, readings(-9.0, *slack))
    assert (told is None) == (now + 10 * won >= 0)


def test_a_run_that_no_mixture_can_mend_is_given_up_and_one_that_can_be_is_not() -> None:
    """All that one trains on harms safety; and a run with the time to mend it."""
    doomed = HURT.copy()
    doomed[3] = [0.02, 0.01, 0.01]
    stops = [(step, one) for step, one, _ in asked_of(doomed) if one.stop]
    assert stops
    step, first = stops[0]
    assert re.fullmatch(
        r"safety stays broken with the least target training there is, since step \d+", first.stop
    )
    assert mass(first.weights) == pytest.approx(FLOOR)
    assert len(first.state["floored"]) == PATIENCE
    assert step < 160
    assert not any(one.stop for _, one, _ in asked_of(HURT, 320))
