"""A small made-up input for a network, to see whether two networks compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.models.families import towers

ROWS, TOKENS = 2, 8
HALF_TOLERANCE = 0.1


def probe_inputs(network: nn.Module) -> dict[str, Tensor] | None:
    """Keywords of a forward pass with random tokens and pictures, the same each time.

    None for what is no single model of transformers that we know: parts of pipelines, models that see and speak.
    """
    kinds = {family.name for family in towers(network).values()}
    sees, reads = "clip_vision_model" in kinds, bool(kinds - {"clip_vision_model"})
    if not isinstance(network, PreTrainedModel) or not kinds or (sees and network.can_generate()):
        return None
    draw = torch.Generator().manual_seed(0)
    config: Any = network.config
    found: dict[str, Tensor] = {}
    if reads:
        words: Any = config.get_text_config()
        found["input_ids"] = torch.randint(0, words.vocab_size, (ROWS, TOKENS), generator=draw)
        found["attention_mask"] = torch.ones_like(found["input_ids"])
    if sees:
        size = getattr(config, "vision_config", config).image_size
        pixels = torch.randn(ROWS, 3, size, size, generator=draw)
        found["pixel_values"] = pixels.to(network.dtype)
    return {name: value.to(network.device) for name, value in found.items()}


def outputs(network: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a network returns, by name, in single precision at least."""
    returned = network(**inputs, return_dict=True)
    tensors = {name: value for name, value in returned.items() if isinstance(value, Tensor)}
    return {name: value if value.dtype == torch.float64 else value.float() for name, value in tensors.items()}


def tolerance(network: nn.Module, single: float) -> float:
    """The gap to allow in single precision and beyond; in half precision only gross mistakes can be told."""
    precise = next(network.parameters()).dtype in (torch.float32, torch.float64)
    return single if precise else HALF_TOLERANCE


def largest_gap(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """The largest difference of two outputs, as a share of the largest value expected; inf where one is nan."""
    return max((_gap(value.detach(), found[name].detach()) for name, value in expected.items()), default=0.0)


def _gap(expected: Tensor, found: Tensor) -> float:
    same = (expected == found) | (expected.isnan() & found.isnan())
    gaps = (expected - found).abs() / expected.abs().max().clamp(min=1e-30)
    return float(torch.where(same, 0.0, gaps).nan_to_num(torch.inf).max())
