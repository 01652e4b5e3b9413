"""Conditions of a hypernetwork: concepts as unit embeddings of words or pictures (arXiv 2605.08254, section 3).

Embeddings of texts and of pictures lie apart even in one space (the modality gap of Liang et al. 2022, arXiv
2203.02053), so each kind is centred by its own mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers.utils.hub import cached_file

from trimtab.errors import DataError, ModelError, explain
from trimtab.models.batches import evaluating, text_batches, token_rows
from trimtab.models.batches import pool as pooled
from trimtab.models.encoders import TWO_TOWERS, TwoTower, two_tower
from trimtab.models.families import unwrapped
from trimtab.models.hooks import capture
from trimtab.models.inspection import is_causal
from trimtab.models.load import Model, load
from trimtab.models.sites import resolve
from trimtab.models.tokenizer import longest
from trimtab.runs.brief import one_line
from trimtab.runs.files import has_halves, read_json

SELF = "self"
"""Name of the encoder that is the steered model."""

SHORTEST = 1e-6
"""Length below which the mean of centred unit embeddings has no direction."""
_AT_ONCE = 64
_PARTS = ("Transformer", "Pooling", "Normalize")
"""Parts of sentence encoders that are read, by the ends of their types; vectors are made of length one anyway."""

Condition = str | Image.Image | Path | Sequence[str] | Sequence[Image.Image | Path]
"""A concept: words, or a picture (an image or the path of one); or several examples of one kind."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """Frozen encoder of conditions.

    Attributes:
        name: a folder or hub name; "self" for the steered model.
        model: whose weights it has; only read.
        texts: unit embeddings (n, d) of texts, on the CPU, in single precision.
        pictures: likewise of pictures; None for an encoder of texts alone.
    """

    name: str
    model: Model
    texts: Callable[[Sequence[str]], Float[Tensor, "n d"]]
    pictures: Callable[[Any], Float[Tensor, "n d"]] | None = None

    def unheard(self, texts: Sequence[str]) -> set[str]:
        """Words of texts that the tokenizer does not know, of which an embedding says nothing."""
        words = sorted({word for text in texts for word in text.split()})
        tokenizer = self.model.tokenizer
        if tokenizer is None or tokenizer.unk_token_id is None or not words:
            return set()
        rows = token_rows(tokenizer, words, special=False, empty=True)
        return {word for word, row in zip(words, rows, strict=True) if tokenizer.unk_token_id in row}

    def refuse_unheard(self, texts: Sequence[str]) -> None:
        """Refuse a text of which the tokenizer knows no word.

        Raises:
            ModelError: naming it.
        """
        unknown = self.unheard(texts)
        if lost := next((text for text in texts if unknown.issuperset(text.split())), None):
            got = f"{lost!r:.60}, of which the encoder {self.name!r} knows no word"
            raise ModelError(explain(got, "words that it knows", "other words"))

    def __repr__(self) -> str:
        return one_line("Encoder", repr(self.name), "texts and pictures" if self.pictures else "texts")


def encoder_of(source: Encoder | TwoTower | Model | str | Path, generator: Any = None) -> Encoder:
    """Encoder of conditions.

    | source | embedding of a text |
    |---|---|
    | CLIP, SigLIP, a pair of towers | its text features; the only ones with pictures |
    | a causal language model; "self" for the steered one | mean over tokens of the middle block's residual |
    | a sentence encoder, or another such as BERT | mean over tokens of the last state, or as `1_Pooling` says |

    Args:
        source: a folder, a hub name or a loaded model.
        generator: the steered model, for "self".

    Raises:
        ModelError: a model that cannot be read, has no tokenizer, or pools in a way that we do not know.
    """
    if isinstance(source, Encoder):
        return source
    if isinstance(source, TwoTower):
        return Encoder(source.name, source.model, source.texts, source.pictures)
    if source == SELF:
        if not isinstance(generator, Model) or generator.tokenizer is None or not _speaks(generator):
            got = f"encoder {SELF!r} for {getattr(generator, 'name', type(generator).__name__)}"
            raise ModelError(
                explain(got, "a causal language model with a tokenizer", "the folder of an encoder")
            )
        return _hidden(generator, SELF)
    model = source if isinstance(source, Model) else load(source)
    kind = str(getattr(getattr(unwrapped(model.module), "config", None), "model_type", ""))
    if kind in TWO_TOWERS:
        return encoder_of(two_tower(model))
    model.need_tokenizer()
    if _speaks(model):
        return _hidden(model, model.name)
    _refuse_other(model)
    return _sentences(model)


def _refuse_other(model: Model) -> None:
    """Refuse a network that needs more than a text, such as a generator of pictures or a decoder beside."""
    network: Any = unwrapped(model.module)
    taken = signature(network.forward).parameters.values()
    needed = {it.name for it in taken if it.default is it.empty and it.kind is it.POSITIONAL_OR_KEYWORD}
    if needed - {"input_ids", "attention_mask"} or getattr(network.config, "is_encoder_decoder", False):
        got = f"{model.name}, a {type(network).__name__}, which needs more than a text"
        raise ModelError(explain(got, "an encoder of texts, or of two towers such as CLIP"))


def _speaks(model: Model) -> bool:
    config = getattr(unwrapped(model.module), "config", None)
    return config is not None and hasattr(config, "architectures") and is_causal(config)


def _hidden(model: Model, name: str) -> Encoder:
    """Mean over tokens of the residual of the middle block."""
    sites = resolve(model, "residual")
    middle = sites[len(sites) // 2]

    def texts(given: Sequence[str]) -> Tensor:
        with evaluating(model.module), capture(model, middle, "mean") as taken:
            for batch in text_batches(model, given, batch_size=_AT_ONCE, max_tokens=longest(model.module)):
                model.module(**batch.arguments(model.module))
            return unit(taken[middle.name])

    return Encoder(name, model, texts)


def _sentences(model: Model) -> Encoder:
    """Mean over tokens of the last hidden state, or its first token where the folder says so."""
    first, limit = _pooling(model.name), longest(model.module)
    limits = [one for one in (limit, _longest_sentence(model.name)) if one is not None]

    def texts(given: Sequence[str]) -> Tensor:
        found, most = list[Tensor](), min(limits, default=None)
        with evaluating(model.module):
            for batch in text_batches(model, given, batch_size=_AT_ONCE, max_tokens=most):
                hidden = model.module(**batch.arguments(model.module)).last_hidden_state
                found.append(hidden[:, 0] if first else pooled(hidden, "mean", batch.mask))
        return unit(torch.cat(found))

    return Encoder(model.name, model, texts)


def _beside(source: str, file: str) -> Path | None:
    """A file beside the weights of a folder or a hub name; None where there is none."""
    if not Path(source).is_dir() and source.count("/") != 1:  # the class of a module
        return None
    try:
        found = cached_file(source, file)
    except OSError:
        return None
    return None if found is None else Path(found)


def _pooling(source: str) -> bool:
    """Whether sentence-transformers' configuration pools the first token; otherwise the mean.

    Raises:
        ModelError: it pools in another way, or has further layers.
    """
    if (path := _beside(source, "modules.json")) is not None:
        listed = read_json(path, "the parts of a sentence encoder", error=ModelError)
        kinds_of = [str(one.get("type", "")) for one in listed if isinstance(one, dict)]
        if other := next((one for one in kinds_of if not one.endswith(_PARTS)), None):
            raise ModelError(f"{path}: {explain(f'the part {other!r:.80}', f'parts that end in {_PARTS}')}")
    if (path := _beside(source, "1_Pooling/config.json")) is None:
        return False
    config = read_json(path, "how a sentence encoder pools", error=ModelError)
    modes = [name for name, on in config.items() if name.startswith("pooling_mode") and on is True]
    if named := config.get("pooling_mode"):  # as sentence-transformers 5 writes it
        modes = [f"pooling_mode_{named}" if named != "mean" else "pooling_mode_mean_tokens"]
    kinds = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True, "pooling_mode_cls": True}
    if len(modes) != 1 or modes[0] not in kinds:
        raise ModelError(
            f"{path}: {explain(' and '.join(modes) or 'no mode', 'the mean or the first token')}"
        )
    return kinds[modes[0]]


def _longest_sentence(source: str) -> int | None:
    path = _beside(source, "sentence_bert_config.json")
    limit = None if path is None else read_json(path, "settings", error=ModelError).get("max_seq_length")
    return limit if isinstance(limit, int) else None


def unit(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length one, in single precision on the CPU.

    Raises:
        ModelError: a row that is not finite or without direction.
    """
    rows = vectors.detach().float().cpu()
    lengths: Tensor = rows.norm(dim=1, keepdim=True)
    bad = ~(lengths.isfinite() & (lengths > SHORTEST))[:, 0]
    if bool(bad.any()):
        got = f"example {int(bad.nonzero()[0])} with an embedding that is zero, nan or infinite"
        raise ModelError(explain(got, "a direction", "another encoder"))
    return rows / lengths


def unit_mean(vectors: Float[Tensor, "n d"], centre: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """Direction of the mean of embeddings from their centre; their order does not matter.

    Raises:
        ModelError: their mean is the centre, which has no direction.

    >>> unit_mean(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(2))
    tensor([0.7071, 0.7071])
    """
    gap = vectors.double().mean(0) - centre.double()
    length = float(gap.norm())
    if not length > SHORTEST:
        hint = "an encoder that tells the training concepts apart"
        raise ModelError(
            explain("a concept at the centre of all embeddings", "one with a direction from it", hint)
        )
    return (gap / length).float()


@dataclass(frozen=True, eq=False)
class Conditions:
    """Conditions: an encoder and the centres of its embeddings.

    Attributes:
        encoder: of words and, if it has two towers, of pictures.
        text_centre: (d,) mean embedding of the training concepts' prompts, each concept counting once.
        picture_centre: likewise of pictures of them; None where there were none.
    """

    encoder: Encoder
    text_centre: Float[Tensor, " d"]
    picture_centre: Float[Tensor, " d"] | None = None

    def of(self, given: Condition) -> Float[Tensor, " d"]:
        """Unit embedding of a concept: of words, of a picture, or averaged over several of one kind.

        Raises:
            DataError: nothing, blank words, words beside pictures, or neither.
            ModelError: a picture for an encoder of texts alone, or one that was centred without pictures.
        """
        several = list(given) if isinstance(given, list | tuple) else [given]
        seen = [isinstance(one, Image.Image | Path) for one in several]
        words = [isinstance(one, str) for one in several]
        if not several or not (all(seen) or all(words)):
            kinds = " and ".join(sorted({type(one).__name__ for one in several})) or "no example"
            hint = "Path('picture.png') for a file" if any(words) and any(seen) else ""
            raise DataError(f"concept: {explain(kinds, 'words, a picture, or a list of either', hint)}")
        if all(seen):
            return self._of_pictures(several)
        texts = cast("list[str]", several)
        if blank := [place for place, text in enumerate(texts) if not text.strip()]:
            raise DataError(f"concept: {explain(f'blank words at place {blank[0]}', 'words')}")
        if halves := [place for place, text in enumerate(texts) if has_halves(text)]:
            raise DataError(f"concept: {explain(f'half a character at place {halves[0]}', 'whole ones')}")
        self.encoder.refuse_unheard(texts)
        return unit_mean(self.encoder.texts(texts), self.text_centre)

    def unheard(self, given: Condition) -> list[str]:
        """Words of a concept that the encoder's tokenizer does not know, sorted; none of a picture."""
        several = list(given) if isinstance(given, list | tuple) else [given]
        return sorted(self.encoder.unheard([one for one in several if isinstance(one, str)]))

    def _of_pictures(self, pictures: list[Any]) -> Tensor:
        name = self.encoder.name
        if self.encoder.pictures is None:
            got = f"a picture for the encoder {name!r}, which reads texts alone"
            raise ModelError(explain(got, "words", "an encoder of two towers, such as CLIP"))
        if self.picture_centre is None:
            got = "a picture, but no centre of pictures"
            hint = "fitting with a generator of pictures"
            raise ModelError(explain(got, "words, or a centre that was kept when this was fitted", hint))
        return unit_mean(self.encoder.pictures(pictures), self.picture_centre)
