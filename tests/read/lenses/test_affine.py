"""Affine lenses: one map at each depth, written out by hand, and what both kinds of fitted lens have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lens_worlds import decoder
from trimtab.errors import ModelError, ShapeError
from trimtab.models.load import Model
from trimtab.models.readout import readout_of
from trimtab.read.lenses.affine import AffineLens
from trimtab.read.lenses.jacobian import JacobianLens
from trimtab.read.lenses.tuned import TunedLens

KINDS: dict[type[AffineLens], int] = {TunedLens: 1, JacobianLens: 0}
"""Kinds of lens, and how often a map adds the state itself."""


@pytest.fixture(scope="module")
def model() -> Model:
    return decoder()


def lens(kind: type[AffineLens], model: Model) -> AffineLens:
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(2, 16, 16, generator=draw), torch.randn(2, 16, generator=draw)
    return kind(readout_of(model), weight, bias, {"texts": 3})


@pytest.mark.parametrize("kind", KINDS)
def test_each_depth_is_its_map_then_the_models_own_readout(kind: type[AffineLens], model: Model) -> None:
    one = lens(kind, model)
    hidden = torch.randn(5, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for state in (0, 1):
        moved = one.weight[state].double().numpy() @ hidden.numpy().T
        moved = moved.T + KINDS[kind] * hidden.numpy() + one.bias[state].double().numpy()
        expected = one.readout.log_probabilities(torch.from_numpy(moved))
        torch.testing.assert_close(one.log_probabilities(hidden, state), expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(one.log_probabilities(hidden, state - 3), one.log_probabilities(hidden, state))
    assert torch.equal(one.log_probabilities(hidden, 2), one.readout.log_probabilities(hidden))
    assert one.states == 3
    with pytest.raises(ShapeError, match="got state 3, expected one of 3, from -3 to 2"):
        one.log_probabilities(hidden, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_as_its_own_kind_alone(kind: type[AffineLens], model: Model, tmp_path: Path) -> None:
    one = lens(kind, model)
    back = kind.from_pretrained(one.save_pretrained(tmp_path / "lens"), model)
    assert type(back) is kind
    assert torch.equal(back.weight, one.weight)
    assert torch.equal(back.bias, one.bias)
    assert (back.made_by, back.readout.fingerprint) == ({"texts": 3}, one.readout.fingerprint)
    assert repr(back) == repr(one)
    assert repr(one) == f"{kind.__name__}(readout={one.readout!r}, made_by={{'texts': 3}})"
    other = next(each for each in KINDS if each is not kind)
    with pytest.raises(ModelError, match=f"got a {kind.name} lens, expected a {other.name} lens"):
        other.from_pretrained(tmp_path / "lens", model)
