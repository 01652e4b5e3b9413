"""Mixers that read losses against what they should be: their updates by hand, and where they settle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fake_session import CONSTRAINTS, ROLES, TARGETS, ask, session
from trimtab.adapt.finetune import refuse
from trimtab.adapt.mixer import Decision, Mixer
from trimtab.adapt.mixers.controllers import DualAscent, Feedback, ReferenceLoss
from trimtab.adapt.session import make_roles
from trimtab.errors import ConfigProblems, DivergedError

ASKED: dict[str, Any] = {"targets": TARGETS, "constraints": CONSTRAINTS}


def sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


def on_target(decision: Decision) -> float:
    return decision.weights[0]


# Feedback


def test_feedback_begins_where_it_is_told() -> None:
    (first,) = ask(Feedback(**ASKED, start=0.7), session(web=9.0))
    assert first.weights == pytest.approx((0.7, 0.15, 0.15), abs=1e-15)
    assert first.ask_at == 4


@pytest.mark.parametrize(
    ("moved", "slack"),
    [
        ({"web": 0.05, "safety": 0.04}, 0.2),
        ({"web": 0.05, "safety": 0.0}, 0.5),
        ({"web": 0.1}, 0.0),
        ({"web": 0.13, "math": 9.0, "code": 9.0}, -0.3),
        ({"safety": 3.0}, -1.0),
        ({"safety": -3.0, "web": -3.0}, 1.0),
    ],
    ids=str,
)
def test_feedback_moves_the_log_odds_by_the_smallest_slack(moved: dict[str, float], slack: float) -> None:
    """web may rise by .1 and safety by .05: what is left of that, in units of it, between -1 and 1."""
    _, second = ask(Feedback(**ASKED, gain=0.4), session(), session(4, **moved))
    assert on_target(second) == pytest.approx(sigmoid(0.4 * slack), abs=1e-12)
    assert second.weights[1] == second.weights[2] == pytest.approx((1 - on_target(second)) / 2, abs=1e-15)


def test_a_tolerance_of_zero_counts_in_hundredths_of_a_nat() -> None:
    roles = make_roles(["math", "web"], [], ["math"], {"web": 0.0})
    _, second = ask(Feedback(gain=0.4), session(roles=roles), session(4, roles=roles, web=0.005))
    assert on_target(second) == pytest.approx(sigmoid(-0.2), abs=1e-12)


def test_feedback_stops_at_its_floors_and_turns_back_at_once() -> None:
    kept, lost = session(4), session(4, web=1.0)
    up = ask(Feedback(**ASKED, gain=1.0, floor=0.1), *[kept] * 9, lost)
    assert [on_target(decision) for decision in up[-3:]] == pytest.approx(
        [0.9, 0.9, sigmoid(math.log(9) - 1)], abs=1e-12
    )
    down = ask(Feedback(**ASKED, gain=1.0, floor=0.1), *[lost] * 9)
    assert on_target(down[-1]) == pytest.approx(0.1, abs=1e-12)


def test_without_constraints_the_targets_get_all_that_the_floor_leaves() -> None:
    roles = make_roles(["math", "web"], [], ["math"], {})
    answers = ask(Feedback(), *[session(4, roles=roles, math=5.0)] * 9)
    assert answers[-1].weights == pytest.approx((0.95, 0.05), abs=1e-12)


# ReferenceLoss


def test_reference_loss_by_hand() -> None:
    """math has come down by .1 of .5 nats, so .8 of the goal is missing; web is half a tolerance above its limit."""
    mixer = ReferenceLoss(**ASKED, goal=0.5, eta=0.25, smoothing=0.1)
    first, second = ask(mixer, session(), session(4, math=-0.1, web=0.15, code=7.0))
    assert first.weights == pytest.approx((1 / 3, 1 / 3, 1 / 3), abs=1e-15)
    raw = np.exp([0.2, 0.0, 0.125])
    assert second.weights == pytest.approx(0.9 * raw / raw.sum() + 0.1 / 3, abs=1e-12)


def test_a_constraint_with_room_to_spare_gives_way() -> None:
    mixer = ReferenceLoss(**ASKED, smoothing=0.0, eta=1.0, goal=0.5)
    *_, third = ask(mixer, session(), session(4, math=-0.5), session(8, math=-0.5, web=0.1))
    raw = np.exp([0.0, 0.0, -1.0])
    assert third.weights == pytest.approx(raw / raw.sum(), abs=1e-12)


def test_reference_loss_does_not_see_what_it_cannot_train_on() -> None:
    plain, blind = (
        ask(ReferenceLoss(**ASKED), session(), session(4, math=-0.1, **more))[-1].weights
        for more in ({}, {"safety": 2.0})
    )
    assert plain == blind


# DualAscent


def test_dual_ascent_by_hand() -> None:
    """web is half a tolerance over, safety a whole one, which the two other domains share: 1 : .5 : .5 + .5."""
    mixer = DualAscent(**ASKED, eta=1.0)
    first, second, third = ask(
        mixer, session(web=9.0), session(4, web=0.15, safety=0.1), session(8, web=0.11)
    )
    assert first.weights == (1.0, 0.0, 0.0)
    assert second.state["prices"] == pytest.approx({"web": 0.5, "safety": 1.0}, abs=1e-12)
    assert second.weights == pytest.approx((0.4, 0.2, 0.4), abs=1e-12)
    assert third.state["prices"] == pytest.approx({"web": 0.6, "safety": 0.0}, abs=1e-12)
    assert third.weights == pytest.approx((1 / 1.6, 0.0, 0.6 / 1.6), abs=1e-12)


def test_two_targets_are_worth_one_each() -> None:
    roles = make_roles(["math", "code", "web"], ["facts"], ["math", "code", "facts"], {"web": 0.1})
    *_, last = ask(DualAscent(eta=0.5), session(roles=roles), session(4, roles=roles, web=0.2))
    assert last.weights == pytest.approx((0.4, 0.4, 0.2), abs=1e-12)


# Where they settle


@pytest.mark.parametrize(
    ("mixer", "price"), [(DualAscent(eta=0.1), True), (Feedback(gain=0.1), False)], ids=str
)
def test_they_settle_where_the_constraint_is_at_its_limit(mixer: Mixer, price: bool) -> None:
    """web rises by .2 for the share of math and falls by .1 for its own: at .1 above its base, math has 2/3."""
    roles = make_roles(["math", "web"], [], ["math"], {"web": 0.1})
    decision = mixer.decide(session(roles=roles), {})
    for _ in range(2000):
        math_share, web_share = decision.weights
        now = session(4, roles=roles, web=0.2 * math_share - 0.1 * web_share)
        decision = mixer.decide(now, decision.state)
    assert on_target(decision) == pytest.approx(2 / 3, abs=1e-6)
    if price:
        assert decision.state["prices"]["web"] == pytest.approx(0.5, abs=1e-6)


# When they ask, and what they refuse


@pytest.mark.parametrize("mixer", [Feedback(), ReferenceLoss(), DualAscent()], ids=str)
def test_they_ask_at_every_sixteenth_of_the_run(mixer: Mixer) -> None:
    steps = [mixer.decide(session(step), {}).ask_at for step in (0, 4, 56, 60)]
    assert steps == [4, 8, 60, None]


@pytest.mark.parametrize(
    "mixer", [Feedback(every=10), ReferenceLoss(every=10), DualAscent(every=10)], ids=str
)
def test_they_ask_as_often_as_told(mixer: Mixer) -> None:
    assert [mixer.decide(session(step), {}).ask_at for step in (0, 10, 60)] == [10, 20, None]


@pytest.mark.parametrize("mixer", [Feedback(), ReferenceLoss(), DualAscent()], ids=str)
def test_a_loss_that_is_not_finite_ends_the_run(mixer: Mixer) -> None:
    with pytest.raises(DivergedError, match="the loss of safety at step 4 is not finite; try a lower lr"):
        ask(mixer, session(), session(4, safety=math.inf))


IMPOSSIBLE: list[tuple[Mixer, str]] = [
    (Feedback(gain=0.0), r"mixer\.gain: got 0\.0, expected a finite number above zero"),
    (Feedback(floor=0.5), r"mixer\.floor: got 0\.5, expected a share between 0 and 0\.5"),
    (Feedback(floor=0.0), r"mixer\.floor: got 0\.0, expected a share between 0 and 0\.5"),
    (Feedback(start=0.97), r"mixer\.start: got 0\.97, expected a share from 0\.05 to 0\.95"),
    (Feedback(start=math.nan), r"mixer\.start: got nan, expected a share from 0\.05 to 0\.95"),
    (Feedback(every=0), r"mixer\.every: got 0, expected at least 1 step, or null"),
    (ReferenceLoss(goal=-1.0), r"mixer\.goal: got -1\.0, expected a finite number above zero"),
    (ReferenceLoss(eta=math.inf), r"mixer\.eta: got inf, expected a finite number above zero"),
    (ReferenceLoss(smoothing=1.0), r"mixer\.smoothing: got 1\.0, expected a number from 0 to below 1"),
    (ReferenceLoss(every=-3), r"mixer\.every: got -3, expected at least 1 step"),
    (DualAscent(eta=math.nan), r"mixer\.eta: got nan, expected a finite number above zero"),
    (DualAscent(every=0), r"mixer\.every: got 0, expected at least 1 step"),
]


@pytest.mark.parametrize(("mixer", "message"), IMPOSSIBLE, ids=[message for _, message in IMPOSSIBLE])
def test_each_impossible_setting_is_named(mixer: Mixer, message: str) -> None:
    with pytest.raises(ConfigProblems, match=message):
        refuse(mixer.problems(ROLES))


def test_a_side_without_a_domain_is_refused() -> None:
    no_target = make_roles(["web"], ["math"], ["math"], {})
    for mixer in (Feedback(), ReferenceLoss(), DualAscent()):
        with pytest.raises(ConfigProblems, match="got no target among the training domains"):
            refuse(mixer.problems(no_target))
    all_targets = make_roles(["math"], ["web"], ["math"], {"web": 0.1})
    for mixer in (Feedback(), DualAscent()):
        with pytest.raises(ConfigProblems, match="got only targets to train on, expected a training domain"):
            refuse(mixer.problems(all_targets))
    assert list(ReferenceLoss().problems(all_targets)) == []
