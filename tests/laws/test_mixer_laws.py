"""Laws of mixers that move by what they read, whatever they read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_session import ask, session
from trimtab.adapt.mixer import Mixer
from trimtab.adapt.mixers.controllers import DualAscent, Feedback, ReferenceLoss
from trimtab.adapt.mixers.published import Aioli, Exp3, GradientAlignment
from trimtab.adapt.session import make_roles
from trimtab.numerics.simplex import exponentiated, smoothed

TRAIN = ["math", "code", "web", "law"]
JUDGED = [*TRAIN, "safety"]
TOLERANCES = {"web": 0.1, "safety": 0.0}
MIXERS: list[Callable[[], Mixer]] = [Aioli, DualAscent, Exp3, Feedback, GradientAlignment, ReferenceLoss]
few = settings(max_examples=40, deadline=None)

nats = st.floats(-50, 50, allow_nan=False)
readings = st.lists(
    st.fixed_dictionaries(
        {
            "moved": st.fixed_dictionaries(dict.fromkeys(JUDGED, nats)),
            "training_losses": st.dictionaries(st.sampled_from(TRAIN), st.floats(0, 50)),
            "products": st.fixed_dictionaries(
                dict.fromkeys(JUDGED, st.fixed_dictionaries(dict.fromkeys(TRAIN, st.floats(-1e6, 1e6))))
            ),
        }
    ),
    min_size=1,
    max_size=7,
)


def sessions(found: list[dict[str, Any]], train: list[str]) -> list[Any]:
    roles = make_roles(train, ["safety"], ["math"], TOLERANCES)
    return [
        session(
            step,
            roles=roles,
            training_losses=reading["training_losses"],
            products={name: [row[k] for k in train] for name, row in reading["products"].items()},
            **reading["moved"],
        )
        for step, reading in enumerate(found)
    ]


@pytest.mark.parametrize("mixer", MIXERS)
@given(found=readings)
@few
def test_every_answer_is_a_mixture(mixer: Callable[[], Mixer], found: list[dict[str, Any]]) -> None:
    for decision in ask(mixer(), *sessions(found, TRAIN)):
        weights = np.array(decision.weights)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("mixer", [mixer for mixer in MIXERS if mixer is not Aioli])
@given(found=readings, order=st.permutations(range(4)))
@few
def test_the_order_of_domains_only_orders_the_mixture(
    mixer: Callable[[], Mixer], found: list[dict[str, Any]], order: list[int]
) -> None:
    """Not of Aioli, which takes the domains in their order."""
    before = ask(mixer(), *sessions(found, TRAIN))
    after = ask(mixer(), *sessions(found, [TRAIN[k] for k in order]))
    for one, two in zip(before, after, strict=True):
        np.testing.assert_allclose(two.weights, [one.weights[k] for k in order], rtol=0, atol=1e-9)


worse = st.floats(0, 5)


@pytest.mark.parametrize("mixer", [DualAscent, Feedback])
@given(moved=st.floats(-1, 1), name=st.sampled_from(["web", "safety"]), more=worse)
@few
def test_a_constraint_that_is_worse_never_helps_the_target(
    mixer: Callable[[], Mixer], moved: float, name: str, more: float
) -> None:
    roles = make_roles(TRAIN, ["safety"], ["math"], TOLERANCES)
    shares = [
        ask(mixer(), session(roles=roles), session(4, roles=roles, **{name: change}))[-1].weights[0]
        for change in (moved, moved + more)
    ]
    assert shares[1] <= shares[0] + 1e-12


pushes = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6)


@given(push=pushes, seed=st.integers(0, 99))
@few
def test_exponentiated_shares_are_ratios_of_the_pushes(push: list[float], seed: int) -> None:
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(push)))
    moved = exponentiated(weights.tolist(), push)
    assert moved.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(moved, exponentiated(weights.tolist(), [p + 7.5 for p in push]), atol=1e-8)
    with np.errstate(divide="ignore"):
        logs = np.log(moved) - np.log(weights)
    seen = np.isfinite(logs) & (moved > 1e-290)
    np.testing.assert_allclose(np.ptp(logs[seen]), np.ptp(np.array(push)[seen]), atol=1e-6)


@given(push=pushes, share=st.floats(0, 0.99))
@few
def test_no_smoothed_share_is_below_its_part_of_the_even_mixture(push: list[float], share: float) -> None:
    n = len(push)
    weights = smoothed(exponentiated([1 / n] * n, push), share)
    assert min(weights) >= share / n - 1e-15
    assert sum(weights) == pytest.approx(1, abs=1e-12)
