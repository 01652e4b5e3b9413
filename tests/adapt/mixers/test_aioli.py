"""Aioli in worlds where its mixing law is true, so that what it must learn is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fake_session import CONSTRAINTS, ROLES, TARGETS, session
from trimtab.adapt.finetune import refuse
from trimtab.adapt.mixer import Decision
from trimtab.adapt.mixers.published import Aioli
from trimtab.adapt.session import make_roles
from trimtab.errors import ConfigProblems, DivergedError

JUDGED = ("math", "web", "safety")
LAW = np.array([[0.03, 0.01, 0.0], [-0.02, 0.0, 0.015], [-0.01, 0.004, 0.001]])
"""Nats per step by which a step on each training domain lowers the loss of each of JUDGED."""


def live(mixer: Aioli, steps: int = 64, law: np.ndarray = LAW) -> list[tuple[int, Decision]]:
    """The answers of a mixer, and when, in a world in which a step on p lowers the losses by `law @ p`."""
    moved, step, answers = np.zeros(3), 0, []
    state: Any = {}
    while True:
        now = session(step, steps=steps, **dict(zip(JUDGED, moved.tolist(), strict=True)))
        decision = mixer.decide(now, state)
        answers.append((step, decision))
        if decision.ask_at is None:
            return answers
        assert decision.ask_at > step
        moved = moved - (decision.ask_at - step) * law @ np.array(decision.weights)
        step, state = decision.ask_at, decision.state


def softmax(push: np.ndarray) -> np.ndarray:
    raw: np.ndarray = np.exp(push)
    return raw / raw.sum()


def aioli(**options: Any) -> Aioli:
    return Aioli(targets=TARGETS, constraints=CONSTRAINTS, **options)


def test_a_round_is_a_sweep_and_then_the_learnt_mixture() -> None:
    """64 steps, 2 rounds of 32, of which a quarter, 8 steps, makes 2 for each of 3 mixtures."""
    answers = live(aioli(rounds=2, delta=0.25, smoothing=0.3))
    assert [step for step, _ in answers] == [0, 2, 4, 6, 32, 34, 36, 38]
    mixtures = np.array([decision.weights for _, decision in answers])
    np.testing.assert_allclose(mixtures[:3], 0.7 * np.eye(3) + 0.1, atol=1e-15)
    np.testing.assert_allclose(mixtures[4:7], mixtures[[2, 1, 0]], atol=1e-15)


@pytest.mark.parametrize("smoothing", [0.0, 0.25, 0.8])
@pytest.mark.parametrize("sweeps", [1, 2])
def test_the_law_is_recovered_whatever_the_smoothing(smoothing: float, sweeps: int) -> None:
    """Two steps on each mixture lower the losses by twice the law; its columns sum to 0, .014 and .016 per step."""
    mixer = aioli(
        rounds=1, delta=0.25 * sweeps * 3 / 8, smoothing=smoothing, sweeps=sweeps, eta=2.0, normalise=False
    )
    _, last = live(mixer)[-1]
    assert live(mixer)[sweeps * 3][0] == sweeps * 3 * 2
    assert last.weights == pytest.approx(softmax(2.0 * 2 * LAW.sum(0)), abs=1e-10)


def test_normalised_the_largest_push_is_eta() -> None:
    _, last = live(aioli(rounds=1, eta=1.5))[-1]
    assert last.weights == pytest.approx(softmax(1.5 * np.array([0.0, 14 / 16, 1.0])), abs=1e-10)


def test_rounds_add_up() -> None:
    _, last = live(aioli(rounds=3, eta=0.5))[-1]
    assert last.weights == pytest.approx(softmax(3 * 0.5 * np.array([0.0, 14 / 16, 1.0])), abs=1e-10)


def test_with_ema_each_round_starts_from_equal_shares() -> None:
    """The law does not change, so neither does its average."""
    answers = live(aioli(rounds=3, eta=0.5, ema=0.3))
    for place in (3, 7, 11):
        expected = softmax(0.5 * np.array([0.0, 14 / 16, 1.0]))
        assert answers[place][1].weights == pytest.approx(expected, abs=1e-10)


def test_ema_weighs_the_earlier_rounds() -> None:
    mixer = aioli(rounds=2, eta=1.0, ema=0.25, normalise=False, delta=0.1)
    first = live(mixer)[3][1].state
    law = np.array(first["average"])
    state = {**first, "slot": 2, "gained": [[0.0] * 3] * 3, "before": [0.0] * 3}
    learnt = mixer.decide(session(40), state)
    np.testing.assert_allclose(learnt.state["average"], 0.25 * law, atol=1e-12)
    assert learnt.weights == pytest.approx(softmax(0.25 * law.sum(0)), abs=1e-10)


def test_a_short_run_has_fewer_rounds() -> None:
    """20 steps hold 3 rounds of two sweeps of 3, 5 steps not even one: then all of it is a sweep."""
    assert [step for step, _ in live(aioli(rounds=8), 20)] == [0, 1, 2, 3, 6, 7, 8, 9, 13, 14, 15, 16]
    assert [step for step, _ in live(aioli(rounds=8), 5)] == [0, 1, 2, 3]
    assert [step for step, _ in live(aioli(rounds=8), 2)] == [0, 1]


def test_one_domain_gets_everything() -> None:
    roles = make_roles(["math"], [], ["math"], {})
    mixer = Aioli(targets=["math"])
    decision = mixer.decide(session(roles=roles), {})
    again = mixer.decide(session(decision.ask_at or 0, roles=roles, math=-0.1), decision.state)
    assert decision.weights == again.weights == (1.0,)


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(DivergedError, match="the base model's loss of web is not finite"):
        aioli().decide(session(web=math.nan), {})


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        (Aioli(rounds=0), r"mixer\.rounds: got 0, expected at least 1"),
        (Aioli(sweeps=0), r"mixer\.sweeps: got 0, expected at least 1"),
        (Aioli(delta=1.0), r"mixer\.delta: got 1\.0, expected a part between 0 and 1"),
        (Aioli(delta=0.0), r"mixer\.delta: got 0\.0, expected a part between 0 and 1"),
        (Aioli(smoothing=1.0), r"mixer\.smoothing: got 1\.0, expected a number from 0 to below 1"),
        (Aioli(eta=0.0), r"mixer\.eta: got 0\.0, expected a finite number above zero"),
        (Aioli(ema=1.0), r"mixer\.ema: got 1\.0, expected a number from 0 to below 1"),
    ],
    ids=str,
)
def test_each_impossible_setting_is_named(mixer: Aioli, message: str) -> None:
    with pytest.raises(ConfigProblems, match=message):
        refuse(mixer.problems(ROLES))
