"""Decoding by transformers' `generate` with nothing but the logits deciding, and draws that no batch changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor

from trimtab.models.families import unwrapped


class Draws(LogitsProcessor):
    """Gumbel-max sampling: scores whose largest is a draw from softmax(logits / temperature).

    Adding independent Gumbel noise, -log of a unit exponential, and taking the largest is an exact draw (Gumbel 1954;
    Maddison, Tarlow & Minka 2014). Each row has its own stream, on the CPU and in double precision, so that neither
    the batch nor the device decides.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:  # noqa: ARG002
        """Logits (B, V) with temperature and noise."""
        waits = torch.empty(scores.shape, dtype=torch.float64)
        for row, stream in zip(waits, self.streams, strict=True):
            row.exponential_(generator=stream)
        return scores.double() / self.temperature - waits.log().to(scores.device)


@contextmanager
def neutral(module: nn.Module) -> Iterator[None]:
    """Default generation settings for a block: transformers takes from the module's whatever is None in ours."""
    network: Any = unwrapped(module)
    if not hasattr(network, "generation_config"):
        yield
        return
    defaults = network.generation_config
    network.generation_config = cast("Any", GenerationConfig)()
    try:
        yield
    finally:
        network.generation_config = defaults
