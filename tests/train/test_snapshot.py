"""A snapshot is a copy, and putting it back is exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trimtab.errors import CheckpointError
from trimtab.train.state import (
    Snapshot,
    copy_moments,
    copy_parameters,
    put_moments,
    put_parameters,
    put_rng_states,
    rng_states,
)

Spoil = Callable[[dict[str, Tensor]], dict[str, Tensor]]
MakeOptimizer = Callable[..., torch.optim.Optimizer]


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        x = torch.linspace(-1, 1, 6).reshape(2, 3).to(next(module.parameters()).dtype)
        (module(x) - step).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


def adamw(module: nn.Module, **options: object) -> torch.optim.AdamW:
    return torch.optim.AdamW(module.parameters(), lr=0.1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_copies_do_not_move_when_training_goes_on(dtype: torch.dtype) -> None:
    module = network(dtype)
    optimizer, named = adamw(module, fused=True), dict(module.named_parameters())
    train(module, optimizer, 2)
    parameters, moments = copy_parameters(named), copy_moments(named, optimizer)
    noted = {name: tensor.clone() for name, tensor in parameters.items()}
    step = next(iter(moments.values()))["step"].clone()
    train(module, optimizer, 1)
    assert same(parameters, noted)
    assert not same(copy_parameters(named), noted)
    assert float(step) == float(next(iter(moments.values()))["step"]) == 2


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"amsgrad": True}])
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh optimiser", "same optimiser"])
def test_training_from_what_was_put_back_equals_training_on(options: dict[str, bool], fresh: bool) -> None:
    module = network()
    optimizer, named = adamw(module, **options), dict(module.named_parameters())
    train(module, optimizer, 3)
    parameters, moments = copy_parameters(named), copy_moments(named, optimizer)
    train(module, optimizer, 2)
    expected = copy_parameters(named)
    if fresh:
        optimizer = adamw(module, **options)
    put_parameters(named, parameters)
    put_moments(named, optimizer, moments)
    train(module, optimizer, 2)
    assert same(copy_parameters(named), expected)


def test_what_had_no_moments_has_none_again() -> None:
    module = network()
    optimizer, named = adamw(module), dict(module.named_parameters())
    before = copy_moments(named, optimizer)
    assert before == {}
    train(module, optimizer, 1)
    put_moments(named, optimizer, before)
    assert not optimizer.state


def test_what_is_put_back_is_not_shared_with_the_snapshot() -> None:
    module = network()
    optimizer, named = adamw(module), dict(module.named_parameters())
    train(module, optimizer, 1)
    moments = copy_moments(named, optimizer)
    noted = {key: tensor.clone() for key, tensor in moments["0.weight"].items()}
    again = adamw(module)
    put_moments(named, again, moments)
    train(module, again, 2)
    assert same(dict(moments["0.weight"]), noted)


def test_step_counts_go_where_the_optimiser_keeps_them() -> None:
    """Fused kernels want them beside the parameter, others on the CPU; a checkpoint is read to the CPU."""
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    moments = {"p": {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}}
    for fused, place in ((True, "meta"), (False, "cpu")):
        optimizer = torch.optim.AdamW([parameter])
        optimizer.param_groups[0]["fused"] = fused
        put_moments({"p": parameter}, optimizer, moments)
        state = optimizer.state[parameter]
        assert state["step"].device.type == place
        assert state["exp_avg"].device.type == state["exp_avg_sq"].device.type == "meta"


def test_bytes_are_those_of_parameters_and_moments() -> None:
    snapshot = Snapshot(
        step=1,
        parameters={"w": torch.zeros(3, 2)},
        moments={"w": {"exp_avg": torch.zeros(3, 2, dtype=torch.float64), "step": torch.tensor(1.0)}},
        stream={},
        rng={"cpu": torch.zeros(5056, dtype=torch.uint8)},
    )
    assert snapshot.nbytes == 6 * 4 + 6 * 8 + 4


def test_random_states_come_back() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        states = rng_states()
        first = torch.rand(4)
        torch.rand(7)
        put_rng_states(states)
        assert torch.equal(torch.rand(4), first)


def resized(tensor: Tensor) -> Tensor:
    """What broadcasting would take for the tensor."""
    return tensor[..., :1].clone()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: {**t, "0.weight": resized(t["0.weight"])}, r"'0.weight': got float32 of shape \(4, 1\)"),
        (
            lambda t: {**t, "0.bias": t["0.bias"][:1]},
            r"'0.bias': got float32 of shape \(1,\), expected .*\(4,\)",
        ),
        (lambda t: {**t, "0.bias": t["0.bias"][None]}, r"'0.bias': got float32 of shape \(1, 4\)"),
        (lambda t: {**t, "0.bias": t["0.bias"].double()}, r"'0.bias': got float64 of shape"),
        (lambda t: {**t, "0.bias": t["0.bias"].int()}, r"'0.bias': got int32 of shape"),
        (lambda t: {**t, "more": t["0.bias"]}, r"got a tensor 'more'"),
        (lambda t: {name: t[name] for name in t if name != "2.bias"}, r"got no tensor '2.bias'"),
    ],
)
def test_parameters_that_do_not_fit_change_nothing(spoil: Spoil, message: str) -> None:
    named = dict(network().named_parameters())
    before = copy_parameters(named)
    with pytest.raises(CheckpointError, match=message):
        put_parameters(named, spoil({name: tensor + 1 for name, tensor in before.items()}))
    assert same(copy_parameters(named), before)


@pytest.mark.parametrize(
    ("key", "spoil", "message"),
    [
        ("exp_avg", resized, r"moment 'exp_avg' of '0.weight': got float32 of shape \(4, 1\)"),
        ("exp_avg_sq", lambda t: t.int(), "moment 'exp_avg_sq' .* got int32"),
        ("exp_avg", None, "moments with other parts"),
        ("step", lambda t: t.repeat(4), "moment 'step' .* got float32 of shape"),
    ],
)
def test_moments_that_do_not_fit_are_refused(
    key: str, spoil: Callable[[Tensor], Tensor] | None, message: str
) -> None:
    module = network()
    optimizer, named = adamw(module), dict(module.named_parameters())
    train(module, optimizer, 1)
    moments = copy_moments(named, optimizer)
    moments["0.weight"] = {k: v for k, v in moments["0.weight"].items() if k != key or spoil}
    if spoil:
        moments["0.weight"][key] = spoil(moments["0.weight"][key])
    with pytest.raises(CheckpointError, match=message):
        put_moments(named, optimizer, moments)
    with pytest.raises(CheckpointError, match="got moments of 'other'"):
        put_moments(named, optimizer, {"other": moments["2.bias"]})
