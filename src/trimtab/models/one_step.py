"""One-step generator of pictures from a text and a noise vector: a conditional coordinate network in one forward pass.

Every normalisation is adaptive: a group norm, then a scale and a shift that the condition decides (AdaGN, Dhariwal &
Nichol 2021). Modules whose names contain `norm` are exactly these, so the sites `*norm*` are what follows the
conditional scale and shift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from trimtab.errors import nearest
from trimtab.models.batches import evaluating, pad_token, padded, token_rows
from trimtab.models.families import Handle, refusal, unwrapped
from trimtab.models.tokenizer import refuse_unknown
from trimtab.seeds import derive

PATCH = 2
"""Width and height in pixels of what one place of the canvas paints."""
REACH = 0.5
"""How far from its centre an object is seen in detail, in halves of the picture."""


class OneStepConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Configuration of a `OneStepGenerator`.

    Attributes:
        vocab_size: tokens of the text.
        pad_token_id: token at padding.
        image_size: width and height of a picture in pixels, even.
        noise_size: numbers in a noise vector.
        width: channels of the canvas, a multiple of `groups`.
        condition_width: of the text vector and of the condition.
        blocks: residual blocks.
        groups: groups of each norm.
        frequencies: Fourier features of each coordinate and direction: 1, 2, 4, ... half periods a unit.
    """

    model_type = "trimtab-one-step"

    def __init__(
        self,
        vocab_size: int = 64,
        pad_token_id: int = 0,
        image_size: int = 32,
        noise_size: int = 8,
        width: int = 48,
        condition_width: int = 128,
        blocks: int = 4,
        groups: int = 8,
        frequencies: int = 3,
        **rest: Any,
    ) -> None:
        self.vocab_size, self.image_size, self.noise_size = vocab_size, image_size, noise_size
        self.width, self.condition_width, self.blocks = width, condition_width, blocks
        self.groups, self.frequencies = groups, frequencies
        super().__init__(**rest)
        self.pad_token_id = pad_token_id


class OneStepGenerator(PreTrainedModel):  # type: ignore[no-untyped-call]
    """One-step text-to-image generator G(text, noise) -> picture.

    The text is a bag of words: their order is not heard. Words and noise place two frames on the canvas, of an object
    and of the ground; each place sees the Fourier features of its coordinates in them. Residual blocks of convolutions
    follow, with the condition in every norm.
    """

    config_class = OneStepConfig
    base_model_prefix = ""
    main_input_name = "input_ids"

    def __init__(self, config: OneStepConfig) -> None:
        super().__init__(config)
        wide = config.condition_width
        self.words = nn.Embedding(config.vocab_size, wide)
        self.text = nn.Linear(wide, wide)
        self.noise = nn.Linear(config.noise_size, wide)
        self.condition = nn.Linear(wide, wide)
        self.frames = nn.Linear(config.vocab_size + config.noise_size, 4)
        features = 2 * 4 * 2 * config.frequencies * PATCH**2
        self.canvas = nn.Conv2d(features, config.width, 1)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.norm = ConditionalNorm(config)
        self.paint = nn.Conv2d(config.width, 3 * PATCH**2, 1)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.reset_parameters()
        if module in (self.text, self.condition):  # else the noise drowns the text
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.8)
        if isinstance(module, ConditionalNorm):
            nn.init.zeros_(module.modulation.weight)
            nn.init.zeros_(module.modulation.bias)

    def get_input_embeddings(self) -> nn.Module:
        """The embeddings of the words."""
        return self.words

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        noise: Float[Tensor, "B n"],
    ) -> Float[Tensor, "B 3 H W"]:
        """Pictures in [0, 1], one per row.

        Args:
            input_ids: tokens of the texts.
            attention_mask: 1 at tokens that count.
            noise: a noise vector each, in [-1, 1].
        """
        counts, noise = self._counts(input_ids, attention_mask), noise.to(self.words.weight.dtype)
        text = self.text(F.silu(counts @ self.words.weight))
        condition = F.silu(self.condition(F.silu(text + self.noise(noise))))
        placed = self.frames(torch.cat([counts, noise], dim=1))
        h = self.canvas(F.pixel_unshuffle(self._coordinates(placed), PATCH))
        for block in self.blocks:
            h = block(h, condition)
        painted: Tensor = self.paint(F.silu(self.norm(h, condition)))
        return F.pixel_shuffle(painted.sigmoid(), PATCH)

    def places(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        noise: Float[Tensor, "B n"],
    ) -> Float[Tensor, "B 4"]:
        """Centre of the object, to the right and down, and the ground's offset; the picture reaches from -1 to 1."""
        counts, noise = self._counts(input_ids, attention_mask), noise.to(self.words.weight.dtype)
        placed: Tensor = self.frames(torch.cat([counts, noise], dim=1))
        return placed

    def _counts(self, input_ids: Tensor, attention_mask: Tensor) -> Float[Tensor, "B vocabulary"]:
        """How often each word occurs; exact, whatever the padding."""
        like = self.words.weight
        counts = torch.zeros(len(input_ids), len(like), dtype=like.dtype, device=like.device)
        return counts.scatter_add(1, input_ids, attention_mask.to(like.dtype))

    def _coordinates(self, frames: Float[Tensor, "B 4"]) -> Float[Tensor, "B f H W"]:
        """Fourier features of every pixel, seen from the object's centre and from the ground's."""
        size = self.config.image_size
        line = (torch.arange(size, dtype=frames.dtype, device=frames.device) + 0.5) * 2 / size - 1
        x, y = line.view(1, 1, 1, size), line.view(1, 1, size, 1)
        right, down, slide, drop = (frames[:, k].view(-1, 1, 1, 1) for k in range(4))
        near = [self._waves(((x - right) / REACH).clamp(-1, 1), ((y - down) / REACH).clamp(-1, 1), 0.5)]
        return torch.cat([*near, self._waves(x + slide, y + drop, 2.0)], dim=1)

    def _waves(self, x: Tensor, y: Tensor, base: float) -> Tensor:
        """Sines and cosines along both axes and both diagonals; `base` is the lowest number of half periods a unit."""
        octaves = [math.pi * base * 2**k for k in range(self.config.frequencies)]
        across = [(angle * x, angle * y) for angle in octaves]
        waves = [f(one) for pair in across for one in pair for f in (torch.sin, torch.cos)]
        flat = [(waves[k : k + 2], waves[k + 2 : k + 4]) for k in range(0, len(waves), 4)]
        diagonal = [
            part
            for (sx, cx), (sy, cy) in flat
            for part in (sx * cy + cx * sy, cx * cy - sx * sy, sx * cy - cx * sy, cx * cy + sx * sy)
        ]
        shape = (-1, -1, y.shape[-2], x.shape[-1])
        return torch.cat([wave.expand(shape) for wave in (*waves, *diagonal)], dim=1)


class ConditionalNorm(nn.Module):
    """AdaGN: group norm without parameters, then h * (1 + scale) + shift, both linear in the condition."""

    def __init__(self, config: OneStepConfig) -> None:
        super().__init__()
        self.groups = config.groups
        self.modulation = nn.Linear(config.condition_width, 2 * config.width)

    def forward(self, h: Float[Tensor, "B C H W"], condition: Float[Tensor, "B c"]) -> Tensor:
        """The normalised canvas under its condition."""
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        normed: Tensor = F.group_norm(h, self.groups) * (1 + scale) + shift
        return normed


class _Block(nn.Module):
    """Residual block: norm, SiLU, convolution, twice; the first convolution sees neighbours."""

    def __init__(self, config: OneStepConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = ConditionalNorm(config), ConditionalNorm(config)
        self.conv1 = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.conv2 = nn.Conv2d(config.width, config.width, 1)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(h, condition)))
        change: Tensor = self.conv2(F.silu(self.norm2(inner, condition)))
        return h + change


def noise_vectors(count: int, size: int, seed: int) -> Float[np.ndarray, "count size"]:
    """Noise vectors, uniform in [-1, 1]; that of a place depends on the seed and the place alone.

    >>> bool((noise_vectors(3, 2, 0)[:2] == noise_vectors(2, 2, 0)).all())
    True
    """
    draws = (np.random.default_rng(derive(seed, "noise", place)) for place in range(count))
    return np.array([rng.uniform(-1, 1, size) for rng in draws]).reshape(count, size)


def prompt_batches(
    model: Handle, prompts: Sequence[str], *, seed: int = 0, batch_size: int = 32
) -> list[dict[str, Tensor]]:
    """Forward keywords of a one-step generator, a batch each: `input_ids`, `attention_mask` and `noise`.

    The noise of a prompt depends on the seed and its place in the list, not on the batch: the same seed gives the same
    noise with and without a steering.

    Args:
        model: a handle on a `OneStepGenerator`, with its tokenizer.
        prompts: texts of words that it knows.
        seed: of the noise.
        batch_size: prompts at a time.

    Raises:
        ModelError: a model of another kind or without tokenizer; one single string, a prompt that is no text, has no
            word or one that the tokenizer does not know; or a batch size below 1.
    """
    network, tokenizer = unwrapped(model.module), model.need_tokenizer()
    if not isinstance(network, OneStepGenerator):
        raise refusal(f"a {type(network).__name__}", "a OneStepGenerator", "lab:scene-generator")
    if batch_size < 1:
        raise refusal(batch_size, "at least 1", at="batch_size")
    rows = token_rows(tokenizer, prompts, what="prompt")
    refuse_unknown(network, tokenizer, rows, "prompt")
    _refuse_unheard(tokenizer, list(prompts), rows)
    noise = torch.from_numpy(noise_vectors(len(rows), network.config.noise_size, seed))
    noise, pad = noise.to(model.device, network.dtype), pad_token(tokenizer, network)
    batches = []
    for start in range(0, len(rows), batch_size):
        texts = padded(rows[start : start + batch_size], pad).to(model.device)
        part = noise[start : start + batch_size]
        batches.append({"input_ids": texts.ids, "attention_mask": texts.mask, "noise": part})
    return batches


def _refuse_unheard(tokenizer: Any, prompts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
    """Refuse a prompt with a word that the tokenizer does not know, of which the picture would say nothing."""
    for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        if tokenizer.unk_token_id in row:
            known = tokenizer.get_vocab()
            word = next((one for one in prompt.split() if one not in known), prompt)
            hint = nearest(word, known)
            raise refusal(f"the word {word!r:.40}", "words of its vocabulary", hint, at=f"prompt {number}")


def pictures(
    model: Handle, prompts: Sequence[str], *, seed: int = 0, batch_size: int = 32
) -> list[Image.Image]:
    """Pictures of prompts by a one-step generator, in their order, each from one forward pass.

    The module's mode is restored and the caller's random generators are not touched; for seed and errors see
    `prompt_batches`.
    """
    network, made = model.module, []
    with evaluating(network):
        for batch in prompt_batches(model, prompts, seed=seed, batch_size=batch_size):
            made += as_pictures(network(**batch))
    return made


def as_pictures(pixels: Float[Tensor, "B 3 H W"]) -> list[Image.Image]:
    """Pictures of 8 bits a channel of pixels in [0, 1].

    >>> as_pictures(torch.ones(1, 3, 2, 2))[0].getpixel((0, 0))
    (255, 255, 255)
    """
    bytes_of = (pixels.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(one.permute(1, 2, 0).contiguous().numpy()) for one in bytes_of]


AutoConfig.register(OneStepConfig.model_type, OneStepConfig)
AutoModel.register(OneStepConfig, OneStepGenerator)
