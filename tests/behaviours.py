"""Two behaviours to move between: short texts of different letters, and other inputs for models that read none."""

from __future__ import annotations

import random
from typing import Any

from torch import nn

from tiny_models import build, inputs, tokenizer
from trimtab import Model, load

TEXTUAL = ("llama", "qwen3", "gemma3_text", "gpt2", "gpt_neox", "bert")


def texts(letters: str, n: int, seed: int = 0) -> list[str]:
    """Texts of 3 to 12 letters."""
    draw = random.Random(f"{letters}{seed}")
    return ["".join(draw.choices(letters, k=draw.randint(3, 12))) for _ in range(n)]


def sides(n: int = 8, m: int = 8) -> tuple[list[str], list[str]]:
    """Source and target texts."""
    return texts("abcdefgh", n), texts("fghijklm", m)


def posed(name: str) -> tuple[Model | nn.Module, Any, Any]:
    """A tiny model of the zoo with a source and a target that it can be run on."""
    module = build(name)
    if name in TEXTUAL:
        return load(module, tokenizer=tokenizer()), *sides()
    return module, [inputs(name, 4, 1), inputs(name, 3, 2)], [inputs(name, 5, 3)]
