from __future__ import annotations

import math

import pytest
import torch

from trimtab.steer.lineas.end_to_end import BETAS, EPSILON, Descent, State, sparse_group


def start(width=4):
    return State.start({"a": torch.zeros(3, width, dtype=torch.float64)})


def descended(descent, slope):
    """Where it ends on a loss with this gradient."""
    state = start()
    for _ in range(descent.steps):
        state = descent.after(state, {site: slope(point) for site, point in state.point.items()})
    return state.point["a"]


def test_it_starts_at_the_identity_with_one_square_for_each_group():
    state = start()
    assert state.step == 0
    assert state.point["a"].tolist() == state.mean["a"].tolist() == [[0.0] * 4] * 2
    assert state.square["a"].shape == (2, 1)


def test_the_rate_falls_along_half_a_cosine():
    rates = [Descent(10, 0.4, "sgd").rate(step) for step in range(11)]
    assert rates[0] == 0.4
    assert rates[5] == pytest.approx(0.2)
    assert rates[10] == pytest.approx(0, abs=1e-12)
    assert rates == sorted(rates, reverse=True)


def test_a_step_of_sgd_is_the_gradient_times_the_rate_then_the_proximal_operator():
    slope = torch.randn(2, 4, dtype=torch.float64)
    moved = Descent(10, 0.1, "sgd", gamma=0.3).after(start(), {"a": slope}).point["a"]
    torch.testing.assert_close(moved, sparse_group(-0.1 * slope, 0.03, 0.03), rtol=1e-12, atol=1e-15)


def test_three_steps_of_adam_are_those_of_adam_with_squares_averaged_over_a_group():
    draw = torch.Generator().manual_seed(0)
    slopes = [torch.randn(2, 4, generator=draw, dtype=torch.float64) for _ in range(3)]
    descent, state = Descent(10, 0.1, "adam"), start()
    mean, square, point = torch.zeros(2, 4).double(), torch.zeros(2, 1).double(), torch.zeros(2, 4).double()
    for step, slope in enumerate(slopes):
        mean = BETAS[0] * mean + (1 - BETAS[0]) * slope
        square = BETAS[1] * square + (1 - BETAS[1]) * slope.pow(2).mean(1, keepdim=True)
        rate = 0.05 * (1 + math.cos(math.pi * step / 10))
        corrected = mean / (1 - BETAS[0] ** (step + 1)), square / (1 - BETAS[1] ** (step + 1))
        point = point - rate * corrected[0] / (corrected[1].sqrt() + EPSILON)
        state = descent.after(state, {"a": slope})
    torch.testing.assert_close(state.point["a"], point, rtol=1e-10, atol=1e-12)


def test_with_one_unit_it_is_torch_s_adam():
    wanted = torch.nn.Parameter(torch.zeros(2, 1, dtype=torch.float64))
    peer = torch.optim.Adam([wanted], lr=0.1, betas=BETAS, eps=EPSILON)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(peer, 20)
    descent, state = Descent(20, 0.1, "adam"), State.start({"a": torch.zeros(3, 1, dtype=torch.float64)})
    for _ in range(20):
        state = descent.after(state, {"a": 2 * (state.point["a"] - 1)})
        wanted.grad = 2 * (wanted.detach() - 1)
        peer.step()
        schedule.step()
    torch.testing.assert_close(state.point["a"], wanted.detach(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.4, 2.0])
def test_it_ends_at_the_minimiser_of_the_penalised_loss(optimizer, gamma):
    wanted = torch.tensor([[3.0, -2.0, 0.3, 0.0], [0.2, 0.1, -0.1, 0.05]], dtype=torch.float64)
    found = descended(Descent(800, 0.05, optimizer, gamma), lambda point: point - wanted)
    expected = sparse_group(wanted, gamma, gamma)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(found == 0, expected == 0) or gamma == 0


def test_nothing_is_changed_in_place():
    state, slope = start(), torch.ones(2, 4, dtype=torch.float64)
    Descent(10, 0.1, "adam", gamma=0.1).after(state, {"a": slope})
    assert state.step == 0
    assert not state.point["a"].any()
    assert not state.mean["a"].any()
    assert torch.equal(slope, torch.ones_like(slope))
