from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from trimtab import Steering, load
from trimtab.errors import ModelError
from trimtab.models.sites import resolve
from trimtab.steer import calibrate as calibration
from trimtab.steer.calibrate import calibrate
from trimtab.steer.steering import Base
from zoo import build, tokenizer

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

    def cost(steering, model, texts, options):
        return lambda strength, seed: calibration.Interval(curve(strength), math.nan, math.nan, 1)

    monkeypatch.setattr(calibration, "_kl_cost", cost)


def test_a_cost_that_falls_again_does_not_let_a_larger_strength_through(model, steering, monkeypatch):
    made_up(monkeypatch, lambda s: 2.0 if 0.34 < s < 0.55 else 0.1)
    found = calibrate(steering, model, TEXTS, 1.0, halvings=10)
    assert found.strength == pytest.approx(0.34, abs=1e-3)
    assert found.strength <= 0.34
    assert found.curve[-1].within


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
