from __future__ import annotations

import pytest
import torch
from torch import nn

from trimtab.errors import ModelError
from trimtab.models.sites import resolve
from trimtab.steer.lineas.end_to_end import EndToEnd
from trimtab.steer.samples import Examples, Scale, prepare, running, samples

SITES = ("0:out", "2:out")


def problem(loss_sites=SITES, how="scale-free", split=1, **options):
    """Two maps in a two-layer network in double precision, and a source and a target of 6 and 5 examples."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        source, target = torch.randn(6, 3).double(), 1 + torch.randn(5, 3).double()
    parts = [{"input": part} for part in source.chunk(split)]
    first, second = prepare(network, parts, [{"input": target}], batch_size=1, max_tokens=None)
    sites, measured = resolve(network, SITES), resolve(network, loss_sites)
    before, wanted = (samples(network, side, sites, "mean") for side in (first, second))
    scales = {site: Scale.of(before[site], wanted[site], how) for site in before}
    return EndToEnd(network, sites, measured, first, before, wanted, scales, **options)


def somewhere(given, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        site: 0.1 * torch.randn(2, values.shape[1], generator=draw, dtype=torch.float64)
        for site, values in given.before.items()
    }


def gradient(given, point):
    with running(given.model, grad=True), given.in_place():
        return given.gradient(point)


def loss_at(given, point):
    """The loss, of samples that ran through the maps without a graph."""
    with torch.no_grad():
        maps = given.maps(point)
    return float(given.loss(samples(given.model, given.source, given.loss_sites, given.pool, maps)))


def by_differences(given, point, step=1e-6):
    """The gradient by central differences."""
    found = {site: torch.zeros_like(values) for site, values in point.items()}
    for site, values in point.items():
        for place in range(values.numel()):
            losses = []
            for sign in (1, -1):
                moved = {name: one.clone() for name, one in point.items()}
                moved[site].view(-1)[place] += sign * step
                losses.append(loss_at(given, moved))
            found[site].view(-1)[place] = (losses[0] - losses[1]) / (2 * step)
    return found


@pytest.mark.parametrize("how", ["scale-free", "paper"])
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_gradient_is_that_of_finite_differences(how, p):
    given = problem(how=how, p=p)
    point = somewhere(given)
    torch.testing.assert_close(gradient(given, point)[1], by_differences(given, point), rtol=1e-5, atol=1e-6)


def test_the_first_map_answers_for_the_second_site_end_to_end_and_only_for_its_own_where_gradients_stop():
    given, stopped = problem(), problem(stop_gradient=True)
    point = somewhere(given)
    (loss, whole), (same_loss, local) = gradient(given, point), gradient(stopped, point)
    own, through = (by_differences(problem([site]), point)["0:out"] for site in SITES)
    assert through.abs().max() > 0.1
    torch.testing.assert_close(whole["0:out"], own + through, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(local["0:out"], own, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(local["2:out"], whole["2:out"], rtol=1e-10, atol=1e-12)
    assert same_loss == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("split", [2, 3, 6])
def test_batches_change_neither_the_loss_nor_its_gradient(split):
    whole, parts = problem(), problem(split=split)
    point = somewhere(whole)
    assert len(parts.source.batches) == split
    torch.testing.assert_close(gradient(parts, point), gradient(whole, point), rtol=1e-10, atol=1e-12)


def test_at_the_identity_the_loss_is_that_of_the_untouched_model():
    given = problem()
    loss, _ = gradient(given, given.start().point)
    assert loss == pytest.approx(float(given.loss(given.before)), rel=1e-12)


def test_coordinates_are_those_of_the_stated_map():
    given, z = problem(), torch.randn(7, 4).double()
    point, scale = somewhere(given), given.scales["0:out"]
    change, move = point["0:out"]
    expected = scale.centre + (1 + change) * (z - scale.centre) + scale.spread * move
    torch.testing.assert_close(given.maps(point)["0:out"](z), expected, rtol=1e-10, atol=1e-12)
    still = given.maps(given.start().point)["0:out"]
    assert torch.equal(still.weight, torch.ones_like(z[0]))
    assert torch.equal(still.shift, torch.zeros_like(z[0]))
    plain = problem(how="paper")
    assert torch.equal(plain.maps(point)["0:out"].shift, move)


def test_models_that_draw_draw_the_same_at_each_step_and_leave_the_caller_s_generator_alone():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(x + torch.randn_like(x))

    network, x = Noisy(), torch.randn(4, 3)
    sites, examples = resolve(network, "inner"), Examples("source", ({"x": x},), "")
    before = samples(network, examples, sites, "mean")
    scales = {"inner:out": Scale.of(before["inner:out"], before["inner:out"], "paper")}
    given = EndToEnd(network, sites, sites, examples, before, before, scales, seed=3)
    state = torch.random.get_rng_state()
    once, again = (gradient(given, given.start().point)[0] for _ in range(2))
    assert once == again
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_map_on_which_no_loss_depends_is_refused():
    given = problem(["0:out"])
    message = r"got a map at 2:out, on which no loss site depends, expected a loss site at or after each map"
    with pytest.raises(ModelError, match=message):
        gradient(given, given.start().point)
