from __future__ import annotations

import pytest
import torch
from torch import nn

from behaviours import posed, sides, texts
from tiny_models import build, tokenizer
from trimtab import load
from trimtab.errors import DataError, ModelError
from trimtab.models.batches import token_rows
from trimtab.models.sites import resolve
from trimtab.steer.samples import execution_order, prepare, running, samples


def llama(**options):
    return load(build("llama"), tokenizer=tokenizer(**options))


def prepared(model, source, target, batch_size=4, max_tokens=None):
    return prepare(model, source, target, batch_size=batch_size, max_tokens=max_tokens)


def test_samples_are_the_means_over_each_text_alone():
    model, source = llama(), texts("abcdefgh", 7)
    first, _ = prepared(model, source, source)
    sites = resolve(model, ["residual", "mlp_out"])
    found = samples(model, first, sites, "mean")
    assert list(found) == [site.name for site in sites]
    for number, row in enumerate(token_rows(model.tokenizer, source)):
        with torch.no_grad():
            out = model.module(input_ids=torch.tensor([row]), output_hidden_states=True)
        seen = found["model.layers.0:out"][number]
        torch.testing.assert_close(seen, out.hidden_states[1][0].mean(0), rtol=1e-4, atol=1e-5)


def test_batches_and_the_tokenizer_s_padding_side_change_nothing():
    source, target = sides(7, 5)
    found = []
    for side, batch_size in (("right", 1), ("right", 7), ("left", 3)):
        model = llama(padding_side=side)
        first, _ = prepared(model, source, target, batch_size)
        found.append(samples(model, first, resolve(model, "residual"), "mean")["model.layers.1:out"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0], found[2], rtol=1e-4, atol=1e-5)


def test_fingerprints_change_when_an_example_does():
    model, (source, target) = llama(), sides()
    first, second = prepared(model, source, target)
    assert first.fingerprint == prepared(model, source, target)[0].fingerprint != second.fingerprint
    batches = [{"x": torch.zeros(2, 2), "more": {"y": torch.ones(2), "z": None}}]
    other = [{"x": torch.zeros(2, 2), "more": {"y": torch.ones(2), "z": 1}}]
    one, two = prepared(nn.Linear(2, 2), batches, other)
    assert one.fingerprint != two.fingerprint


def test_duplicates_are_examples_like_any_other():
    model = llama()
    first, _ = prepared(model, ["ab", "ab", "ab"], ["b", "c"])
    assert samples(model, first, resolve(model, "residual.0"), "mean")["model.layers.0:out"].shape == (3, 16)


def test_half_precision_gives_single_precision():
    model = load(build("llama").to(torch.bfloat16), tokenizer=tokenizer())
    first, _ = prepared(model, *sides())
    assert (
        samples(model, first, resolve(model, "residual.0"), "mean")["model.layers.0:out"].dtype
        == torch.float32
    )


def test_sites_come_in_the_order_in_which_they_are_reached():
    model, source, target = posed("llama")
    sites = resolve(model, ["residual", "mlp_out", "pre_attention_norm", "attention_out:in"])
    order = [site.name for site in execution_order(model, prepared(model, source, target)[0], sites)]
    block = ["input_layernorm:out", "self_attn.o_proj:in", "mlp.down_proj:out", ""]
    expected = [
        f"model.layers.{k}.{part}" if part else f"model.layers.{k}:out" for k in (0, 1) for part in block
    ]
    assert order == expected != [site.name for site in sites]


def test_running_puts_everything_back_also_after_an_exception():
    module = build("llama").train()
    module.lm_head.eval()
    module.lm_head.weight.requires_grad_(False)
    flags = {name: one.requires_grad for name, one in module.named_parameters()}
    modes = {name: part.training for name, part in module.named_modules()}
    state = torch.random.get_rng_state()
    seen = []

    def watched(*_):
        seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        seen.append({one.requires_grad for one in module.parameters()})
        seen.append({part.training for part in module.modules()})
        torch.rand(1)
        raise KeyError

    with torch.inference_mode(), pytest.raises(KeyError), running(module, grad=True):
        watched()
    assert seen == [(True, False), {False}, {False}]
    assert {name: one.requires_grad for name, one in module.named_parameters()} == flags
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert torch.equal(torch.random.get_rng_state(), state)


# Refusals


GOOD = ["ab", "cd"]


@pytest.mark.parametrize(
    ("source", "target", "error", "message"),
    [
        ([], GOOD, DataError, "source: got no example, expected at least 2"),
        (GOOD, [], DataError, "target: got no example"),
        ("ab", GOOD, DataError, r"source: got one single text, expected a list of examples; try \[...\]"),
        (GOOD, {"input_ids": torch.ones(2, 2).long()}, DataError, "target: got one mapping"),
        (["ab"], GOOD, DataError, "source: got 1 example, expected at least 2"),
        (
            GOOD,
            [{"input_ids": torch.ones(1, 2).long()}],
            DataError,
            "target: got 1 example at model.layers.0:out",
        ),
        (GOOD, ["ab", 3], DataError, "target, record 1: got int, expected a text, or a mapping with 'text'"),
        (
            GOOD,
            ["ab", {"input_ids": torch.ones(1, 2).long()}],
            DataError,
            "target: got a list of dict and str, expected records, or mappings of forward keywords",
        ),
        (["ab", ""], GOOD, ModelError, "got the text '', which has no token"),
        (["ab", "c" * 65], GOOD, ModelError, r"65 tokens in text 1, expected at most 64.*try max_tokens=64"),
    ],
)
def test_examples_that_are_none_are_refused(source, target, error, message):
    model = llama()

    def read():
        sides = prepared(model, source, target)
        return [samples(model, side, resolve(model, "residual.0"), "mean") for side in sides]

    with pytest.raises(error, match=message):
        read()


def test_longer_texts_are_cut_where_that_is_asked_for():
    model = llama()
    first, _ = prepared(model, ["ab", "c" * 65], GOOD, max_tokens=64)
    assert max(batch["input_ids"].shape[1] for batch in first.batches) == 64


def test_texts_need_a_tokenizer():
    with pytest.raises(ModelError, match=r"source: got texts for a bare module.*try load\(module, tokenizer"):
        prepared(build("llama"), GOOD, GOOD)
    with pytest.raises(ModelError, match="without tokenizer"):
        prepared(load(build("llama")), GOOD, GOOD)


def test_values_that_are_not_finite_are_named():
    module = build("llama")
    with torch.no_grad():
        module.model.layers[1].mlp.down_proj.weight[2] = torch.nan
    model = load(module, tokenizer=tokenizer())
    message = (
        r"source: got nan or infinity in 1 of 16 units at model.layers.1.mlp.down_proj:out, expected finite"
    )
    with pytest.raises(ModelError, match=message):
        samples(model, prepared(model, GOOD, GOOD)[0], resolve(model, "mlp_out"), "mean")
