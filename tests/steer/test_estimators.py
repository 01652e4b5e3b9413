from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

from behaviours import sides
from tiny_models import build, tokenizer
from trimtab import GaussianAcT, LinAcT, MeanAcT, load
from trimtab.models.hooks import capture
from trimtab.models.sites import resolve
from trimtab.steer.estimators import gaussian_map, linear_map, mean_map
from trimtab.steer.samples import prepare, samples


def drawn(n=12, m=12, d=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    source = torch.randn(n, d, generator=draw, dtype=torch.float64)
    return source, 3 + 2 * torch.randn(m, d, generator=draw, dtype=torch.float64) ** 3


@pytest.mark.parametrize("m", [12, 7])
def test_means_and_gaussians_are_their_closed_forms(m):
    source, target = drawn(12, m)
    x, y = source.numpy(), target.numpy()
    np.testing.assert_allclose(mean_map(source, target).shift, y.mean(0) - x.mean(0), rtol=1e-12)
    found = gaussian_map(source, target)
    np.testing.assert_allclose(found.weight, y.std(0) / x.std(0), rtol=1e-12)
    np.testing.assert_allclose(found.shift, y.mean(0) - y.std(0) / x.std(0) * x.mean(0), rtol=1e-12)
    moved = found(source)
    torch.testing.assert_close(moved.mean(0), target.mean(0))
    torch.testing.assert_close(moved.std(0, correction=0), target.std(0, correction=0))


@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 4), (4, 12), (6, 9)])
def test_linear_maps_are_least_squares_on_sorted_samples_and_repeated_ones_for_unequal_sizes(n, m):
    source, target = drawn(n, m)
    found, common = linear_map(source, target), np.lcm(n, m)
    x, y = (np.sort(side.numpy(), 0).repeat(common // len(side), 0) for side in (source, target))
    for unit in range(source.shape[1]):
        expected = LinearRegression().fit(x[:, [unit]], y[:, unit])
        np.testing.assert_allclose(found.weight[unit], expected.coef_[0], rtol=1e-10)
        np.testing.assert_allclose(found.shift[unit], expected.intercept_, rtol=1e-10)


@pytest.mark.parametrize("rule", [mean_map, gaussian_map, linear_map])
def test_units_that_never_vary_are_only_shifted_also_up_to_rounding(rule):
    source, target = drawn()
    source[:, 0], source[:, 1] = 2.0, 1 + 1e-16 * source[:, 1]
    found = rule(source.float(), target.float())
    assert found.weight[:2].tolist() == [1, 1]
    torch.testing.assert_close(found.shift[:2], (target.mean(0) - source.mean(0))[:2].float())


@pytest.mark.parametrize("rule", [mean_map, gaussian_map, linear_map])
def test_order_and_pairing_of_examples_do_not_matter_and_equal_sides_give_the_identity(rule):
    source, target = drawn()
    one, two = rule(source, target), rule(source.flip(0), target[torch.randperm(12)])
    torch.testing.assert_close((one.weight, one.shift), (two.weight, two.shift))
    still = rule(source, source.flip(0))
    torch.testing.assert_close(still.weight, torch.ones(5).double())
    torch.testing.assert_close(still.shift, torch.zeros(5).double())


@pytest.mark.parametrize("estimator", [MeanAcT, GaussianAcT, LinAcT])
def test_at_once_every_map_is_of_the_untouched_model(estimator):
    model, (source, target) = load(build("llama"), tokenizer=tokenizer()), sides(8, 6)
    steering = estimator("residual", sequential=False).fit(model, source, target)
    given = prepare(model, source, target, batch_size=8, max_tokens=None)
    before, wanted = (samples(model, side, resolve(model, "residual"), "mean") for side in given)
    rule = {MeanAcT: mean_map, GaussianAcT: gaussian_map, LinAcT: linear_map}[estimator]
    for site, (weight, shift) in steering.maps.items():
        expected = rule(before[site], wanted[site])
        torch.testing.assert_close((weight, shift), (expected.weight, expected.shift))


def test_in_order_each_map_sees_those_before_it_so_that_the_last_site_arrives():
    model, (source, target) = load(build("llama"), tokenizer=tokenizer()), sides()
    given = prepare(model, source, target, batch_size=8, max_tokens=None)
    means = {}
    for sequential in (True, False):
        steering = MeanAcT(["residual", "mlp_out"], sequential=sequential).fit(model, source, target)
        with steering.on(model), capture(model, steering.sites, "mean") as taken, torch.no_grad():
            model.module(**given[0].batches[0])
        wanted = samples(model, given[1], steering.sites, "mean")
        means[sequential] = {site: (taken[site].mean(0) - wanted[site].mean(0)).abs().max() for site in taken}
    assert all(gap < 1e-4 for gap in means[True].values())
    assert means[False]["model.layers.1:out"] > 0.1


def test_sites_in_a_plain_network_are_moved_to_the_target():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    source, target = torch.randn(9, 3).double(), 2 * torch.randn(7, 3).double()
    steering = GaussianAcT(["0", "2"]).fit(network, [{"input": source}], [{"input": target}])
    with torch.no_grad(), steering.on(network):
        moved = network(source)
    with torch.no_grad():
        expected = network(target)
    torch.testing.assert_close(moved.mean(0), expected.mean(0))
    torch.testing.assert_close(moved.std(0, correction=0), expected.std(0, correction=0))
