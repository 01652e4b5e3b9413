"""Untrained model: the control of every reading, the same architecture with weights as they are initialised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from trimtab.models.families import unwrapped
from trimtab.models.load import Model
from trimtab.seeds import derive, isolated


def untrained(model: Model, seed: int) -> Model | None:
    """The same configuration, initialised anew from a seed; None where transformers cannot build it.

    The caller's model and random state are unchanged; the new one has its device and number type, without an adapter.
    """
    network = unwrapped(model.module)
    if not isinstance(network, PreTrainedModel):
        return None
    kind: Callable[..., nn.Module] = type(network)
    with isolated(derive(seed, "fresh weights")):
        made = kind(network.config)
    return replace(model, module=made.to(model.device, network.dtype).train(False))
