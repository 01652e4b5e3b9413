"""Tuned lens: an affine map of each state, fitted so that it predicts what the model will say (Belrose et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from trimtab.models.families import Handle
from trimtab.models.readout import Readout
from trimtab.read.lenses.lens import Progress, depth


@dataclass(frozen=True, eq=False)
class TunedLens:
    """Tuned lens: `log softmax(readout(h + A_l h + b_l))` of the state h at depth l (Belrose et al. 2023, equation 4).

    The last state is read as it is: there the lens gives the model's own distribution.

    Attributes:
        readout: final norm and unembedding of the model.
        weight: (L, d, d) the matrices A, zero where the lens is the logit lens.
        bias: (L, d) the vectors b.
        made_by: how it was fitted, plain values.
    """

    readout: Readout
    weight: Float[Tensor, "L d d"]
    bias: Float[Tensor, "L d"]
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Always "tuned"."""
        return "tuned"

    @property
    def states(self) -> int:
        """L + 1."""
        return len(self.weight) + 1

    def log_probabilities(self, hidden: Float[Tensor, "*n d"], state: int) -> Float[Tensor, "*n V"]:
        """Log-probabilities in nats; see `trimtab.read.lenses.lens.Lens`."""
        number = depth(state, self.states)
        if number < len(self.weight):
            hidden = hidden.to(self.weight.device, self.weight.dtype)
            hidden = hidden + hidden @ self.weight[number].T + self.bias[number]
        return self.readout.log_probabilities(hidden)

    @classmethod
    def fit(
        cls, model: Handle, texts: Sequence[str], *, seed: int = 0, progress: Progress | None = None
    ) -> TunedLens:
        """Lens fitted to texts: the least KL divergence of what it says from what the model says."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the lens: safetensors, and a configuration with the fingerprint of the model's readout."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: Handle) -> TunedLens:
        """A lens that `save_pretrained` wrote, for the model that it was fitted to; refused for another."""
        raise NotImplementedError
