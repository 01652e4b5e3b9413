from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from tiny_models import build, tokenizer
from trimtab import Steering, load
from trimtab.errors import ModelError
from trimtab.models.sites import resolve
from trimtab.steer import strength as calibration
from trimtab.steer.maps import Base
from trimtab.steer.strength import calibrate

TEXTS = ["abc def", "the cat", "a", "Hello, you", "no no no"]


@pytest.fixture(scope="module")
def model():
    return load(build("llama"), tokenizer=tokenizer())


@pytest.fixture(scope="module")
def steering(model):
    draw = torch.Generator().manual_seed(0)
    found = resolve(model, "residual")
    return Steering(
        {site.name: (torch.ones(16), torch.randn(16, generator=draw)) for site in found},
        Base.of(model, found),
    )


def by_hand(model, steering, strength):
    """KL and log likelihood text by text, from unpadded forward passes."""
    kl, before, after, tokens = [], [], [], []
    for text in TEXTS:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            p = model.module(ids).logits[0].double().log_softmax(-1)
            with steering.on(model, strength):
                q = model.module(ids).logits[0].double().log_softmax(-1)
        kl.append((p.exp() * (p - q)).sum(-1).sum().item())
        tokens.append(len(ids[0]))
        nxt = ids[0, 1:, None]
        before.append(p[:-1].gather(1, nxt).sum().item())
        after.append(q[:-1].gather(1, nxt).sum().item())
    return np.array(kl), np.array(before), np.array(after), np.array(tokens)


def test_costs_are_those_of_each_text_alone(model, steering):
    found = calibrate(steering, model, TEXTS, 1.0, strengths=[0.3], halvings=0, batch_size=2)
    kl, before, after, tokens = by_hand(model, steering, 0.3)
    (point,) = found.curve
    assert point.cost == pytest.approx(kl.sum() / tokens.sum(), rel=1e-4)
    assert point.low < point.cost < point.high
    risen = calibrate(steering, model, TEXTS, 1e6, measure="perplexity", strengths=[0.3], halvings=0).curve[0]
    assert risen.cost == pytest.approx(math.exp((before - after).sum() / (tokens - 1).sum()) - 1, rel=1e-4)
    assert risen.low < risen.cost < risen.high


def test_the_strength_is_the_largest_within_the_budget(model, steering):
    whole = calibrate(steering, model, TEXTS, 1e6)
    assert whole.strength == 1.0
    assert [point.strength for point in whole.curve] == [step / 10 for step in range(1, 11)]
    costs = [point.cost for point in whole.curve]
    budget = (costs[3] + costs[4]) / 2
    found = calibrate(steering, model, TEXTS, budget, halvings=6)
    assert 0.4 < found.strength < 0.5
    tried = {point.strength: point for point in found.curve}
    assert tried[found.strength].within
    assert not any(point.within for point in found.curve if point.strength > found.strength)
    assert min(one for one in tried if one > found.strength) - found.strength == pytest.approx(0.1 / 2**6)
    assert len(found.curve) == 16
    assert (found.budget, found.measure, found.texts) == (budget, "kl", len(TEXTS))


def test_a_frame_holds_the_whole_curve(model, steering):
    found = calibrate(steering, model, TEXTS, 1e6, strengths=[0.5, 0.25, 0.5])
    frame = found.to_frame()
    assert list(frame.columns) == ["strength", "cost", "low", "high", "within"]
    assert frame.strength.tolist() == [0.25, 0.5]
    assert frame.within.all()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.strength = 1.0


def test_where_even_the_smallest_breaks_the_budget_the_strength_is_none(model, steering):
    found = calibrate(steering, model, TEXTS, 1e-12)
    assert found.strength == 0.0
    assert len(found.curve) == 10
    assert not found.to_frame().within.any()


def made_up(monkeypatch, curve):
    """A cost that is a function of the strength."""

    def cost(measure, steering, model, texts, options):
        return lambda strength, seed: calibration.Interval(curve(strength), math.nan, math.nan, 1)

    monkeypatch.setattr(calibration, "_cost_of", cost)


def test_a_cost_that_falls_again_does_not_let_a_larger_strength_through(model, steering, monkeypatch):
    made_up(monkeypatch, lambda s: 2.0 if 0.34 < s < 0.55 else 0.1)
    found = calibrate(steering, model, TEXTS, 1.0, halvings=10)
    assert found.strength == pytest.approx(0.34, abs=1e-3)
    assert found.strength <= 0.34
    assert found.curve[-1].within


@pytest.mark.parametrize("budget", [0.0003, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("scale", [0.02, 0.5, 30.0])
def test_all_of_the_budget_is_used_but_for_a_stated_part(model, steering, monkeypatch, scale, budget):
    """A cost that grows with the square of the strength, as KL does near none: its strength is known."""
    made_up(monkeypatch, lambda s: scale * s * s)
    exact = math.sqrt(budget / scale)
    found = calibrate(steering, model, TEXTS, budget, max_strength=8, tolerance=0.002)
    if exact > 8:
        assert (found.strength, found.reached) == (8, False)
        assert "a larger max_strength would use more" in found.to_text()
        return
    assert found.reached
    assert 0.998 * budget <= found.cost <= budget
    assert exact * math.sqrt(0.998) <= found.strength <= exact
    assert len(found.curve) < 40


def test_what_is_left_of_the_budget_at_full_strength_is_told(model, steering, monkeypatch):
    made_up(monkeypatch, lambda s: 0.01 * s * s)
    found = calibrate(steering, model, TEXTS, 0.05)
    assert (found.strength, found.cost, found.reached) == (1.0, 0.01, False)
    assert found.to_text() == (
        "strength 1 costs 0.01 of the budget of 0.05, the largest that was tried; a larger max_strength would use more"
    )
    more = calibrate(steering, model, TEXTS, 0.05, max_strength=4)
    assert more.reached
    assert more.strength == pytest.approx(math.sqrt(5), rel=0.01)


def test_a_cost_that_jumps_leaves_some_of_the_budget_and_says_so(model, steering, monkeypatch):
    made_up(monkeypatch, lambda s: 0.01 if s < 0.37 else 5.0)
    found = calibrate(steering, model, TEXTS, 1.0)
    assert found.strength == pytest.approx(0.37, abs=1e-9)
    assert not found.reached
    assert "strength 0.37 costs 5" in found.to_text()
    made_up(monkeypatch, lambda s: 5.0)
    none = calibrate(steering, model, TEXTS, 1.0)
    assert (none.strength, none.cost, none.reached) == (0.0, 0.0, False)
    assert "every strength that was tried costs more" in none.to_text()


def test_a_cost_that_falls_again_beyond_one_does_not_let_a_larger_strength_through(
    model, steering, monkeypatch
):
    made_up(monkeypatch, lambda s: 2.0 if 1.3 < s < 1.7 else 0.5)
    found = calibrate(steering, model, TEXTS, 1.0, max_strength=8)
    assert found.strength == pytest.approx(1.3, abs=1e-6)


def test_beyond_one_it_is_the_scaled_steering_that_costs(model, steering):
    (point,) = calibrate(steering, model, TEXTS, 1e6, strengths=[2.0], max_strength=2).curve
    kl, *_, tokens = by_hand(model, steering * 2.0, 1.0)
    assert point.cost == pytest.approx(kl.sum() / tokens.sum(), rel=1e-4)
    found = calibrate(steering, model, TEXTS, point.cost * 0.9, max_strength=4)
    assert 1 < found.strength < 2
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), found.on(steering, model):
        steered = model.module(ids).logits
    with torch.no_grad(), (steering * found.strength).on(model):
        assert torch.equal(steered, model.module(ids).logits)


def test_a_cost_of_nan_breaks_the_budget(model, steering, monkeypatch):
    made_up(monkeypatch, lambda s: math.nan if s > 0.5 else 0.0)
    assert calibrate(steering, model, TEXTS, 1.0, halvings=0).strength == 0.5


def test_the_exact_grid_point_counts(model, steering, monkeypatch):
    made_up(monkeypatch, lambda s: s)
    assert calibrate(steering, model, TEXTS, 0.5, halvings=0).strength == 0.5


def test_one_text_has_no_interval(model, steering):
    (point,) = calibrate(steering, model, ["abc"], 1e6, strengths=[1.0]).curve
    assert math.isnan(point.low)
    assert math.isnan(point.high)


def test_the_same_seed_gives_the_same_interval(model, steering):
    one, again, other = (
        calibrate(steering, model, TEXTS, 1e6, strengths=[0.5], seed=seed) for seed in (1, 1, 2)
    )
    assert one == again
    assert one.curve[0].low != other.curve[0].low


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budget": 0.0}, "budget: got 0.0, expected a number above 0"),
        ({"budget": math.nan}, "budget: got nan"),
        ({"measure": "ppl"}, "measure: got 'ppl', expected 'kl' or 'perplexity'"),
        ({"strengths": [0.0, 0.5]}, r"strengths: got \[0.0, 0.5\], expected numbers in \(0, 1\]"),
        ({"strengths": []}, "strengths: got"),
        ({"strengths": [2.0]}, r"strengths: got \[2.0\], expected numbers in \(0, 1\]; try max_strength="),
        ({"max_strength": 0}, "max_strength: got 0, expected a number above 0"),
        ({"max_strength": math.inf}, "max_strength: got inf"),
        ({"tolerance": 0.0}, "tolerance: got 0.0, expected a part of the budget"),
        ({"halvings": -1}, "halvings: got -1"),
        ({"texts": []}, "texts: got no texts"),
        ({"texts": "abc"}, "texts: got one string"),
    ],
)
def test_settings_out_of_range_are_refused(model, steering, changed, message):
    given = {"texts": TEXTS, "budget": 1.0} | changed
    with pytest.raises(ModelError, match=message):
        calibrate(steering, model, given.pop("texts"), given.pop("budget"), **given)


def test_other_models_are_refused(model, steering):
    with pytest.raises(ModelError, match="are not those of"):
        calibrate(steering, load(build("llama", seed=1), tokenizer=tokenizer()), TEXTS, 1.0)
    with pytest.raises(ModelError, match="a causal language model"):
        calibrate(steering, load(build("bert"), tokenizer=tokenizer()), TEXTS, 1.0)
    with pytest.raises(ModelError, match="texts of one token each"):
        calibrate(steering, model, ["a", "b"], 1.0, measure="perplexity")
