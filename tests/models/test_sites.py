from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from tiny_models import DECODERS, NINE, build, tokenizer
from trimtab.errors import ModelError
from trimtab.models.families import FAMILIES
from trimtab.models.load import load
from trimtab.models.sites import Site, modules_of, resolve
from trimtab.models.weights import wrap


def names(model, pattern):
    return [site.name for site in resolve(model, pattern)]


def test_a_pattern_matches_the_end_of_a_path():
    assert names(build("llama"), "layers.*.mlp:out") == ["model.layers.0.mlp:out", "model.layers.1.mlp:out"]
    assert names(build("llama"), "mlp") == ["model.layers.0.mlp:out", "model.layers.1.mlp:out"]


def test_stars_and_brackets_stay_inside_a_part():
    assert names(build("llama"), "layers.1.*_layernorm:in") == [
        "model.layers.1.input_layernorm:in",
        "model.layers.1.post_attention_layernorm:in",
    ]
    blocks = names(build("pixart"), "transformer_blocks.*.norm[12]")
    assert blocks == [f"transformer_blocks.{b}.norm{n}:out" for b in (0, 1) for n in (1, 2)]
    assert len(names(build("unet"), "*norm*")) == sum(
        "norm" in n.split(".")[-1] for n, _ in build("unet").named_modules()
    )


def test_several_patterns_give_each_site_once_in_the_order_of_modules():
    found = names(build("gpt2"), ["h.1.mlp", "h.*.mlp", Site("transformer.h.0.mlp", "in")])
    assert found == ["transformer.h.0.mlp:out", "transformer.h.0.mlp:in", "transformer.h.1.mlp:out"]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("alias", ["attention_out", "mlp_out", "pre_attention_norm", "pre_mlp_norm"])
def test_an_alias_is_the_place_of_the_family(name, alias):
    expected = [f"{FAMILIES[name].path(alias, block)}:out" for block in (0, 1)]
    assert names(build(name), alias) == expected
    assert names(build(name), f"{alias}.1:in") == [expected[1].replace(":out", ":in")]


@pytest.mark.parametrize("name", DECODERS)
def test_the_residual_is_what_a_block_returns(name):
    assert names(build(name), "residual") == [f"{FAMILIES[name].blocks}.{block}:out" for block in (0, 1)]


@pytest.mark.parametrize("name", [*DECODERS, "bert"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_names_are_the_same_inside_an_adapter(name):
    bare = names(build(name), ["*", "*.*:in"])
    linear = LoraConfig(r=2, target_modules=["query", "dense"])
    tuned = get_peft_model(build(name), linear) if name == "bert" else wrap(build(name), {"r": 2})
    assert names(tuned, ["*", "*.*:in"]) == bare
    assert not any("lora" in path or "base_layer" in path for path in modules_of(tuned))


def test_names_are_the_same_for_a_handle_and_its_network():
    module = build("llama")
    assert resolve(load(module, tokenizer=tokenizer()), "mlp_out") == resolve(module, "mlp_out")


@pytest.mark.parametrize("name", NINE)
def test_every_module_can_be_named(name):
    module = build(name)
    for path in modules_of(module):
        assert Site(path) in resolve(module, path)


def test_a_pattern_that_matches_nothing_names_the_three_nearest():
    with pytest.raises(
        ModelError, match=r"layers\.\*\.mpl.*matches no module.*try 'model\.layers\.\*\.mlp' or .* or "
    ):
        resolve(build("llama"), "layers.*.mpl:out")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("mlp:output", "got 'output', expected in or out; try mlp:out"),
        ([], "got no pattern, expected at least one site"),
        ("layers.7.mlp", "matches no module"),
    ],
)
def test_wrong_patterns_are_refused(pattern, message):
    with pytest.raises(ModelError, match=message):
        resolve(build("llama"), pattern)


def test_an_alias_needs_a_family():
    with pytest.raises(
        ModelError, match="got an alias for a Sequential, expected a family we have a table for"
    ):
        resolve(nn.Sequential(nn.Linear(2, 2)), "mlp_out")


@pytest.mark.parametrize("tower", ["text_model", "vision_model"])
def test_an_alias_in_a_model_of_several_towers_follows_the_tower(tower):
    clip = build("clip")
    blocks = names(clip, f"{tower}.residual")
    assert blocks == names(clip, f"{tower}.encoder.layers.*")
    assert names(clip, f"{tower}.residual.1") == blocks[1:2]
    with pytest.raises(
        ModelError, match=f"2 towers, expected an alias after its tower; try .*{tower}.residual"
    ):
        resolve(clip, "residual")


def test_an_alias_means_the_only_tower_inside_a_model():
    inside = nn.Sequential(build("llama"))
    assert names(inside, "mlp_out") == [f"0.{name}" for name in names(build("llama"), "mlp_out")]


def test_a_module_may_have_an_aliass_name():
    net = nn.Sequential()
    net.add_module("mlp_outer", nn.Linear(2, 2))
    assert names(net, "mlp_outer") == ["mlp_outer:out"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_compiled_model_is_refused_with_the_reason(whole):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    if whole:
        net.compile()
    else:
        net[1] = torch.compile(net[1])
    with pytest.raises(ModelError, match=r"compiled .*would ignore hooks"):
        resolve(net, "0")


def test_what_is_no_model_is_refused():
    with pytest.raises(ModelError, match="got a str, expected a loaded model or a torch module"):
        resolve("llama", "mlp")
