"""Mixing by gradient products: the update by hand, and whose gradients are asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fake_session import CONSTRAINTS, ROLES, TARGETS, ask, session
from trimtab.adapt.finetune import refuse
from trimtab.adapt.mixers.published import GradientAlignment, in_units
from trimtab.errors import ConfigProblems, DivergedError

ASKED: dict[str, Any] = {"targets": TARGETS, "constraints": CONSTRAINTS}
PRODUCTS = {"math": [8.0, 2.0, -1.0], "web": [-6.0, 0.0, 3.0], "safety": [-4.0, 1.0, 1.0]}


def test_the_update_by_hand() -> None:
    """Nothing has moved, so the target alone counts: its products over 8 are 1, 1/4, -1/8."""
    now = session(products=PRODUCTS)
    (first,) = ask(GradientAlignment(**ASKED, eta=0.5, smoothing=0.1, sequences=6), now)
    raw = np.exp(0.5 * np.array([1.0, 0.25, -0.125]))
    assert first.weights == pytest.approx(0.9 * raw / raw.sum() + 0.1 / 3, abs=1e-12)
    assert now.asked == [(6, ("math",))]


def test_constraints_count_once_half_of_their_tolerance_is_gone() -> None:
    """web has used .06 of .1, safety .02 of .05: math + web, (2, 2, 2) / 2."""
    now = session(4, products=PRODUCTS, web=0.06, safety=0.02)
    (first,) = ask(GradientAlignment(**ASKED), now)
    assert now.asked == [(8, ("math", "web"))]
    assert first.weights == pytest.approx((1 / 3, 1 / 3, 1 / 3), abs=1e-12)


def test_updates_go_on_from_the_last_shares() -> None:
    mixer = GradientAlignment(**ASKED, smoothing=0.0, eta=0.3)
    answers = ask(mixer, *[session(products=PRODUCTS)] * 3)
    raw = np.exp(3 * 0.3 * np.array([1.0, 0.25, -0.125]))
    assert answers[-1].weights == pytest.approx(raw / raw.sum(), abs=1e-12)


def test_all_of_a_lost_constraint_and_a_target_against_each_other() -> None:
    now = session(4, products=PRODUCTS, web=0.2, safety=0.2)
    (first,) = ask(GradientAlignment(**ASKED, eta=1.0, smoothing=0.0), now)
    raw = np.exp(np.array([-2.0, 3.0, 3.0]) / 3)
    assert first.weights == pytest.approx(raw / raw.sum(), abs=1e-12)
    assert now.asked == [(8, ("math", "web", "safety"))]


def test_gradients_of_zero_move_nothing() -> None:
    (first,) = ask(GradientAlignment(**ASKED), session(products={"math": [0.0, 0.0, 0.0]}))
    assert first.weights == pytest.approx((1 / 3, 1 / 3, 1 / 3), abs=1e-15)
    assert in_units(np.zeros(2)).tolist() == [0.0, 0.0]


def test_the_length_of_all_gradients_plays_no_part() -> None:
    larger = {name: [1e6 * value for value in row] for name, row in PRODUCTS.items()}
    plain, scaled = (
        ask(GradientAlignment(**ASKED), session(products=products))[0].weights
        for products in (PRODUCTS, larger)
    )
    assert plain == pytest.approx(scaled, abs=1e-12)


def test_a_gradient_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(DivergedError, match="a gradient at step 4 is not finite; try a lower lr"):
        ask(GradientAlignment(**ASKED), session(4, products={"math": [math.nan, 0.0, 0.0]}))


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        (GradientAlignment(eta=0.0), r"mixer\.eta: got 0\.0, expected a finite number above zero"),
        (GradientAlignment(near=1.0), r"mixer\.near: got 1\.0, expected a number from 0 to below 1"),
        (GradientAlignment(smoothing=-0.1), r"mixer\.smoothing: got -0\.1, expected a number from 0"),
        (GradientAlignment(sequences=0), r"mixer\.sequences: got 0, expected at least 1"),
        (GradientAlignment(every=0), r"mixer\.every: got 0, expected at least 1 step, or null"),
    ],
    ids=str,
)
def test_each_impossible_setting_is_named(mixer: GradientAlignment, message: str) -> None:
    with pytest.raises(ConfigProblems, match=message):
        refuse(mixer.problems(ROLES))
