"""Two-tower encoders: unit embeddings of texts and pictures in one space, as CLIP has them (Radford et al. 2021).

CLIP, SigLIP and pairs of towers (`VisionTextDualEncoderModel`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from trimtab.models.batches import check_listed, evaluating, pad_token, padded, token_rows
from trimtab.models.families import refusal, unwrapped
from trimtab.models.inspection import check_model
from trimtab.models.load import Model, load
from trimtab.models.pictures import image_processor, pixel_batches
from trimtab.models.tokenizer import Added, TokenizerSource, longest, refuse_unknown
from trimtab.runs.brief import one_line

TWO_TOWERS = ("clip", "siglip", "siglip2", "vision-text-dual-encoder")
"""Kinds of configuration, by `model_type`, that are read."""

_EXPECTED = "a model of two towers: CLIP, SigLIP or VisionTextDualEncoder"


@dataclass(frozen=True)
class TwoTower:
    """Frozen encoder of texts and pictures; the product of two embeddings is their cosine.

    Attributes:
        model: the handle, with tokenizer and processor; only read.
        scale: exp of the learned logit scale, by which cosines are multiplied: 100 at most in CLIP.
        notes: what differs from the checkpoint's own `get_text_features`, for a report.
        end: token at which the text is pooled; None where the model pools elsewhere.
    """

    model: Model
    scale: float
    notes: tuple[str, ...] = ()
    end: int | None = None

    def __repr__(self) -> str:
        return one_line("TwoTower", repr(self.name), f"scale {self.scale:.4g}", *self.notes)

    @property
    def name(self) -> str:
        """Name of the model: the hub name, the folder or the class."""
        return self.model.name

    def texts(self, texts: Sequence[str], batch_size: int = 256) -> Float[Tensor, "n d"]:
        """Unit embeddings of texts, on the CPU, in single precision, without gradient.

        A text beyond the model's positions is cut, and ends with the end token all the same. Padding and the batch
        change nothing but rounding. An empty text has the embedding of its special tokens.

        Raises:
            ModelError: a single string, something that is no text, tokens that the model has no place for, a batch
                size below 1, or an embedding without direction (nan, infinite or zero).
        """
        check_listed(texts)
        if batch_size < 1:
            raise refusal(batch_size, "at least 1", at="batch_size")
        network, tokenizer = self._network, self.model.need_tokenizer()
        limit = longest(network) or math.inf
        rows = [self._closed(row, limit) for row in token_rows(tokenizer, list(texts), empty=True)]
        refuse_unknown(network.text_model, tokenizer, rows)
        found = list[Tensor]()
        with evaluating(self.model.module):
            for start in range(0, len(rows), batch_size):
                features = self._text_features(rows[start : start + batch_size])
                found.append(_unit(features, "text", start))
        return torch.cat(found) if found else torch.zeros(0, self.width)

    def pictures(self, images: Any, batch_size: int = 64) -> Float[Tensor, "n d"]:
        """Unit embeddings of pictures, on the CPU, in single precision, without gradient.

        Args:
            images: an iterable of images or paths, which are read one batch at a time; or a named collection.
            batch_size: pictures at a time.

        Raises:
            DataError: a picture that cannot be decoded, or pixels that are no numbers.
            ModelError: a batch size below 1, pictures of another size than the model reads, or an embedding without
                direction.
        """
        network, found, start = self._network, list[Tensor](), 0
        size = picture_size(network.config.vision_config)
        kind = next(network.vision_model.parameters()).dtype
        with evaluating(self.model.module):
            for pixels in pixel_batches(self.model.processor, images, batch_size=batch_size, size=size):
                features = network.get_image_features(pixel_values=pixels.to(self.model.device, kind))
                found.append(_unit(features.pooler_output, "picture", start))
                start += len(pixels)
        return torch.cat(found) if found else torch.zeros(0, self.width)

    @property
    def width(self) -> int:
        """Width d of the embeddings."""
        config = self._network.config
        return int(getattr(config, "projection_dim", None) or config.text_config.projection_size)

    @property
    def _network(self) -> Any:
        return unwrapped(self.model.module)

    @property
    def _fixed(self) -> bool:
        """Whether texts are padded to one length, without a mask: SigLIP was trained so, and pools the last token."""
        return str(self._network.config.model_type).startswith("siglip")

    def _closed(self, row: list[int], limit: float) -> list[int]:
        """A row within so many positions that ends as the model's texts do."""
        tokenizer = self.model.need_tokenizer()
        if self.end is not None:
            ended = row if row and row[-1] == self.end else [*row, self.end]
            return ended if len(ended) <= limit else [*ended[: int(limit) - 1], self.end]
        if len(row) > limit:
            return Added.of(tokenizer).cut(row, int(limit))
        return row or [pad_token(tokenizer, self._network.text_model)]

    def _text_features(self, rows: Sequence[Sequence[int]]) -> Tensor:
        network, tokenizer = self._network, self.model.need_tokenizer()
        pad = pad_token(tokenizer, network.text_model)
        if self._fixed:
            length = longest(network) or max(map(len, rows))
            ids = torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows])
            return cast("Tensor", network.get_text_features(ids.to(self.model.device)).pooler_output)
        batch = padded(rows, pad).to(self.model.device)
        if self.end is None:
            told = {"input_ids": batch.ids, "attention_mask": batch.mask}
            return cast("Tensor", network.get_text_features(**told).pooler_output)
        hidden = network.text_model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        at = (batch.ids == self.end).int().argmax(1)  # the first: padding may be the same token
        return cast(
            "Tensor", network.text_projection(hidden[torch.arange(len(hidden), device=hidden.device), at])
        )


def two_tower(
    source: TwoTower | Model | nn.Module | str | Path,
    tokenizer: TokenizerSource | None = None,
    processor: Any = None,
    device: str | torch.device | None = None,
) -> TwoTower:
    """Two-tower encoder from a folder, a hub name, a loaded model or a module.

    CLIP pools a text at its end token. A configuration with `eos_token_id` 2, as all had until 2023, makes
    transformers pool at the largest id instead: the end token in OpenAI's vocabulary, but in others any word, after
    which nothing is heard. Texts are pooled at the tokenizer's own end token here, and `notes` says where that differs.

    Args:
        source: what to read; a `TwoTower` is returned as it is.
        tokenizer: replaces the checkpoint's; needed beside a module.
        processor: of pictures; replaces the checkpoint's, and is needed beside a module.
        device: as for `load`; not beside what is loaded already.

    Raises:
        ModelError: no two towers (a language model, say), no tokenizer or no processor, a text tower that pools at an
            end token of a tokenizer without one, or a logit scale that is no number.
    """
    if isinstance(source, TwoTower | Model) and (tokenizer, processor, device) != (None, None, None):
        got = "tokenizer=, processor= or device= beside a loaded model"
        raise refusal(got, "them in load(...), or a module or folder here")
    if isinstance(source, TwoTower):
        return source
    given: Any = {"tokenizer": tokenizer, "processor": processor, "device": device}
    model = source if isinstance(source, Model) else load(source, **given)
    network: Any = unwrapped(model.module)
    kind = str(getattr(getattr(network, "config", None), "model_type", ""))
    if kind not in TWO_TOWERS or not hasattr(network, "get_image_features"):
        hint = "its whole model, such as CLIPModel" if "clip" in kind or "siglip" in kind else ""
        raise refusal(f"{model.name}, a {type(network).__name__}", _EXPECTED, hint)
    check_model(model)
    words = model.need_tokenizer()
    image_processor(model.processor)
    scale = float(network.logit_scale.detach().exp())
    if not math.isfinite(scale):
        raise refusal(f"a logit scale of {scale}", "a finite number", at=model.name)
    end, notes = _pooled_at(network, words)
    return TwoTower(model, scale, notes, end)


def picture_size(config: Any) -> tuple[int, int] | None:
    """Height and width of the pictures that a vision tower reads; None where it reads any."""
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None


def _pooled_at(network: Any, words: PreTrainedTokenizerBase) -> tuple[int | None, tuple[str, ...]]:
    """Token at which a CLIP text tower is to pool, and what that changes."""
    config = network.config.text_config
    if config.model_type not in ("clip", "clip_text_model"):
        return None, ()
    added, own = Added.of(words).after, config.eos_token_id
    end = own if own in added and own != 2 else added[-1] if added else words.eos_token_id
    if not isinstance(end, int):
        got = f"a CLIP that pools at the token {own}, beside a tokenizer without an end token"
        raise refusal(got, "a tokenizer with an end token", "tokenizer.eos_token = ...")
    notes = list[str]()
    if own == 2 and end != max(words.get_vocab().values()):
        notes.append(
            f"texts are pooled at the tokenizer's end token {end}: with eos_token_id 2 in its configuration "
            "transformers pools at the largest id, and does not hear what follows it"
        )
    elif own not in (2, end):
        notes.append(f"texts are pooled at the tokenizer's end token {end}, not at {own} as configured")
    if not added:
        notes.append(f"the tokenizer's end token {end} is put after every text, which it leaves out")
    return end, tuple(notes)


def _unit(features: Tensor, what: str, start: int) -> Tensor:
    """Rows of length one; refused where a row has no direction."""
    rows = features.float().cpu()
    lengths = rows.norm(dim=1, keepdim=True)
    bad = ~(lengths.isfinite() & (lengths > 0))[:, 0]
    if bool(bad.any()):
        at = f"{what} {start + int(bad.nonzero()[0])}"
        raise refusal("an embedding that is zero, nan or infinite", "a direction", "other weights", at=at)
    unit: Tensor = rows / lengths
    return unit
