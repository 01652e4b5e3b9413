"""Affine oracle: it finds maps that are known, leaves the model alone, and is absent where there is no truth."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image
from torch import nn

import hypertransport_world as world
from trimtab import Steering, load
from trimtab.errors import ConfigError, DivergedError
from trimtab.models.hooks import intervene
from trimtab.models.sites import resolve
from trimtab.steer.hypertransport.oracle import picture_oracle
from trimtab.steer.maps import AffineMap, Base
from trimtab.steer.oracle import affine_oracle


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return load(str(world.generator(tmp_path_factory.mktemp("oracle"))), device="cpu")


PROMPTS = [f"{a} {b} {c}" for a in world.COLOURS for b in world.SHAPES for c in world.SIDES]


def planted(generator) -> Steering:
    """Maps at the last norm, after which nothing mixes units until pixels."""
    found = resolve(generator, "norm")
    weight, shift = torch.linspace(0.6, 1.4, 16), torch.linspace(0.5, -0.5, 16)
    return Steering({"norm:out": (weight, shift)}, Base.of(generator, found), {"estimator": "planted"})


def test_maps_of_least_squares_are_found():
    """At a linear layer's output the best affine map of each unit is that of least squares, in closed form."""
    draw = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(200, 3, generator=draw) for _ in range(2))
    with torch.random.fork_rng():  # weights near zero would take more steps
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3))
    y = (model(x) * torch.tensor([2.0, -1.0, 0.5]) + torch.tensor([1.0, 0.0, -3.0]) + 0.1 * noise).detach()
    found = affine_oracle(model, "0", lambda _: (model(x) - y).square().mean(), steps=600, lr=5e-2)
    ((weight, shift),) = found.maps.values()
    h = model(x).detach()
    for unit in range(3):
        design = torch.stack([h[:, unit], torch.ones(200)], dim=1)
        slope, offset = torch.linalg.lstsq(design, y[:, unit]).solution
        torch.testing.assert_close(
            torch.stack([weight[unit], shift[unit]]), torch.stack([slope, offset]), rtol=1e-3, atol=1e-3
        )
    assert model[0].weight.grad is None
    assert model[0].weight.requires_grad


def test_pictures_of_planted_maps_are_nearly_reached(generator):
    other = load(generator.name, device="cpu")
    steering = planted(other)

    def truth(prompts, seed):
        with steering.on(other):
            return other.generate(list(prompts), seed=seed)

    before = copy.deepcopy(generator.module.state_dict())
    found = picture_oracle(generator, truth, PROMPTS, "norm", steps=200)
    gaps = []
    wanted = truth(PROMPTS, 5)
    for one in (found, found * 0):
        with one.on(generator):
            made = generator.generate(PROMPTS, seed=5)
        gaps.append(_distance(made, wanted))
    assert gaps[0] < 0.2 * gaps[1]
    for name, value in generator.module.state_dict().items():
        assert torch.equal(value, before[name])
    again = picture_oracle(generator, truth, PROMPTS, "norm", steps=200)
    for site, pair in found.maps.items():
        for first, second in zip(pair, again.maps[site], strict=True):
            assert torch.equal(first, second)


def _distance(made, wanted) -> float:
    pairs = [
        [torch.tensor(list(one.getdata())).float() for one in pair] for pair in zip(made, wanted, strict=True)
    ]
    return float(torch.stack([(a - b).abs().mean() for a, b in pairs]).mean())


@pytest.mark.parametrize(
    "truth",
    [
        None,
        ["a text", "another"],
        [Image.new("RGB", (8, 8))] * 2,
        [Image.new("RGB", (16, 16)), Image.new("RGB", (8, 8))],
    ],
    ids=["unknown", "texts", "another size", "two sizes"],
)
def test_no_oracle_without_true_pictures_of_its_size(generator, truth):
    assert picture_oracle(generator, lambda prompts, seed: truth, PROMPTS, "norm", steps=1) is None


def test_no_step_and_no_number_are_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    x = torch.ones(1, 2)
    with pytest.raises(ConfigError, match="at least 1"):
        affine_oracle(model, "0", lambda _: model(x).mean(), steps=0)
    with pytest.raises(DivergedError, match="step 0"):
        affine_oracle(model, "0", lambda _: model(x).mean() * float("nan"), steps=1)


def test_the_identity_is_where_it_starts():
    """One step at a vanishing rate changes nothing."""
    model = nn.Sequential(nn.Linear(2, 2))
    x = torch.ones(1, 2)
    ((weight, shift),) = affine_oracle(model, "0", lambda _: model(x).mean(), steps=1, lr=0.0).maps.values()
    with intervene(model, {"0:out": AffineMap(weight, shift)}):
        torch.testing.assert_close(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))
