from __future__ import annotations

import pytest
import torch
from torch import nn

from trimtab.errors import ModelError
from trimtab.models.families import FAMILIES, IN_BLOCK, PLACES, family_of, unwrapped
from trimtab.models.load import load

NAMES = sorted(FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_every_place_is_a_module(name, make):
    module = make(name)
    family = family_of(module)
    assert family is not None
    assert family.name == name
    for place in PLACES:
        for block in (0, 1) if place in IN_BLOCK else (None,):
            assert isinstance(module.get_submodule(family.path(place, block)), nn.Module)


@pytest.mark.parametrize("name", NAMES)
def test_embedding_unembedding_and_blocks_are_the_ones_transformers_means(name, make):
    module, family = make(name), FAMILIES[name]
    assert module.get_submodule(family.path("embedding")) is module.get_input_embeddings()
    assert module.get_submodule(family.path("unembedding")) is module.get_output_embeddings()
    assert len(module.get_submodule(family.path("blocks"))) == module.config.num_hidden_layers


@pytest.mark.parametrize("name", NAMES)
def test_places_run_in_the_order_of_a_block(name, make):
    """The norm before each half runs before the half's output, also where a sandwich norm closes the half."""
    module, family, order = make(name), FAMILIES[name], []
    for place in IN_BLOCK:
        part = module.get_submodule(family.path(place, 0))
        part.register_forward_hook(lambda *_, place=place: order.append(place))
    module(torch.tensor([[3, 4, 5]]))
    parallel = ["pre_attention_norm", "attention_out", "pre_mlp_norm", "mlp_out"]
    assert order == parallel


@pytest.mark.parametrize("name", NAMES)
def test_mlp_reads_what_the_pre_mlp_norm_writes(name, make):
    module, family, seen = make(name), FAMILIES[name], {}
    norm = module.get_submodule(family.path("pre_mlp_norm", 0))
    mlp = module.get_submodule(family.path("mlp_out", 0).rpartition(".")[0])
    norm.register_forward_hook(lambda _m, _i, out: seen.update(norm=out))
    mlp.register_forward_pre_hook(lambda _m, inputs: seen.update(mlp=inputs[0]))
    module(torch.tensor([[3, 4, 5]]))
    assert torch.equal(seen["norm"], seen["mlp"])


def test_family_is_found_inside_an_adapter(make, tokenizer):
    plain = make("qwen3")
    model = load(plain, tokenizer=tokenizer, adapter={"r": 2})
    assert model.family == FAMILIES["qwen3"]
    assert unwrapped(model.module) is plain


def test_unknown_family_is_none():
    assert family_of(nn.Linear(2, 2)) is None


@pytest.mark.parametrize(
    ("place", "block", "message"),
    [
        ("mlp_outt", 0, r"got mlp_outt, expected one of .*; try 'mlp_out'"),
        ("mlp_out", None, "mlp_out: got None, expected a block number"),
        ("embedding", 0, "embedding: got 0, expected no block number"),
    ],
)
def test_wrong_places_are_refused(place, block, message):
    with pytest.raises(ModelError, match=message):
        FAMILIES["llama"].path(place, block)
