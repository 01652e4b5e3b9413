"""Tiny random text-to-image pipelines of diffusers: Stable Diffusion, its XL kind, and PixArt."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import transformers as hf

from tiny_models import CONFIGS, build, tokenizer

KINDS = ("sd", "sdxl", "pixart")
SITES = {"sd": "*norm*", "sdxl": "*norm*", "pixart": "transformer_blocks.*.norm[12]"}


def pipeline(kind: str) -> Any:
    """A pipeline of 16 x 16 pictures, which reads one token a character, at most 24."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        import diffusers

        torch.manual_seed(0)
        words = tokenizer(pad_token="</s>")
        words.model_max_length = 24
        parts = {
            "vae": diffusers.AutoencoderKL(
                block_out_channels=(8, 8),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=4,
                norm_num_groups=4,
            ),
            "scheduler": diffusers.LCMScheduler(),
            "tokenizer": words,
        }
        if kind == "pixart":
            heads = {"d_model": 12, "d_kv": 4, "num_heads": 3, "d_ff": 16, "num_layers": 1, "vocab_size": 64}
            parts |= {
                "transformer": build("pixart"),
                "text_encoder": _spread(hf.T5EncoderModel(hf.T5Config(**heads))),
            }
            return diffusers.PixArtAlphaPipeline(**parts)
        if kind == "sd":
            safety = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            parts |= {"unet": build("unet"), "text_encoder": build("clip_text_model")} | safety
            return diffusers.StableDiffusionPipeline(**parts)
        second = _spread(hf.CLIPTextModelWithProjection(CONFIGS["clip_text_model"]()))
        added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "cross_attention_dim": 32}
        unet = build("unet", projection_class_embeddings_input_dim=6 * 8 + 8, **added)
        parts |= {
            "unet": unet,
            "text_encoder": build("clip_text_model"),
            "text_encoder_2": second,
            "tokenizer_2": words,
        }
        return diffusers.StableDiffusionXLPipeline(**parts)


def _spread(module: Any) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return module.eval()
