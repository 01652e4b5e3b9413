"""Reading activations at sites while a model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trimtab.errors import ModelError, ShapeError, explain, nearest
from trimtab.models.hooks import Change, hooked
from trimtab.models.pooling import Pool
from trimtab.models.pooling import pool as pooled
from trimtab.models.sites import Site, network_of, resolve

if TYPE_CHECKING:
    from trimtab.models.load import Model

VISION = ("vision_model", "vision_tower", "visual")
"""Parts of a path under which there are image patches, for which a mask of tokens means nothing."""


class Taken(Mapping[str, Tensor]):
    """What was read, by site name: (rows, d) where pooled, else (rows, T, d) or (rows, C, H, W).

    Rows of several forward passes follow one another. It can be read inside and after the block.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self._parts: dict[str, list[Tensor]] = {site.name: [] for site in sites}

    def __getitem__(self, name: str) -> Tensor:
        """All rows read at a site.

        Raises:
            KeyError: it was not asked for.
            ModelError: nothing was read there yet.
            ShapeError: forward passes of different lengths cannot be joined without pooling.
        """
        if name not in self._parts:
            raise KeyError(explain(repr(name), "a site that was asked for", nearest(name, self._parts)))
        parts = self._parts[name]
        if not parts:
            raise ModelError(explain(f"nothing at {name} yet", "a forward pass inside the block"))
        if len({part.shape[1:] for part in parts}) > 1:
            got = f"forward passes of shapes {sorted({tuple(part.shape) for part in parts})} at {name}"
            raise ShapeError(explain(got, "the same shape but for rows", 'pool="mean" or one pass per block'))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def __iter__(self) -> Iterator[str]:
        """The names of the sites."""
        return iter(self._parts)

    def __len__(self) -> int:
        """How many sites there are."""
        return len(self._parts)

    def add(self, site: Site, value: Tensor) -> None:
        """Keep what one forward pass has there."""
        self._parts[site.name].append(value)


@contextmanager
def capture(
    model: Model | nn.Module,
    sites: str | Site | Sequence[str | Site],
    pool: Pool | None = None,
    *,
    mask: Tensor | None = None,
    grad: bool = False,
) -> Iterator[Taken]:
    """Read what flows through sites in the forward passes of a block.

    Args:
        model: a handle or a network; it is never changed.
        sites: patterns, see `trimtab.models.sites.resolve`.
        pool: None for whole tensors, or one vector per example, see `trimtab.models.pooling.pool`.
        mask: (B, T) of valid tokens, for pooling; None takes the 2-D `attention_mask` that the model is called with,
            and where it is called without one all tokens count, as they do for the model. Patches of images always do.
        grad: keep what is read in the graph; otherwise it is detached.

    Returns:
        A mapping from site names that fills as the model runs.

    Raises:
        ModelError: a pattern matches nothing, the model is compiled or checkpoints, or a site was never reached.
        ShapeError: a mask that does not fit, inside the block.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> with capture(net, "0:out") as taken:
    ...     _ = net(torch.ones(5, 2))
    >>> taken["0:out"].shape
    torch.Size([5, 3])
    """
    network = network_of(model)
    found = resolve(network, sites)
    taken, seen = Taken(found), _Seen(mask)
    changes: dict[Site, Change] = {site: _reading(site, taken, seen, pool, grad) for site in found}
    watch = network.register_forward_pre_hook(seen.look, with_kwargs=True)
    try:
        with hooked(network, changes, "a capture", first=False):
            yield taken
    finally:
        watch.remove()


class _Seen:
    """The attention mask that the network was last called with."""

    def __init__(self, given: Tensor | None) -> None:
        self.given, self.mask = given, given

    def look(self, _module: nn.Module, _inputs: Any, keywords: Mapping[str, Any]) -> None:
        mask = keywords.get("attention_mask")
        if self.given is None:
            self.mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def of(self, site: Site, value: Tensor) -> Tensor | None:
        """The mask of the tokens at a site; with a cache those are the last ones."""
        if self.mask is None or value.ndim != 3 or any(part in VISION for part in site.path.split(".")):
            return None
        longer = self.given is None and self.mask.shape[1] > value.shape[1]
        return self.mask[:, -value.shape[1] :] if longer else self.mask


def _reading(site: Site, taken: Taken, seen: _Seen, how: Pool | None, grad: bool) -> Change:
    def read(value: Tensor) -> None:
        kept = value if grad else value.detach()
        try:
            taken.add(site, kept if how is None else pooled(kept, how, seen.of(site, value)))
        except ShapeError as error:
            raise ShapeError(f"site {site.name}: {error}") from error

    return read
