"""What is left of each tolerance, by hand."""

from __future__ import annotations

import math

import pytest

from fake_session import ROLES, session
from trimtab.adapt.mixer import changes, left, scale, slacks
from trimtab.adapt.session import make_roles
from trimtab.errors import DivergedError


def test_changes_are_those_of_targets_and_constraints() -> None:
    moved = changes(session(4, math=-0.3, code=7.0, web=0.05))
    assert moved == pytest.approx({"math": -0.3, "web": 0.05, "safety": 0.0}, abs=1e-12)


@pytest.mark.parametrize(
    ("margin", "web", "safety"), [(0.0, 0.04, 0.05), (1.0, 0.03, 0.04), (5.0, -0.01, 0.0)]
)
def test_left_is_the_tolerance_less_the_change_and_as_many_standard_errors_as_the_choice_asks_for(
    margin: float, web: float, safety: float
) -> None:
    now = session(4, web=0.06, spread=0.01, margin=margin)
    assert left(now, "web") == pytest.approx(web, abs=1e-12)
    assert left(now, "safety") == pytest.approx(safety, abs=1e-12)
    assert slacks(now) == pytest.approx({"web": web / 0.1, "safety": safety / 0.05}, abs=1e-9)


def test_a_tolerance_of_zero_counts_in_hundredths_of_a_nat() -> None:
    roles = make_roles(["math"], ["web"], ["math"], {"web": 0.0})
    assert scale(roles, "web") == 0.01
    assert scale(ROLES, "web") == 0.1
    assert slacks(session(4, roles=roles, web=0.02)) == pytest.approx({"web": -2.0}, abs=1e-9)


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_loss_that_left_the_finite_numbers_is_named(loss: float) -> None:
    with pytest.raises(DivergedError, match=r"the loss of math, web at step 4 is not finite; try a lower lr"):
        slacks(session(4, math=loss, web=loss))
