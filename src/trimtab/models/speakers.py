"""Speakers: networks that say what is in a picture, with their frozen vision part apart from the part that speaks.

Four kinds: VisionEncoderDecoder, BLIP, prefix captioners and Llava. All of them look backwards only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    BlipForConditionalGeneration,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
    VisionEncoderDecoderModel,
)
from transformers.modeling_outputs import BaseModelOutput

from trimtab.models.families import Handle, refusal, text_config, unwrapped
from trimtab.models.prefix import PrefixCaptioner
from trimtab.models.tokenizer import Added, predicted

EXPECTED = "a captioner: VisionEncoderDecoder, BLIP, Llava or a prefix captioner"


@dataclass(frozen=True, eq=False)
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

    def start(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], patches: int) -> list[int]:
        """Tokens before what is written: what the kind begins with, and a prompt's own tokens."""

    def keywords(self, features: Tensor, ids: Int[Tensor, "B T"]) -> dict[str, Any]:
        """Keywords of the forward pass and of `generate` of the part that speaks."""

    def read(self, ids: Int[Tensor, "B T"], mask: Int[Tensor, "B T"], patches: int) -> dict[str, Tensor]:
        """Keywords of the whole network's forward pass beside `pixel_values`."""

    def ends(self) -> list[Any]:
        """End tokens as configured; the first that can be written count."""


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

    def start(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], patches: int) -> list[int]:  # noqa: ARG002
        """The decoder's start token, then the prompt."""
        for config in (self.network.generation_config, self.network.config, self.network.config.decoder):
            for name in ("decoder_start_token_id", "bos_token_id"):
                if isinstance(token := getattr(config, name, None), int):
                    return [token, *prompt]
        got, hint = "a decoder without a start token", "model.module.config.decoder_start_token_id = ..."
        raise refusal(got, "decoder_start_token_id in its configuration", hint)

    def keywords(self, features: Tensor, ids: Int[Tensor, "B T"]) -> dict[str, Any]:
        """The encoder's states, and the decoder's tokens under an explicit mask."""
        states = BaseModelOutput(cast("Any", features))
        mask = torch.ones_like(ids)
        return {"encoder_outputs": states, "decoder_input_ids": ids, "decoder_attention_mask": mask}

    def read(self, ids: Int[Tensor, "B T"], mask: Int[Tensor, "B T"], patches: int) -> dict[str, Tensor]:  # noqa: ARG002
        """The decoder's tokens and their mask."""
        return {"decoder_input_ids": ids, "decoder_attention_mask": mask}

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

    def start(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], patches: int) -> list[int]:  # noqa: ARG002
        """The decoder's start token, which no tokenizer adds, then the prompt."""
        return [int(self.network.config.text_config.bos_token_id), *prompt]

    def keywords(self, features: Tensor, ids: Int[Tensor, "B T"]) -> dict[str, Any]:
        """Tokens under an explicit mask, and what the decoder attends to."""
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "encoder_hidden_states": features,
            "encoder_attention_mask": ids.new_ones(features.shape[:2]),
        }

    def read(self, ids: Int[Tensor, "B T"], mask: Int[Tensor, "B T"], patches: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Tokens and their mask."""
        return {"input_ids": ids, "attention_mask": mask}

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

    def start(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], patches: int) -> list[int]:  # noqa: ARG002
        """The prompt alone: the prefix stands before it."""
        return list(prompt)

    def keywords(self, features: Tensor, ids: Int[Tensor, "B T"]) -> dict[str, Any]:
        """Prefix and embedded tokens, under an explicit mask."""
        return _embedded(self.network.prefixed(features, ids))

    def read(self, ids: Int[Tensor, "B T"], mask: Int[Tensor, "B T"], patches: int) -> dict[str, Tensor]:
        """Tokens, and the mask of prefix and tokens."""
        return {
            "input_ids": ids,
            "attention_mask": torch.cat([mask.new_ones(len(mask), self.length(patches)), mask], 1),
        }

    def length(self, patches: int) -> int:
        """How many prefix vectors stand before the text."""
        config = self.network.config
        return patches if config.reading == "patches" else int(config.prefix_length)

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

    def start(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], patches: int) -> list[int]:
        """The prompt, with as many tokens of a picture as there are patches."""
        image = int(self.network.config.image_token_index)
        row = Added.of(tokenizer).begun(prompt) if prompt else []
        if row.count(image) > 1:
            raise refusal(f"{row.count(image)} pictures in a prompt", "one picture", at="prompt")
        at = row.index(image) if image in row else len(Added.of(tokenizer).before) if row else 0
        return [*row[:at], *[image] * patches, *row[at + (image in row) :]]

    def keywords(self, features: Tensor, ids: Int[Tensor, "B T"]) -> dict[str, Any]:
        """Embedded tokens, under an explicit mask; those of the picture are its projected patches.

        A token of a picture that the speaker itself writes has none: it is embedded as a word, as in `generate`.
        """
        words = self.network.get_input_embeddings()(ids)
        seen = self.network.model.multi_modal_projector(features).to(words.dtype)
        place = ids == self.network.config.image_token_index
        place = place & (place.cumsum(1) <= features.shape[1])
        return _embedded(words.masked_scatter(place[..., None], seen))

    def read(self, ids: Int[Tensor, "B T"], mask: Int[Tensor, "B T"], patches: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Tokens and their mask."""
        return {"input_ids": ids, "attention_mask": mask}

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
    module: Any = getattr(cast("Any", model), "module", model)
    speaker = speaker_of(module)
    if speaker is None:
        got = f"{what} for a {type(unwrapped(module)).__name__}"
        raise refusal(got, EXPECTED, "prompts alone, or another model")
    return speaker


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


def default_prompt(model: Handle) -> str:
    """Text before a caption unless another is given: none, or for Llava the picture.

    In the chat template of Llava's processor where it has one, else with a line break after it.
    """
    speaker = need_speaker(model)
    if not isinstance(speaker, Llava):
        return ""
    if getattr(model.processor, "chat_template", None):
        said = [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": "Describe the picture."}],
            }
        ]
        return str(model.processor.apply_chat_template(said, add_generation_prompt=True))
    image = model.need_tokenizer().convert_ids_to_tokens(int(speaker.network.config.image_token_index))
    return f"{image}\n"


def refuse_blind(model: Handle | nn.Module) -> None:
    """Refuse a captioner, a handle or a network, that is given no pictures; Llava can do without.

    Raises:
        ModelError: naming it.
    """
    module: Any = getattr(model, "module", model)
    speaker = speaker_of(module)
    if speaker is not None and not isinstance(speaker, Llava):
        got = f"texts alone for a {type(speaker.network).__name__}"
        raise refusal(got, "a picture for each", "images=")


def _embedded(read: Float[Tensor, "B L d"]) -> dict[str, Any]:
    mask = torch.ones(read.shape[:2], dtype=torch.long, device=read.device)
    return {"inputs_embeds": read, "attention_mask": mask}
