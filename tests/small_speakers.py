"""A speaker and listeners of sixteen pictures, four colours by four shapes; a step takes milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from trimtab.data.pictures import Pictures, read_pictures
from trimtab.refer.captions.listener import Listener

COLOURS, SHAPES = ("red", "green", "blue", "grey"), ("disc", "box", "bar", "star")
WORDS = (*COLOURS, *SHAPES)
END, LONGEST = len(WORDS), 3


def picture(colour: int, shape: int) -> Image.Image:
    return Image.new("RGB", (2, 2), (10 * colour, 10 * shape, 7))


def pictures() -> Pictures:
    named = {f"{COLOURS[c]}-{SHAPES[s]}": picture(c, s) for c, s in product(range(4), range(4))}
    return read_pictures(named)


def full_captions() -> dict[str, str]:
    return {name: name.replace("-", " ") for name in pictures().names}


def _kinds(images: Any) -> Tensor:
    """A one-hot colour and a one-hot shape of each picture."""
    rows = torch.zeros(len(images), 8)
    for row, image in enumerate(images):
        red, green, _ = image.getpixel((0, 0))
        rows[row, red // 10], rows[row, 4 + green // 10] = 1.0, 1.0
    return rows


@dataclass
class Towers:
    """Embeddings of a text by its words, of a picture by its colour and shape."""

    deaf_to: tuple[str, ...] = ()
    name: str = "towers"
    scale: float = 10.0
    notes: tuple[str, ...] = ()
    broken_after: int = 10**9

    def texts(self, texts: Any, batch_size: int = 256) -> Tensor:
        self.broken_after -= 1
        rows = torch.full((len(texts), 9), 0.05)
        for row, text in enumerate(texts):
            for word in {w for w in text.split() if w in WORDS and w not in self.deaf_to}:
                rows[row, WORDS.index(word)] = 1.0
        return rows / rows.norm(dim=1, keepdim=True) * (torch.nan if self.broken_after < 0 else 1.0)

    def pictures(self, images: Any, batch_size: int = 64) -> Tensor:
        rows = torch.cat([_kinds(images), torch.full((len(images), 1), 0.05)], dim=1)
        return rows / rows.norm(dim=1, keepdim=True)


def listener(**how: Any) -> Listener:
    return Listener(Towers(**how))  # type: ignore[arg-type]


class Speaker(nn.Module):
    """A captioner whose words depend on the picture and on their place: logits are a linear map of colour and shape."""

    def __init__(self, seed: int = 0, spread: float = 0.3) -> None:
        super().__init__()
        self.map = nn.Parameter(
            torch.randn(8, LONGEST * (END + 1), generator=torch.Generator().manual_seed(seed)) * spread
        )
        self.model = SimpleNamespace(module=self, name="speaker", trainable=lambda: {"map": self.map})

    def parameters(self) -> Any:  # type: ignore[override]
        return {"map": self.map}

    def features(self, images: Any, batch_size: int = 64) -> Tensor:
        return _kinds(images)

    def _table(self, features: Tensor) -> Tensor:
        return (features @ self.map).reshape(len(features), LONGEST, END + 1).log_softmax(-1)

    @torch.no_grad()
    def generate(
        self,
        features: Tensor,
        *,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        seeds: Any = None,
        num_beams: int = 1,
    ) -> Any:
        ids, ended = [], []
        for row, table in enumerate(self._table(features)):
            draws = torch.Generator().manual_seed(seeds[row]) if temperature else None
            words: list[int] = []
            for logits in table[:max_new_tokens]:
                word = (
                    int(logits.argmax())
                    if draws is None
                    else int(torch.multinomial(logits.exp(), 1, generator=draws))
                )
                if word == END:
                    break
                words.append(word)
            ids.append(words)
            ended.append(len(words) < min(LONGEST, max_new_tokens))
        return SimpleNamespace(ids=ids, ended=ended, texts=[" ".join(WORDS[w] for w in each) for each in ids])

    def encode(self, texts: Any) -> list[list[int]]:
        return [[WORDS.index(word) for word in text.split()] for text in texts]

    def log_probabilities(self, features: Tensor, ids: Any, ended: Any) -> tuple[Tensor, Tensor]:
        table = self._table(features)
        whole = [[*each, END] if done else list(each) for each, done in zip(ids, ended, strict=True)]
        width = max(map(len, whole))
        mask = torch.tensor([[place < len(each) for place in range(width)] for each in whole])
        padded = torch.tensor([[*each, *[0] * (width - len(each))] for each in whole])
        return table[:, :width].gather(2, padded[..., None])[..., 0], mask
