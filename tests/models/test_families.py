from __future__ import annotations

import pytest
import torch
import transformers as hf
from torch import nn

import tiny_models
from trimtab.errors import ModelError
from trimtab.models.families import FAMILIES, IN_BLOCK, PLACES, WHOLE, family_of, towers, unwrapped
from trimtab.models.load import load
from trimtab.models.weights import WIRING

NAMES = sorted(FAMILIES)
PRE_NORM = [name for name in NAMES if name != "bert"]


def with_head(name):
    return tiny_models.build("bert_masked_lm" if name == "bert" else name)


def run(name, module):
    with torch.no_grad():
        return module(**tiny_models.inputs(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_place_is_a_module(name):
    module = with_head(name)
    family = family_of(module)
    assert family is not None
    assert family.name == name
    for place in family.places:
        for block in (0, 1) if place in IN_BLOCK else (None,):
            assert isinstance(module.get_submodule(family.path(place, block)), nn.Module)


@pytest.mark.parametrize("name", NAMES)
def test_embedding_unembedding_and_blocks_are_the_ones_transformers_means(name):
    module = with_head(name)
    family = family_of(module)
    if name != "clip_vision_model":
        assert module.get_submodule(family.path("embedding")) is module.get_input_embeddings()
    if family.unembedding:
        assert module.get_submodule(family.path("unembedding")) is module.get_output_embeddings()
    else:
        assert module.get_output_embeddings() is None
    assert len(module.get_submodule(family.path("blocks"))) == module.config.num_hidden_layers


@pytest.mark.parametrize("name", NAMES)
def test_places_run_in_the_order_of_a_block(name):
    """The norm before each half runs before the half's output, also where a sandwich norm closes the half."""
    module, order = with_head(name), []
    family = family_of(module)
    places = [place for place in IN_BLOCK if place in family.places]
    for place in places:
        part = module.get_submodule(family.path(place, 0))
        part.register_forward_hook(lambda *_, place=place: order.append(place))
    run(name, module)
    expected = ["pre_attention_norm", "attention_out", "pre_mlp_norm", "mlp_out", "residual"]
    assert order == [place for place in expected if place in places]
    assert ("pre_mlp_norm" in places) == (name != "bert")


@pytest.mark.parametrize("name", PRE_NORM)
def test_mlp_reads_what_the_pre_mlp_norm_writes(name):
    module, seen = tiny_models.build(name), {}
    family = family_of(module)
    norm = module.get_submodule(family.path("pre_mlp_norm", 0))
    mlp = module.get_submodule(family.path("mlp_out", 0).rpartition(".")[0])
    norm.register_forward_hook(lambda _m, _i, out: seen.update(norm=out))
    mlp.register_forward_pre_hook(lambda _m, inputs: seen.update(mlp=inputs[0]))
    run(name, module)
    assert torch.equal(seen["norm"], seen["mlp"])


def first(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("name", NAMES)
def test_the_residual_of_a_block_is_what_the_next_one_reads(name):
    module, seen = with_head(name), {}
    family = family_of(module)
    one, two = (module.get_submodule(family.path("residual", block)) for block in (0, 1))
    one.register_forward_hook(lambda _m, _i, out: seen.update(out=first(out)))
    two.register_forward_pre_hook(lambda _m, inputs: seen.update(into=inputs[0]))
    run(name, module)
    assert torch.equal(seen["out"], seen["into"])


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "clip_text_model", "clip_vision_model"])
def test_a_block_adds_its_two_halves(name):
    """Where no norm follows the halves: residual out = residual in + attention_out + mlp_out."""
    module, seen = tiny_models.build(name), {}
    family = family_of(module)
    for place in ("attention_out", "mlp_out", "residual"):
        part = module.get_submodule(family.path(place, 1))
        part.register_forward_hook(lambda _m, _i, out, place=place: seen.update({place: first(out)}))
    part.register_forward_pre_hook(lambda _m, inputs: seen.update(into=inputs[0]))
    run(name, module)
    torch.testing.assert_close(seen["residual"], seen["into"] + seen["attention_out"] + seen["mlp_out"])


@pytest.mark.parametrize(
    ("name", "bare", "blocks"),
    [
        ("llama", hf.LlamaModel, "layers"),
        ("gpt2", hf.GPT2Model, "h"),
        ("gpt_neox", hf.GPTNeoXModel, "layers"),
    ],
)
def test_a_model_without_its_head_has_the_same_places_under_shorter_paths(name, bare, blocks):
    family = family_of(bare(tiny_models.CONFIGS[name]()))
    assert family.blocks == blocks
    assert family.unembedding is None
    assert family.path("mlp_out", 1) == f"{blocks}.1.{FAMILIES[name].mlp_out}"


def test_another_head_is_no_unembedding():
    module = hf.BertForSequenceClassification(tiny_models.CONFIGS["bert"]())
    family = family_of(module)
    assert family.blocks == "bert.encoder.layer"
    assert family.unembedding is None


def test_family_is_found_inside_an_adapter(make, tokenizer):
    plain = make("qwen3")
    model = load(plain, tokenizer=tokenizer, adapter={"r": 2})
    assert model.family == FAMILIES["qwen3"]
    assert unwrapped(model.module) is plain


def test_unknown_family_is_none():
    assert family_of(nn.Linear(2, 2)) is None
    assert towers(nn.Linear(2, 2)) == {}


def test_a_config_of_a_known_family_without_its_blocks_is_no_family():
    odd = nn.Linear(2, 2)
    odd.config = tiny_models.CONFIGS["llama"]()
    assert family_of(odd) is None


def test_clip_has_two_towers_and_so_no_one_family():
    module = tiny_models.build("clip")
    assert family_of(module) is None
    found = towers(module)
    assert list(found) == ["text_model", "vision_model"]
    assert found["text_model"].path("mlp_out", 0) == "text_model.encoder.layers.0.mlp.fc2"
    for path, family in found.items():
        inside = module.get_submodule(path)
        for place in family.places:
            block = 1 if place in IN_BLOCK else None
            part = module.get_submodule(family.path(place, block))
            assert part is inside.get_submodule(family_of(inside).path(place, block))


@pytest.mark.parametrize("name", ["llama", "bert_masked_lm"])
def test_a_model_of_one_family_is_its_own_tower(name):
    module = tiny_models.build(name)
    assert towers(module) == {"": family_of(module)}


def test_clip_text_model_with_projection_is_found_under_its_prefix():
    module = hf.CLIPTextModelWithProjection(tiny_models.CONFIGS["clip_text_model"]())
    assert family_of(module).path("residual", 0) == "text_model.encoder.layers.0"


# What folding a steering into weights needs -------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("switched", [False, True])
def test_biases_are_where_the_flags_say(name, switched):
    flags = WIRING[name].flags
    module = tiny_models.build(name, **dict.fromkeys(flags, switched))
    for flag, maps in flags.items():
        for path in maps:
            key = f"{family_of(module).blocks}.1.{path}.bias"
            assert (key in module.state_dict()) == switched, (flag, key)


def test_flags_for_biases_are_known_where_the_configuration_has_them():
    """A family that is said never to have a bias has no flag in its configuration either."""
    for name in FAMILIES:
        config = tiny_models.CONFIGS[name]()
        for flag in ("mlp_bias", "attention_bias"):
            assert (flag in WIRING[name].flags) == hasattr(config, flag), (name, flag)


@pytest.mark.parametrize("name", NAMES)
def test_a_norm_is_the_normalised_input_times_offset_plus_weight(name):
    module = with_head(name)
    family = family_of(module)
    paths = [family.path("final_norm")] if family.final_norm else ["bert.encoder.layer.1.output.LayerNorm"]
    paths += [family.path(p, 1) for p in ("pre_attention_norm", "pre_mlp_norm") if p in family.places]
    for path in paths:
        norm = module.get_submodule(path)
        x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            norm.weight.normal_(generator=torch.Generator().manual_seed(1))
        centred = x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x
        eps = getattr(norm, "eps", None) or norm.variance_epsilon
        normalised = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        expected = normalised * (family.norm_offset + norm.weight) + getattr(norm, "bias", torch.zeros(16))
        torch.testing.assert_close(norm(x), expected)


# Refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "place", "block", "message"),
    [
        ("llama", "mlp_outt", 0, r"got mlp_outt, expected one of .*; try 'mlp_out'"),
        ("llama", "mlp_out", None, "mlp_out: got None, expected a block number"),
        ("llama", "embedding", 0, "embedding: got 0, expected no block number"),
        (
            "bert",
            "pre_mlp_norm",
            0,
            r"got pre_mlp_norm of bert, which has none, expected one of blocks, .*try",
        ),
        (
            "clip_text_model",
            "unembedding",
            None,
            "got unembedding of clip_text_model, which has none, expected",
        ),
    ],
)
def test_wrong_places_are_refused(family, place, block, message):
    with pytest.raises(ModelError, match=message):
        FAMILIES[family].path(place, block)


def test_places_are_those_of_a_block_and_those_of_a_model():
    assert set(PLACES) == set(IN_BLOCK) | set(WHOLE)
