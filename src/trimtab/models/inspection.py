"""Whether a network can be used as asked, seen before any work: weights, devices, quantisation, compilation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trimtab.errors import ModelError, explain
from trimtab.models.families import unwrapped
from trimtab.models.placement import devices_of, is_offloaded, refuse_unloaded

if TYPE_CHECKING:
    from trimtab.models.load import Model

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
