"""Trajectory of a prompt through a lens: what the model would say at each depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from trimtab.models.batches import TokenRow
from trimtab.models.chat import Prompt
from trimtab.models.families import Handle, refusal
from trimtab.models.language import prompt_rows
from trimtab.models.readout import readout_of
from trimtab.read.lenses.choice import lens_of
from trimtab.read.lenses.lens import Lens, Reading, text_states
from trimtab.report.charts import share_map
from trimtab.runs.brief import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class LensTrajectory:
    """What a model would say next at each depth, through a lens: the likeliest tokens and their log-probabilities.

    Attributes:
        prompt: what was read.
        lens: name of the lens.
        tokens: (L + 1, k) ids of the likeliest tokens of each state, the likeliest first.
        words: the texts of these tokens.
        log_probabilities: (L + 1, k) of these tokens, in nats.
        final: (L + 1, k) log-probabilities at each state of the likeliest tokens of the last one: how the answer forms.
    """

    prompt: str
    lens: str
    tokens: Int[np.ndarray, "states k"]
    words: tuple[tuple[str, ...], ...]
    log_probabilities: Float[np.ndarray, "states k"]
    final: Float[np.ndarray, "states k"]

    def __repr__(self) -> str:
        return one_line(
            "LensTrajectory", f"{self.lens} lens", f"{len(self.tokens)} states of {self.prompt!r}"
        )

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        return str(self.to_frame().to_html(index=False))

    def to_frame(self) -> pd.DataFrame:
        """A row for each state and rank: state, rank (from 1), token, text, log_probability, final_log_probability."""
        states, ranks = np.indices(self.tokens.shape)
        return pd.DataFrame(
            {
                "state": states.ravel(),
                "rank": ranks.ravel() + 1,
                "token": self.tokens.ravel(),
                "text": [word for row in self.words for word in row],
                "log_probability": self.log_probabilities.ravel(),
                "final_log_probability": self.final.ravel(),
            }
        )

    def figure(self) -> Figure:
        """Map of the likeliest tokens of each state: its probability, dark where it is near 1, with the token."""
        shares = np.exp(self.log_probabilities)
        rows = ["embeddings", *(f"block {number}" for number in range(1, len(shares)))]
        columns = [f"rank {rank + 1}" for rank in range(shares.shape[1])]
        notes = [[repr(word)[:14] for word in row] for row in self.words]
        title = f"Most likely tokens by layer ({self.lens} lens)"
        label = f"{title}: probability of the likeliest tokens after {self.prompt[-60:]!r}"
        return share_map(shares, rows, columns, notes=notes, title=title, label=label)


def trajectory(
    model: Handle, prompt: Prompt, lens: Lens | str | None = None, *, top: int = 5, image: Any = None
) -> LensTrajectory:
    """Trajectory of a prompt: through a lens, what the model would say at each depth after its last token.

    Args:
        model: a decoder, with or without eyes.
        prompt: a text or a conversation; with an image, a text.
        lens: a lens of this model, or the folder of one; None for the logit lens.
        top: how many tokens of each state.
        image: a picture that the prompt is about.

    Raises:
        ModelError: a prompt or picture that the model cannot read, a lens of another model, or `top` out of range.
    """
    readout = readout_of(model)
    if not 1 <= top <= readout.vocabulary:
        raise refusal(top, f"from 1 to {readout.vocabulary}, the vocabulary", at="top")
    chosen = lens_of(lens, model)
    if image is None:
        texts: Any = [TokenRow(row) for row in prompt_rows(model.need_tokenizer(), [prompt])]
    else:
        texts = [prompt]
    reading = Reading(None if image is None else [image], last=True)
    (states,) = text_states(model, readout, texts, reading)
    with torch.no_grad():
        said = [chosen.log_probabilities(one, state)[0].cpu() for state, one in enumerate(states.hidden)]
    table = torch.stack(said)
    best = table.topk(top)
    decode = model.need_tokenizer().decode
    words = tuple(tuple(str(decode([token])) for token in row) for row in best.indices.tolist())
    final = table[:, best.indices[-1]]
    return LensTrajectory(
        str(prompt), chosen.name, best.indices.numpy(), words, best.values.numpy(), final.numpy()
    )
