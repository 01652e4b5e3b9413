"""Devices of this machine: which there are, which one a model goes to or is on, and names that are of none."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import nn

from trimtab.errors import Problem, nearest


def device_problems(device: str | None, where: str = "device") -> Iterator[Problem]:
    """Problems of a device's name: torch does not know it, or this machine does not have it; None is any.

    >>> list(device_problems("cpu")), [problem.got for problem in device_problems("gpu")]
    ([], ["'gpu'"])
    """
    if device is None or device in ("cpu", "cpu:0"):
        return
    here = available_devices()
    expected = f"{', '.join(map(repr, here))}, or null for the first accelerator, else the CPU"
    try:
        named = str(torch.device(device))
    except (RuntimeError, ValueError):
        named = ""
    if named not in here and named not in {one.partition(":")[0] for one in here}:
        got = repr(device if len(device) <= 60 else f"{device[:57]}...")
        got += ", which is not on this machine" if named else ""
        yield Problem(where, got, expected, nearest(device[:60], here))


def available_devices() -> list[str]:
    """Devices of this machine: the CPU, and each accelerator with its number."""
    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    return ["cpu", *(f"{kind.type}:{number}" for number in range(torch.accelerator.device_count()))]


def device_name(device: torch.device) -> str:
    """Name of a GPU; the kind of any other device.

    >>> device_name(torch.device("cpu"))
    'cpu'
    """
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def default_device() -> torch.device:
    """Default device: this process's GPU, under torchrun too; the CPU without one or if ACCELERATE_USE_CPU is set."""
    if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true"):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def emulates_bfloat16() -> bool:
    """Whether torch emulates bfloat16 on this processor: an x86 without AVX-512."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "NO AVX")


def warn_of_emulation(device: torch.device, dtype: torch.dtype | None) -> None:
    """Warn where products of this type are emulated on this device, which makes a matrix product many times slower.

    Most checkpoints are saved in bfloat16.
    """
    if device.type == "cpu" and dtype == torch.bfloat16 and emulates_bfloat16():
        warnings.warn(
            "This processor has no arithmetic for bfloat16 and emulates it, many times slower than float32; "
            'try dtype="float32", in a run fit.precision: fp32',
            stacklevel=3,
        )


def device_of(network: nn.Module) -> torch.device:
    """Device for inputs: that of the first weights, also where accelerate has offloaded them.

    The CPU for a network without weights.
    """
    for part in network.modules():
        for hook in accelerate_hooks(part):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    tensors = chain(network.parameters(), network.buffers())
    return next((one.device for one in tensors if not one.is_meta), torch.device("cpu"))


def accelerate_hooks(part: nn.Module) -> tuple[Any, ...]:
    """What accelerate has attached to a module; several hooks may be in one."""
    hook = getattr(part, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,))) if hook is not None else ()
