"""Captioners by transformers' own forward passes from pixels, without features or cache: what tests compare with."""

from __future__ import annotations

from typing import Any

import torch

import pictured


def pixels(images: Any) -> torch.Tensor:
    return pictured.clip_processor()(images=images, return_tensors="pt")["pixel_values"]


def start_of(kind: str, patches: int = 4) -> list[int]:
    if kind.startswith("prefix"):
        return []
    return [0, *[pictured.IMAGE] * patches, 2] if kind == "llava" else [0]


def own_logits(kind: str, module: Any, seen: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """Transformers' own logits of each token and of what follows, for one picture, without cache or features."""
    row = torch.tensor([ids])
    if kind.startswith("ved"):
        return module(pixel_values=seen, decoder_input_ids=torch.tensor([[0, *ids]])).logits[0]
    if kind.startswith("prefix"):
        return module(row if ids else None, seen).logits[0]
    start = start_of(kind)
    logits = module(pixel_values=seen, input_ids=torch.tensor([[*start, *ids]])).logits[0]
    return logits[len(start) - 1 :]
