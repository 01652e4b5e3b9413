"""Speakers: networks that say what is in a picture, with their frozen vision part apart from the part that speaks.

Four kinds: VisionEncoderDecoder, BLIP, prefix captioners and Llava. Prompts of a batch have one length, so there is no
padding before what is written; what stands after a text changes nothing, since all of them look backwards only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    BlipForConditionalGeneration,
    GenerationConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
    VisionEncoderDecoderModel,
)
from transformers.modeling_outputs import BaseModelOutput

from trimtab.errors import ShapeError, explain
from trimtab.models.batches import evaluating, pad_token, token_rows
from trimtab.models.decoding import Draws, neutral
from trimtab.models.families import Handle, refusal, text_config, unwrapped
from trimtab.models.inspection import device_of
from trimtab.models.pictures import pixel_batches
from trimtab.models.prefix import PrefixCaptioner
from trimtab.models.tokenizer import Added, predicted, refuse_longer, refuse_unknown

EXPECTED = "a captioner: VisionEncoderDecoder, BLIP, Llava or a prefix captioner"


class Speaker(Protocol):
    """Speaker of one kind."""

    @property
    def network(self) -> Any:
        """The whole network."""

    @property
    def vision(self) -> str:
        """Path of the part that sees."""

    @property
    def generator(self) -> Any:
        """The part with `generate` that speaks."""

    def look(self, pixels: Float[Tensor, "B C H W"]) -> Tensor:
        """What the vision part sees."""

    def start(self, tokenizer: PreTrainedTokenizerBase, prompt: str, patches: int) -> list[int]:
        """Tokens before what is written."""

    def keywords(self, features: Tensor, ids: Int[Tensor, "B T"]) -> dict[str, Any]:
        """Keywords of the forward pass and of `generate` of the part that speaks."""

    def ends(self) -> list[Any]:
        """End tokens as configured, the first usable one counts."""


@dataclass(frozen=True)
class EncoderDecoder:
    """Encoder of pictures, and a decoder of text that attends to it."""

    network: Any
    vision: str = "encoder"

    @property
    def generator(self) -> Any:
        """The network itself."""
        return self.network

    def look(self, pixels: Float[Tensor, "B C H W"]) -> Tensor:
        """(B, patches, d), the encoder's last hidden states."""
        return cast("Tensor", self.network.encoder(pixel_values=pixels).last_hidden_state)

    def start(self, tokenizer: PreTrainedTokenizerBase, prompt: str, patches: int) -> list[int]:  # noqa: ARG002
        """The decoder's start token, then the prompt."""
        for config in (self.network.generation_config, self.network.config, self.network.config.decoder):
            for name in ("decoder_start_token_id", "bos_token_id"):
                if isinstance(token := getattr(config, name, None), int):
                    return [token, *_plain(tokenizer, prompt)]
        got, hint = "a decoder without a start token", "model.module.config.decoder_start_token_id = ..."
        raise refusal(got, "decoder_start_token_id in its configuration", hint)

    def keywords(self, features: Tensor, ids: Int[Tensor, "B T"]) -> dict[str, Any]:
        """The encoder's states and the decoder's tokens."""
        return {"encoder_outputs": BaseModelOutput(cast("Any", features)), "decoder_input_ids": ids}

    def ends(self) -> list[Any]:
        """Of the generation settings, the configuration, the decoder's."""
        configs = (self.network.generation_config, self.network.config, self.network.config.decoder)
        return [getattr(config, "eos_token_id", None) for config in configs]


@dataclass(frozen=True)
class Blip:
    """BLIP (Li et al. 2022): a vision transformer, and a text decoder that attends to it."""

    network: Any
    vision: str = "vision_model"

    @property
    def generator(self) -> Any:
        """The text decoder."""
        return self.network.text_decoder

    def look(self, pixels: Float[Tensor, "B C H W"]) -> Tensor:
        """(B, patches, d), the vision model's last hidden states."""
        return cast("Tensor", self.network.vision_model(pixel_values=pixels).last_hidden_state)

    def start(self, tokenizer: PreTrainedTokenizerBase, prompt: str, patches: int) -> list[int]:  # noqa: ARG002
        """The decoder's start token, which no tokenizer adds, then the prompt."""
        return [int(self.network.config.text_config.bos_token_id), *_plain(tokenizer, prompt)]

    def keywords(self, features: Tensor, ids: Int[Tensor, "B T"]) -> dict[str, Any]:
        """Tokens under an explicit mask, and what the decoder attends to."""
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "encoder_hidden_states": features,
            "encoder_attention_mask": ids.new_ones(features.shape[:2]),
        }

    def ends(self) -> list[Any]:
        """The separator, as in BLIP's own `generate`."""
        return [self.network.config.text_config.sep_token_id]


@dataclass(frozen=True)
class Prefix:
    """Prefix captioner: see `trimtab.models.prefix`."""

    network: Any
    vision: str = "vision_tower"

    @property
    def generator(self) -> Any:
        """The language model."""
        return self.network.language_model

    def look(self, pixels: Float[Tensor, "B C H W"]) -> Tensor:
        """(B, d), or (B, patches, d)."""
        return cast("Tensor", self.network.look(pixels))

    def start(self, tokenizer: PreTrainedTokenizerBase, prompt: str, patches: int) -> list[int]:  # noqa: ARG002
        """The prompt alone: the prefix stands before it."""
        return _plain(tokenizer, prompt)

    def keywords(self, features: Tensor, ids: Int[Tensor, "B T"]) -> dict[str, Any]:
        """Prefix and embedded tokens, under an explicit mask."""
        return _embedded(self.network.prefixed(features, ids))

    def ends(self) -> list[Any]:
        """Of the generation settings, else the language model's."""
        return [self.network.generation_config.eos_token_id, self.network.config.text_config.eos_token_id]


@dataclass(frozen=True)
class Llava:
    """Llava (Liu et al. 2023): projected patches in the place of a picture's token in a prompt."""

    network: Any
    vision: str = "model.vision_tower"

    @property
    def generator(self) -> Any:
        """The network itself."""
        return self.network

    def look(self, pixels: Float[Tensor, "B C H W"]) -> Tensor:
        """(B, patches, d), hidden states of the layers that the configuration names, before the projector."""
        config = self.network.config
        states = self.network.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        wanted = config.vision_feature_layer
        layers = [states[layer] for layer in ([wanted] if isinstance(wanted, int) else wanted)]
        if config.vision_feature_select_strategy == "default":
            layers = [layer[:, 1:] for layer in layers]
        return torch.cat(layers, -1)

    def start(self, tokenizer: PreTrainedTokenizerBase, prompt: str, patches: int) -> list[int]:
        """The prompt, with as many tokens of a picture as there are patches."""
        image = int(self.network.config.image_token_index)
        row = Added.of(tokenizer).begun(_plain(tokenizer, prompt)) if prompt else []
        if row.count(image) > 1:
            raise refusal(f"{row.count(image)} pictures in the prompt {prompt!r}", "one picture", at="prompt")
        at = row.index(image) if image in row else len(Added.of(tokenizer).before) if row else 0
        return [*row[:at], *[image] * patches, *row[at + (image in row) :]]

    def keywords(self, features: Tensor, ids: Int[Tensor, "B T"]) -> dict[str, Any]:
        """Embedded tokens, under an explicit mask; those of the picture are its projected patches."""
        words = self.network.get_input_embeddings()(ids)
        seen = self.network.model.multi_modal_projector(features).to(words.dtype)
        place = (ids == self.network.config.image_token_index)[..., None]
        return _embedded(words.masked_scatter(place, seen))

    def ends(self) -> list[Any]:
        """Of the generation settings, else the language model's."""
        return [self.network.generation_config.eos_token_id, self.network.config.text_config.eos_token_id]


KINDS: dict[type, Any] = {
    VisionEncoderDecoderModel: EncoderDecoder,
    BlipForConditionalGeneration: Blip,
    PrefixCaptioner: Prefix,
    LlavaForConditionalGeneration: Llava,
}


def speaker_of(module: nn.Module) -> Speaker | None:
    """The speaker that a network is, inside its wrappers too; None for one of another kind."""
    network = unwrapped(module)
    kind = next((kind for base, kind in KINDS.items() if isinstance(network, base)), None)
    return None if kind is None else cast("Speaker", kind(network))


def need_speaker(model: Handle, what: str = "pictures") -> Speaker:
    """The speaker of a handle.

    Raises:
        ModelError: it is none: a language model or two towers, say.
    """
    speaker = speaker_of(model.module)
    if speaker is None:
        got = f"{what} for a {type(unwrapped(model.module)).__name__}"
        raise refusal(got, EXPECTED, "prompts alone, or another model")
    return speaker


@dataclass(frozen=True)
class Features:
    """What a frozen vision part sees of n pictures; the same every time, so it is computed once.

    Attributes:
        values: (n, d) or (n, patches, d), on the CPU, without gradient.
    """

    values: Float[Tensor, n * rest]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Features:
        """Those of some rows, in their order; a row may come twice."""
        picked = rows if isinstance(rows, slice | Tensor) else torch.tensor(list(rows), dtype=torch.long)
        return Features(self.values[picked])

    @property
    def patches(self) -> int:
        """How many vectors a picture has."""
        return int(self.values.shape[1]) if self.values.ndim == 3 else 1


def features(model: Handle, pictures: Any, batch_size: int = 64) -> Features:
    """Features of pictures; see `trimtab.models.captioner.Captioner.features`."""
    speaker = need_speaker(model)
    part = speaker.network.get_submodule(speaker.vision)
    kind = next(part.parameters()).dtype
    seen = list[Tensor]()
    with evaluating(model.module):
        for pixels in pixel_batches(model.processor, pictures, batch_size=batch_size, size=_size(part)):
            values = speaker.look(pixels.to(device_of(part), kind)).cpu()
            if not bool(values.isfinite().all()):
                got = "features that are nan or infinite"
                raise refusal(got, "finite numbers", "float32", at=f"the vision part {speaker.vision}")
            seen.append(values)
    if not seen:
        raise refusal("no pictures", "at least one")
    return Features(torch.cat(seen))


@dataclass(frozen=True)
class Captions:
    """Captions of n pictures.

    Attributes:
        texts: without special tokens and blanks at both ends.
        ids: (n) tokens as they were written, up to the end token, which is left out.
        ended: whether the speaker ended each, rather than ran out of tokens.
    """

    texts: list[str]
    ids: list[list[int]]
    ended: list[bool]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: at least 1.
        temperature: 0 takes the most likely token; above, tokens are drawn from softmax(logits / temperature).
        num_beams: above 1, the most likely text of so many that are followed (at temperature 0).
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    num_beams: int = 1

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams"):
            count: Any = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise refusal(count, "a whole number of at least 1", at=name)
        if not 0 <= self.temperature < float("inf"):
            raise refusal(self.temperature, "a number of at least 0", at="temperature")
        if self.num_beams > 1 and self.temperature > 0:
            got = f"num_beams={self.num_beams} and temperature={self.temperature}"
            raise refusal(got, "beams or draws", "num_beams=1")


def written(
    model: Handle,
    seen: Features,
    starts: Sequence[Sequence[int]],
    decoding: Decoding,
    seeds: Sequence[int],
    batch_size: int = 64,
) -> Captions:
    """Captions of pictures after the tokens of their starts, by transformers' `generate`.

    Of the generation settings only the end tokens are heeded. Rows whose starts have one length are written together,
    at most `batch_size` at a time; neither changes anything but rounding.

    Args:
        model: a captioner.
        seen: n pictures.
        starts: (n) tokens before each caption; see `start_rows`.
        decoding: how tokens are chosen.
        seeds: (n) of the draws of each row.
        batch_size: captions at a time.

    Raises:
        ModelError: more tokens than the model has places for, or a batch size below 1.
        ShapeError: not as many starts or seeds as pictures.
    """
    if not len(seen) == len(starts) == len(seeds):
        got = f"{len(seen)} pictures, {len(starts)} starts and {len(seeds)} seeds"
        raise ShapeError(explain(got, "as many of each"))
    if batch_size < 1:
        raise refusal(batch_size, "at least 1", at="batch_size")
    speaker = need_speaker(model)
    tokenizer, ends = model.need_tokenizer(), end_tokens(model)
    refuse_long(speaker, seen, max(map(len, starts), default=0) + decoding.max_new_tokens - 1)
    pad = pad_token(tokenizer, speaker.generator)
    ids: list[list[int]] = [[] for _ in starts]
    ended = [False for _ in starts]
    with evaluating(model.module), neutral(speaker.generator):
        for rows in _by_length(starts, batch_size):
            start = torch.tensor([list(starts[row]) for row in rows], dtype=torch.long, device=model.device)
            told = speaker.keywords(_moved(seen[rows], model), start.reshape(len(rows), -1))
            draws = (
                Draws(decoding.temperature, [seeds[row] for row in rows]) if decoding.temperature else None
            )
            settings = cast("Any", GenerationConfig)(
                do_sample=False,
                num_beams=decoding.num_beams,
                max_new_tokens=decoding.max_new_tokens,
                pad_token_id=pad,
                eos_token_id=ends or None,
                decoder_start_token_id=starts[rows[0]][0] if len(starts[rows[0]]) else None,
            )
            out: Tensor = speaker.generator.generate(
                **told, generation_config=settings, logits_processor=[draws] if draws else []
            )
            before = 0 if "inputs_embeds" in told else start.shape[1]
            for row, tokens in zip(rows, out[:, before:].tolist(), strict=True):
                ids[row] = list(takewhile(lambda token: token not in ends, tokens))
                ended[row] = len(ids[row]) < len(tokens)
    texts = [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in ids]
    return Captions(texts, ids, ended)


def log_probabilities(
    model: Handle,
    seen: Features,
    starts: Sequence[Sequence[int]],
    ids: Sequence[Sequence[int]],
    ended: Sequence[bool],
) -> tuple[Float[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Log-probabilities of the tokens of captions, each given its picture, its start and the tokens before it.

    In evaluation mode (no dropout), so that they are those of the policy that wrote the captions; with gradient where
    the caller has it on. Where a speaker has several end tokens, ending is any of them.

    Args:
        model: a captioner.
        seen: B pictures.
        starts: (B) tokens before each caption, of one length.
        ids: (B) tokens of each caption, without the end token.
        ended: (B) whether the end token follows, which is scored then.

    Returns:
        (B, T) log-probabilities in nats, 0 outside the mask, and the mask: 1 at scored tokens. T is the largest number
        of scored tokens.

    Raises:
        ShapeError: not as many captions as pictures, or starts of several lengths.
        ModelError: a caption that ended of a speaker without an end token, or one of too many tokens.
    """
    if not len(seen) == len(starts) == len(ids) == len(ended) or len({len(one) for one in starts}) > 1:
        got = f"{len(seen)} pictures, {len(ids)} captions and {len(ended)} ends"
        raise ShapeError(explain(got, "as many of each, after starts of one length"))
    speaker, ends = need_speaker(model), end_tokens(model)
    if any(ended) and not ends:
        got = "captions that ended, of a speaker without an end token"
        raise refusal(got, "an end token", "generation_config.eos_token_id = ...")
    device, width = model.device, max(map(len, ids), default=0)
    refuse_unknown(speaker.generator, model.need_tokenizer(), ids, "caption")
    refuse_long(speaker, seen, max(map(len, starts), default=0) + width)
    pad = pad_token(model.need_tokenizer(), speaker.generator)
    tokens = torch.tensor(
        [[*row, *[pad] * (width - len(row))] for row in ids], dtype=torch.long, device=device
    )
    tokens = tokens.reshape(len(ids), width)
    start = torch.tensor([list(one) for one in starts], dtype=torch.long, device=device).reshape(len(ids), -1)
    with evaluating(model.module, gradients=True):
        told = speaker.keywords(_moved(seen, model), torch.cat([start, tokens], 1))
        logits: Tensor = speaker.generator(**told).logits[:, -(width + 1) :]
    logp = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
    lengths = torch.tensor([len(row) for row in ids], device=device)[:, None]
    last = torch.tensor([bool(one) for one in ended], device=device)[:, None]
    at = torch.arange(width + 1, device=device)[None]
    said = logp[:, :width].gather(-1, tokens[..., None])[..., 0]
    ending = logp[..., ends].logsumexp(-1) if ends else torch.zeros_like(logp[..., 0])
    said = nn.functional.pad(said, (0, 1))
    mask = (at < lengths) | ((at == lengths) & last)
    scored = torch.where(at < lengths, said, torch.where(mask, ending, 0.0))
    longest_row = int(mask.sum(1).max()) if len(ids) else 0
    return scored[:, :longest_row], mask[:, :longest_row].long()


def end_tokens(model: Handle) -> list[int]:
    """Tokens that end a caption: as configured, else the tokenizer's end or separator; only those it can write."""
    speaker, tokenizer = need_speaker(model), model.need_tokenizer()
    size = predicted(speaker.generator) or int(text_config(speaker.generator).vocab_size)
    for given in (*speaker.ends(), tokenizer.eos_token_id, tokenizer.sep_token_id):
        listed = given if isinstance(given, list | tuple) else [given]
        ends = [one for one in listed if isinstance(one, int) and 0 <= one < size]
        if ends:
            return ends
    return []


def refuse_long(speaker: Speaker, seen: Features, tokens: int) -> None:
    """Refuse more tokens than a speaker has places for; a prefix takes some of them.

    Raises:
        ModelError: naming both numbers.
    """
    prefix = speaker.network.config.prefix_length if isinstance(speaker, Prefix) else 0
    prefix = seen.patches if prefix and speaker.network.config.reading == "patches" else prefix
    got = f"{prefix} prefix vectors and {tokens} tokens" if prefix else f"{tokens} tokens"
    refuse_longer(speaker.generator, prefix + tokens, got, "a smaller max_new_tokens")


def _size(part: Any) -> tuple[int, int] | None:
    size = getattr(part.config, "image_size", None)
    return (size, size) if isinstance(size, int) else None


def _moved(seen: Features, model: Handle) -> Tensor:
    kind = next(model.module.parameters()).dtype
    return seen.values.to(model.device, kind)


def _by_length(starts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Rows whose starts have one length, some at a time."""
    lengths: dict[int, list[int]] = {}
    for row, start in enumerate(starts):
        lengths.setdefault(len(start), []).append(row)
    for rows in lengths.values():
        for first in range(0, len(rows), batch_size):
            yield rows[first : first + batch_size]


def _plain(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    return token_rows(tokenizer, [prompt], what="prompt", special=False)[0] if prompt else []


def _embedded(read: Float[Tensor, "B L d"]) -> dict[str, Any]:
    mask = torch.ones(read.shape[:2], dtype=torch.long, device=read.device)
    return {"inputs_embeds": read, "attention_mask": mask}
