"""Inspection of a network before use: its kind, the device and quantisation of its weights, what they allow."""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.pytorch_utils import Conv1D

from trimtab.models.devices import accelerate_hooks
from trimtab.models.families import Handle, refusal, unwrapped
from trimtab.models.quantization import refuse_repacked


def module_of(model: Handle | nn.Module) -> nn.Module:
    """The network of a handle, or the network itself.

    Raises:
        ModelError: it is neither.
    """
    network = model if isinstance(model, nn.Module) else getattr(model, "module", None)
    if not isinstance(network, nn.Module):
        raise refusal(f"a {type(model).__name__}", "a loaded model or a torch module", "load(...)")
    return network


def stored(network: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Values of a parameter or buffer, also where accelerate has offloaded them.

    Args:
        network: the network, or the part of it, that `name` is relative to.
        name: as in `named_parameters` or `state_dict`.
        tensor: what is there now.

    Raises:
        ModelError: it has no values anywhere: the network was built on the meta device and never loaded.
    """
    if not tensor.is_meta:
        return tensor
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):  # a hook of the module, or of one around it, keeps them
        key = ".".join(parts[depth:])
        for hook in accelerate_hooks(network.get_submodule(".".join(parts[:depth]))):
            kept: Any = getattr(hook, "weights_map", None)
            if kept is not None and key in kept:
                values: Tensor = kept[key]
                return values
    hint = "from_pretrained, or load_state_dict(..., assign=True)"
    raise refusal(f"{name} without values (on the meta device)", "weights that are loaded", hint)


Use = Literal["reading", "gradients", "training", "folding", "saving"]

_QUANTISED = re.compile("Linear4bit|Linear8bitLt|QuantLinear|QLinear|HQQLinear|WQLinear|AqlmLinear")
"""In the names of classes of linear maps with quantised weights."""
_VERBS = {
    "gradients": "gradients through it",
    "training": "training",
    "folding": "folding into its weights",
    "saving": "a checkpoint of it",
}


def check_model(model: Handle | nn.Module, use: Use = "reading") -> None:
    """Refuse a network that cannot be read, differentiated, trained, folded into or saved.

    Args:
        model: a handle or a network.
        use: "reading" runs it; "gradients" differentiates its activations; "training" changes its parameters;
            "folding" and "saving" need its weights as plain numbers.

    Raises:
        ModelError: neither a handle nor a network; weights were never loaded; or, for more than reading, accelerate
            keeps them elsewhere between forward passes, they are spread over several devices (training), quantised
            without a way to do so, or compiled.
    """
    network = module_of(model)
    for name, parameter in network.named_parameters():
        stored(network, name, parameter)
    if use == "reading":
        return
    here = ("weights on one device", "loading it without device_map")
    if use != "gradients" and any(
        getattr(hook, "offload", False) for part in network.modules() for hook in accelerate_hooks(part)
    ):
        got = f"{_VERBS[use]} for a model whose weights accelerate has offloaded"
        raise refusal(got, "weights that stay on one device", here[1])
    devices = {str(parameter.device) for parameter in network.parameters()}
    if use == "training" and len(devices) > 1:
        raise refusal(f"training of a model that is spread over {', '.join(sorted(devices))}", *here)
    _refuse_quantised(network, use)
    if use == "training" and any(map(is_compiled, network.modules())):
        got = "training of a compiled model, whose parameters have other names"
        raise refusal(got, "a model that is not compiled", "the module before torch.compile")


def quantised(network: nn.Module) -> str | None:
    """Description of quantised weights in a network, for a message; None where all weights are plain numbers.

    Knows torch's own int8 modules, tensors of another class (torchao), packed integers as parameters, and what
    transformers marks as quantised (bitsandbytes, GPTQ, AWQ and so on).
    """
    for name, part in network.named_modules():
        if _is_quantised(part):
            return f"a {type(part).__name__} at {name}"
    for name, parameter in network.named_parameters():
        plain = parameter.is_floating_point() or parameter.is_complex()
        if not plain or parameter.dtype.itemsize == 1:  # float8 has no arithmetic of its own
            return f"{parameter.dtype} at {name}"
        kind = type(parameter.data)
        packed = kind not in (Tensor, nn.Parameter) and hasattr(parameter.data, "dequantize")
        if packed and kind.__name__ not in ("FakeTensor", "DTensor"):
            return f"a {kind.__name__} at {name}"
    bare = unwrapped(network)
    if getattr(bare, "is_quantized", False) or getattr(bare, "hf_quantizer", None) is not None:
        return f"a {type(bare).__name__} that transformers has quantised"
    return None


def is_linear(part: nn.Module) -> bool:
    """Whether a module is a linear map, plain or quantised."""
    quantised_map = _is_quantised(part) and hasattr(part, "out_features")
    return isinstance(part, nn.Linear | Conv1D) or quantised_map


def is_compiled(part: nn.Module) -> bool:
    """Whether torch.compile was applied to this very module."""
    return hasattr(part, "_orig_mod") or part._compiled_call_impl is not None


def _refuse_quantised(network: nn.Module, use: Use) -> None:
    what = quantised(network)
    if what is None:
        return
    lasting = any(_is_torch_quantised(part) for part in network.modules())
    adapted = any(hasattr(part, "peft_config") for part in network.modules())
    refused = {
        "gradients": lasting,
        "training": lasting or not adapted,
        "folding": not lasting,  # modules of torch are judged site by site
        "saving": lasting,
    }
    if refused.get(use, False):
        hint = "" if lasting or use != "training" else "adapter={'r': 16}, or "
        got = f"a quantised model ({what}) for {_VERBS[use]}"
        raise refusal(got, "weights that are plain numbers", f"{hint}the unquantised model")
    if use in ("gradients", "training"):
        refuse_repacked(network)


def _is_quantised(part: nn.Module) -> bool:
    return _is_torch_quantised(part) or _QUANTISED.search(type(part).__name__) is not None


def _is_torch_quantised(part: nn.Module) -> bool:
    """Whether it is a module of torch's own quantisation, which has no derivative and packs its weights."""
    modules = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")
    packed = (buffer for buffer in part.buffers(recurse=False) if isinstance(buffer, Tensor))
    return type(part).__module__.startswith(modules) or any(buffer.is_quantized for buffer in packed)


def sampled_values(network: nn.Module, name: str, tensor: Tensor, most: int) -> Tensor:
    """Evenly spaced values of a parameter or buffer, about `most` of them, in one row; see `stored`.

    Of a quantised tensor, or one of another class, the values as ordinary numbers.
    """
    values = stored(network, name, tensor)
    other = type(values) not in (Tensor, nn.Parameter) and hasattr(values, "dequantize")
    with torch.no_grad():
        flat = (values.dequantize() if values.is_quantized or other else values.detach()).reshape(-1)
    return flat[:: max(1, flat.numel() // most)]


Kind = Literal["any", "language model"]
_CAUSAL = "a causal language model"


def is_causal(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint of this configuration is a causal language model with its head."""
    kinds = config.architectures or []
    registered = config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    classes = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()  # one name, or several
    causal = {name for names in classes for name in ([names] if isinstance(names, str) else names)}
    return registered and (not kinds or bool(causal.intersection(kinds))) and not _looks_both_ways(config)


def loader(config: PreTrainedConfig) -> Any:
    """Class to load a checkpoint with: the one that saved it, so that no weight is missing or left over.

    Causal language models go through `AutoModelForCausalLM`, what names no class of transformers through `AutoModel`.
    """
    if is_causal(config):
        return AutoModelForCausalLM
    for name in config.architectures or []:
        kind = getattr(transformers, name, None)
        if isinstance(kind, type) and issubclass(kind, PreTrainedModel):
            return kind
    return AutoModel


def refuse_checkpoint(where: str, config: PreTrainedConfig) -> None:
    """Refuse a checkpoint that is no causal language model.

    Raises:
        ModelError: naming what it is.
    """
    if not is_causal(config):
        got = f"{where}, which is {' '.join(config.architectures or []) or config.model_type}"
        raise refusal(got, _CAUSAL, "a checkpoint such as Qwen/Qwen3-0.6B")


def refuse_module(module: nn.Module) -> None:
    """Refuse a transformers model that is no causal language model; modules of other classes pass.

    Raises:
        ModelError: naming its class.
    """
    if not isinstance(module, PreTrainedModel) and not hasattr(module, "get_base_model"):
        return
    network = unwrapped(module)
    config = getattr(network, "config", None)
    speaks = isinstance(network, PreTrainedModel) and network.can_generate()
    if not speaks or config is None or _looks_both_ways(config):
        raise refusal(f"a {type(network).__name__}", _CAUSAL, "its ...ForCausalLM class")


def require_language_model(model: Handle) -> None:
    """Refuse a handle on anything that is no causal language model with a tokenizer.

    For what only makes sense with one: call it before any work starts.

    Raises:
        ModelError: it is of another kind, has no tokenizer or weights that were never loaded, or is no handle.
    """
    if not isinstance(getattr(model, "module", None), nn.Module) or isinstance(model, nn.Module):
        hint = "load(...), with tokenizer= beside a module"
        raise refusal(f"a {type(model).__name__}", "a loaded model", hint)
    refuse_module(model.module)
    check_model(model)
    model.need_tokenizer()


def _looks_both_ways(config: PreTrainedConfig) -> bool:
    """Whether a model sees the future: encoder-decoders, and encoders such as BERT unless set to decode."""
    encoder = config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return bool(config.is_encoder_decoder) or (encoder and getattr(config, "is_decoder", None) is False)
