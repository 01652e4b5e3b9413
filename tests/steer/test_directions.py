from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from torch import nn

from behaviours import sides
from tiny_models import build, tokenizer
from trimtab import CAA, ITI, load
from trimtab.errors import ConfigProblems, ModelError
from trimtab.models.sites import resolve
from trimtab.steer.directions import classifier_map, head_maps, heads_of
from trimtab.steer.samples import prepare, samples


def drawn(n=10, m=8, d=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw), 0.8 + torch.randn(m, d, generator=draw)


def both_sides(model, source, target, site, pool):
    given = prepare(model, source, target, batch_size=8, max_tokens=None)
    return [samples(model, side, resolve(model, site), pool) for side in given]


def test_caa_is_the_mean_difference_at_the_last_token():
    model, (source, target) = load(build("llama"), tokenizer=tokenizer()), sides(8, 6)
    for position in ("last", "mean"):
        steering = CAA(position=position).fit(model, source, target)
        before, wanted = both_sides(model, source, target, "residual", position)
        assert list(steering.maps) == ["model.layers.0:out", "model.layers.1:out"]
        for site, (weight, shift) in steering.maps.items():
            assert torch.equal(weight, torch.ones(16))
            np.testing.assert_allclose(
                shift, wanted[site].numpy().mean(0) - before[site].numpy().mean(0), rtol=1e-3, atol=1e-6
            )


def test_the_classifier_s_direction_is_that_of_scikit_learn_and_of_a_plain_minimiser():
    source, target = drawn()
    x, labels = torch.cat([source, target]).double().numpy(), np.repeat([0, 1], [10, 8])
    signs = 2 * labels - 1

    def loss(point):
        return point[:-1] @ point[:-1] / 2 + np.logaddexp(0, -signs * (x @ point[:-1] + point[-1])).sum()

    by_sklearn = LogisticRegression(tol=1e-10, max_iter=10_000).fit(x, labels).coef_[0]
    by_hand = minimize(loss, np.zeros(7), method="BFGS", options={"gtol": 1e-8}).x[:-1]
    for weights in (by_sklearn, by_hand):
        unit = weights / np.linalg.norm(weights)
        found = classifier_map(source, target, 1.5)
        np.testing.assert_allclose(found.shift, 1.5 * (x @ unit).std() * unit, rtol=1e-4, atol=1e-6)
        assert torch.equal(found.weight, torch.ones(6))


def test_it_points_from_source_to_target_and_nowhere_when_they_are_the_same():
    source, target = drawn()
    shift = classifier_map(source, target, 1.0).shift
    assert shift @ (target.mean(0) - source.mean(0)) > 0
    torch.testing.assert_close(classifier_map(target, source, 1.0).shift, -shift, rtol=1e-4, atol=1e-6)
    assert classifier_map(source * 0, target * 0, 1.0).shift.tolist() == [0.0] * 6


def test_variant_c_is_one_classifier_for_each_site():
    model, (source, target) = load(build("gpt2"), tokenizer=tokenizer()), sides(8, 6)
    steering = ITI(alpha=2.0).fit(model, source, target)
    before, wanted = both_sides(model, source, target, "attention_out", "last")
    assert list(steering.maps) == [f"transformer.h.{k}.attn.c_proj:out" for k in (0, 1)]
    for site, (_, shift) in steering.maps.items():
        torch.testing.assert_close(shift, classifier_map(before[site], wanted[site], 2.0).shift)


def test_only_the_heads_that_tell_the_sides_apart_are_moved():
    draw = torch.Generator().manual_seed(0)
    source = {site: torch.randn(40, 6, generator=draw) for site in ("a:in", "b:in")}
    target = {site: torch.randn(40, 6, generator=draw) for site in ("a:in", "b:in")}
    target["a:in"][:, 2:4] += 3
    target["b:in"][:, 4:6] += 2
    maps = head_maps(source, target, 3, 2, 1.0)
    touched = {site: (one.shift.view(3, 2) != 0).any(1).tolist() for site, one in maps.items()}
    assert touched == {"a:in": [False, True, False], "b:in": [False, False, True]}
    alone = classifier_map(source["a:in"][:, 2:4], target["a:in"][:, 2:4], 1.0).shift
    torch.testing.assert_close(maps["a:in"].shift[2:4], alone)
    few = head_maps(source, target, 3, None, 1.0)
    assert sum((one.shift.view(3, 2) != 0).any(1).sum().item() for one in few.values()) == 1


def test_heads_are_moved_inside_the_model_before_they_are_mixed():
    model, (source, target) = load(build("llama"), tokenizer=tokenizer()), sides()
    steering = ITI(variant="heads", heads=1).fit(model, source, target)
    assert list(steering.maps) == [f"model.layers.{k}.self_attn.o_proj:in" for k in (0, 1)]
    assert sum(steering.sparsity().values()) == 1.5
    assert heads_of(model) == 2


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (ITI(variant="heads", heads=5), "heads: got 5, expected at most 4, which the sites have"),
        (ITI(sites="residual", variant="heads", heads=99), "heads: got 99"),
        (CAA(sites="residul"), "a pattern that matches no module"),
    ],
)
def test_what_the_model_has_not_is_refused(estimator, message):
    model = load(build("llama"), tokenizer=tokenizer())
    with pytest.raises(ModelError, match=message):
        estimator.fit(model, *sides())


def test_heads_of_a_model_that_has_none_or_several_towers_are_refused():
    for module in (nn.Linear(2, 2), build("clip")):
        with pytest.raises(ModelError, match=r"of which we do not know the heads.*try variant=\"c\""):
            heads_of(module)
    with pytest.raises(ModelError, match="got 5 units at a:in, expected a multiple of 2 heads"):
        head_maps({"a:in": torch.zeros(3, 5)}, {"a:in": torch.ones(3, 5)}, 2, 1, 1.0)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (CAA(position="first"), "position: got 'first', expected 'last' or 'mean'"),
        (ITI(variant="d"), "variant: got 'd', expected 'c' or 'heads'"),
        (ITI(alpha=-1.0), "alpha: got -1.0, expected a finite number, 0 or above"),
        (ITI(heads=3), 'heads: got 3, expected nothing: variant c has none; try variant="heads"'),
    ],
)
def test_settings_that_cannot_work_are_told(estimator, message):
    with pytest.raises(ConfigProblems, match=message):
        estimator.fit(nn.Linear(2, 2), [], [])
