"""Model families as data: where each keeps its blocks, norms, outputs and embeddings.

`Handle` is the protocol of a loaded model; `refusal` words an error about one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from trimtab import errors
from trimtab.errors import ModelError, nearest


class Handle(Protocol):
    """Protocol of a loaded model; `trimtab.models.load.Model` describes its attributes."""

    @property
    def module(self) -> nn.Module: ...  # noqa: D102

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None: ...  # noqa: D102

    @property
    def processor(self) -> Any: ...  # noqa: D102

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def need_tokenizer(self) -> PreTrainedTokenizerBase: ...  # noqa: D102


def refusal(got: object, expected: str, hint: str = "", *, at: object = "") -> ModelError:
    """ModelError in three parts (got, expected, try), after the place `at` that it is about.

    >>> refusal("float8", "float32", at="dtype")
    ModelError('dtype: got float8, expected float32')
    """
    return cast("ModelError", errors.refusal(at, got, expected, hint, error=ModelError))


IN_BLOCK = ("attention_out", "mlp_out", "pre_attention_norm", "pre_mlp_norm", "residual")
"""The places that every block has (the two norms only where they stand before the halves)."""

WHOLE = ("blocks", "final_norm", "embedding", "unembedding")
"""The places that a model has once."""

PLACES = (*WHOLE, *IN_BLOCK)

Block = int | Literal["*"]


@dataclass(frozen=True)
class Family:
    """Module paths of one model family, with what folding a steering into its weights needs.

    Paths of places in a block are relative to the block, the others to the whole model. A place means the same in
    every family: `attention_out` and `mlp_out` are the last linear maps of the two halves of a block, so their outputs
    are what the half computes, before dropout and before any norm that follows. `residual` is the block itself: its
    output is what the next block reads. None means that the family has no such place.

    Attributes:
        name: the `model_type` of the configuration.
        blocks: the list of blocks.
        attention_out: the last linear map of the attention.
        mlp_out: the last linear map of the MLP.
        pre_attention_norm: the norm whose output the attention reads; None in post-norm models such as BERT.
        pre_mlp_norm: the norm whose output the MLP reads; None in post-norm models.
        final_norm: between the last block and the unembedding; in CLIP's image tower it norms the pooled vector.
        embedding: of tokens, or of the patches of an image.
        unembedding: the linear map to logits; None without a language-modelling head.
        norm_offset: c in `output = normalised * (c + weight)`: 1 for Gemma's RMS norms, 0 elsewhere.
    """

    name: str
    blocks: str
    attention_out: str
    mlp_out: str
    embedding: str
    pre_attention_norm: str | None = None
    pre_mlp_norm: str | None = None
    final_norm: str | None = None
    unembedding: str | None = None
    norm_offset: float = 0.0

    @property
    def places(self) -> tuple[str, ...]:
        """The places that this family has."""
        return tuple(place for place in PLACES if self._relative_path(place) is not None)

    def path(self, place: str, block: Block | None = None) -> str:
        """The module path of a place, such as `mlp_out` of block 3.

        Args:
            place: one of `PLACES`.
            block: which block, from 0, or "*" for a pattern; given exactly when the place is inside a block.

        Raises:
            ModelError: there is no such place, this family has none, or `block` is missing or superfluous.

        >>> FAMILIES["gemma2"].path("pre_mlp_norm", 3)
        'model.layers.3.pre_feedforward_layernorm'
        >>> FAMILIES["gpt2"].path("residual", "*")
        'transformer.h.*'
        """
        if place not in PLACES:
            raise refusal(place, f"one of {', '.join(PLACES)}", nearest(place, PLACES))
        inside = self._relative_path(place)
        if inside is None:
            got = f"{place} of {self.name}, which has none"
            hint = "the path of a module, for instance of a norm that follows a half"
            raise refusal(got, f"one of {', '.join(self.places)}", hint)
        if (place in IN_BLOCK) != (block is not None):
            raise refusal(block, "a block number" if place in IN_BLOCK else "no block number", at=place)
        return inside if block is None else f"{self.blocks}.{block}.{inside}".rstrip(".")

    def under(self, prefix: str) -> Family:
        """The same family in a model that keeps it in its part `prefix`; '' changes nothing."""
        return self._moved(lambda path: f"{prefix}.{path}") if prefix else self

    def rooted(self, module: nn.Module) -> Family | None:
        """The family as this very module has it: with its head or bare; None where the blocks are not there.

        Tables are written for the class with a head, in which all but the head is under one name: `model.layers` in
        LlamaForCausalLM is `layers` in LlamaModel.
        """
        body = self.blocks.partition(".")[0] + "."
        for family in (self, self._moved(lambda path: path.removeprefix(body))):
            if _has(module, family.blocks):
                headed = family.unembedding is not None and _has(module, family.unembedding)
                return family if headed else replace(family, unembedding=None)
        return None

    def _relative_path(self, place: str) -> str | None:
        return "" if place == "residual" else getattr(self, place)

    def _moved(self, move: Callable[[str], str]) -> Family:
        """With other paths from the model to its parts; those inside a block stay."""
        return replace(
            self,
            blocks=move(self.blocks),
            embedding=move(self.embedding),
            final_norm=self.final_norm and move(self.final_norm),
            unembedding=self.unembedding and move(self.unembedding),
        )


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
_GEMMA = replace(_LLAMA, name="gemma2", pre_mlp_norm="pre_feedforward_layernorm", norm_offset=1.0)
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
# BERT adds first and norms afterwards: nothing stands before a half, and a block ends in a norm.
_BERT = Family(
    name="bert",
    blocks="bert.encoder.layer",
    attention_out="attention.output.dense",
    mlp_out="output.dense",
    embedding="bert.embeddings.word_embeddings",
    unembedding="cls.predictions.decoder",
)
_CLIP_TEXT = Family(
    name="clip_text_model",
    blocks="text_model.encoder.layers",
    attention_out="self_attn.out_proj",
    mlp_out="mlp.fc2",
    pre_attention_norm="layer_norm1",
    pre_mlp_norm="layer_norm2",
    final_norm="text_model.final_layer_norm",
    embedding="text_model.embeddings.token_embedding",
)
_CLIP_VISION = replace(
    _CLIP_TEXT,
    name="clip_vision_model",
    blocks="vision_model.encoder.layers",
    final_norm="vision_model.post_layernorm",
    embedding="vision_model.embeddings.patch_embedding",
)

FAMILIES: dict[str, Family] = {
    name: replace(family, name=name)
    for family, names in (
        (_LLAMA, ("llama", "mistral", "qwen2", "qwen3")),
        (_GEMMA, ("gemma2", "gemma3_text")),
        *((family, (family.name,)) for family in (_GPT2, _GPT_NEOX, _BERT, _CLIP_TEXT, _CLIP_VISION)),
    )
    for name in names
}
"""Supported families, by the `model_type` of their configuration."""


def unwrapped(module: nn.Module) -> nn.Module:
    """Base network inside the wrappers of PEFT, torch.compile or data parallelism, or the module itself."""
    compiled = getattr(module, "_orig_mod", None)
    if isinstance(compiled, nn.Module):
        return unwrapped(compiled)
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(module.module)
    inner = getattr(module, "get_base_model", None)
    base = inner() if callable(inner) else module
    return base if isinstance(base, nn.Module) else module


def text_config(module: nn.Module) -> Any:
    """Configuration of the part that reads text; None for a network without one."""
    config: Any = getattr(unwrapped(module), "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def family_of(module: nn.Module) -> Family | None:
    """The family of a model, with or without a PEFT wrapper or a head; None when we have no table for it.

    None, too, for a model of several towers such as CLIP's: see `towers`.
    """
    network = unwrapped(module)
    family = FAMILIES.get(str(getattr(getattr(network, "config", None), "model_type", "")))
    return family.rooted(network) if family else None


def towers(module: nn.Module) -> dict[str, Family]:
    """Towers: the families inside a model, by the path of their part; they hold paths from the root of the model.

    One entry with the path '' for a model of one family; `text_model` and `vision_model` for CLIP; the language
    model inside a model that also sees; empty when we know none of its parts.
    """
    families: dict[str, Family] = {}
    for path, part in unwrapped(module).named_modules():
        inside = any(path.startswith(f"{outer}." if outer else "") for outer in families)
        if not inside and (family := family_of(part)):
            families[path] = family.under(path)
    return families


def _has(module: nn.Module, path: str) -> bool:
    try:
        return module.get_submodule(path) is not None
    except AttributeError:
        return False
