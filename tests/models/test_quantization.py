"""Base models in 4 bits: they compute what their dequantised weights do, also gradients, and say where they cannot."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

import worlds
from trimtab import LinEAS, Model, load
from trimtab.errors import ModelError
from trimtab.models import quantization
from trimtab.models.adapter import with_adapter
from trimtab.models.inspection import check_model
from trimtab.models.language import log_likelihood

TEXTS = ["abba cab", "bad dad", "cabbage", "face a fact", "dada", "a babe"]
REPACKS = "support_avx512bf16_for_cpu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two blocks, wide enough for bitsandbytes to repack its maps."""
    made = tmp_path_factory.mktemp("model")
    worlds.saved_model(str(made), width=64)
    return made


def in_4bit(folder: Path, **options: Any) -> Model:
    return load(folder, load_in_4bit=True, device="cpu", **options)


def maps(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Linear maps in 4 bits by their names in the plain model."""
    named = network.named_modules()
    return {
        name.replace("base_model.model.", "").replace(".base_layer", ""): part
        for name, part in named
        if isinstance(part, bitsandbytes.nn.Linear4bit)
    }


def dequantised(folder: Path, like: Model) -> LlamaForCausalLM:
    """The plain model with the weights that a 4-bit one stands for."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    for name, part in maps(like.module).items():
        values = bitsandbytes.functional.dequantize_4bit(part.weight.data, part.weight.quant_state)
        plain.get_submodule(name).weight.data = values.float()
    return plain


def test_it_reads_as_its_dequantised_weights(folder: Path) -> None:
    model = in_4bit(folder)
    plain = load(dequantised(folder, model), tokenizer=model.tokenizer)
    assert len(maps(model.module)) == 14  # seven in each of two blocks, and not the output layer
    read, expected, other = (log_likelihood(each, TEXTS).nats for each in (model, plain, load(folder)))
    torch.testing.assert_close(torch.as_tensor(read), torch.as_tensor(expected), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(torch.as_tensor(read), torch.as_tensor(other), rtol=1e-5, atol=1e-5)


def lora_gradients(model: Model) -> dict[str, torch.Tensor]:
    """Of the loss of one batch, by name, after a reading in evaluation mode."""
    ids = torch.arange(64).reshape(4, 16)
    network: Any = model.module
    for name, parameter in network.named_parameters():
        if "lora_B" in name:  # zero at first, and so is then the gradient of the other half
            parameter.data = torch.linspace(-0.5, 0.5, parameter.numel()).reshape(parameter.shape)
    network.eval()
    with torch.no_grad():
        network(input_ids=ids)
    network.train()
    network(input_ids=ids, labels=ids).loss.backward()
    return {name: p.grad for name, p in network.named_parameters() if p.requires_grad}


@pytest.fixture
def gradients(folder: Path) -> dict[str, torch.Tensor]:
    """Those of the dequantised weights."""
    model = in_4bit(folder)
    return lora_gradients(load(dequantised(folder, model), tokenizer=model.tokenizer, adapter={"r": 2}))


def largest_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(float((found[name] - it).norm() / it.norm()) for name, it in expected.items())


def test_gradients_after_a_reading_are_those_of_its_dequantised_weights(
    folder: Path, gradients: dict[str, torch.Tensor]
) -> None:
    assert largest_error(lora_gradients(in_4bit(folder, adapter={"r": 2})), gradients) < 1e-5


def test_a_module_of_the_caller_has_the_same_gradients(
    folder: Path, gradients: dict[str, torch.Tensor]
) -> None:
    network = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization.four_bits(None))
    assert largest_error(lora_gradients(load(network, adapter={"r": 2})), gradients) < 1e-5


def test_repacked_weights_lose_gradients(folder: Path, gradients: dict[str, torch.Tensor]) -> None:
    """Control: what we keep bitsandbytes from does go wrong on a CPU that has the instructions for it."""
    if not bitsandbytes.nn.Linear4bit(64, 64).support_avx512bf16_for_cpu:
        pytest.skip("bitsandbytes repacks nothing on this CPU")
    model = in_4bit(folder, adapter={"r": 2})
    for part in maps(model.module).values():
        setattr(part, REPACKS, True)
    with pytest.warns(UserWarning, match="an autograd kernel was not registered"):
        assert largest_error(lora_gradients(model), gradients) > 0.1


def test_reading_leaves_the_fingerprint(folder: Path) -> None:
    model = in_4bit(folder)
    before = model.fingerprint()
    model.generate(["ab"], 2)
    assert model.fingerprint() == before == in_4bit(folder).fingerprint()


def test_biases_of_another_type_leave_the_fingerprint(tmp_path: Path) -> None:
    small = LlamaConfig(vocab_size=258, hidden_size=64, intermediate_size=128, num_hidden_layers=1)
    small.num_attention_heads, small.num_key_value_heads, small.attention_bias = 2, 2, True
    LlamaForCausalLM(small).bfloat16().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True)  # computes in float32
    network = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    model = load(network, tokenizer=worlds.tokenizer())
    before = model.fingerprint()
    log_likelihood(model, TEXTS)
    assert model.fingerprint() == before


@pytest.mark.parametrize("use", ["training", "gradients"])
def test_weights_that_may_lose_gradients_are_refused(folder: Path, use: Any) -> None:
    model = in_4bit(folder, adapter={"r": 2})
    check_model(model, use)
    part = maps(model.module)["model.layers.1.mlp.up_proj"]
    setattr(part, REPACKS, True)
    message = (
        r"got 4-bit weights at .*layers\.1\.mlp\.up_proj.* that bitsandbytes repacks .*try load\(module\)"
    )
    with pytest.raises(ModelError, match=message):
        check_model(model, use)
    setattr(part, REPACKS, False)
    part.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ModelError, match=message):
        check_model(model, use)
    check_model(model)  # to read


def test_a_steering_is_learned_through_it(folder: Path) -> None:
    model = in_4bit(folder)
    plain = load(dequantised(folder, model), tokenizer=model.tokenizer)
    found, expected = (
        LinEAS(steps=2, sites="mlp_out").fit(it, TEXTS[:3], TEXTS[3:]) for it in (model, plain)
    )
    assert found.maps.keys() == expected.maps.keys()
    for site, pair in expected.maps.items():
        for part, other in zip(found.maps[site], pair, strict=True):
            torch.testing.assert_close(part, other, rtol=1e-4, atol=1e-5)


def test_in_bfloat16(folder: Path) -> None:
    model = in_4bit(folder, dtype="bfloat16", adapter={"r": 2})
    kinds = {p.dtype for name, p in model.module.named_parameters() if "lora_" not in name}
    assert kinds == {torch.bfloat16, torch.uint8}
    assert {part.compute_dtype for part in maps(model.module).values()} == {torch.bfloat16}
    assert all(part.weight.quant_type == "nf4" for part in maps(model.module).values())
    assert all(math.isfinite(each) for each in log_likelihood(model, TEXTS).nats)


def test_its_size_is_as_foretold(folder: Path) -> None:
    for part in maps(in_4bit(folder).module).values():
        values, state = part.weight.quant_state.shape.numel(), part.weight.quant_state
        scales = state.absmax.numel() + 4 * state.state2.absmax.numel()
        held = part.weight.numel() * part.weight.element_size() + scales
        whole = quantization.BYTES_PER_PARAMETER * values
        assert whole <= held <= whole + 4  # the scales of blocks that are begun


def test_a_quantised_checkpoint(folder: Path, tmp_path: Path) -> None:
    model = in_4bit(folder)
    model.module.save_pretrained(tmp_path)
    model.need_tokenizer().save_pretrained(tmp_path)
    again = load(tmp_path, device="cpu", adapter={"r": 2})
    check_model(again, "training")
    expected, found = (log_likelihood(each, TEXTS).nats for each in (model, again))
    assert found.tolist() == expected.tolist()


def test_its_adapter_is_saved_and_found_again(folder: Path, tmp_path: Path) -> None:
    model = in_4bit(folder, adapter={"r": 2})
    for name, parameter in model.module.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1
    model.save_pretrained(tmp_path / "adapter")
    base = in_4bit(folder)
    again = replace(base, module=with_adapter(base.module, tmp_path / "adapter"))
    expected, found, plain = (log_likelihood(each, TEXTS).nats for each in (model, again, base))
    assert found.tolist() == expected.tolist() != plain.tolist()
    with pytest.raises(ModelError, match="an adapter on a quantised model"):
        model.save_pretrained(tmp_path / "merged", merged=True)


@pytest.mark.parametrize("read_before", [False, True])
def test_it_is_saved_and_read_back(folder: Path, tmp_path: Path, read_before: bool) -> None:
    model = in_4bit(folder)
    if read_before:
        log_likelihood(model, TEXTS)
    saved = model.save_pretrained(tmp_path / "saved")
    for again in (load(saved, device="cpu"), in_4bit(saved)):
        assert again.fingerprint() == model.fingerprint()
        assert log_likelihood(again, TEXTS).nats.tolist() == log_likelihood(model, TEXTS).nats.tolist()


def test_its_parameters_are_those_of_the_plain_model(folder: Path) -> None:
    plain = sum(each.numel() for each in load(folder).module.parameters())
    assert quantization.parameter_count(in_4bit(folder).module) == plain
    assert f" {plain:,} parameters" in repr(in_4bit(folder))


def test_other_quantised_weights_are_not_taken_for_4_bits(folder: Path, tmp_path: Path) -> None:
    config = BitsAndBytesConfig(load_in_8bit=True)
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=config).save_pretrained(tmp_path)
    worlds.tokenizer().save_pretrained(tmp_path)
    message = (
        r"got load_in_4bit=True for weights that are quantised already \(bitsandbytes\).*try load\(.*without"
    )
    with pytest.raises(ModelError, match=message):
        in_4bit(tmp_path)


def test_a_pipeline_is_not_read_in_4_bits(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ModelError, match="got load_in_4bit=True for the pipeline"):
        in_4bit(tmp_path)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_a_switch_is_true_or_false(folder: Path, value: Any) -> None:
    with pytest.raises(ModelError, match=r"load_in_4bit: got .*, expected True or False"):
        load(folder, load_in_4bit=value)


def test_what_cannot_be_in_4_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"dtype: got 'float64' beside load_in_4bit=True"):
        in_4bit(folder, dtype="float64")
    with pytest.raises(ModelError, match=r"got dtype=, device= or load_in_4bit= beside a module"):
        load(worlds.llama(), load_in_4bit=True)
    monkeypatch.setattr(quantization, "is_installed", lambda: False)
    with pytest.raises(ModelError, match=r"got load_in_4bit=True without bitsandbytes.*\[quantization\]"):
        in_4bit(folder)


def test_8_bits_keep_their_gradients(folder: Path) -> None:
    """Those of a module of the caller; `load` makes none."""
    config = BitsAndBytesConfig(load_in_8bit=True)
    network = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype="float32")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    for name, part in network.named_modules():
        if isinstance(part, bitsandbytes.nn.Linear8bitLt):
            values = part.weight.data.float() * part.weight.SCB[:, None] / 127
            plain.get_submodule(name).weight.data = values
    tokenizer = worlds.tokenizer()
    found, expected = (
        lora_gradients(load(each, tokenizer=tokenizer, adapter={"r": 2})) for each in (network, plain)
    )
    assert largest_error(found, expected) < 0.05
