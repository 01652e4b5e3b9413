"""The Jacobian lens against one backward pass a row, finite differences and models of which the Jacobian is known."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from lens_worlds import decoder, texts
from trimtab.errors import ModelError
from trimtab.models.hooks import intervene
from trimtab.models.load import load
from trimtab.models.readout import residual_states
from trimtab.read.lenses.jacobian import JacobianLens
from trimtab.read.lenses.lens import Reading, text_states


def ids_of(model, text):
    return {"input_ids": model.need_tokenizer()(text, return_tensors="pt")["input_ids"]}


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox"])
def test_it_is_the_mean_of_one_backward_pass_a_row(name):
    model, given = decoder(name), texts(3)
    lens = JacobianLens.fit(model, given, block=5, batch_size=2)
    total = torch.zeros(2, 16, 16)
    for text in given:
        states = residual_states(model, lens.readout, ids_of(model, text), grad=True)
        for row in range(16):
            end = states[-1][0, -1, row]
            for state in range(2):
                total[state, row] += torch.autograd.grad(end, states[state], retain_graph=True)[0][0, -1]
    torch.testing.assert_close(lens.weight, total / 3, atol=2e-5, rtol=1e-4)


def test_it_is_what_finite_differences_say():
    model = load(tiny_models.build("gpt2").double(), tokenizer=tiny_models.tokenizer())
    text = "abc de"
    lens = JacobianLens.fit(model, [text, text])
    step = 1e-5
    for state in (0, 1):
        for unit in (0, 7):

            def ends(sign: float, state: int = state, unit: int = unit) -> torch.Tensor:
                def push(hidden: torch.Tensor) -> torch.Tensor:
                    moved = hidden.clone()
                    moved[:, -1, unit] += sign * step
                    return moved

                with intervene(model, {lens.readout.sites[state]: push}):
                    return residual_states(model, lens.readout, ids_of(model, text))[-1][0, -1]

            slope = (ends(1) - ends(-1)) / (2 * step)
            torch.testing.assert_close(lens.weight[state, :, unit].double(), slope, atol=1e-5, rtol=1e-4)


def test_blocks_that_add_nothing_have_the_identity():
    model = decoder()
    with torch.no_grad():
        for block in model.module.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    lens = JacobianLens.fit(model, texts(3))
    torch.testing.assert_close(lens.weight, torch.eye(16).expand(2, 16, 16))
    torch.testing.assert_close(lens.bias, torch.zeros(2, 16), atol=1e-5, rtol=0)


def test_the_correction_makes_the_mean_state_exact():
    model, given = decoder("gpt_neox"), texts(6)
    lens = JacobianLens.fit(model, given)
    published = JacobianLens.fit(model, given, centred=False)
    assert torch.equal(published.weight, lens.weight)
    assert not published.bias.any()
    (states,) = text_states(model, lens.readout, given, Reading(last=True))
    means = [one.mean(0) for one in states.hidden]
    for state in (0, 1):
        torch.testing.assert_close(
            lens.weight[state] @ means[state] + lens.bias[state], means[-1], atol=1e-4, rtol=1e-4
        )


def test_batches_and_blocks_change_nothing_and_parameters_get_no_gradient(tmp_path):
    model, given = decoder("gemma3_text"), texts(5)
    model.module.requires_grad_(False)
    seen = []
    first = JacobianLens.fit(model, given, block=16, batch_size=5, progress=lambda *it: seen.append(it))
    second = JacobianLens.fit(model, given, block=3, batch_size=1)
    torch.testing.assert_close(first.weight, second.weight, atol=1e-5, rtol=1e-4)
    assert seen == [(5, 5)]
    assert all(parameter.grad is None for parameter in model.module.parameters())
    first.save_pretrained(tmp_path / "lens")
    read = JacobianLens.from_pretrained(tmp_path / "lens", model)
    assert torch.equal(read.bias, first.bias)
    hidden = torch.ones(2, 16)
    assert torch.equal(read.log_probabilities(hidden, -2), first.log_probabilities(hidden, 1))


def test_bad_input_is_refused():
    with pytest.raises(ModelError, match="block: got 0, expected at least 1"):
        JacobianLens.fit(decoder(), texts(2), block=0)
    with pytest.raises(ModelError, match="got 1 text to fit a lens to, expected at least two"):
        JacobianLens.fit(decoder(), texts(1))
