"""Tiny models of every family and a tokenizer that needs no file."""

from __future__ import annotations

import string
from collections.abc import Callable

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 8}
CONFIGS: dict[str, Callable[[], hf.PreTrainedConfig]] = {
    "llama": lambda: hf.LlamaConfig(**GROUPED),
    "mistral": lambda: hf.MistralConfig(**GROUPED),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**GROUPED),
    "gemma2": lambda: hf.Gemma2Config(**GROUPED),
    "gemma3_text": lambda: hf.Gemma3TextConfig(**GROUPED),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=64, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1
    ),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SIZES),
}


def build(name: str, seed: int = 0) -> hf.PreTrainedModel:
    """A fresh model of a family; weights of standard deviation .3, so that its outputs differ by input."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = hf.AutoModelForCausalLM.from_config(CONFIGS[name]())
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
    return module.eval()


@pytest.fixture
def make() -> Callable[..., hf.PreTrainedModel]:
    """Build a fresh model of a family."""
    return build


@pytest.fixture(scope="session")
def tokenizer() -> hf.PreTrainedTokenizerFast:
    """One token per character; no padding token, padding on the right."""
    words = ["<s>", "</s>", "<unk>", *string.ascii_letters, *" .,;:!?()"]
    table = {word: place for place, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = Fuse()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )
