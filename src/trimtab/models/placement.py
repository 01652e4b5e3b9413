"""Where a network's weights are: on a device, put away by accelerate until they are needed, or nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import ModelError, explain


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
