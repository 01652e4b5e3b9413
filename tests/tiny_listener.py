"""A tiny CLIP of random weights as listener, and pictures of noise."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from trimtab.refer.captions.listener import Listener

WORDS = (
    "<pad>",
    "<s>",
    "<unk>",
    "</s>",
    "red",
    "green",
    "blue",
    "dot",
    "square",
    "left",
    "right",
    "on",
    "grey",
)


def noise(seed: int) -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@cache
def words() -> hf.PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)]
    )
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner, **named)


@cache
def clip(seed: int = 0, end: int = 3) -> hf.CLIPModel:
    """Weights of standard deviation .3, so that captions and pictures differ."""
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = size | {
        "vocab_size": len(WORDS),
        "max_position_embeddings": 16,
        "eos_token_id": end,
        "bos_token_id": 1,
    }
    sight = size | {"image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=sight, projection_dim=8))
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)
    return module.eval()


def look() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(do_resize=False, do_center_crop=False)


@cache
def listener(seed: int = 0) -> Listener:
    return Listener.from_pretrained(clip(seed), tokenizer=words(), processor=look())
