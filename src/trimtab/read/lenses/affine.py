"""Affine lens: a map of each state, then the model's own final norm and unembedding; what fitted lenses share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from jaxtyping import Float
from torch import Tensor

from trimtab.models.families import Handle
from trimtab.models.readout import Readout, readout_of
from trimtab.read.lenses.files import Maps, read_maps, write_maps
from trimtab.read.lenses.lens import depth


@dataclass(frozen=True, eq=False)
class AffineLens(ABC):
    """Affine lens: `log softmax(readout(map_l(h)))` of the state h at depth l, with a weight and a bias at each depth.

    The last state is read as it is: there the lens gives the model's own distribution.

    Attributes:
        name: kind of the lens, "tuned" or "jacobian", under which it is saved.
        readout: final norm and unembedding of the model.
        weight: (L, d, d) matrices of the maps.
        bias: (L, d) vectors of the maps.
        made_by: how it was fitted, plain values.
    """

    name: ClassVar[str]
    readout: Readout
    weight: Float[Tensor, "L d d"] = field(repr=False)
    bias: Float[Tensor, "L d"] = field(repr=False)
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    @abstractmethod
    def mapped(
        hidden: Float[Tensor, "*n d"], weight: Float[Tensor, "d d"], bias: Float[Tensor, " d"]
    ) -> Float[Tensor, "*n d"]:
        """A state as the last block would leave it, in the precision and on the device of the map."""

    @property
    def states(self) -> int:
        """L + 1."""
        return len(self.weight) + 1

    def log_probabilities(self, hidden: Float[Tensor, "*n d"], state: int) -> Float[Tensor, "*n V"]:
        """Log-probabilities in nats; see `trimtab.read.lenses.lens.Lens`."""
        number = depth(state, self.states)
        if number < len(self.weight):
            hidden = hidden.to(self.weight.device, self.weight.dtype)
            hidden = self.mapped(hidden, self.weight[number], self.bias[number])
        return self.readout.log_probabilities(hidden)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the lens, see `trimtab.read.lenses.files.write_maps`; the folder is there whole or not at all."""
        return write_maps(self.name, Maps(self.weight, self.bias, self.made_by), self.readout, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: Handle) -> Self:
        """Lens that `save_pretrained` wrote, for the model that it was fitted to.

        Raises:
            ModelError: see `trimtab.read.lenses.files.read_maps`.
        """
        readout = readout_of(model)
        maps = read_maps(cls.name, folder, readout)
        return cls(readout, maps.weight, maps.bias, maps.made_by)
