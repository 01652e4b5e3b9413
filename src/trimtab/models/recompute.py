"""Activation checkpointing: memory for time, by keeping one tensor per layer and computing the rest again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from trimtab.models.families import refusal, unwrapped


@contextmanager
def activation_checkpointing(module: nn.Module) -> Iterator[None]:
    """Activation checkpointing of a model of transformers for a block; it stays on afterwards where it was on before.

    Only training passes are changed. Gradients are those of a plain pass.

    Args:
        module: a network of transformers, with or without an adapter of peft.

    Raises:
        ModelError: the network has no activation checkpointing.
    """
    network = unwrapped(module)
    names = ("activation_checkpointing", "gradient_checkpointing")  # the second until transformers 5.20
    name = next((one for one in names if callable(getattr(network, f"{one}_enable", None))), None)
    if name is None or not getattr(network, "supports_gradient_checkpointing", False):
        hint = "fit.activation_checkpointing=False, or a smaller fit.micro_batch_size"
        raise refusal(f"activation checkpointing of {type(network).__name__}", "a network that has it", hint)
    if any(getattr(part, "gradient_checkpointing", False) for part in network.modules()):
        yield
        return
    with warnings.catch_warnings():
        # Wrappers of peft are asked by names that transformers 5.23 has deprecated.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.*deprecated", FutureWarning)
        getattr(network, f"{name}_enable")(**{f"{name}_kwargs": {"use_reentrant": False}})
        try:
            yield
        finally:
            getattr(network, f"{name}_disable")()
