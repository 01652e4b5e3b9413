"""Captions of pictures: features seen once, captions written, their tokens scored, and batches to capture from.

Rows whose prompts have one length are taken together, so there is no padding before what is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import takewhile
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig

from trimtab.errors import ShapeError, explain
from trimtab.models.batches import TokenRow, check_listed, evaluating, pad_token, padded, token_rows
from trimtab.models.decoding import Draws, neutral
from trimtab.models.devices import device_of
from trimtab.models.families import Handle, refusal, unwrapped
from trimtab.models.inspection import check_model, module_of
from trimtab.models.pictures import pixel_batches
from trimtab.models.speakers import (
    Blip,
    Captions,
    EncoderDecoder,
    Features,
    Prefix,
    Speaker,
    default_prompt,
    end_tokens,
    need_speaker,
    speaker_of,
)
from trimtab.models.tokenizer import refuse_longer, refuse_unknown
from trimtab.seeds import derive


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
        starts: (n) tokens before each caption; see `starts_of`.
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
    # What follows the last token is scored only where a longest caption ended: one cut at the model's limit fits.
    fed = width if any(one and len(row) == width for row, one in zip(ids, ended, strict=True)) else width - 1
    fed = max(fed, 0)
    refuse_unknown(speaker.generator, model.need_tokenizer(), ids, "caption")
    refuse_long(speaker, seen, max(map(len, starts), default=0) + fed)
    pad = pad_token(model.need_tokenizer(), speaker.generator)
    tokens = torch.tensor(
        [[*row, *[pad] * (width - len(row))] for row in ids], dtype=torch.long, device=device
    )
    tokens = tokens.reshape(len(ids), width)
    start = torch.tensor([list(one) for one in starts], dtype=torch.long, device=device).reshape(len(ids), -1)
    with evaluating(model.module, gradients=True):
        told = speaker.keywords(_moved(seen, model), torch.cat([start, tokens[:, :fed]], 1))
        logits: Tensor = speaker.generator(**told).logits[:, -(fed + 1) :]
    logp = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
    lengths = torch.tensor([len(row) for row in ids], device=device)[:, None]
    last = torch.tensor([bool(one) for one in ended], device=device)[:, None]
    at = torch.arange(width + 1, device=device)[None]
    said = logp[:, :width].gather(-1, tokens[..., None])[..., 0]
    ending = logp[..., ends].logsumexp(-1) if ends else torch.zeros_like(logp[..., 0])
    said, ending = nn.functional.pad(said, (0, 1)), nn.functional.pad(ending, (0, width - fed))
    mask = (at < lengths) | ((at == lengths) & last)
    scored = torch.where(at < lengths, said, torch.where(mask, ending, 0.0))
    longest_row = int(mask.sum(1).max()) if len(ids) else 0
    return scored[:, :longest_row], mask[:, :longest_row].long()


def refuse_long(speaker: Speaker, seen: Features, tokens: int) -> None:
    """Refuse more tokens than a speaker has places for; a prefix takes some of them.

    Raises:
        ModelError: naming both numbers.
    """
    prefix = speaker.length(seen.patches) if isinstance(speaker, Prefix) else 0
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


def starts_of(model: Handle, prompts: Sequence[str] | None, n: int, patches: int) -> list[list[int]]:
    """Tokens before each of n captions.

    Args:
        model: a captioner.
        prompts: (n) texts, "" for none; None for the kind's own start, see `default_prompt`.
        n: how many captions.
        patches: vectors of a picture.

    Raises:
        ShapeError: not as many prompts.
        ModelError: a prompt that cannot be read.
    """
    speaker, tokenizer = need_speaker(model), model.need_tokenizer()
    if prompts is None:
        rows = token_rows(tokenizer, [default_prompt(model)], what="prompt", special=False, empty=True) * n
    else:
        check_listed(prompts, "prompt")
        rows = token_rows(tokenizer, prompts, what="prompt", special=False, empty=True)
    if len(rows) != n:
        raise ShapeError(explain(f"{len(rows)} prompts for {n} pictures", "one prompt a picture"))
    refuse_unknown(speaker.generator, tokenizer, rows, "prompt")
    return [speaker.start(tokenizer, row, patches) for row in rows]


def captions(
    model: Handle,
    prompts: Sequence[str] | None,
    images: Any,
    decoding: Decoding,
    seed: int = 0,
    batch_size: int = 16,
) -> list[str]:
    """Captions of pictures after a prompt each, as texts; draws depend on the seed and the picture's place.

    Raises:
        ModelError: no captioner, or what `features`, `starts_of` and `written` refuse.
        ShapeError: not one prompt a picture.
    """
    need_speaker(model)
    check_model(model)
    seen = images if isinstance(images, Features) else features(model, images, batch_size)
    seeds = [derive(seed, "generate", row) for row in range(len(seen))]
    starts = starts_of(model, prompts, len(seen), seen.patches)
    return written(model, seen, starts, decoding, seeds, batch_size).texts


def caption_nats(
    model: Handle,
    images: Any,
    starts: Sequence[Sequence[int]] | None,
    rows: Sequence[Sequence[int]],
    batch_size: int,
) -> list[float]:
    """Log-likelihood of each row of tokens given its picture, in nats; no end token is scored.

    Args:
        model: a captioner.
        images: n pictures, or their `Features`.
        starts: (n) tokens of prompts before the rows; None for the kind's own start.
        rows: (n) tokens.
        batch_size: pictures at a time.

    Raises:
        ShapeError: not as many pictures as rows.
    """
    seen = images if isinstance(images, Features) else features(model, images, batch_size)
    if len(seen) != len(rows):
        raise ShapeError(explain(f"{len(rows)} texts and {len(seen)} pictures", "a picture for each text"))
    speaker, tokenizer = need_speaker(model), model.need_tokenizer()
    if starts is None:
        begun = starts_of(model, None, len(rows), seen.patches)
    else:
        begun = [speaker.start(tokenizer, start, seen.patches) for start in starts]
    nats = [0.0] * len(rows)
    with torch.no_grad():
        for part in _by_length(begun, batch_size):
            before, ids = [begun[row] for row in part], [rows[row] for row in part]
            found, _ = log_probabilities(model, seen[part], before, ids, [False] * len(part))
            for row, value in zip(part, found.double().sum(1).tolist(), strict=True):
                nats[row] = value
    return nats


def picture_batches(
    model: Handle,
    images: Any,
    texts: Sequence[str] | Sequence[TokenRow] | None = None,
    *,
    batch_size: int = 16,
) -> Iterator[dict[str, Tensor]]:
    """Keywords of forward passes over pictures and their texts, `model.module(**batch)`, for a `capture`.

    Args:
        model: a captioner, which reads a text after its own start; two towers; or a vision tower, which reads none.
        images: an iterable of images or paths, or a named collection.
        texts: one for each picture; None where the network reads none. Rows of tokens, for a captioner, are whole
            prompts: they replace its own start.
        batch_size: pictures at a time.

    Raises:
        ModelError: a model that sees nothing, one without a processor, or a text that cannot be read.
        ShapeError: fewer texts than pictures, found where they end.
        DataError: a picture that cannot be decoded.
    """
    network: Any = unwrapped(module_of(model))
    if "pixel_values" not in signature(network.forward).parameters:
        raise refusal(f"pictures for a {type(network).__name__}", "a model that sees", "texts alone")
    speaker = speaker_of(network)
    part = network if speaker is None else network.get_submodule(speaker.vision)
    sees = part if hasattr(part.config, "image_size") else getattr(network, "vision_model", part)
    rows = None if texts is None else _text_rows(model, speaker, texts, sees)
    given = pixel_batches(model.processor, images, batch_size=batch_size, size=_size(sees))
    return _forwards(model, speaker, given, rows, sees)


def _forwards(
    model: Handle, speaker: Speaker | None, given: Iterator[Tensor], rows: list[list[int]] | None, sees: Any
) -> Iterator[dict[str, Tensor]]:
    start, kind = 0, next(sees.parameters()).dtype
    for pixels in given:
        batch = {"pixel_values": pixels.to(model.device, kind)}
        if rows is not None:
            picked = rows[start : start + len(pixels)]
            if len(picked) < len(pixels):
                raise ShapeError(explain(f"{len(rows)} texts and more pictures", "a text for each picture"))
            read = padded(picked, pad_token(model.need_tokenizer(), model.module)).to(model.device)
            told = {"input_ids": read.ids, "attention_mask": read.mask}
            batch |= told if speaker is None else speaker.read(read.ids, read.mask, patches_of(speaker, sees))
        start += len(pixels)
        yield batch


def _text_rows(
    model: Handle, speaker: Speaker | None, texts: Sequence[str] | Sequence[TokenRow], sees: Any
) -> list[list[int]]:
    tokenizer = model.need_tokenizer()
    check_listed(texts)
    words = [one for one in texts if not isinstance(one, TokenRow)]
    if speaker is None:
        return token_rows(tokenizer, words)
    prompts = [one.ids for one in texts if isinstance(one, TokenRow)]
    if prompts:
        rows = [speaker.start(tokenizer, row, patches_of(speaker, sees)) for row in prompts]
        for number, row in enumerate(rows):
            refuse_longer(
                speaker.generator, len(row), f"{len(row)} tokens in prompt {number}", "a shorter prompt"
            )
    else:
        starts = starts_of(model, None, len(words), patches_of(speaker, sees))
        tails = token_rows(tokenizer, words, special=False, empty=True)
        rows = [[*start, *tail] for start, tail in zip(starts, tails, strict=True)]
    refuse_unknown(speaker.generator, tokenizer, rows)
    return rows


def patches_of(speaker: Speaker, sees: Any) -> int:
    """Vectors of a picture, by the configuration: a forward pass would run the hooks of a `capture`."""
    if isinstance(speaker, EncoderDecoder | Blip) or (isinstance(speaker, Prefix) and speaker.length(0)):
        return 1
    size, patch = _size(sees), getattr(sees.config, "patch_size", None)
    if size is None or not isinstance(patch, int):
        got = f"a {type(sees).__name__} without image_size and patch_size"
        raise refusal(got, "a vision tower of patches", "features and log-likelihoods instead")
    first = any(name.endswith(("class_embedding", "cls_token")) for name, _ in sees.named_parameters())
    default = getattr(speaker.network.config, "vision_feature_select_strategy", "full") == "default"
    return (size[0] // patch) * (size[1] // patch) + first - default
