"""The readout against the model's own logits and transformers' hidden states, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import pictured
import tiny_models
from trimtab.errors import ModelError
from trimtab.models.load import load
from trimtab.models.readout import picture_tokens, readout_of, residual_states

BASE = tiny_models.SIZES | {"pad_token_id": 2}
OTHERS: dict[str, dict[str, Any]] = {  # outside the table of families, or with logits of their own kind
    "cohere": tiny_models.GROUPED | {"pad_token_id": 2, "logit_scale": 0.25},
    "granite": tiny_models.GROUPED | {"pad_token_id": 2, "logits_scaling": 3.0},
    "olmo2": tiny_models.GROUPED | {"pad_token_id": 2},
    "phi": BASE,
    "gptj": {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4, "n_positions": 64},
    "opt": BASE | {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "mixtral": tiny_models.GROUPED | {"num_local_experts": 2},
}


def drawn(module: nn.Module) -> Any:
    """With every parameter at random, gains of norms too, so that a norm applied twice shows."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gain = parameter.ndim == 1 and "bias" not in name
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3 + gain)
    return module.eval()


def other(name: str) -> Any:
    return drawn(hf.AutoModelForCausalLM.from_config(hf.AutoConfig.for_model(name, **OTHERS[name])))


def keywords(batch: int = 2) -> dict[str, torch.Tensor]:
    return tiny_models.inputs("llama", batch=batch)


@pytest.mark.parametrize("name", tiny_models.DECODERS)
def test_states_are_raw_and_normed_once(name):
    module = drawn(tiny_models.build(name))
    readout, given = readout_of(module), keywords()
    states = residual_states(module, readout, given)
    with torch.no_grad():
        out = module(**given, output_hidden_states=True)
        torch.testing.assert_close(readout.logits(states[-1]), out.logits)
        torch.testing.assert_close(readout.normed(states[-1]), out.hidden_states[-1])
        twice = readout.normed(out.hidden_states[-1])
    assert (states[-1] - out.hidden_states[-1]).abs().max() > 0.1
    assert (twice - out.hidden_states[-1]).abs().max() > 0.1
    for ours, theirs in zip(states[:-1], out.hidden_states[:-1], strict=True):
        assert torch.equal(ours, theirs)
    assert (readout.width, readout.vocabulary, len(readout.sites)) == (16, 64, 3)


@pytest.mark.parametrize("name", OTHERS)
def test_families_outside_the_table_and_scaled_logits(name):
    module, given = other(name), keywords()
    readout = readout_of(module)
    states = residual_states(module, readout, given)
    with torch.no_grad():
        torch.testing.assert_close(readout.logits(states[-1]), module(**given).logits)
    assert readout.scale == pytest.approx({"cohere": 0.25, "granite": 1 / 3}.get(name, 1.0))


def test_logits_are_capped_where_the_model_caps_them():
    module = tiny_models.build("gemma2", final_logit_softcapping=2.0)
    readout = readout_of(module)
    logits = readout.logits(100 * torch.randn(5, 16, generator=torch.Generator().manual_seed(0)))
    raw = readout.normed(100 * torch.randn(5, 16, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(logits, 2 * torch.tanh(raw @ readout.unembedding().T / 2))
    assert logits.abs().max() <= 2 < (raw @ readout.unembedding().T).abs().max()


def test_the_language_model_of_one_that_sees():
    module = pictured.llava()
    model = load(module, tokenizer=pictured.words(), processor=pictured.clip_processor())
    readout = readout_of(model)
    assert readout.sites[0] == "model.language_model.layers.0:in"
    ids = torch.randint(6, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[:, 1:5] = module.config.image_token_index
    side = module.config.vision_config.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    patches = (side // module.config.vision_config.patch_size) ** 2
    ids = torch.cat([ids[:, :1], ids[:, 1:2].expand(-1, patches), ids[:, 5:]], 1)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    states = residual_states(model, readout, given)
    with torch.no_grad():
        torch.testing.assert_close(readout.logits(states[-1]), module(**given).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    module = tiny_models.build("llama").to(dtype)
    readout, given = readout_of(module), keywords()
    states = residual_states(module, readout, given)
    with torch.no_grad():
        said = readout.logits(states[-1].float() if dtype == torch.bfloat16 else states[-1])
        expected = module(**given).logits
    assert said.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(said, expected.to(said.dtype))
    assert readout.fingerprint == readout_of(tiny_models.build("llama").to(torch.bfloat16)).fingerprint


def test_log_probabilities_are_a_distribution():
    readout = readout_of(tiny_models.build("gpt_neox"))
    said = readout.log_probabilities(torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(4, 3))


def test_the_unembedding_of_a_head_with_an_adapter():
    module = tiny_models.build("llama")
    plain = readout_of(module).unembedding()
    assert torch.equal(plain, module.lm_head.weight)
    adapted: Any = load(module, adapter={"r": 2, "targets": ["lm_head", "q_proj"]}).module.eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    readout, given = readout_of(adapted), keywords()
    with torch.no_grad():
        torch.testing.assert_close(
            readout.logits(residual_states(adapted, readout, given)[-1]), adapted(**given).logits
        )
    layer = adapted.base_model.model.lm_head
    torch.testing.assert_close(readout.unembedding(), layer.weight + layer.get_delta_weight("default"))


def test_the_fingerprint_is_of_what_reads_the_last_state():
    first = readout_of(tiny_models.build("llama")).fingerprint
    for path, changes in (("lm_head", True), ("model.norm", True), ("model.layers.0.mlp.up_proj", False)):
        module = tiny_models.build("llama")
        with torch.no_grad():
            module.get_submodule(path).weight.mul_(1.5)
        assert (readout_of(module).fingerprint != first) == changes
    capped = readout_of(tiny_models.build("gemma2", final_logit_softcapping=20.0)).fingerprint
    assert capped != readout_of(tiny_models.build("gemma2")).fingerprint


def test_nothing_about_the_model_changes():
    module: Any = tiny_models.build("gpt2").train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    residual_states(module, readout_of(module), keywords(), grad=True)
    assert torch.equal(state, torch.get_rng_state())
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


class Doubled(hf.LlamaForCausalLM):
    """A model that does to its logits what no table knows."""

    def forward(self, *inputs: Any, **given: Any) -> Any:
        out = super().forward(*inputs, **given)
        out.logits = 2 * out.logits
        return out


def test_refused_by_numbers():
    module = Doubled(tiny_models.CONFIGS["llama"]()).eval()
    with pytest.raises(
        ModelError, match=r"got a Doubled whose logits are no unembedding .* \(off by 0\.5 of"
    ):
        readout_of(module)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert", "got a BertModel without an unembedding, expected a model that predicts"),
        ("bert_masked_lm", "got a BertForMaskedLM whose logits are no unembedding"),
        ("clip", "got a CLIPModel without an unembedding"),
    ],
)
def test_what_is_no_decoder_is_refused(name, message):
    with pytest.raises(ModelError, match=message):
        readout_of(tiny_models.build(name))


def test_weights_that_are_not_finite_are_named():
    module = tiny_models.build("llama")
    with torch.no_grad():
        module.get_output_embeddings().weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="whose logits are not finite, expected finite weights"):
        readout_of(module)


def test_a_model_that_needs_a_picture_is_refused():
    with pytest.raises(
        ModelError, match=r"fails on text alone \(You have to specify pixel_values\), expected a model that"
    ):
        readout_of(pictured.ved())


def test_tokens_of_pictures_are_those_of_the_configuration():
    assert picture_tokens(pictured.llava()) == (pictured.IMAGE,)
    assert picture_tokens(load(pictured.llava(), tokenizer=pictured.words())) == (pictured.IMAGE,)
    assert picture_tokens(tiny_models.build("llama")) == ()
    module = torch.nn.Linear(1, 1)
    for config, expected in (
        (
            hf.Qwen2VLConfig(),
            ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
        ),
        (hf.Gemma3Config(), ("image_token_id", "boi_token_index", "eoi_token_index")),
    ):
        module.config = config  # type: ignore[assignment]
        assert picture_tokens(module) == tuple(sorted({getattr(config, name) for name in expected}))
