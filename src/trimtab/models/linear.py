"""The linear maps of every block of a model: what most of its units are outputs of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from trimtab.errors import ModelError, explain
from trimtab.models.families import FAMILIES, towers
from trimtab.models.inspection import is_linear
from trimtab.models.sites import Site, modules_of, network_of

if TYPE_CHECKING:
    from trimtab.models.load import Model


def linear_sites(model: Model | nn.Module) -> tuple[Site, ...]:
    """The outputs of all linear maps inside the blocks: query, key, value, attention out, MLP in (and gate), MLP out.

    Fused maps (query, key and value of GPT-2 and GPT-NeoX) are one site. A LoRA layer counts as the map that it adapts.

    Args:
        model: a handle or a network of a known family, with or without a PEFT wrapper; of all towers if it has several.

    Raises:
        ModelError: a family that we have no table for, or a compiled model.
    """
    network = network_of(model)
    blocks = tuple(f"{family.blocks}." for family in towers(network).values())
    if not blocks:
        got = f"a {type(network).__name__}, whose blocks we do not know"
        expected, hint = f"one of {', '.join(FAMILIES)}", 'patterns such as "layers.*.mlp"'
        raise ModelError(f"sites '*': {explain(got, expected, hint)}")
    return tuple(
        Site(path)
        for path, module in modules_of(network).items()
        if path.startswith(blocks) and is_linear(getattr(module, "base_layer", module))
    )
