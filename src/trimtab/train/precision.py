"""Training a low-precision checkpoint: weights and moments in float32 meanwhile, losses of the weights as saved.

Between neighbouring bfloat16 numbers lie gaps of 1/256 to 1/128 of their size. A step of AdamW is about the learning
rate; where it is less than half a gap it rounds back to nothing, and the model does not learn. So weights
are held in float32 while they are trained (the "master weights" of Micikevicius et al. 2018, section 3.1), and rounded
once, when they are saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimtab.models.load import Model

LOW = frozenset({torch.bfloat16, torch.float16})
"""The types of weights whose gaps are wider than usual steps of training."""


@contextmanager
def float32_weights(model: Model) -> Iterator[dict[str, torch.dtype]]:
    """Hold a model in float32 for a block if something of low precision is trained in it; then round it back.

    All its weights and buffers of low precision are held so, the frozen ones too, since layers multiply both; frozen
    ones come back bit for bit. A model whose trainable weights are float32 (LoRA as peft makes it) is left alone.

    Args:
        model: changed in place; after the block, also after an exception, every tensor has its own type again.

    Yields:
        The type that each trainable parameter is saved in, by canonical name; empty where nothing was changed.
    """
    trainable = model.trainable()
    if not any(parameter.dtype in LOW for parameter in trainable.values()):
        yield {}
        return
    stored = {name: parameter.dtype for name, parameter in trainable.items() if parameter.dtype in LOW}
    tensors = (*model.module.parameters(), *model.module.buffers())
    held = [(tensor, tensor.dtype) for tensor in tensors if tensor.dtype in LOW]
    try:
        for tensor, _ in held:
            tensor.data = tensor.data.float()
        yield stored
    finally:
        for tensor, dtype in held:
            tensor.grad = None
            tensor.data = tensor.data.to(dtype)


def as_saved(parameters: Mapping[str, nn.Parameter], stored: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """A copy of each parameter in the type that it is saved in."""
    return {name: p.detach().to(stored.get(name, p.dtype), copy=True) for name, p in parameters.items()}


@contextmanager
def rounded(parameters: Mapping[str, nn.Parameter], stored: Mapping[str, torch.dtype]) -> Iterator[None]:
    """For a block, give parameters the values that they will have once saved; then their own again, bit for bit."""
    own = {name: parameters[name].detach().clone() for name in stored}
    with torch.no_grad():
        for name, dtype in stored.items():
            parameters[name].copy_(own[name].to(dtype))
        try:
            yield
        finally:
            for name, value in own.items():
                parameters[name].copy_(value)


@dataclass(frozen=True)
class Rounding:
    """What is left of training once weights are rounded to the type of their checkpoint.

    Attributes:
        changed: share of the trained weights that training changed, in [0, 1].
        returned: share of those that round back to the value they started from; nan where none changed.
    """

    changed: float
    returned: float


def rounding(
    parameters: Mapping[str, nn.Parameter], stored: Mapping[str, torch.dtype], base: Callable[[str], Tensor]
) -> Rounding:
    """Compare float32 weights, and what they round to, with those that training started from.

    Args:
        parameters: in float32.
        stored: the type of each when saved.
        base: gives the values of a parameter at the start, in any type; called once each, so that one is in memory.
    """
    total = changed = returned = 0
    for name, dtype in stored.items():
        now, start = parameters[name].detach(), base(name).to(parameters[name])
        moved = now != start
        total += now.numel()
        changed += int(moved.sum())
        returned += int((moved & (now.to(dtype) == start.to(dtype))).sum())
    return Rounding(changed / total if total else 0.0, returned / changed if changed else float("nan"))
