"""Tiny random models that see: two towers and captioners of each kind, with tokenizers, processors and pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import processors
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import tiny_models
from trimtab.models.prefix import PrefixCaptioner, PrefixCaptionerConfig

SIDE = 16
IMAGE = 63
"""Token of a picture for Llava: `)`, the last one."""


def words(end: str = "</s>", added: bool = True) -> hf.PreTrainedTokenizerFast:
    """One token per character, between `<s>` (0) and `</s>` (1) where they are added."""
    tokenizer = tiny_models.tokenizer(pad_token="<unk>")
    if added:
        marks = [("<s>", 0), (end, tokenizer.convert_tokens_to_ids(end))]
        inner = tokenizer._tokenizer
        inner.post_processor = processors.TemplateProcessing(f"<s> $A {end}", special_tokens=marks)
    return tokenizer


def clip_processor(side: int = SIDE) -> Any:
    """Processor of CLIP, without torchvision."""
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def siglip_processor() -> Any:
    return SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})


def vit_processor() -> Any:
    return ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})


def random_pictures(n: int = 5, seed: int = 0, side: int = 20) -> list[Image.Image]:
    """Pictures of noise."""
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(n)]


def clip(eos: int = 1) -> Any:
    """A CLIP that pools its texts at a token; at 2 transformers pools at the largest id."""
    module: Any = tiny_models.build("clip")
    module.config.text_config.eos_token_id = eos
    module.text_model.eos_token_id = eos
    return module


def siglip() -> Any:
    text = tiny_models.SIZES | {"max_position_embeddings": 24}
    return _drawn(lambda: hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=tiny_models.VISION)))


def dual() -> Any:
    """A pair of towers: ViT and BERT."""
    text = hf.BertConfig(**tiny_models.SIZES | {"pad_token_id": 2})
    seen, make = hf.ViTConfig(**tiny_models.VISION), hf.VisionTextDualEncoderConfig.from_vision_text_configs
    return _drawn(lambda: hf.VisionTextDualEncoderModel(make(seen, text, projection_dim=8)))


def dual_clip(eos: int = 1) -> Any:
    """A pair of CLIP's own towers, joined."""
    text, vision = (tiny_models.CONFIGS[f"clip_{name}_model"]() for name in ("text", "vision"))
    make = hf.VisionTextDualEncoderConfig.from_vision_text_configs
    module = _drawn(lambda: hf.VisionTextDualEncoderModel(make(vision, text, projection_dim=8)))
    module.config.text_config.eos_token_id = module.text_model.eos_token_id = eos
    return module


def ved(decoder: str = "gpt2", wide: bool = False) -> Any:
    """ViT and a decoder with cross-attention, of another width where it is wide."""
    if decoder == "gpt2":
        text = tiny_models.CONFIGS["gpt2"](add_cross_attention=True, **({"n_embd": 32} if wide else {}))
    else:
        text = tiny_models.CONFIGS["bert"](is_decoder=True, add_cross_attention=True)
    seen, make = (
        hf.ViTConfig(**tiny_models.VISION),
        hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs,
    )

    def build() -> Any:
        module = hf.VisionEncoderDecoderModel(make(seen, text))
        for config in (module.config, module.generation_config):
            config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 0, 2, 1
        return module

    return _drawn(build)


def blip() -> Any:
    text = tiny_models.SIZES | {
        "sep_token_id": 1,
        "eos_token_id": 5,
        "pad_token_id": 2,
        "encoder_hidden_size": 16,
    }
    config = hf.BlipConfig(text_config=text, vision_config=tiny_models.VISION)
    return _drawn(lambda: hf.BlipForConditionalGeneration(config))


def llava(tied: bool = False) -> Any:
    config = hf.LlavaConfig(
        vision_config=tiny_models.CONFIGS["clip_vision_model"](),
        text_config=tiny_models.CONFIGS["llama"](tie_word_embeddings=tied),
        image_token_index=IMAGE,
        image_seq_length=4,
    )
    return _drawn(lambda: hf.LlavaForConditionalGeneration(config))


def prefix(reading: str = "projected", text: str = "gpt2") -> Any:
    vision = (
        hf.ViTConfig(**tiny_models.VISION)
        if reading == "pooled"
        else tiny_models.CONFIGS["clip_vision_model"]()
    )
    config = PrefixCaptionerConfig(vision, tiny_models.CONFIGS[text](), reading=reading, prefix_length=3)
    return _drawn(lambda: PrefixCaptioner(config))


TOWERS: dict[str, Callable[[], Any]] = {"clip": clip, "siglip": siglip, "dual": dual, "dual_clip": dual_clip}
CAPTIONERS: dict[str, Callable[[], Any]] = {
    "ved": ved,
    "ved_bert": lambda: ved("bert"),
    "ved_wide": lambda: ved(wide=True),
    "blip": blip,
    "prefix": prefix,
    "prefix_patches": lambda: prefix("patches", "llama"),
    "llava": llava,
}
PROCESSORS = {
    "clip": clip_processor,
    "siglip": siglip_processor,
    "dual": vit_processor,
    "dual_clip": clip_processor,
}


def _drawn(build: Callable[[], Any]) -> Any:
    """Weights of standard deviation .3, so that outputs differ by input."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
    return module.eval()
