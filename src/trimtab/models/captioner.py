"""Captioner: a model that describes pictures, with cached features, captions and their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from trimtab.errors import ShapeError, explain
from trimtab.models import captioning, speakers
from trimtab.models.batches import token_rows
from trimtab.models.captioning import Decoding
from trimtab.models.families import refusal
from trimtab.models.inspection import check_model
from trimtab.models.load import Model, load
from trimtab.models.pictures import image_processor
from trimtab.models.sites import canonical
from trimtab.models.speakers import Captions, Features, Speaker
from trimtab.models.tokenizer import refuse_unknown
from trimtab.runs.brief import one_line
from trimtab.seeds import derive


@dataclass(frozen=True)
class Captioner:
    """Captioner: what it sees of a picture is computed once, and what it says of it is generated and scored.

    Attributes:
        model: the handle, with tokenizer and processor.
        prompt: text before every caption; "" for none.
    """

    model: Model
    prompt: str = ""

    def __repr__(self) -> str:
        facts = [repr(self.name), type(self.speaker).__name__]
        return one_line("Captioner", *facts, *([f"prompt={self.prompt!r}"] if self.prompt else []))

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    @property
    def speaker(self) -> Speaker:
        """The network, by its kind."""
        return speakers.need_speaker(self.model)

    def features(self, images: Any, batch_size: int = 64) -> Features:
        """Output of the frozen vision part, on the CPU and without gradient, to be cached: it does not change.

        Args:
            images: an iterable of images or paths, which are read one batch at a time; or a named collection.
            batch_size: pictures at a time.

        Raises:
            DataError: a picture that cannot be decoded, or pixels that are no numbers.
            ModelError: no picture, a batch size below 1, pictures of another size than the model reads, or features
                that are no numbers.
        """
        return captioning.features(self.model, images, batch_size)

    def generate(
        self,
        features: Features,
        *,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        num_beams: int = 1,
        batch_size: int = 64,
    ) -> Captions:
        """Captions of pictures: greedy, by beams or drawn.

        Of the model's generation settings only the end tokens are heeded, not its penalties, bans or lengths. The draws
        of a row depend on its seed and the step alone, so the batch changes nothing.

        Args:
            features: of n pictures.
            max_new_tokens: at least 1; a caption is shorter where the model ends it.
            temperature: 0 takes the most likely token; above, tokens are drawn from softmax(logits / temperature).
            seeds: (n) one a row; from 0 on, derived from the row's place, unless given.
            num_beams: above 1, beam search with transformers' defaults, at temperature 0.
            batch_size: captions at a time.

        Raises:
            ModelError: a number out of range, beams together with draws, or more tokens than the model has places for.
            ShapeError: not one seed a picture.
        """
        drawn = [derive(0, "generate", row) for row in range(len(features))] if seeds is None else list(seeds)
        if len(drawn) != len(features):
            raise ShapeError(
                explain(f"{len(drawn)} seeds for {len(features)} pictures", "one seed a picture")
            )
        decoding = Decoding(max_new_tokens, temperature, num_beams)
        return captioning.written(self.model, features, self._starts(features), decoding, drawn, batch_size)

    def log_probabilities(
        self, features: Features, ids: Sequence[Sequence[int]], ended: Sequence[bool]
    ) -> tuple[Float[Tensor, "B T"], Int[Tensor, "B T"]]:
        """Log-probabilities (B, T) of each caption's tokens and of its end, with gradient, and their mask.

        Of the model without dropout, the one that writes. A row's sum is the log-probability of its caption at
        temperature 1.

        Args:
            features: of B pictures.
            ids: (B) tokens, as `generate` or `encode` gives them.
            ended: (B) whether the end is part of the caption.

        Raises:
            ShapeError: not as many captions as pictures.
            ModelError: an end of a model without end token, tokens that it has no place for, or too many.
        """
        return captioning.log_probabilities(self.model, features, self._starts(features), ids, ended)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of captions by people, without special tokens: what `log_probabilities` takes.

        Raises:
            ModelError: a single string, a text without tokens, or tokens that the model has no place for: a captioner
                of another vocabulary.
        """
        tokenizer = self.model.need_tokenizer()
        rows = token_rows(tokenizer, texts, what="caption", special=False)
        refuse_unknown(self.speaker.generator, tokenizer, rows, "caption")
        return rows

    def parameters(self, *, vision: bool = False) -> dict[str, nn.Parameter]:
        """Trainable parameters by canonical name, without those of the vision part; tied ones once.

        Args:
            vision: with those of the vision part. Cached features are outdated as soon as these change.

        Raises:
            ModelError: none of them requires a gradient.
        """
        sees = f"{self.speaker.vision}."
        named = {
            canonical(name): one for name, one in self.model.module.named_parameters() if one.requires_grad
        }
        kept = {name: one for name, one in named.items() if vision or not name.startswith(sees)}
        if not kept:
            got = f"{self.name} with every parameter frozen but those that see"
            raise refusal(got, "something to train", "requires_grad_() on the language model")
        return kept

    def _starts(self, features: Features) -> list[list[int]]:
        return captioning.starts_of(
            self.model, [self.prompt] * len(features), len(features), features.patches
        )


def captioner(
    source: Captioner | Model | nn.Module | str | Path,
    prompt: str | None = None,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    device: Any = None,
) -> Captioner:
    """Captioner of a folder, a hub name, a loaded model or a module.

    Args:
        source: VisionEncoderDecoder, BLIP, a prefix captioner or Llava; a `Captioner` is returned as it is, unless a
            prompt is given.
        prompt: text before every caption. None is none, but for Llava the picture alone in the chat template of its
            processor, or followed by a line break.
        tokenizer: replaces the checkpoint's; needed beside a module.
        processor: of pictures; replaces the checkpoint's, and is needed beside a module.
        device: as for `load`; not beside what is loaded already.

    Raises:
        ModelError: another kind of model, one without tokenizer or processor, or a start that is not configured.
    """
    loaded = isinstance(source, Captioner | Model)
    if loaded and (tokenizer, processor, device) != (None, None, None):
        got = "tokenizer=, processor= or device= beside a loaded model"
        raise refusal(got, "them in load(...), or a module or folder here")
    if isinstance(source, Captioner):
        return source if prompt is None else Captioner(source.model, prompt)
    model = (
        source
        if isinstance(source, Model)
        else load(source, tokenizer=tokenizer, processor=processor, device=device)
    )
    if speakers.speaker_of(model.module) is None:
        raise refusal(repr(model), speakers.EXPECTED)
    check_model(model)
    model.need_tokenizer()
    image_processor(model.processor)
    given = speakers.default_prompt(model) if prompt is None else prompt
    captioning.starts_of(model, [given], 1, 1)
    return Captioner(model, given)
