"""Interventions: what flows through a site, changed while a block runs and never after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trimtab.errors import ModelError, ShapeError, explain
from trimtab.models.hooks import Change, hooked
from trimtab.models.sites import Site, network_of, resolve_each

if TYPE_CHECKING:
    from trimtab.models.load import Model

Intervention = Callable[[Tensor], Tensor]
"""A module or function `h -> h` of the same shape: (B, T, d) over tokens, (B, C, H, W) over an image."""


@contextmanager
def intervene(
    model: Model | nn.Module,
    interventions: Mapping[str, Intervention],
    strength: float | Tensor = 1.0,
) -> Iterator[None]:
    """Run a block with interventions in place: `(1 - s) h + s T(h)` at each site.

    Works in training and generation, with a cache and with gradients, on tensors and on the first tensor of a tuple.
    Blocks may be nested: the outer one acts first at a site they share. A `capture` sees what all of them leave.

    Args:
        model: a handle or a network; it is never changed.
        interventions: by pattern; a pattern that matches several sites gives each the same.
        strength: in [0, 1]; one number, or (B,) one per row of the batch. Rows at 0 are bit-identical to those of the
            untouched model, whatever T does there. Under classifier-free guidance give the unconditional half 0.

    Raises:
        ModelError: strength out of range, a pattern that matches nothing, a compiled or checkpointing model, two
            interventions for one site, or an intervention that never ran by the end of the block.
        ShapeError: as many strengths as rows are needed, inside the block; or T changed the shape.
    """
    amount = checked_strength(strength)
    network = network_of(model)
    changes: dict[Site, Change] = {}
    for pattern, sites in resolve_each(network, interventions).items():
        for site in sites:
            if site in changes:
                raise ModelError(f"site {site.name}: {explain('two interventions', 'one')}")
            changes[site] = _blending(site, interventions[pattern], amount)
    with hooked(network, changes, "an intervention", first=True):
        yield


def checked_strength(strength: float | Tensor) -> float | Tensor:
    """A number, or a tensor (B,), in [0, 1].

    Raises:
        ModelError: it is not.
    """
    values = torch.as_tensor(strength).detach()
    if values.ndim > 1 or values.numel() == 0:
        raise ModelError(
            f"strength: {explain(f'shape {tuple(values.shape)}', 'a number or one per row, (B,)')}"
        )
    if not bool(((values >= 0) & (values <= 1)).all()):
        got = (
            f"values from {values.min().item():g} to {values.max().item():g}"
            if values.ndim
            else values.item()
        )
        raise ModelError(
            f"strength: {explain(got, 'numbers in [0, 1]', 'a steering times a number, to go beyond')}"
        )
    return strength if isinstance(strength, Tensor) and strength.ndim else float(strength)


def blend(h: Tensor, intervention: Intervention, strength: float | Tensor) -> Tensor:
    """`(1 - s) h + s T(h)`, with s per row of `h` or one for all; h itself, bit by bit, where s is 0.

    Raises:
        ShapeError: not one strength per row, or T(h) of another shape.
    """
    if not isinstance(strength, Tensor):
        if strength == 0:
            return h
        changed = _applied(h, intervention)
        return changed if strength == 1 else torch.lerp(h, changed, strength)
    if len(strength) != len(h):
        got = f"{len(strength)} strengths for a batch of {len(h)} rows"
        raise ShapeError(explain(got, "one per row", "repeat them as beams or several sequences repeat rows"))
    rows = strength.to(h.device, h.dtype).reshape(-1, *[1] * (h.ndim - 1))
    mixed = torch.lerp(h, _applied(h, intervention), rows)
    return torch.where(rows > 0, mixed, h)


def _applied(h: Tensor, intervention: Intervention) -> Tensor:
    changed = intervention(h)
    if changed.shape != h.shape:
        got = f"shape {tuple(changed.shape)} from an intervention on {tuple(h.shape)}"
        raise ShapeError(explain(got, "the shape it was given"))
    return changed.to(h.dtype)


def _blending(site: Site, intervention: Intervention, strength: float | Tensor) -> Change:
    def change(h: Tensor) -> Tensor | None:
        if not isinstance(strength, Tensor) and strength == 0:
            return None
        try:
            return blend(h, intervention, strength)
        except ShapeError as error:
            raise ShapeError(f"site {site.name}: {error}") from error

    return change
