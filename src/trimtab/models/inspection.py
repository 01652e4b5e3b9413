"""Whether a network can be used as asked, seen before any work: weights, devices, quantisation, compilation.

Which kind of model it is: a causal language model or another one, by its checkpoint, its class and its handle.

Where a network's weights are: on a device, put away by accelerate until they are needed, or nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

from trimtab.errors import ModelError, explain, nearest
from trimtab.models.families import unwrapped

if TYPE_CHECKING:
    from trimtab.models.load import Model


def device_of(network: nn.Module) -> torch.device:
    """The device that inputs go to: that of the first weights, also where accelerate keeps those elsewhere.

    The CPU for a network without weights.
    """
    for part in network.modules():
        for hook in _hooks(part):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    tensors = (*network.parameters(), *network.buffers())
    return next((one.device for one in tensors if not one.is_meta), torch.device("cpu"))


def devices_of(network: nn.Module) -> set[torch.device]:
    """All devices that hold weights between forward passes; `meta` stands for weights that are put away."""
    return {parameter.device for parameter in network.parameters()}


def is_offloaded(network: nn.Module) -> bool:
    """Whether accelerate keeps weights on the CPU or on disk and brings them to the device for each forward pass."""
    return any(getattr(hook, "offload", False) for part in network.modules() for hook in _hooks(part))


def stored(network: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """A parameter or buffer with its values, also where accelerate has put them away.

    Args:
        network: the network, or the part of it, that `name` is relative to.
        name: as in `named_parameters` or `state_dict`.
        tensor: what is there now.

    Raises:
        ModelError: it has no values anywhere: the network was built on the meta device and never loaded.
    """
    if not tensor.is_meta:
        return tensor
    values = next(_put_away(network, name), None)
    if values is None:
        hint = "from_pretrained, or load_state_dict(..., assign=True)"
        raise ModelError(
            explain(f"{name} without values (on the meta device)", "weights that are loaded", hint)
        )
    return values


def refuse_unloaded(network: nn.Module) -> None:
    """Refuse a network some of whose weights were never loaded.

    Raises:
        ModelError: naming the first such weight.
    """
    for name, parameter in network.named_parameters():
        if parameter.is_meta:
            stored(network, name, parameter)


def _put_away(network: nn.Module, name: str) -> Iterator[Tensor]:
    """The values that a hook of the module, or of one around it, keeps under this name."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        for hook in _hooks(network.get_submodule(".".join(parts[:depth]))):
            kept: Any = getattr(hook, "weights_map", None)
            key = ".".join(parts[depth:])
            if kept is not None and key in kept:
                yield kept[key]


def _hooks(part: nn.Module) -> tuple[Any, ...]:
    """What accelerate has attached to a module; several hooks may be in one."""
    hook = getattr(part, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,))) if hook is not None else ()


Use = Literal["reading", "gradients", "training", "folding", "saving"]

_QUANTISED_CLASSES = (
    "Linear4bit",
    "Linear8bitLt",
    "QuantLinear",
    "QLinear",
    "HQQLinear",
    "WQLinear",
    "AqlmLinear",
)
_VERBS = {
    "gradients": "gradients through it",
    "training": "training",
    "folding": "folding into its weights",
    "saving": "a checkpoint of it",
}


def check_model(model: Model | nn.Module, use: Use = "reading") -> None:
    """Refuse a network that cannot be used as asked.

    Args:
        model: a handle or a network.
        use: "reading" runs it; "gradients" differentiates its activations; "training" changes its parameters;
            "folding" and "saving" need its weights as plain numbers.

    Raises:
        ModelError: neither a handle nor a network; weights were never loaded; or, for more than reading, accelerate
            keeps them elsewhere between forward passes, they are spread over several devices (training), quantised
            without a way to do so, or compiled.
    """
    network = model if isinstance(model, nn.Module) else getattr(model, "module", None)
    if not isinstance(network, nn.Module):
        raise ModelError(
            explain(f"a {type(model).__name__}", "a loaded model or a torch module", "load(...)")
        )
    refuse_unloaded(network)
    if use == "reading":
        return
    if is_offloaded(network) and use != "gradients":
        got = f"{_VERBS[use]} for a model whose weights accelerate has offloaded"
        raise ModelError(explain(got, "weights that stay on one device", "loading it without device_map"))
    if use == "training" and len(spread := devices_of(network)) > 1:
        got = f"training of a model that is spread over {', '.join(sorted(map(str, spread)))}"
        raise ModelError(explain(got, "weights on one device", "loading it without device_map"))
    _refuse_quantised(network, use)
    if use == "training" and is_compiled(network):
        got = "training of a compiled model, whose parameters have other names"
        raise ModelError(explain(got, "a model that is not compiled", "the module before torch.compile"))


def quantised(network: nn.Module) -> str | None:
    """What holds quantised weights in a network, for a message; None where all weights are plain numbers.

    Knows torch's own int8 modules, tensors of another class (torchao), packed integers as parameters, and what
    transformers marks as quantised (bitsandbytes, GPTQ, AWQ and so on).
    """
    for name, part in network.named_modules():
        kind = type(part)
        if _is_torch_quantised(part) or any(word in kind.__name__ for word in _QUANTISED_CLASSES):
            return f"a {kind.__name__} at {name}"
    for name, parameter in network.named_parameters():
        plain = parameter.is_floating_point() or parameter.is_complex()
        if not plain or parameter.dtype.itemsize == 1:  # float8 has no arithmetic of its own
            return f"{parameter.dtype} at {name}"
        if type(parameter.data) not in (Tensor, nn.Parameter) and hasattr(parameter.data, "dequantize"):
            kind_name = type(parameter.data).__name__
            if kind_name not in ("FakeTensor", "DTensor"):
                return f"a {kind_name} at {name}"
    bare = unwrapped(network)
    if getattr(bare, "is_quantized", False) or getattr(bare, "hf_quantizer", None) is not None:
        return f"a {type(bare).__name__} that transformers has quantised"
    return None


def is_linear(part: nn.Module) -> bool:
    """Whether a module is a linear map, plain or quantised."""
    quantised_map = _is_torch_quantised(part) or any(
        word in type(part).__name__ for word in _QUANTISED_CLASSES
    )
    return isinstance(part, nn.Linear | Conv1D) or (quantised_map and hasattr(part, "out_features"))


def is_compiled(network: nn.Module) -> bool:
    """Whether torch.compile has been at the network or at a part of it."""
    return any(
        hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in network.modules()
    )


def _refuse_quantised(network: nn.Module, use: Use) -> None:
    what = quantised(network)
    if what is None:
        return
    lasting = any(_is_torch_quantised(part) for part in network.modules())
    adapted = any(hasattr(part, "peft_config") for part in network.modules())
    refused = {
        "gradients": lasting,
        "training": lasting or not adapted,
        "folding": not lasting,  # modules of torch are told apart site by site
        "saving": lasting,
    }
    if refused.get(use, False):
        hint = (
            "the unquantised model"
            if lasting or use != "training"
            else "adapter={'r': 16}, or the unquantised model"
        )
        raise ModelError(
            explain(f"a quantised model ({what}) for {_VERBS[use]}", "weights that are plain numbers", hint)
        )


def _is_torch_quantised(part: nn.Module) -> bool:
    """Whether it is a module of torch's own quantisation, which has no derivative and packs its weights."""
    modules = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")
    return type(part).__module__.startswith(modules) or any(
        isinstance(buffer, Tensor) and buffer.is_quantized for buffer in part.buffers(recurse=False)
    )


def plain_numbers(tensor: Tensor) -> Tensor:
    """The values of a tensor that may be quantised or of another class, as an ordinary tensor."""
    other = type(tensor) not in (Tensor, nn.Parameter) and hasattr(tensor, "dequantize")
    with torch.no_grad():
        return tensor.dequantize() if tensor.is_quantized or other else tensor.detach()


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
