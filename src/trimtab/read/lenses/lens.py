"""Lens: log-probabilities of the next token from a state of the residual stream at any depth.

The logit lens reads every state as if it came after the last block; fitted lenses map it there first. `lens_kl` says
how far a lens is from the model's own distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.errors import ShapeError, explain
from trimtab.models.batches import TokenRow, check_listed, text_batches
from trimtab.models.captioning import picture_batches
from trimtab.models.families import Handle, refusal, unwrapped
from trimtab.models.language import kl
from trimtab.models.readout import Readout, readout_of, residual_states
from trimtab.numerics.bootstrap import Resampling, bootstrap, ratio_of_sums

CELLS = 2**24
"""Log-probabilities that are held at once."""
DEFAULT = Resampling()
Progress = Callable[[int, int], None]
"""Called with how many steps, or texts, are done, and of how many."""


def depth(state: int, states: int) -> int:
    """Number of a state from 0, where it may be counted from the end.

    Raises:
        ShapeError: there is no such state.

    >>> depth(-1, 13)
    12
    """
    if not -states <= state < states:
        raise ShapeError(explain(f"state {state}", f"one of {states}, from {-states} to {states - 1}"))
    return state % states


class Lens(Protocol):
    """Lens: a function from a state of the residual stream, at a depth, to log-probabilities of the next token."""

    @property
    def name(self) -> str:
        """Short name, as in a table's column `lens`."""

    @property
    def states(self) -> int:
        """How many states there are: L + 1, the input of the first block and the output of each."""

    def log_probabilities(self, hidden: Float[Tensor, "*n d"], state: int) -> Float[Tensor, "*n V"]:
        """Log-probabilities in nats, single precision at least, on the model's device.

        Args:
            hidden: raw states, never normed, in any precision and on any device.
            state: their depth, from 0; negative from the end. The last one gives the model's own distribution.
        """


@dataclass(frozen=True, eq=False)
class LogitLens:
    """Logit lens: the model's final norm and unembedding on the state of every depth (nostalgebraist 2020).

    Attributes:
        model: a decoder, with or without eyes; see `trimtab.models.readout.readout_of`.

    Raises:
        ModelError: it is none.
    """

    model: Handle

    def __post_init__(self) -> None:
        _ = self.readout

    @cached_property
    def readout(self) -> Readout:
        """Final norm and unembedding of the model."""
        return readout_of(self.model)

    @property
    def name(self) -> str:
        """Always "logit"."""
        return "logit"

    @property
    def states(self) -> int:
        """L + 1."""
        return len(self.readout.sites)

    def log_probabilities(self, hidden: Float[Tensor, "*n d"], state: int) -> Float[Tensor, "*n V"]:
        """Log-probabilities in nats; see `Lens`."""
        depth(state, self.states)
        return self.readout.log_probabilities(hidden)


@dataclass(frozen=True)
class States:
    """States of the residual stream at all valid tokens of a batch of texts.

    Attributes:
        hidden: L + 1 tensors (N, d), raw, one row a token.
        texts: (N,) number of the text that each row is of, counted from the first text of all.
    """

    hidden: list[Float[Tensor, "N d"]]
    texts: Int[Tensor, " N"]

    def __len__(self) -> int:
        """Tokens."""
        return len(self.texts)


@dataclass(frozen=True)
class Reading:
    """How texts are read.

    Attributes:
        images: a picture for each text, for a model that sees; None for texts alone.
        batch_size: texts at a time.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit. Not with images.
        last: only the last token of each text counts, where an answer begins.
    """

    images: Any = None
    batch_size: int = 16
    max_tokens: int | None = None
    last: bool = False


def inputs_of(
    model: Handle, texts: Sequence[str] | Sequence[TokenRow], reading: Reading
) -> Iterator[tuple[dict[str, Tensor], Bool[Tensor, "B T"]]]:
    """Keywords of a forward pass over each batch of texts, and which of their tokens count.

    Tokens that stand for a picture do not.

    Raises:
        ModelError: no text, or texts or pictures that the model cannot read.
    """
    if not len(texts):
        raise refusal("no texts", "at least one")
    config = getattr(unwrapped(model.module), "config", None)
    picture = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    given: Iterator[dict[str, Tensor]]
    if reading.images is None:
        batches = text_batches(model, texts, batch_size=reading.batch_size, max_tokens=reading.max_tokens)
        given = (batch.arguments(model.module) for batch in batches)
    elif reading.max_tokens is not None:
        raise refusal("max_tokens beside images", "texts that fit", "max_tokens=None")
    else:
        given = picture_batches(
            model, reading.images, cast("list[str]", list(texts)), batch_size=reading.batch_size
        )
    for keywords in given:
        valid = keywords["attention_mask"].bool()
        if picture is not None:
            valid = valid & (keywords["input_ids"] != picture)
        if reading.last:
            valid = valid & (valid.cumsum(1) == valid.sum(1, keepdim=True))
        yield keywords, valid


def text_states(
    model: Handle, readout: Readout, texts: Sequence[str] | Sequence[TokenRow], reading: Reading
) -> Iterator[States]:
    """States of texts, a batch at a time, on the model's device: one forward pass of the frozen model a batch.

    Args:
        model: what `readout` was found in.
        readout: names the sites.
        texts: at least one, of at least one token each.
        reading: how.

    Raises:
        ModelError: texts or pictures that the model cannot read.
    """
    first = 0
    for keywords, valid in inputs_of(model, texts, reading):
        states = residual_states(model, readout, keywords)
        rows = torch.arange(first, first + len(valid))[:, None].expand(valid.shape)
        first += len(valid)
        yield States([state[valid.to(state.device)] for state in states], rows[valid.cpu()])


def paired_images(texts: Sequence[str], images: Any) -> list[Any] | None:
    """The pictures of texts that a lens is fitted to, as a list; None for none.

    Raises:
        ModelError: fewer than two texts, or not a picture for each.
    """
    check_listed(texts)
    if len(texts) < 2:
        raise refusal(f"{len(texts)} text to fit a lens to", "at least two", "some hundred texts")
    listed = None if images is None else list(images)
    if listed is not None and len(listed) != len(texts):
        raise refusal(f"{len(listed)} images for {len(texts)} texts", "a picture for each text", at="images")
    return listed


def lens_kl(
    lens: Lens,
    model: Handle,
    texts: Sequence[str],
    *,
    images: Any = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
    last: bool = False,
    resampling: Resampling = DEFAULT,
) -> pd.DataFrame:
    """KL(model || lens) at every depth on held-out texts, beside that of the logit lens, with intervals over texts.

    Args:
        lens: fitted to other texts.
        model: what it was fitted to.
        texts: held-out ones.
        images: a picture for each text, for a model that sees.
        batch_size: texts at a time.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit.
        last: at the last token of each text only.
        resampling: settings of the bootstrap over texts.

    Returns:
        A row for each state, the last one (0 by definition) too: state, kl_nats and logit_kl_nats (means over tokens,
        at least 0 but for rounding), gain_nats (logit - lens: positive where the lens is closer to the model), each
        with its ends `_low` and `_high`, texts and tokens. The ends are nan for a single text.

    Raises:
        ModelError: a lens of another depth than the model, or texts that it cannot read.
    """
    plain = LogitLens(model)
    if lens.states != plain.states:
        raise refusal(f"a lens of {lens.states} states", f"{plain.states}, as the model has", "its own model")
    reading = Reading(images, batch_size, max_tokens, last)
    sums: list[np.ndarray] = []
    with torch.no_grad():
        for states in text_states(model, plain.readout, texts, reading):
            sums.append(_sums(lens, plain, states, states.texts - states.texts.min()))
    totals = np.concatenate(sums, 1)  # (lens | logit | tokens, texts, states)
    rows = []
    for state in range(lens.states):
        ours, theirs, tokens = totals[:, :, state]
        row: dict[str, Any] = {"state": state}
        for name, values in (("kl", ours), ("logit_kl", theirs), ("gain", theirs - ours)):
            interval = bootstrap(ratio_of_sums, values, tokens, paired=True, **asdict(resampling))
            row |= {
                f"{name}_nats": interval.value,
                f"{name}_low": interval.low,
                f"{name}_high": interval.high,
            }
        rows.append(row | {"texts": totals.shape[1], "tokens": int(tokens.sum())})
    return pd.DataFrame(rows)


def _sums(lens: Lens, plain: Lens, states: States, rows: Int[Tensor, " N"]) -> np.ndarray:
    """(3, texts, states) sums over the tokens of each text: KL of the lens, KL of the logit lens, tokens."""
    texts = int(rows.max()) + 1
    sums = np.zeros((3, texts, lens.states))
    step = max(1, CELLS // plain.log_probabilities(states.hidden[-1][:1], -1).shape[-1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        owner = rows[part].numpy()
        target = plain.log_probabilities(states.hidden[-1][part], -1)
        for state, hidden in enumerate(states.hidden):
            for number, one in enumerate((lens, plain)):
                said = one.log_probabilities(hidden[part], state)
                nats = kl(target, said.to(target.device)).double().cpu().numpy()
                sums[number, :, state] += np.bincount(owner, weights=nats, minlength=texts)
            sums[2, :, state] += np.bincount(owner, minlength=texts)
    return sums
