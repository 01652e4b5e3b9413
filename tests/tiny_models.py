"""Tiny random models of every kind the package meets, what to feed them, and a tokenizer that needs no file."""

from __future__ import annotations

import string
import warnings
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.decoders import Fuse
from torch import nn

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
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
GPT2 = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
GPT2 |= {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1}

CONFIGS: dict[str, Callable[..., hf.PreTrainedConfig]] = {
    "llama": lambda **more: hf.LlamaConfig(**GROUPED | more),
    "mistral": lambda **more: hf.MistralConfig(**GROUPED | more),
    "qwen2": lambda **more: hf.Qwen2Config(**GROUPED | more),
    "qwen3": lambda **more: hf.Qwen3Config(**GROUPED | more),
    "gemma2": lambda **more: hf.Gemma2Config(**GROUPED | more),
    "gemma3_text": lambda **more: hf.Gemma3TextConfig(**GROUPED | more),
    "gpt2": lambda **more: hf.GPT2Config(**GPT2 | more),
    "gpt_neox": lambda **more: hf.GPTNeoXConfig(**SIZES | more),
    "bert": lambda **more: hf.BertConfig(**SIZES | {"pad_token_id": 2} | more),
    "clip_text_model": lambda **more: hf.CLIPTextConfig(**SIZES | {"projection_dim": 8} | more),
    "clip_vision_model": lambda **more: hf.CLIPVisionConfig(**VISION | {"projection_dim": 8} | more),
    "clip": lambda **more: hf.CLIPConfig(
        text_config=SIZES | {"projection_dim": 8},
        vision_config=VISION | {"projection_dim": 8},
        projection_dim=8,
        **more,
    ),
}
"""A tiny configuration of each transformers family, by `model_type`; keywords override its entries."""

DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox")
"""The causal language models."""

NINE = ("llama", "qwen3", "gemma3_text", "gpt2", "gpt_neox", "bert", "clip", "unet", "pixart")
"""One of each kind: for tests that must hold for every model."""

NAMES = (*CONFIGS, "bert_masked_lm", "unet", "pixart")
"""Everything that `build` knows."""


def build(name: str, seed: int = 0, **config: Any) -> nn.Module:
    """A fresh model in evaluation mode; weights of standard deviation .3, so that its outputs differ by input.

    Two blocks, 16 wide, 64 tokens, everywhere. Keywords override entries of the configuration.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = _fresh(name, config)
        if name not in ("unet", "pixart"):  # these two grow with their many residual blocks
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.ndim > 1:
                        parameter.normal_(std=0.3)
    return module.eval()


def inputs(name: str, batch: int = 2, seed: int = 0) -> dict[str, Any]:
    """Forward keywords for `build(name)`; each row of text but the first ends in one or two padding tokens."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=draw)

    if name in ("unet", "pixart"):
        steps = torch.randint(0, 1000, (batch,), generator=draw)
        if name == "unet":
            return {"sample": normal(4, 8, 8), "timestep": steps, "encoder_hidden_states": normal(5, 16)}
        return {
            "hidden_states": normal(4, 8, 8),
            "encoder_hidden_states": normal(5, 12),
            "timestep": steps,
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        }
    pixels = {"pixel_values": normal(3, 16, 16)}
    if name == "clip_vision_model":
        return pixels
    mask = torch.ones(batch, 7, dtype=torch.long)
    for row in range(1, batch):
        mask[row, -1 - row % 2 :] = 0
    ids = torch.randint(3, 64, (batch, 7), generator=draw)
    ids = torch.where(mask == 1, ids, torch.ones_like(ids))
    texts = {"input_ids": ids, "attention_mask": mask}
    return texts | pixels if name == "clip" else texts


def tokenizer(padding_side: str = "right", pad_token: str | None = None) -> hf.PreTrainedTokenizerFast:
    """One token per character, 64 in all; no padding token unless one is asked for, such as `"<unk>"`."""
    words = ["<s>", "</s>", "<unk>", *string.ascii_letters, *" .,;:!?()"]
    table = {word: place for place, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = Fuse()
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": pad_token}
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner, padding_side=padding_side, **named)


CHAT = {"vocab_size": 264, "max_position_embeddings": 256}
"""Entries of a configuration that a model needs for `chat_tokenizer`."""


def chat_tokenizer(template: str | None, *, with_bos: bool = False) -> hf.PreTrainedTokenizerFast:
    """One token per byte, with special tokens and a chat template; `with_bos`, it puts `<bos>` before every text."""
    special = ["<bos>", "<eos>", "<|start|>", "<|end|>", "<|return|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({word: place for place, word in enumerate([*special, *letters])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if with_bos:
        inner.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 0)])
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "additional_special_tokens": special[2:]}
    words = hf.PreTrainedTokenizerFast(tokenizer_object=inner, **named)
    words.chat_template = template
    return words


def _fresh(name: str, config: dict[str, Any]) -> nn.Module:
    if name == "unet":
        return _unet(config)
    if name == "pixart":
        return _pixart(config)
    if name == "bert_masked_lm":
        return hf.BertForMaskedLM(CONFIGS["bert"](**config))
    kind = hf.AutoModelForCausalLM if name in DECODERS else hf.AutoModel
    return kind.from_config(CONFIGS[name](**config))


def _unet(config: dict[str, Any]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what diffusers says on import is its own affair
        from diffusers import UNet2DConditionModel
    tiny = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**tiny | config)


def _pixart(config: dict[str, Any]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import PixArtTransformer2DModel
    tiny = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 12,
        "norm_num_groups": 4,
        "use_additional_conditions": False,
    }
    return PixArtTransformer2DModel(**tiny | config)
