"""Tuned lens: an affine map of each state, fitted so that it predicts what the model will say (Belrose et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import DivergedError, explain, nearest
from trimtab.models.batches import TokenRow, token_rows
from trimtab.models.families import Handle, refusal
from trimtab.models.inspection import check_model
from trimtab.models.language import kl
from trimtab.models.readout import Readout, readout_of
from trimtab.read.lenses.affine import AffineLens
from trimtab.read.lenses.files import Maps, check_finite
from trimtab.read.lenses.lens import CELLS, Progress, Reading, States, paired_images, text_states
from trimtab.seeds import derive

Start = Literal["ridge", "zero"]
Optimiser = Literal["adam", "sgd"]
Preset = Literal["default", "paper"]

RIDGE = 1e-5
"""Of the mean square of a state's coordinates, added to the diagonal of the least squares of the start."""
TOKENS_EACH = 64
"""Tokens of the start for each coordinate of a state."""
WHITE = 1e-3
"""Of a state's mean variance, added to the variance along each axis before whitening."""


@dataclass(frozen=True)
class Recipe:
    """How a tuned lens is fitted.

    Attributes:
        start: "ridge": the affine map of least squared error to the last state, in closed form, from texts of
            about `start_tokens` tokens, or all of them read once; "zero": the logit lens.
        optimiser: "adam", or "sgd" with Nesterov momentum of 0.9.
        whiten: take the steps in coordinates in which states are white and errors of least squares have unit size.
        steps: of the optimiser, with a learning rate that falls linearly to 0.
        tokens: in each step, drawn from the texts.
        lr: learning rate of the first step; of Adam, over the square root of the width.
        weight_decay: pulls towards the logit lens (in white coordinates, towards the mean).
        clip: largest norm of the gradient of all maps together; None for no limit.
        start_tokens: what the start and the white coordinates are estimated from; None for 64 times the width.

    Raises:
        ModelError: an unknown word, or a number out of range.
    """

    start: Start = "ridge"
    optimiser: Optimiser = "adam"
    whiten: bool = True
    steps: int = 50
    tokens: int = 512
    lr: float = 0.2
    weight_decay: float = 0.0
    clip: float | None = None
    start_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("start", get_args(Start)), ("optimiser", get_args(Optimiser))):
            value = getattr(self, name)
            if value not in choices:
                raise refusal(repr(value), f"one of {choices}", nearest(str(value), choices), at=name)
        least = {"steps": 0, "tokens": 1, "lr": 0, "weight_decay": 0, "start_tokens": 2, "clip": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not (low <= value < math.inf):
                raise refusal(value, f"a number of at least {low}", at=name)


PRESETS: Mapping[Preset, Recipe] = {
    "default": Recipe(),
    "paper": Recipe(
        "zero", "sgd", whiten=False, steps=250, tokens=2**18, lr=0.1, weight_decay=1e-3, clip=1.0
    ),
}
"""Our recipe, and the published one (Belrose et al. 2023, section 3 and their code's defaults)."""


@dataclass(frozen=True, eq=False)
class TunedLens(AffineLens):
    """Tuned lens: `log softmax(readout(h + A_l h + b_l))` of the state h at depth l (Belrose et al. 2023, equation 4).

    The last state is read as it is: there the lens gives the model's own distribution.

    Attributes:
        readout: final norm and unembedding of the model.
        weight: (L, d, d) the matrices A, zero where the lens is the logit lens.
        bias: (L, d) the vectors b.
        made_by: how it was fitted, plain values.
    """

    name: ClassVar[str] = "tuned"

    @staticmethod
    def mapped(
        hidden: Float[Tensor, "*n d"], weight: Float[Tensor, "d d"], bias: Float[Tensor, " d"]
    ) -> Float[Tensor, "*n d"]:
        """h + A h + b."""
        return hidden + hidden @ weight.T + bias

    @classmethod
    def fit(
        cls,
        model: Handle,
        texts: Sequence[str],
        *,
        images: Any = None,
        preset: Preset = "default",
        recipe: Recipe | None = None,
        batch_size: int = 16,
        max_tokens: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> TunedLens:
        """Tuned lens of the least mean KL(model || lens) over all tokens of texts, at every depth.

        All maps are fitted from the same forward passes of the frozen model, a batch at a time. Held at once are the
        states of one batch, `batch * tokens * (L + 1) * d` numbers; for the start `5 L d^2` in double precision, then
        `7 L d^2` in single (maps, moments of Adam, coordinates); and a few times 16.8 million log-probabilities. For 30
        blocks of width 576 that is 0.4 GB, 0.3 GB and 0.3 GB. A step costs about `6 L V d * tokens` operations. Where
        the vocabulary V is large and the machine small, `Recipe(steps=0)` is least squares alone.

        Args:
            model: a decoder, with or without eyes; its parameters get no gradient.
            texts: at least two, of the kind that the lens is to read; read again in another order when they end.
            images: a picture for each text, for a model that sees.
            preset: "default", or "paper" for the published recipe: 250 steps of 262,144 tokens.
            recipe: every setting, in the place of a preset.
            batch_size: texts at a time.
            max_tokens: longer texts are cut; None refuses those beyond the model's limit.
            seed: of the order of texts and the draw of tokens.
            progress: called with how many steps are done, and of how many.

        Raises:
            ModelError: no decoder, quantised weights without a derivative, fewer than two texts, or texts that it
                cannot read.
            DivergedError: a loss that is not finite.
        """
        if preset not in PRESETS:
            raise refusal(
                repr(preset), f"one of {tuple(PRESETS)}", nearest(str(preset), PRESETS), at="preset"
            )
        how = PRESETS[preset] if recipe is None else recipe
        readout = readout_of(model)
        check_model(model, "gradients")
        pictures = paired_images(texts, images)
        rows = (
            None if images is not None else token_rows(model.need_tokenizer(), texts, max_tokens=max_tokens)
        )
        stream = _Stream(model, readout, texts, rows, Reading(pictures, batch_size), seed)
        weight, bias = _fitted(stream, how, seed, progress)
        made_by = {**asdict(how), "texts": len(texts), "seed": seed, "model": str(getattr(model, "name", ""))}
        check_finite(Maps(weight, bias, made_by), "tuned lens")
        return cls(readout, weight, bias, made_by)


@dataclass(frozen=True)
class _Stream:
    """Batches of states of texts without end, each time in another order."""

    model: Handle
    readout: Readout
    texts: Sequence[str]
    rows: Sequence[Sequence[int]] | None
    reading: Reading
    seed: int

    def __iter__(self) -> Iterator[States]:
        for number in count():
            yield from self.epoch(number)

    def epoch(self, number: int) -> Iterator[States]:
        """All texts once, in an order of their own."""
        draw = np.random.default_rng(derive(self.seed, "lens texts", number))
        order = [int(place) for place in draw.permutation(len(self.texts))]
        if self.rows is not None:
            rows = [TokenRow(self.rows[place]) for place in order]
            return text_states(self.model, self.readout, rows, self.reading)
        images = [self.reading.images[place] for place in order]
        reading = Reading(images, self.reading.batch_size)
        return text_states(self.model, self.readout, [self.texts[place] for place in order], reading)


@dataclass(frozen=True)
class _Moments:
    """Moments of the states before the last, beside those of the last, in double precision.

    Attributes:
        gram: (L, d + 1, d + 1) sums of products of (h_l, 1) with itself.
        cross: (L, d + 1, d) sums of products of (h_l, 1) with h_L - h_l.
        squares: (L, d) sums of the squares of h_L - h_l.
    """

    gram: Float[Tensor, "L e e"]
    cross: Float[Tensor, "L e d"]
    squares: Float[Tensor, "L d"]

    @classmethod
    def of(cls, stream: _Stream, tokens: int) -> _Moments:
        """Moments of the texts read once, or of the first texts with so many tokens."""
        states, width = len(stream.readout.sites) - 1, stream.readout.width
        kind: dict[str, Any] = {"dtype": torch.float64, "device": stream.readout.device}
        gram = torch.zeros(states, width + 1, width + 1, **kind)
        cross, squares = torch.zeros(states, width + 1, width, **kind), torch.zeros(states, width, **kind)
        read = 0
        for given in stream.epoch(0):
            end, one = given.hidden[-1].to(**kind), torch.ones(len(given), 1, **kind)
            for state, hidden in enumerate(given.hidden[:-1]):
                before = hidden.to(**kind)
                known, missing = torch.cat([before, one], 1), end - before
                gram[state] += known.T @ known
                cross[state] += known.T @ missing
                squares[state] += (missing * missing).sum(0)
            read += len(given)
            if read >= tokens:
                break
        return cls(gram, cross, squares)

    def solved(self) -> Float[Tensor, "L e d"]:
        """Coefficients of (h_l, 1) with the least squared error of h_L - h_l, and a small penalty."""
        strength = RIDGE * self.gram.diagonal(dim1=1, dim2=2)[:, :-1].mean(1)
        penalty = torch.eye(self.gram.shape[-1], dtype=self.gram.dtype, device=self.gram.device)
        penalty[-1, -1] = 0
        solved: Tensor = torch.linalg.solve(self.gram + strength[:, None, None] * penalty, self.cross)
        return solved

    def ridge(self) -> tuple[Tensor, Tensor]:
        """Maps A and b of least squared error of h_l + A h_l + b from h_L."""
        solved = self.solved().float()
        return solved[:, :-1].transpose(1, 2).contiguous(), solved[:, -1].clone()

    def frame(self) -> _Frame:
        """Coordinates in which every state is white."""
        tokens = self.gram[:, -1:, -1:]
        mean = self.gram[:, -1, :-1] / tokens[:, 0]
        spread = self.gram[:, :-1, :-1] / tokens - mean[:, :, None] * mean[:, None]
        values, vectors = torch.linalg.eigh(spread)
        values = values.clamp(min=0) + WHITE * values.mean(1, keepdim=True)
        whiten = vectors * values.rsqrt()[:, None] @ vectors.transpose(1, 2)
        colour = vectors * values.sqrt()[:, None] @ vectors.transpose(1, 2)
        solved = self.solved()
        left = self.squares - (solved * (2 * self.cross - self.gram @ solved)).sum(1)
        scale = (left.clamp(min=0) / tokens[:, 0]).sqrt()
        scale = torch.maximum(scale, 1e-6 * scale.amax(1, keepdim=True).clamp(min=1e-6))
        return _Frame(*(one.float() for one in (mean, whiten, colour, scale)))


@dataclass(frozen=True)
class _Frame:
    """Coordinates of the steps: white states on the side of the input, errors of least squares on the other.

    Steps in them are preconditioned on both sides, which is why tens of them are enough.

    Attributes:
        mean: (L, d) of the states.
        whiten: (L, d, d) inverse square roots of their covariances.
        colour: (L, d, d) the square roots.
        scale: (L, d) root mean squared errors of least squares, per coordinate of the last state.
    """

    mean: Float[Tensor, "L d"]
    whiten: Float[Tensor, "L d d"]
    colour: Float[Tensor, "L d d"]
    scale: Float[Tensor, "L d"]

    def inside(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """A and b in these coordinates."""
        moved = bias + (weight @ self.mean[..., None])[..., 0]
        return weight @ self.colour / self.scale[..., None], moved / self.scale

    def outside(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """A and b of maps in these coordinates."""
        weight = self.scale[..., None] * weight @ self.whiten
        return weight, self.scale * bias - (weight @ self.mean[..., None])[..., 0]

    def pulled(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients by A and b as gradients by the maps in these coordinates."""
        centred = weight - bias[..., None] * self.mean[:, None]
        return self.scale[..., None] * centred @ self.whiten, self.scale * bias


def _fitted(stream: _Stream, how: Recipe, seed: int, progress: Progress | None) -> tuple[Tensor, Tensor]:
    """Maps after all steps."""
    states, width, device = len(stream.readout.sites) - 1, stream.readout.width, stream.readout.device
    maps = torch.zeros(states, width, width, device=device), torch.zeros(states, width, device=device)
    frame: _Frame | None = None
    if how.start == "ridge" or how.whiten:
        moments = _Moments.of(stream, how.start_tokens or TOKENS_EACH * width)
        maps = moments.ridge() if how.start == "ridge" else maps
        frame = moments.frame() if how.whiten else None
    inner = maps if frame is None else frame.inside(*maps)
    optimiser = _optimiser(inner, how, width)
    rate, batches = optimiser.param_groups[0]["lr"], iter(stream)
    draw = torch.Generator().manual_seed(derive(seed, "lens tokens"))
    for step in range(how.steps):
        maps = inner if frame is None else frame.outside(*inner)
        gradients, read = tuple(torch.zeros_like(one) for one in maps), 0
        while read < how.tokens:
            given = next(batches)
            chosen = torch.randperm(len(given), generator=draw)[: how.tokens - read]
            read += len(chosen)
            _add_gradients(
                gradients, stream.readout, [one[chosen.to(one.device)] for one in given.hidden], maps
            )
        gradients = gradients if frame is None else frame.pulled(*gradients)
        if not all(bool(one.isfinite().all()) for one in gradients):
            got = f"gradients that are not finite in step {step + 1}"
            raise DivergedError(explain(got, "numbers", f"a learning rate below {how.lr:g}"))
        for one, gradient in zip(inner, gradients, strict=True):
            one.grad = gradient / read
        if how.clip is not None:
            torch.nn.utils.clip_grad_norm_(inner, how.clip)
        optimiser.param_groups[0]["lr"] = rate * (1 - step / how.steps)
        optimiser.step()
        if progress is not None:
            progress(step + 1, how.steps)
    for one in inner:
        one.grad = None
    return inner if frame is None else frame.outside(*inner)


def _optimiser(maps: tuple[Tensor, Tensor], how: Recipe, width: int) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": how.lr, "weight_decay": how.weight_decay}
    if how.optimiser == "sgd":
        return torch.optim.SGD(maps, momentum=0.9, nesterov=True, **settings)
    return torch.optim.Adam(maps, betas=(0.9, 0.99), **settings | {"lr": how.lr / math.sqrt(width)})


def _add_gradients(
    sums: tuple[Tensor, ...], readout: Readout, hidden: Sequence[Tensor], maps: tuple[Tensor, Tensor]
) -> None:
    """Add the gradients of the KL of every state, summed over tokens; those of the model's parameters are not made."""
    size = max(1, CELLS // readout.vocabulary)
    for start in range(0, len(hidden[-1]), size):
        with torch.no_grad():
            target = readout.log_probabilities(hidden[-1][start : start + size])
        for state, one in enumerate(hidden[:-1]):
            with torch.enable_grad():
                weight, bias = (each[state].detach().requires_grad_() for each in maps)
                moved = one[start : start + size].to(weight.device, weight.dtype)
                said = readout.log_probabilities(TunedLens.mapped(moved, weight, bias))
                loss = kl(target, said).sum()
            for total, gradient in zip(sums, torch.autograd.grad(loss, (weight, bias)), strict=True):
                total[state] += gradient
