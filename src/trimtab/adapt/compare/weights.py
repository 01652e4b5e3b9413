"""Weights that moved between two models: relative norm of each tensor's change, and the share of its entries."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor, nn

from trimtab.models.families import unwrapped
from trimtab.models.inspection import quantised, stored
from trimtab.models.sites import canonical
from trimtab.runs.brief import model_of

COLUMNS = ("part", "name", "entries", "changed", "relative_change", "norm", "change_norm")
_BLOCK = re.compile(r"(.*?\.\d+)\.")
_PIECE = 2**24


def moved_weights(base: nn.Module, tuned: nn.Module) -> tuple[pd.DataFrame, str]:
    """Change of every tensor of two networks of one architecture, and why there is none where that cannot be told.

    Of a network with an adapter the weights with the adapter folded in count. Tied tensors count once.

    Args:
        base: a network.
        tuned: another one, or the same.

    Returns:
        One row per tensor, in the order of the base network: part (its block, else its module), name, entries, changed
        (share of them), norm (of the base), change_norm, and relative_change, their quotient; nan where norm is 0.
        Empty with the reason in words otherwise.
    """
    for side, network in (("base", base), ("tuned", tuned)):
        if what := quantised(network):
            return _none(), f"the {side} model's weights are quantised ({what})"
    before, after = dict(effective(base)), dict(effective(tuned))
    if unknown := next((name for name, weight in (before | after).items() if weight is None), None):
        return _none(), f"the adapter at {unknown} cannot be folded into a weight"
    if before.keys() != after.keys():
        only = sorted(before.keys() ^ after.keys())
        return (
            _none(),
            f"the architectures differ: {len(only)} tensors are in one model only, the first {only[0]}",
        )
    other = [name for name, weight in before.items() if weight.shape != after[name].shape]  # type: ignore[union-attr]
    if other:
        return (
            _none(),
            f"the architectures differ: {len(other)} tensors have another shape, the first {other[0]}",
        )
    rows = [_row(name, weight, after[name]) for name, weight in before.items()]  # type: ignore[arg-type]
    return pd.DataFrame(rows, columns=list(COLUMNS)), ""


def _none() -> pd.DataFrame:
    return pd.DataFrame(columns=list(COLUMNS))


def effective(network: nn.Module) -> Iterator[tuple[str, Tensor | None]]:
    """Parameters by canonical name, those of adapted layers with what the adapter adds; None where nobody can say."""
    layers = {f"{path}.": part for path, part in network.named_modules() if hasattr(part, "base_layer")}
    for path, parameter in network.named_parameters():
        owner = next((start for start in layers if path.startswith(start)), "")
        if (owner and ".base_layer." not in path) or ".original_module." in path:
            continue  # the adapter's own, or what one has replaced
        name, values = (
            canonical(path.replace(".modules_to_save.default.", ".")),
            stored(network, path, parameter),
        )
        is_weight = path == f"{owner}base_layer.weight"
        yield name, _folded(layers[owner], values) if is_weight else values


def _folded(layer: nn.Module, weight: Tensor) -> Tensor | None:
    """Weight of an adapted layer with the change that its active adapters make; None for other than a plain LoRA."""
    delta: Any = getattr(layer, "get_delta_weight", None)
    if delta is None or any(dict(getattr(layer, "use_dora", {})).values()):
        return None
    if getattr(layer, "disable_adapters", False) or getattr(layer, "merged", False):
        return weight
    with torch.no_grad():
        for adapter in cast("Any", layer).active_adapters:
            if adapter in {*getattr(layer, "lora_A", {}), *getattr(layer, "lora_embedding_A", {})}:
                weight = weight + delta(adapter).to(weight)
    return weight


def _row(name: str, before: Tensor, after: Tensor) -> tuple[str, str, int, float, float, float, float]:
    """Norms and share of changed entries, piece by piece so that no whole copy is made."""
    entries, changed, square, moved = before.numel(), 0, 0.0, 0.0
    flat, other = before.detach().reshape(-1), after.detach().reshape(-1)
    for start in range(0, entries, _PIECE):
        one = flat[start : start + _PIECE]
        two = other[start : start + _PIECE].to(one.device)
        changed += int((one != two).sum())
        one, two = one.double(), two.double()
        square += float(one.square().sum())
        moved += float((two - one).square().sum())
    norm, change = math.sqrt(square), math.sqrt(moved)
    relative = change / norm if norm else math.nan
    return part_of(name), name, entries, changed / max(1, entries), relative, norm, change


def part_of(name: str) -> str:
    """The block that a tensor is in, else the module that has it.

    >>> part_of("model.layers.3.mlp.up_proj.weight"), part_of("model.norm.weight")
    ('model.layers.3', 'model.norm')
    """
    block = _BLOCK.match(name)
    return block[1] if block else name.rpartition(".")[0] or name


def by_part(weights: pd.DataFrame) -> pd.DataFrame:
    """Change of each block, and of each module outside of blocks: part, entries, changed, relative_change."""
    rows = []
    for part, these in weights.groupby("part", sort=False):
        norm, change = (
            math.sqrt(float(these[column].pow(2).sum(skipna=False))) for column in ("norm", "change_norm")
        )
        entries = int(these["entries"].sum())
        changed = float((these["changed"] * these["entries"]).sum()) / max(1, entries)
        rows.append((str(part), entries, changed, change / norm if norm else math.nan))
    return pd.DataFrame(rows, columns=["part", "entries", "changed", "relative_change"])


def base_of_adapter(network: nn.Module) -> str:
    """Name of the base model that an adapter says it was trained on, without its folders; empty where it says none."""
    configs = getattr(network, "peft_config", None) or {}
    names = [getattr(config, "base_model_name_or_path", None) for config in configs.values()]
    return model_of({"model": str(names[0])}) if names and names[0] else ""


def adapter_of(network: nn.Module) -> str:
    """The adapters of a network in a few words; empty without one."""
    configs = getattr(network, "peft_config", None)
    if not configs:
        return ""
    kinds = [f"{name} ({getattr(it.peft_type, 'value', it.peft_type)})" for name, it in configs.items()]
    layers = sum(hasattr(part, "base_layer") for part in unwrapped(network).modules())
    return f"{', '.join(kinds)} on {layers} layers"
