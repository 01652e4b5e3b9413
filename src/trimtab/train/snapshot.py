"""The whole state of a training loop, held in memory: take it, train on trial, put it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import CheckpointError, explain


@dataclass(frozen=True)
class Snapshot:
    """Everything that decides how training goes on from a step.

    Attributes:
        step: optimiser steps taken.
        parameters: the trainable parameters by name (with LoRA: the adapter's, nothing else).
        moments: the optimiser's tensors by parameter name; empty before the first step.
        stream: the cursor of the data stream.
        rng: the states of torch's generators, by device.
    """

    step: int
    parameters: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]
    stream: Mapping[str, Any]
    rng: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take."""
        moments = [tensor for state in self.moments.values() for tensor in state.values()]
        return sum(t.numel() * t.element_size() for t in (*self.parameters.values(), *moments))


def copy_parameters(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """A detached copy of each parameter, on its own device."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def copy_moments(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """A copy of the optimiser's tensors, by parameter name."""
    return {
        name: {key: value.clone() for key, value in optimizer.state[parameter].items()}
        for name, parameter in parameters.items()
        if parameter in optimizer.state
    }


@torch.no_grad()
def put_parameters(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Write `values` into the parameters of the same names, in place and bit for bit.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape or dtype is another; nothing is changed then.
    """
    check_parameters(parameters, values)
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def check_parameters(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError unless there is one value per parameter, of its shape and dtype."""
    if others := sorted(set(parameters) ^ set(values)):
        got = f"{'no' if others[0] in parameters else 'a'} tensor {others[0]!r}"
        raise CheckpointError(explain(got, "one per trainable parameter"))
    for name, parameter in parameters.items():
        value = values[name]
        if value.shape != parameter.shape or value.dtype != parameter.dtype:
            expected = _kind(parameter)
            raise CheckpointError(f"tensor {name!r}: {explain(_kind(value), expected)}")


def check_moments(parameters: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise a CheckpointError unless moments are of known parameters, shaped like them, the same parts for each."""
    parts = {frozenset(state) for state in moments.values()}
    if len(parts) > 1:
        raise CheckpointError(explain("moments with other parts than the others have", "the same for each"))
    for name, state in moments.items():
        if name not in parameters:
            raise CheckpointError(explain(f"moments of {name!r}", "moments of the trainable parameters"))
        for key, value in state.items():
            shape = value.shape if key == "step" and value.numel() == 1 else parameters[name].shape
            if value.shape != shape or not value.is_floating_point():
                expected = f"floats of shape {tuple(parameters[name].shape)}"
                raise CheckpointError(f"moment {key!r} of {name!r}: {explain(_kind(value), expected)}")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


@torch.no_grad()
def put_moments(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    moments: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Make the optimiser's state equal to `moments`; parameters that had none then have none again.

    Raises:
        CheckpointError: see `check_moments`; nothing is changed then.
    """
    check_moments(parameters, moments)
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for name, parameter in parameters.items():
        if name not in moments:
            optimizer.state.pop(parameter, None)
            continue
        state = optimizer.state[parameter]
        for key, value in moments[name].items():
            if key in state:
                state[key].copy_(value)
            else:
                # Fused kernels count steps on the parameter's device, all others on the CPU.
                device = "cpu" if key == "step" and not fused else parameter.device
                state[key] = value.to(device, copy=True)


def rng_states() -> dict[str, Tensor]:
    """The states of torch's generators: the CPU's, and each CUDA device's in use."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for index in range(torch.cuda.device_count()):
            states[f"cuda:{index}"] = torch.cuda.get_rng_state(index)
    return states


def put_rng_states(states: Mapping[str, Tensor]) -> None:
    """Restore what `rng_states` returned; the states of CUDA devices that are not here are left out."""
    for device, state in states.items():
        if device == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(state, device)


@contextmanager
def rng_kept() -> Iterator[None]:
    """Give torch's generators the states back that they had before a block."""
    states = rng_states()
    try:
        yield
    finally:
        put_rng_states(states)
