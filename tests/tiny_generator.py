"""A generator of pictures in a few numbers, whose words add up, with an encoder of its words and pictures."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from trimtab import HyperTransport
from trimtab.models.load import Model
from trimtab.seeds import derive
from trimtab.steer.hypertransport.conditions import Encoder, unit
from trimtab.steer.hypertransport.network import Sizes

STYLES, THINGS, PLACES = (
    ["red", "green", "blue", "gold", "grey"],
    ["cross", "disc", "star", "ring", "box"],
    ["left", "right"],
)
WORDS = (*STYLES, *THINGS, *PLACES)
SIDE, HIDDEN = 4, 12


class TinyGenerator(nn.Module):
    """Words (B, w), as counts, and noise (B, h) -> pictures (B, 3, 4, 4) in [0, 1]; `norm` is its site."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.words, self.paint = nn.Linear(len(WORDS), HIDDEN), nn.Linear(HIDDEN, 3 * SIDE * SIDE)
            self.norm = nn.Identity()
            nn.init.normal_(self.words.weight)

    def forward(self, counts: Tensor, noise: Tensor) -> Tensor:
        hidden = self.norm(self.words(counts) + 0.3 * noise)
        return self.paint(hidden).sigmoid().unflatten(1, (3, SIDE, SIDE))


@dataclass(frozen=True, eq=False)
class TinyHandle:
    """Handle of the generator."""

    module: nn.Module
    name: str = "tiny-generator"
    tokenizer: Any = None
    processor: Any = None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def prompt_batches(self, prompts: list[str], *, seed: int, batch_size: int) -> list[dict[str, Tensor]]:
        noise = [
            torch.randn(HIDDEN, generator=torch.Generator().manual_seed(derive(seed, "noise", place)))
            for place in range(len(prompts))
        ]
        parts = [slice(start, start + batch_size) for start in range(0, len(prompts), batch_size)]
        return [{"counts": counts(prompts[part]), "noise": torch.stack(noise[part])} for part in parts]

    def generate(self, prompts: list[str], *, seed: int = 0) -> list[Image.Image]:
        with torch.no_grad():
            batches = self.prompt_batches(prompts, seed=seed, batch_size=16)
            pixels = torch.cat([self.module(**batch) for batch in batches])
        return [Image.fromarray((one.permute(1, 2, 0).numpy() * 255).astype(np.uint8)) for one in pixels]


def handle() -> TinyHandle:
    return TinyHandle(TinyGenerator().eval())


def counts(prompts: list[str]) -> Tensor:
    return torch.tensor([[float(one.split().count(word)) for word in WORDS] for one in prompts])


def encoder(sees: bool = True) -> Encoder:
    """Random directions for words, which add up; a picture has those of the words that made it, and a gap to texts."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        words, gap = nn.Linear(len(WORDS), 16, bias=False), nn.Linear(16, 1)
        nn.init.normal_(words.weight)
    network = TinyGenerator()
    heard, drawn = (torch.linalg.pinv(part.weight.detach()) for part in (network.words, network.paint))

    def pictures(images: Any) -> Tensor:
        pixels = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1).flatten() for one in images])
        hidden = (pixels / 255.0).logit(1e-3) - network.paint.bias.detach()
        counted = (hidden @ drawn.T - network.words.bias.detach()) @ heard.T
        return unit(words(counted) + 20 * gap.weight)

    model = Model(nn.ModuleList([words, gap]), None, "tiny-encoder")
    return Encoder(
        model.name, model, lambda given: unit(words(counts(list(given)))), pictures if sees else None
    )


def prompts(style: str, thing: str, n: int = 8) -> list[str]:
    """Prompts of one style and one thing, at a drawn place."""
    draw = random.Random(f"{style} {thing}")
    return [f"{style} {thing} {draw.choice(PLACES)}" + " left" * (k % 3) for k in range(n)]


HELD_OUT = {"red disc", "gold star", "blue box"}


def concepts() -> dict[str, list[str]]:
    """All pairs of a style and a thing but those held out."""
    pairs = itertools.product(STYLES, THINGS)
    return {f"{s} {t}": prompts(s, t) for s, t in pairs if f"{s} {t}" not in HELD_OUT}


def source() -> list[str]:
    draw = random.Random(0)
    return [f"{draw.choice(STYLES)} {draw.choice(THINGS)} {draw.choice(PLACES)}" for _ in range(40)]


SMALL = Sizes(concept=16, key=8, shape=4, kind=4, query=16, hidden=32, blocks=1)


def settings(**more: Any) -> HyperTransport:
    """A small hypernetwork of the tiny generator, with its own encoder."""
    return HyperTransport(**{"sites": "norm", "encoder": encoder(), "sizes": SMALL, "steps": 4} | more)
