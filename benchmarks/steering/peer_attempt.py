"""How a cell of the behaviour table comes about: tiny models, one attempt, and what came of it in words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peer_packages import told
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from zoo import build, inputs, tokenizer  # noqa: F401

TOLERANCE = 1e-5
ROWS = [[5, 9, 20, 33, 41, 12, 7], [8, 3, 50, 21]]
LAYERS, WIDTH = 2, 16
SHIFTS = torch.randn(LAYERS, WIDTH, generator=torch.Generator().manual_seed(0))


class WrongError(Exception):
    """It ran, and the result is not what the row asks for."""


def attempt(answer: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"ok": True, "outcome": answer()}
    except WrongError as error:
        return {"ok": False, "outcome": str(error)}
    except Exception as error:
        return {"ok": False, "outcome": told(error)}


def demand(holds: bool, yes: str, no: str) -> str:
    if not holds:
        raise WrongError(no)
    return yes


def first(output: Any) -> Tensor:
    """Logits or hidden states."""
    return output[0].detach().clone()


@torch.no_grad()
def forward(model: Any, **keywords: Any) -> Tensor:
    return first(model(**keywords))


def near(got: Tensor, expected: Tensor) -> str:
    gap = float((got - expected).abs().max())
    return demand(gap <= TOLERANCE, f"gap {gap:.1g}", f"logits up to {gap:.2g} apart")


def raises(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return told(error)
    raise WrongError("silent")
