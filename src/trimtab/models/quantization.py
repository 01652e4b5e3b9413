"""Linear maps in 4 bits, by bitsandbytes: a base for a LoRA that takes an eighth of float32.

The format is that of QLoRA (Dettmers et al., 2023): NormalFloat of 4 bits in blocks of 64, whose scales have 8 bits in
blocks of 256.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from trimtab.errors import Problem, install_hint
from trimtab.models.families import refusal, unwrapped

PACKAGE = "bitsandbytes"
BYTES_PER_PARAMETER = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Of a map in 4 bits, its scales and theirs included."""


def is_installed() -> bool:
    """Whether bitsandbytes is there."""
    return find_spec(PACKAGE) is not None


def four_bit_problems(dtype: str | None) -> Iterator[Problem]:
    """Problems of a config that asks for 4 bits: of its type beside them, and of this machine."""
    if dtype == "float64":
        yield Problem("dtype", "'float64' beside load_in_4bit", "'bfloat16', 'float32' or null")
    if not is_installed():
        hint = install_hint("quantization")
        yield Problem("load_in_4bit", f"true without {PACKAGE}", "the package that holds them", hint)


def in_four_bits(network: nn.Module) -> bool:
    """Whether a network has linear maps of bitsandbytes in 4 bits."""
    return any(hasattr(one, "quant_state") and hasattr(one, "quant_type") for one in network.parameters())


def four_bits(dtype: str | torch.dtype | None) -> Any:
    """The setting for `from_pretrained` that reads linear maps as 4 bits, all but the output layer.

    Args:
        dtype: in which the maps are multiplied, or its name; None for float32.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    if not is_installed():
        got = f"load_in_4bit=True without {PACKAGE}"
        raise refusal(got, "the package that holds weights in 4 bits", install_hint("quantization"))
    config: Any = BitsAndBytesConfig
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def quantization_settings(network: nn.Module) -> dict[str, Any] | None:
    """The settings of transformers' `BitsAndBytesConfig` that a network was quantised with; None for any other."""
    settings = getattr(getattr(unwrapped(network), "config", None), "quantization_config", None)
    for bits, names in _SETTINGS.items():
        if _setting(settings, bits):
            named = {name: _setting(settings, name) for name in names}
            kept = {name: value for name, value in named.items() if value is not None}
            types = {
                name: str(it).removeprefix("torch.")
                for name, it in kept.items()
                if isinstance(it, torch.dtype)
            }
            return {bits: True, **kept, **types}
    return None


_SETTINGS = {
    "load_in_4bit": (
        "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant",
        "bnb_4bit_compute_dtype",
        "llm_int8_skip_modules",
    ),
    "load_in_8bit": ("llm_int8_skip_modules",),
}
"""What decides about the weights, by how many bits they have. transformers leaves whole what the last one names."""


def is_four_bit_checkpoint(where: str, config: Any) -> bool:
    """Whether a checkpoint's weights are in 4 bits of bitsandbytes already; False where they are not quantised.

    Args:
        where: the folder or name, for the error.
        config: of the checkpoint, as transformers reads it.

    Raises:
        ModelError: they are quantised otherwise; transformers would leave them so, whatever it is asked for.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None or _setting(settings, "load_in_4bit"):
        return settings is not None
    method = _setting(settings, "quant_method")
    got = f"load_in_4bit=True for weights that are quantised already ({getattr(method, 'value', method)})"
    raise refusal(got, "an unquantised checkpoint", "load(...) without it", at=where)


def parameter_count(network: nn.Module) -> int:
    """Parameters of a network; of a map in 4 bits, those that it stands for."""
    shapes = (getattr(getattr(one, "quant_state", None), "shape", None) for one in network.parameters())
    pairs = zip(network.parameters(), shapes, strict=True)
    return sum(one.numel() if shape is None else shape.numel() for one, shape in pairs)


def _setting(settings: Any, name: str) -> Any:
    """A setting of a quantisation, which a checkpoint has as a mapping or as an object."""
    return settings.get(name) if isinstance(settings, Mapping) else getattr(settings, name, None)


def keep_differentiable(network: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit maps on the CPU, in place; what they compute stays the same.

    On a CPU with bfloat16 instructions it repacks each map when it is first read in evaluation mode. From then on the
    map passes no gradient to what lies before it, without an error, and the model's fingerprint is another. For the
    fingerprint's sake biases get the type that they are computed in now, and not when they are first read.
    """
    for part in network.modules():
        if hasattr(part, _REPACKS):
            setattr(part, _REPACKS, False)
            bias, kind = getattr(part, "bias", None), getattr(part, "compute_dtype", None)
            if isinstance(bias, torch.Tensor) and kind is not None:
                bias.data = bias.data.to(kind)


def refuse_repacked(network: nn.Module) -> None:
    """Refuse a network with 4-bit maps that pass no gradient, or will not after a reading.

    Raises:
        ModelError: there is one; see `keep_differentiable`.
    """
    for name, part in network.named_modules():
        weight = getattr(part, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.device.type != "cpu":
            continue
        repacked = getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False)
        if repacked or getattr(part, _REPACKS, False):
            got = (
                f"4-bit weights at {name} that {PACKAGE} repacks for reading on this CPU, without a gradient"
            )
            raise refusal(got, "weights that keep one", "load(module) before its first forward pass")


_REPACKS = "support_avx512bf16_for_cpu"
"""Attribute of a 4-bit map of bitsandbytes: whether it may repack its weights."""
