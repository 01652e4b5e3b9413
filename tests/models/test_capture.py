from __future__ import annotations

import pytest
import torch
from torch import nn

from sites_of_models import doubled, sites
from tiny_models import DECODERS, NINE, build, inputs
from trimtab.errors import ModelError, ShapeError
from trimtab.models.hooks import capture, intervene


@pytest.mark.parametrize("name", NINE)
def test_it_takes_what_a_plain_hook_takes_and_changes_nothing(name):
    module, given = build(name), inputs(name, 3)
    keys = list(module.state_dict())
    with torch.no_grad():
        expected = module(**given)
        with capture(module, sites(name)) as taken:
            seen = module(**given)
    assert list(module.state_dict()) == keys
    assert torch.equal(seen[0], expected[0])
    assert len(taken) >= 2
    for site in taken:
        path, _, side = site.partition(":")
        assert side == "out"
        kept = []
        handle = module.get_submodule(path).register_forward_hook(
            lambda _m, _i, out, kept=kept: kept.append(out)
        )
        with torch.no_grad():
            module(**given)
        handle.remove()
        own = kept[0] if isinstance(kept[0], torch.Tensor) else kept[0][0]
        assert torch.equal(taken[site], own)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("pool", ["mean", "max", "last"])
def test_pooling_takes_the_mask_the_model_is_called_with(name, pool):
    module, given = build(name), inputs(name, 3)
    with torch.no_grad():
        with capture(module, "residual", pool) as together:
            module(**given)
        for row, length in enumerate(given["attention_mask"].sum(1).tolist()):
            with capture(module, "residual", pool) as alone:
                module(input_ids=given["input_ids"][row : row + 1, :length])
            for site in together:
                torch.testing.assert_close(together[site][row], alone[site][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*DECODERS, "bert"])
def test_padding_on_either_side_gives_the_same(name):
    module = doubled(build(name), name)
    draw = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, 64, (n,), generator=draw) for n in (4, 7, 2)]
    taken = {side: _pooled(module, rows, side) for side in ("left", "right")}
    for site, values in taken["left"].items():
        torch.testing.assert_close(
            values, taken["right"][site], rtol=0, atol=1e-6 * values.abs().max().item()
        )


def _pooled(module, rows, side):
    width = max(map(len, rows))
    ids, mask = torch.ones(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
    for k, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[k, where], mask[k, where] = row, 1
    with torch.no_grad(), capture(module, "residual", "mean") as taken:
        module(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    return dict(taken)


def test_patches_of_images_know_no_mask_of_tokens():
    module, given = build("clip"), inputs("clip", 3)
    given["attention_mask"] = given["attention_mask"][:, -5:]
    given["input_ids"] = given["input_ids"][:, -5:]
    with torch.no_grad(), capture(module, "vision_model.encoder.layers.1", "mean") as pooled:
        module(**given)
    with torch.no_grad(), capture(module, "vision_model.encoder.layers.1") as whole:
        module(**given)
    (site,) = pooled
    assert whole[site].shape[1] == given["attention_mask"].shape[1]
    assert torch.equal(pooled[site], whole[site].mean(1))


def test_rows_of_several_passes_follow_one_another():
    module, first, second = build("llama"), inputs("llama", 2, 0), inputs("llama", 3, 1)
    with torch.no_grad(), capture(module, "mlp_out.1", "last") as taken:
        module(**first)
        module(**second)
    assert taken["model.layers.1.mlp.down_proj:out"].shape == (5, 16)


def test_with_a_cache_the_mask_is_that_of_the_new_tokens():
    module = build("llama")
    ids = torch.tensor([[5, 6, 7], [1, 8, 9]])
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    with torch.no_grad(), capture(module, "residual.1", "last") as taken:
        module.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=1)
    assert taken["model.layers.1:out"].shape[1] == 16
    assert taken["model.layers.1:out"].shape[0] >= 4


def test_inputs_are_the_outputs_of_what_comes_before():
    module, given = build("llama"), inputs("llama")
    with (
        torch.no_grad(),
        capture(module, ["layers.0:out", "layers.1:in", "layers.1.input_layernorm:in"]) as taken,
    ):
        module(**given)
    assert torch.equal(taken["model.layers.0:out"], taken["model.layers.1:in"])
    assert torch.equal(taken["model.layers.0:out"], taken["model.layers.1.input_layernorm:in"])


def test_gradients_are_kept_where_asked_for():
    module, given = build("llama"), inputs("llama")
    with capture(module, "residual.1", "mean", grad=True) as taken:
        module(**given)
    taken["model.layers.1:out"].sum().backward()
    assert module.model.layers[0].mlp.down_proj.weight.grad.abs().sum() > 0
    with capture(module, "residual.1") as taken:
        module(**given)
    assert not taken["model.layers.1:out"].requires_grad


@pytest.mark.parametrize("outside", [True, False])
def test_it_sees_what_interventions_leave_wherever_it_stands(outside):
    module, given = build("llama"), inputs("llama")
    tripled = {"residual.0": lambda h: 3 * h}
    with torch.no_grad():
        with capture(module, "residual.0") as plain:
            module(**given)
        if outside:
            with capture(module, "residual.0") as taken, intervene(module, tripled):
                module(**given)
        else:
            with intervene(module, tripled), capture(module, "residual.0") as taken:
                module(**given)
    assert torch.equal(taken["model.layers.0:out"], 3 * plain["model.layers.0:out"])


class _Odd(nn.Module):
    def forward(self, x):
        return {"ids": torch.tensor([1])}


def test_what_was_never_reached_is_an_error():
    net = nn.Sequential(nn.Linear(2, 2), _Odd())
    with pytest.raises(ModelError, match="a capture that never ran at 0:out"), capture(net, "0"):
        pass
    with capture(net, "0"):
        net[0](torch.ones(1, 2))


def test_a_site_that_is_no_tensor_of_numbers_is_named():
    net = nn.Sequential(nn.Linear(2, 2), _Odd())
    with (
        pytest.raises(ModelError, match="site 1:out: got a Tensor, expected a tensor of numbers"),
        capture(net, "1"),
    ):
        net(torch.ones(1, 2))
    assert not net[1]._forward_hooks


def test_hooks_are_gone_after_an_error_and_the_error_is_the_callers():
    module = build("llama")
    with pytest.raises(KeyError, match="mine"), capture(module, "residual"):
        raise KeyError("mine")
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_what_was_taken_is_refused_where_it_makes_no_sense():
    module, first = build("llama"), inputs("llama")
    with torch.no_grad(), capture(module, "residual.0") as taken:
        with pytest.raises(ModelError, match=r"nothing at model.layers.0:out yet"):
            taken["model.layers.0:out"]
        module(**first)
        module(input_ids=first["input_ids"][:, :3])
    with pytest.raises(ShapeError, match="forward passes of shapes"):
        taken["model.layers.0:out"]
    with pytest.raises(KeyError, match="a site that was asked for"):
        taken["model.layers.0"]


def test_gradient_checkpointing_is_refused():
    module = build("llama").train()
    module.activation_checkpointing_enable()
    with pytest.raises(ModelError, match="gradient checkpointing"), capture(module, "residual"):
        pass
