"""Where each family of language models keeps its blocks, norms, outputs and embeddings: data, not code."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import nn

from trimtab.errors import ModelError, explain, nearest


@dataclass(frozen=True)
class Family:
    """The places of one family, as module paths.

    Paths of `IN_BLOCK` are relative to a block; the others are relative to the whole model. A place means
    the same in every family: `attention_out` and `mlp_out` are the last linear maps of the two halves of a
    block, so their outputs are what the half computes, before dropout and before any sandwich norm.
    """

    name: str
    blocks: str
    attention_out: str
    mlp_out: str
    pre_attention_norm: str
    pre_mlp_norm: str
    final_norm: str
    embedding: str
    unembedding: str

    def path(self, place: str, block: int | None = None) -> str:
        """The module path of a place, such as `mlp_out` of block 3.

        Args:
            place: a field of this class.
            block: which block, from 0; given exactly when the place is inside a block.

        Raises:
            ModelError: there is no such place, or `block` is missing or superfluous.

        >>> FAMILIES["gemma2"].path("pre_mlp_norm", 3)
        'model.layers.3.pre_feedforward_layernorm'
        """
        if place not in PLACES:
            raise ModelError(explain(place, f"one of {', '.join(PLACES)}", nearest(place, PLACES)))
        if (place in IN_BLOCK) != (block is not None):
            expected = "a block number" if place in IN_BLOCK else "no block number"
            raise ModelError(f"{place}: {explain(block, expected)}")
        own = str(getattr(self, place))
        return own if block is None else f"{self.blocks}.{block}.{own}"


PLACES = tuple(field.name for field in fields(Family) if field.name != "name")
IN_BLOCK = ("attention_out", "mlp_out", "pre_attention_norm", "pre_mlp_norm")

_LLAMA = Family(
    name="llama",
    blocks="model.layers",
    attention_out="self_attn.o_proj",
    mlp_out="mlp.down_proj",
    pre_attention_norm="input_layernorm",
    pre_mlp_norm="post_attention_layernorm",
    final_norm="model.norm",
    embedding="model.embed_tokens",
    unembedding="lm_head",
)
# Gemma 2 and 3 put a norm on both sides of each half: `post_attention_layernorm` closes the attention there.
_GEMMA = replace(_LLAMA, name="gemma2", pre_mlp_norm="pre_feedforward_layernorm")
_GPT2 = Family(
    name="gpt2",
    blocks="transformer.h",
    attention_out="attn.c_proj",
    mlp_out="mlp.c_proj",
    pre_attention_norm="ln_1",
    pre_mlp_norm="ln_2",
    final_norm="transformer.ln_f",
    embedding="transformer.wte",
    unembedding="lm_head",
)
_GPT_NEOX = Family(
    name="gpt_neox",
    blocks="gpt_neox.layers",
    attention_out="attention.dense",
    mlp_out="mlp.dense_4h_to_h",
    pre_attention_norm="input_layernorm",
    pre_mlp_norm="post_attention_layernorm",
    final_norm="gpt_neox.final_layer_norm",
    embedding="gpt_neox.embed_in",
    unembedding="lm_head",
)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, name="mistral"),
    "qwen2": replace(_LLAMA, name="qwen2"),
    "qwen3": replace(_LLAMA, name="qwen3"),
    "gemma2": _GEMMA,
    "gemma3_text": replace(_GEMMA, name="gemma3_text"),
    "gpt2": _GPT2,
    "gpt_neox": _GPT_NEOX,
}
"""The families we know, by the `model_type` of their configuration."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside a PEFT wrapper, or the module itself when it has none."""
    inner = getattr(module, "get_base_model", None)
    base = inner() if callable(inner) else module
    return base if isinstance(base, nn.Module) else module


def family_of(module: nn.Module) -> Family | None:
    """The family of a model, with or without a PEFT wrapper; None when we have no table for it."""
    config = getattr(unwrapped(module), "config", None)
    return FAMILIES.get(str(getattr(config, "model_type", "")))
