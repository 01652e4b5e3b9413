"""Lens: log-probabilities of the next token from a state of the residual stream at any depth.

The logit lens reads every state as if it came after the last block; fitted lenses map it there first. How their maps
are saved and read, and how far a lens is from the model's own distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.errors import ShapeError, explain
from trimtab.models.batches import text_batches
from trimtab.models.captioning import picture_batches
from trimtab.models.families import Handle, unwrapped
from trimtab.models.readout import Readout, readout_of, residual_states

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


def text_states(
    model: Handle,
    readout: Readout,
    texts: Sequence[str],
    *,
    images: Any = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
) -> Iterator[States]:
    """States of texts, a batch at a time, on the model's device: one forward pass of the frozen model a batch.

    Args:
        model: what `readout` was found in.
        readout: names the sites.
        texts: at least one token each.
        images: a picture for each text, for a model that sees; the tokens of pictures are left out.
        batch_size: texts at a time.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit. Not with images.

    Raises:
        ModelError: texts or pictures that the model cannot read.
    """
    first = 0
    if images is None:
        batches = text_batches(model, texts, batch_size=batch_size, max_tokens=max_tokens)
        given = ((batch.arguments(model.module), batch.mask.bool()) for batch in batches)
    else:
        pictured = picture_batches(model, images, texts, batch_size=batch_size)
        given = ((batch, _words(model, batch)) for batch in pictured)
    for keywords, valid in given:
        states = residual_states(model, readout, keywords)
        rows = torch.arange(first, first + len(valid))[:, None].expand(valid.shape)
        first += len(valid)
        yield States([state[valid.to(state.device)] for state in states], rows[valid.cpu()])


def _words(model: Handle, batch: Mapping[str, Tensor]) -> Tensor:
    """(B, T) whether each token is valid and stands for no picture."""
    config = unwrapped(model.module).config
    picture = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    return (batch["attention_mask"] == 1) & (batch["input_ids"] != (-1 if picture is None else picture))
