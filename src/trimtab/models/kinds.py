"""Which kind of model it is: a causal language model or another one, by its checkpoint, its class and its handle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import transformers
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from trimtab.errors import ModelError, explain, nearest
from trimtab.models.families import unwrapped
from trimtab.models.inspection import check_model

if TYPE_CHECKING:
    from trimtab.models.load import Model

Kind = Literal["any", "language model"]
_CAUSAL = "a causal language model"


def check_kind(kind: str) -> None:
    """Refuse a word that names no kind."""
    if kind not in get_args(Kind):
        raise ModelError(
            f"kind: {explain(repr(kind), f'one of {get_args(Kind)}', nearest(kind, get_args(Kind)))}"
        )


def is_causal(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint of this configuration is a causal language model with its head."""
    kinds = config.architectures or []
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    causal = {name for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in _names(names)}
    return known and (not kinds or bool(causal.intersection(kinds))) and not _looks_both_ways(config)


def loader(config: PreTrainedConfig) -> Any:
    """The class to load a checkpoint with: the one that saved it, so that no weight is missing or left over.

    Causal language models go through `AutoModelForCausalLM`, what names no class of transformers through `AutoModel`.
    """
    if is_causal(config):
        return AutoModelForCausalLM
    for name in config.architectures or []:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found
    return AutoModel


def refuse_checkpoint(where: str, config: PreTrainedConfig) -> None:
    """Refuse a checkpoint that is no causal language model.

    Raises:
        ModelError: naming what it is.
    """
    if not is_causal(config):
        got = f"{where}, which is {' '.join(config.architectures or []) or config.model_type}"
        raise ModelError(explain(got, _CAUSAL, "a checkpoint such as Qwen/Qwen3-0.6B"))


def refuse_module(module: nn.Module) -> None:
    """Refuse a transformers model that is no causal language model; a module of one's own is taken at its word.

    Raises:
        ModelError: naming its class.
    """
    if not isinstance(module, PreTrainedModel) and not hasattr(module, "get_base_model"):
        return
    network = unwrapped(module)
    config = getattr(network, "config", None)
    speaks = isinstance(network, PreTrainedModel) and network.can_generate()
    if not speaks or config is None or _looks_both_ways(config):
        raise ModelError(explain(f"a {type(network).__name__}", _CAUSAL, "its ...ForCausalLM class"))


def require_language_model(model: Model) -> None:
    """Refuse a handle on anything that is no causal language model with a tokenizer.

    For what only makes sense with one: call it before any work starts.

    Raises:
        ModelError: it is of another kind, has no tokenizer or weights that were never loaded, or is no handle.
    """
    if not isinstance(getattr(model, "module", None), nn.Module) or isinstance(model, nn.Module):
        got, hint = f"a {type(model).__name__}", "load(...), with tokenizer= beside a module"
        raise ModelError(explain(got, "a loaded model", hint))
    refuse_module(model.module)
    check_model(model)
    model.need_tokenizer()


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _looks_both_ways(config: PreTrainedConfig) -> bool:
    """Whether a model sees the future: encoder-decoders, and encoders such as BERT unless set to decode."""
    encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return bool(config.is_encoder_decoder) or (encoder and getattr(config, "is_decoder", None) is False)
