"""Sites: named tensors inside a model, the same names with and without a wrapper around it.

Whether a network is, at given sites, the one that something was made for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from trimtab.errors import ModelError, explain
from trimtab.models.families import IN_BLOCK, towers, unwrapped
from trimtab.models.inspection import plain_numbers, stored

if TYPE_CHECKING:
    from trimtab.models.load import Model


Side = Literal["out", "in"]
SIDES: tuple[Side, ...] = ("out", "in")


@dataclass(frozen=True)
class Site:
    """What a module returns (`out`) or takes as its first input (`in`).

    Attributes:
        path: of the module, without the prefixes of a wrapper.
        side: "out" or "in".
    """

    path: str
    side: Side = "out"

    @property
    def name(self) -> str:
        """As it is written, for instance `model.layers.3.mlp:out`."""
        return f"{self.path}:{self.side}"

    @classmethod
    def parse(cls, name: str) -> Site:
        """The site of a name; `:out` where it says no side.

        Raises:
            ModelError: the side is neither `in` nor `out`.
        """
        path, _, side = name.partition(":")
        if (side or "out") not in SIDES:
            raise ModelError(f"site {name!r}: {explain(repr(side), 'in or out', f'{path}:out')}")
        return cls(path, "in" if side == "in" else "out")


def resolve(model: Model | nn.Module, pattern: str | Site | Sequence[str | Site]) -> tuple[Site, ...]:
    """The sites of a model that patterns name, each once, in the order of its modules.

    A pattern is `path:side`, `:out` where no side is given. Its path is matched part by part from the end, so that
    `layers.*.mlp` means the MLP of every block whatever stands before `layers`; `*`, `?` and `[12]` stand for
    characters inside one part. The whole path of a module means that module alone. An alias (`residual`,
    `attention_out`, `mlp_out`, `pre_attention_norm`, `pre_mlp_norm`) means that place in every block of the model's
    family; `residual.3` in block 3. In a model of several towers the tower comes first: `vision_model.residual`.

    Args:
        model: a handle or a network, with or without a PEFT wrapper.
        pattern: one or several.

    Raises:
        ModelError: a pattern matches nothing (the three nearest module paths are named), the side is neither `in` nor
            `out`, an alias is used with a model of unknown family or of several, or the model is compiled.
    """
    patterns = [pattern] if not isinstance(pattern, Iterable) or isinstance(pattern, str) else list(pattern)
    if strange := [one for one in patterns if not isinstance(one, str | Site)]:
        raise ModelError(explain(repr(strange[0]), "the name of a site, or a list of them", "'mlp_out'"))
    if not patterns:
        raise ModelError(explain("no pattern", "at least one site", "'mlp_out'"))
    network = network_of(model)
    modules = modules_of(network)
    wanted = {site for one in patterns for site in _matches(network, modules, one)}
    return tuple(Site(path, side) for path in modules for side in SIDES if Site(path, side) in wanted)


def resolve_each(network: nn.Module, patterns: Iterable[str]) -> dict[str, tuple[Site, ...]]:
    """The sites of each of several patterns; the network is walked once.

    Raises:
        ModelError: as `resolve`.
    """
    modules = modules_of(network)
    return {pattern: tuple(_matches(network, modules, pattern)) for pattern in patterns}


def network_of(model: Model | nn.Module) -> nn.Module:
    """The network of a handle, or the network itself.

    Raises:
        ModelError: it is neither, or it is compiled: hooks set later are silently ignored by compiled code.
    """
    network = model if isinstance(model, nn.Module) else getattr(model, "module", None)
    if not isinstance(network, nn.Module):
        raise ModelError(
            explain(f"a {type(model).__name__}", "a loaded model or a torch module", "load(...)")
        )
    for part in network.modules():
        if hasattr(part, "_orig_mod") or part._compiled_call_impl is not None:
            got = f"a compiled {type(part).__name__}, which would ignore hooks"
            raise ModelError(explain(got, "a model that is not compiled", "torch.compile after fuse(...)"))
    return network


def modules_of(network: nn.Module) -> dict[str, nn.Module]:
    """Every module by its canonical path; what a LoRA layer is made of counts as part of that layer."""
    found: dict[str, nn.Module] = {}
    inside: tuple[str, ...] = ()
    for name, module in _bare(network).named_modules():
        if name and not name.startswith(inside or ("\0",)):
            found[name] = module
            if hasattr(module, "base_layer"):
                inside = (*inside, f"{name}.")
    return found


def first_names(network: nn.Module) -> dict[str, str]:
    """For every path of a module, the first path of the same module: another one where places share it."""
    first: dict[int, str] = {}
    bare = _bare(network)
    return {
        name: first.setdefault(id(part), name) for name, part in bare.named_modules(remove_duplicate=False)
    }


def _bare(network: nn.Module) -> nn.Module:
    """Without what data parallelism and adapters put around a network."""
    inner = getattr(network, "module", None)
    return _bare(inner) if isinstance(inner, nn.Module) else unwrapped(network)


def _matches(network: nn.Module, modules: dict[str, nn.Module], pattern: str | Site) -> Iterator[Site]:
    asked = Site.parse(pattern) if isinstance(pattern, str) else pattern
    path = _without_alias(network, asked.path)
    exact = [path] if path in modules else []
    found = exact or [name for name in modules if _fits(name.split("."), path.split("."))]
    if not found:
        first = first_names(network)
        if first.get(path, path) != path:
            got = f"another name of {first[path]}, which both places share"
            raise ModelError(f"site {pattern!r}: {explain(got, 'a module of one place', 'an untied copy')}")
        near = _near(path, [*modules, *(IN_BLOCK if len(towers(_bare(network))) == 1 else ())])
        raise ModelError(f"site {pattern!r}: {explain('a pattern that matches no module', 'a module', near)}")
    yield from (Site(name, asked.side) for name in found)


def _without_alias(network: nn.Module, path: str) -> str:
    """The path of a place that an alias names, `*` for the block unless it says which; other paths as they are."""
    parts = path.split(".")
    at = next((k for k, part in enumerate(parts) if part in IN_BLOCK), None)
    if at is None or len(parts) > at + 2 or not (parts[at + 1 :] in ([], ["*"]) or parts[-1].isdigit()):
        return path
    known, tower = towers(_bare(network)), ".".join(parts[:at])
    if not tower and len(known) == 1:
        tower = next(iter(known))
    if tower in known:
        return known[tower].path(parts[at], int(parts[-1]) if parts[-1].isdigit() else "*")
    if at:
        return path
    raise ModelError(f"site {path!r}: {_no_family(network, path, list(known))}")


def _no_family(network: nn.Module, alias: str, known: Sequence[str]) -> str:
    kind = type(_bare(network)).__name__
    if known:
        got = f"an alias for a {kind}, which has {len(known)} towers"
        return explain(got, "an alias after its tower", " or ".join(f"{path}.{alias}" for path in known))
    return explain(f"an alias for a {kind}", "a family we have a table for", "a module path")


def _fits(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the last parts of a path fit a pattern, part by part."""
    tail = name[-len(pattern) :]
    return len(tail) == len(pattern) and all(map(fnmatchcase, tail, pattern))


def _near(path: str, modules: Iterable[str]) -> str:
    """The three module paths or aliases most like a pattern, numbers of blocks as `*`."""
    known = dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in modules)
    return " or ".join(map(repr, get_close_matches(path, list(known), n=3, cutoff=0.0)))


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
