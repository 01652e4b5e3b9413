"""Tiny models with a tokenizer, and texts of their alphabet, to fit lenses to."""

from __future__ import annotations

import random
import string
from typing import Any

import tiny_models
from trimtab.models.load import Model, load


def decoder(name: str = "llama", **config: Any) -> Model:
    return load(tiny_models.build(name, **config), tokenizer=tiny_models.tokenizer())


def texts(n: int, seed: int = 0) -> list[str]:
    """Random words of different lengths."""
    draw = random.Random(seed)
    return ["".join(draw.choices(string.ascii_lowercase[:8] + " ", k=draw.randint(4, 24))) for _ in range(n)]
