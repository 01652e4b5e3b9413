"""Comparison of two networks on the same random dummy inputs, which shows whether they compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.models.captioning import patches_of
from trimtab.models.families import towers
from trimtab.models.speakers import Speaker, speaker_of

ROWS, TOKENS = 2, 8
HALF_TOLERANCE = 0.1


def probe_inputs(network: nn.Module) -> dict[str, Tensor] | None:
    """Dummy inputs: keywords of a forward pass with random tokens and pictures, the same each time.

    None for what is no single model of transformers that we know: parts of pipelines, others that see and speak.
    """
    kinds = {family.name for family in towers(network).values()}
    if not isinstance(network, PreTrainedModel) or not kinds:
        return None
    speaker, draw = speaker_of(network), torch.Generator().manual_seed(0)
    paired = hasattr(network, "get_image_features") and hasattr(network, "get_text_features")
    sees, reads = "clip_vision_model" in kinds or paired, bool(kinds - {"clip_vision_model"})
    if speaker is None and sees and network.can_generate():
        return None
    config: Any = network.config
    inputs: dict[str, Tensor] = {}
    if reads or speaker:
        tokens = config.get_text_config().vocab_size
        inputs["input_ids"] = torch.randint(0, tokens, (ROWS, TOKENS), generator=draw)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if sees or speaker:
        part: Any = network if speaker is None else network.get_submodule(speaker.vision)
        size = getattr(getattr(part.config, "vision_config", part.config), "image_size", None)
        if not isinstance(size, int):
            return None
        inputs["pixel_values"] = torch.randn(ROWS, 3, size, size, generator=draw).to(network.dtype)
        if speaker:
            inputs |= _read(speaker, part, inputs.pop("input_ids"), inputs.pop("attention_mask"))
    return {name: value.to(network.device) for name, value in inputs.items()}


def _read(speaker: Speaker, part: Any, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Texts as a speaker reads them: after the patches, or with as many of their tokens as there are."""
    patches, image = patches_of(speaker, part), getattr(speaker.network.config, "image_token_id", None)
    if isinstance(image, int):
        ids = torch.where(ids == image, (image + 1) % ids.max(), ids)
        ids, mask = (
            nn.functional.pad(ids, (patches, 0), value=image),
            nn.functional.pad(mask, (patches, 0), value=1),
        )
    return speaker.read(ids, mask, patches)


def outputs(network: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of a network: the tensors that it returns, by name, in single precision at least."""
    returned = network(**inputs, return_dict=True)
    tensors = {name: value for name, value in returned.items() if isinstance(value, Tensor)}
    return {name: value if value.dtype == torch.float64 else value.float() for name, value in tensors.items()}


def tolerance(network: nn.Module, single: float) -> float:
    """Allowed gap of outputs: `single` in single precision and beyond; in half precision a tenth."""
    precise = next(network.parameters()).dtype in (torch.float32, torch.float64)
    return single if precise else HALF_TOLERANCE


def largest_gap(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> float:
    """Relative gap of outputs: the largest difference over the largest expected value; inf where one is nan."""
    gaps = [0.0]
    for name, value in expected.items():
        one, other = value.detach(), actual[name].detach()
        shares = (one - other).abs() / one.abs().max().clamp(min=1e-30)
        same = (one == other) | (one.isnan() & other.isnan())
        gaps.append(float(torch.where(same, 0.0, shares).nan_to_num(torch.inf).max()))
    return max(gaps)
