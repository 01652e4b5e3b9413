"""Whether a network is, at given sites, the one that something was made for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

from trimtab.models.inspection import plain_numbers
from trimtab.models.placement import stored
from trimtab.models.sites import Site, modules_of

SAMPLED_VALUES = 1024


def site_fingerprints(network: nn.Module, sites: Iterable[Site]) -> dict[str, str]:
    """Module path -> 16 hex digits that change when the parameters of that module do.

    Covers the name, shape and up to 1024 evenly spaced values of each parameter, rounded to bfloat16, so that it is the
    same in float32 and bfloat16. What adapters add is left out. A module without parameters has that of none.
    Weights that accelerate has put away count as they are.
    """
    modules = modules_of(network)
    return {path: _fingerprint(modules[path]) for path in dict.fromkeys(site.path for site in sites)}


def _fingerprint(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            continue
        digest.update(f"{name.replace('base_layer.', '')} {tuple(parameter.shape)}\n".encode())
        flat = plain_numbers(stored(module, name, parameter)).reshape(-1)
        some = flat[:: max(1, flat.numel() // SAMPLED_VALUES)].to(torch.bfloat16)
        digest.update(some.view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
