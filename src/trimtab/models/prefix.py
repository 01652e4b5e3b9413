"""Prefix captioner: a frozen picture vector mapped to prefix vectors of a language model (ClipCap, Mokady et al. 2021).

A Hugging Face model: importing this module registers it, so that `AutoModelForImageTextToText` and `load` read it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    GenerationMixin,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from trimtab.errors import ConfigError, explain, nearest
from trimtab.models.families import refusal

Reading = Literal["projected", "pooled", "patches"]
"""What of a picture is read: CLIP's image vector, the vision tower's pooled vector, or a vector for each patch."""


class PrefixCaptionerConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Configuration of a prefix captioner.

    Args:
        vision_config: of the vision tower; CLIP's unless given.
        text_config: of the causal language model; GPT-2's unless given.
        reading: "projected" for CLIP's image vector, as in the paper; "pooled"; or "patches", which gives as many
            prefix vectors as there are patches.
        prefix_length: prefix vectors that one vector is mapped to; of no consequence for patches.
        mapping_width: of the hidden layer of the mapping; half of what it puts out unless given, as in the paper.
        freeze_vision: the vision tower is not trained and stays in evaluation mode.
    """

    model_type = "prefix-captioner"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012 (transformers' own name)

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        reading: Reading = "projected",
        prefix_length: int = 10,
        mapping_width: int | None = None,
        freeze_vision: bool = True,
        **more: Any,
    ) -> None:
        if reading not in get_args(Reading):
            choices = get_args(Reading)
            raise ConfigError(
                f"reading: {explain(repr(reading), f'one of {choices}', nearest(str(reading), choices))}"
            )
        if prefix_length < 1 or (mapping_width is not None and mapping_width < 1):
            got = f"prefix_length={prefix_length}, mapping_width={mapping_width}"
            raise ConfigError(explain(got, "whole numbers above 0"))
        self.vision_config = _read_config(vision_config, CLIPVisionConfig)
        self.text_config = _read_config(text_config, GPT2Config)
        self.reading, self.prefix_length, self.mapping_width = reading, prefix_length, mapping_width
        self.freeze_vision = freeze_vision
        more.setdefault("tie_word_embeddings", getattr(self.text_config, "tie_word_embeddings", True))
        super().__init__(**more)


class PrefixCaptioner(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """Prefix captioner: vision tower, mapping and causal language model.

    The language model reads the prefix vectors, then the text. Logits are those that predict the text's tokens and the
    one that follows: one more than there are tokens.
    """

    config_class = PrefixCaptionerConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]  # noqa: RUF012 (transformers' own type)
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: PrefixCaptionerConfig) -> None:
        super().__init__(config)
        if config.reading == "projected":
            if config.vision_config.model_type != "clip_vision_model":
                got = f"reading='projected' of a {config.vision_config.model_type}"
                raise refusal(got, "CLIP's vision tower", "reading='pooled' or 'patches'")
            self.vision_tower: Any = CLIPVisionModelWithProjection(config.vision_config)
            seen = config.vision_config.projection_dim
        else:
            self.vision_tower = cast("Any", AutoModel).from_config(config.vision_config)
            seen = getattr(config.vision_config, "hidden_size", 0) or config.vision_config.hidden_sizes[-1]
        self.language_model: Any = cast("Any", AutoModelForCausalLM).from_config(config.text_config)
        width = self.language_model.get_input_embeddings().embedding_dim
        written = width * (1 if config.reading == "patches" else config.prefix_length)
        hidden = config.mapping_width or max(written // 2, 1)
        self.mapping = nn.Sequential(nn.Linear(seen, hidden), nn.Tanh(), nn.Linear(hidden, written))
        self.width = width
        if config.freeze_vision:
            self.vision_tower.requires_grad_(False)
        cast("Any", self).post_init()
        self.language_model.generation_config = self.generation_config

    @classmethod
    def assemble(
        cls,
        vision: PreTrainedModel | str | Path,
        language_model: PreTrainedModel | str | Path,
        **settings: Any,
    ) -> Self:
        """Prefix captioner from a trained vision tower and language model, whose weights are copied.

        Args:
            vision: a vision tower, a whole CLIP, or the folder or name of one.
            language_model: a causal language model, or the folder or name of one.
            **settings: of `PrefixCaptionerConfig`.
        """
        projected = settings.get("reading", "projected") == "projected"
        if isinstance(vision, str | Path):
            kind: Any = CLIPVisionModelWithProjection if projected else AutoModel
            vision = kind.from_pretrained(str(vision))
        if isinstance(language_model, str | Path):
            language_model = AutoModelForCausalLM.from_pretrained(str(language_model))
        source: Any = vision
        whole = hasattr(source.config, "vision_config")
        facts = source.config.vision_config if whole else source.config
        model = cls(PrefixCaptionerConfig(facts.to_dict(), language_model.config.to_dict(), **settings))
        weights = source.state_dict()
        if whole:
            kept = ("vision_model.", "visual_projection.") if projected else ("vision_model.",)
            weights = {name: value for name, value in weights.items() if name.startswith(kept)}
            if not projected:
                weights = {name.removeprefix("vision_model."): value for name, value in weights.items()}
        model.vision_tower.load_state_dict(weights)
        model.language_model.load_state_dict(language_model.state_dict())
        model.to(next(source.parameters()).dtype)
        model.train(False)
        return model

    @classmethod
    def from_pretrained(cls, *source: Any, **settings: Any) -> Any:
        """Prefix captioner of a folder or hub name, with its vision tower frozen where the configuration says so."""
        loaded: Any = super().from_pretrained(*source, **settings)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.freeze_vision:  # transformers puts other parameters in the place of the frozen ones
            model.vision_tower.requires_grad_(False)
        model.language_model.generation_config = model.generation_config
        return loaded

    def look(self, pixel_values: Float[Tensor, "B C H W"]) -> Tensor:
        """What the vision tower sees: (B, d) vectors, or (B, patches, d); the same for a picture every time."""
        seen = self.vision_tower(pixel_values=pixel_values)
        if self.config.reading == "projected":
            return cast("Tensor", seen.image_embeds)
        if self.config.reading == "pooled":
            return cast("Tensor", seen.pooler_output.flatten(1))
        hidden: Tensor = seen.last_hidden_state
        return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden

    def prefix(self, features: Tensor) -> Float[Tensor, "B P d"]:
        """Prefix vectors of what `look` saw."""
        read = features.to(next(self.mapping.parameters()).dtype)
        return cast("Tensor", self.mapping(read)).reshape(len(features), -1, self.width)

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        pixel_values: Float[Tensor, "B C H W"] | None = None,
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        features: Tensor | None = None,
        **more: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T + 1, V): of each token of the text and of the one after it, and the loss of labels.

        Args:
            input_ids: the text; None for none.
            pixel_values: of the picture; or
            features: what `look` saw.
            attention_mask: (B, T), or (B, P + T) with the prefix; padding stands on the right.
            labels: the text again, -100 at what is not to be predicted.
            **more: for the language model.
        """
        seen = self.look(cast("Tensor", pixel_values)) if features is None else features
        read = self.prefixed(seen, input_ids)
        length = read.shape[1] - (0 if input_ids is None else input_ids.shape[1])
        if attention_mask is not None and attention_mask.shape[1] != read.shape[1]:
            ones = attention_mask.new_ones(len(read), length)
            attention_mask = torch.cat([ones, attention_mask], 1)
        more.pop("return_dict", None)
        out = self.language_model(inputs_embeds=read, attention_mask=attention_mask, return_dict=True, **more)
        logits, loss = out.logits[:, length - 1 :], None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels.flatten())
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions
        )

    def prefixed(self, features: Tensor, input_ids: Int[Tensor, "B T"] | None) -> Float[Tensor, "B L d"]:
        """Prefix vectors, then the embeddings of the tokens."""
        prefix = self.prefix(features)
        if input_ids is None or input_ids.shape[1] == 0:
            return prefix
        words = self.language_model.get_input_embeddings()(input_ids)
        return torch.cat([prefix.to(words.dtype), words], 1)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        pixel_values: Float[Tensor, "B C H W"] | None = None,
        input_ids: Int[Tensor, "B T"] | None = None,
        features: Tensor | None = None,
        attention_mask: Tensor | None = None,  # noqa: ARG002 (prompts of one length have no padding)
        **settings: Any,
    ) -> Any:
        """New tokens after the picture and the prompt, by the language model's `generate`; prompts of one length."""
        seen = self.look(cast("Tensor", pixel_values)) if features is None else features
        read = self.prefixed(seen, input_ids)
        mask = torch.ones(read.shape[:2], dtype=torch.long, device=read.device)
        return self.language_model.generate(inputs_embeds=read, attention_mask=mask, **settings)

    def train(self, mode: bool = True) -> Self:
        """Training mode of all but a frozen vision tower."""
        super().train(mode)
        if self.config.freeze_vision:
            self.vision_tower.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Embedding of tokens."""
        return cast("nn.Module", self.language_model.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of tokens."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Head of the language model."""
        return cast("nn.Module", self.language_model.get_output_embeddings())

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head of the language model."""
        self.language_model.set_output_embeddings(new_embeddings)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):  # the mapping's; the parts begin as their own classes do
            module.reset_parameters()


def _read_config(given: PreTrainedConfig | dict[str, Any] | None, default: Any) -> Any:
    if isinstance(given, PreTrainedConfig):
        return given
    if given is None:
        return default()
    facts = dict(given)
    return AutoConfig.for_model(facts.pop("model_type", default.model_type), **facts)


AutoConfig.register(PrefixCaptionerConfig.model_type, PrefixCaptionerConfig, exist_ok=True)
AutoModel.register(PrefixCaptionerConfig, PrefixCaptioner, exist_ok=True)
AutoModelForImageTextToText.register(PrefixCaptionerConfig, PrefixCaptioner, exist_ok=True)
