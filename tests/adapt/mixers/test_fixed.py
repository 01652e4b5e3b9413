"""Mixers asked by hand: the mixtures they give, when they ask again, and what they refuse."""

from __future__ import annotations

import math

import pytest

from fake_session import ROLES, ask, session
from trimtab.adapt.finetune import refuse
from trimtab.adapt.mixer import Mixer
from trimtab.adapt.mixers.fixed import EarlyStoppedTarget, Fixed, Replay, Uniform
from trimtab.adapt.session import make_roles
from trimtab.errors import ConfigProblems

TWO_TARGETS = make_roles(["math", "code", "web"], ["safety"], ["math", "safety", "code"], {})


@pytest.mark.parametrize(
    ("mixer", "weights"),
    [
        (Uniform(), (1 / 3, 1 / 3, 1 / 3)),
        (Fixed(weights={"math": 3, "web": 1}), (0.75, 0.0, 0.25)),
        (Fixed(target_mass=0.8), (0.8, 0.1, 0.1)),
        (Fixed(target_mass=0.0), (0.0, 0.5, 0.5)),
        (Replay(share=0.05), (0.95, 0.025, 0.025)),
        (Replay(share=0.25, domains=["web"]), (0.75, 0.0, 0.25)),
        (EarlyStoppedTarget(), (1.0, 0.0, 0.0)),
    ],
    ids=str,
)
def test_mixtures(mixer: Mixer, weights: tuple[float, ...]) -> None:
    decision = mixer.decide(session(), {})
    assert decision.weights == pytest.approx(weights, abs=1e-15)
    assert math.fsum(decision.weights) == pytest.approx(1, abs=1e-15)
    assert decision.update is None
    assert list(mixer.problems(ROLES)) == []


@pytest.mark.parametrize(
    ("mixer", "weights"),
    [
        (Fixed(target_mass=0.8), (0.4, 0.4, 0.2)),
        (Replay(share=0.1), (0.45, 0.45, 0.1)),
        (EarlyStoppedTarget(), (0.5, 0.5, 0.0)),
    ],
    ids=str,
)
def test_targets_that_can_be_trained_share_alike(mixer: Mixer, weights: tuple[float, ...]) -> None:
    decision = mixer.decide(session(roles=TWO_TARGETS), {})
    assert decision.weights == pytest.approx(weights, abs=1e-15)


def test_a_constant_mixture_is_asked_once() -> None:
    for mixer in (Uniform(), Fixed(target_mass=0.5), Replay()):
        assert mixer.decide(session(), {}).ask_at is None


def test_early_stopping_asks_at_each_reading_and_stops_after_patience() -> None:
    lost = {"safety": 0.06, "web": 0.11}
    decisions = ask(EarlyStoppedTarget(), session(), session(4, **lost), session(16, safety=0.051))
    assert [decision.ask_at for decision in decisions] == [4, 16, 64]
    assert [decision.stop for decision in decisions[:2]] == [None, None]
    assert decisions[2].stop == "lost safety at 2 readings in a row"
    assert all(decision.weights == (1.0, 0.0, 0.0) for decision in decisions)


def test_a_constraint_that_is_kept_again_starts_the_count_anew() -> None:
    lost, kept = {"safety": 0.06}, {"safety": 0.05 - 1e-9, "math": 9.0}
    decisions = ask(
        EarlyStoppedTarget(), session(), session(4, **lost), session(16, **kept), session(64, **lost)
    )
    assert [decision.stop for decision in decisions] == [None] * 4
    assert decisions[-1].ask_at is None


def test_more_patience_waits_longer() -> None:
    lost = {"web": 0.2}
    stops = [d.stop for d in ask(EarlyStoppedTarget(patience=1), session(), session(4, **lost))]
    assert stops == [None, "lost web at 1 reading in a row"]
    stops = [d.stop for d in ask(EarlyStoppedTarget(patience=3), session(4, **lost), session(16, **lost))]
    assert stops == [None, None]


def test_what_has_not_risen_keeps_a_tolerance_of_zero() -> None:
    roles = make_roles(["math", "web"], [], ["math"], {"web": 0.0})
    assert EarlyStoppedTarget(patience=1).decide(session(roles=roles), {}).stop is None
    assert EarlyStoppedTarget(patience=1).decide(session(4, roles=roles, web=1e-9), {}).stop is not None


def test_early_stopping_keeps_as_many_standard_errors_off_the_limit_as_the_choice_of_a_checkpoint() -> None:
    """safety is .02 below its limit and known to .01."""
    mixer = EarlyStoppedTarget(patience=1)
    one, two = (session(4, safety=0.03, spread=0.01, margin=margin) for margin in (1.9, 2.1))
    assert mixer.decide(one, {}).stop is None
    assert mixer.decide(two, {}).stop == "lost safety at 1 reading in a row"


def test_without_constraints_nothing_stops_early() -> None:
    roles = make_roles(["math", "code"], [], ["math"], {})
    decision = EarlyStoppedTarget(patience=1).decide(session(4, roles=roles, math=5.0), {"bad": 7})
    assert decision.stop is None


# Refusals


IMPOSSIBLE: list[tuple[Mixer, str]] = [
    (Fixed(), r"mixer: got neither, expected either `weights` or `target_mass`"),
    (Fixed(weights={"math": 1}, target_mass=0.5), r"mixer: got both, expected either"),
    (
        Fixed(weights={"mth": 1}),
        r"mixer\.weights\.mth: got 'mth', expected one of the training .*; try 'math'",
    ),
    (Fixed(weights={"safety": 1}), r"mixer\.weights\.safety: got 'safety', expected one of the training"),
    (
        Fixed(weights={"math": -1, "web": 2}),
        r"mixer\.weights\.math: got -1, expected a share of zero or more",
    ),
    (Fixed(weights={"math": math.nan}), r"mixer\.weights\.math: got nan, expected a share"),
    (Fixed(weights={"math": math.inf}), r"mixer\.weights\.math: got inf, expected a share"),
    (Fixed(weights={"math": 0}), r"mixer\.weights: got no positive share, expected at least one"),
    (Fixed(weights={}), r"mixer\.weights: got no positive share, expected at least one"),
    (Fixed(target_mass=1.5), r"mixer\.target_mass: got 1\.5, expected a share between 0 and 1"),
    (Replay(share=-0.1), r"mixer\.share: got -0\.1, expected a share between 0 and 1"),
    (Replay(share=math.nan), r"mixer\.share: got nan, expected a share between 0 and 1"),
    (
        Replay(domains=["math"]),
        r"mixer\.domains: got 'math', expected a training domain that is not a target",
    ),
    (Replay(domains=["wbe"]), r"mixer\.domains: got 'wbe', .*; try 'web'"),
    (Replay(domains=["web", "web"]), r"mixer\.domains: got 'web' twice, expected each domain once"),
    (EarlyStoppedTarget(patience=0), r"mixer\.patience: got 0, expected at least 1"),
]


@pytest.mark.parametrize(("mixer", "message"), IMPOSSIBLE, ids=[message for _, message in IMPOSSIBLE])
def test_each_impossible_setting_is_named(mixer: Mixer, message: str) -> None:
    with pytest.raises(ConfigProblems, match=message):
        refuse(mixer.problems(ROLES))


def test_without_a_target_to_train_on_some_mixers_have_nothing_to_do() -> None:
    roles = make_roles(["web"], ["math"], ["math"], {})
    for mixer in (Fixed(target_mass=0.5), Replay(), EarlyStoppedTarget()):
        with pytest.raises(ConfigProblems, match="mixer: got no target among the training domains"):
            refuse(mixer.problems(roles))
    for mixer in (Uniform(), Fixed(weights={"web": 1.0})):
        assert list(mixer.problems(roles)) == []


def test_without_other_data_there_is_nothing_to_replay() -> None:
    roles = make_roles(["math"], ["web"], ["math"], {})
    for mixer in (Fixed(target_mass=0.5), Replay()):
        with pytest.raises(ConfigProblems, match="got only targets to train on, expected a training domain"):
            refuse(mixer.problems(roles))
