"""Sites: named inputs and outputs of the modules of a model, with the same names inside a wrapper.

Fingerprints identify a network, and its weights at given sites.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn

from trimtab.models.families import IN_BLOCK, Handle, refusal, towers, unwrapped
from trimtab.models.inspection import is_compiled, module_of, sampled_values

Side = Literal["out", "in"]
SIDES: tuple[Side, ...] = ("out", "in")


@dataclass(frozen=True)
class Site:
    """Site: what a module returns (`out`) or takes as its first input (`in`).

    Attributes:
        path: of the module, without the prefixes of a wrapper.
        side: "out" or "in".
    """

    path: str
    side: Side = "out"

    @property
    def name(self) -> str:
        """Written form, for instance `model.layers.3.mlp:out`."""
        return f"{self.path}:{self.side}"

    @classmethod
    def parse(cls, name: str) -> Site:
        """The site of a name; `:out` where it says no side.

        Raises:
            ModelError: the side is neither `in` nor `out`.
        """
        path, _, side = name.partition(":")
        if (side or "out") not in SIDES:
            raise refusal(repr(side), "in or out", f"{path}:out", at=f"site {name!r}")
        return cls(path, "in" if side == "in" else "out")


def resolve(model: Handle | nn.Module, pattern: str | Site | Sequence[str | Site]) -> tuple[Site, ...]:
    """Sites of a model that patterns name, each once, in the order of its modules.

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
        raise refusal(repr(strange[0]), "the name of a site, or a list of them", "'mlp_out'")
    if not patterns:
        raise refusal("no pattern", "at least one site", "'mlp_out'")
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


def network_of(model: Handle | nn.Module) -> nn.Module:
    """The network of a handle, or the network itself.

    Raises:
        ModelError: it is neither, or it is compiled: hooks set later are silently ignored by compiled code.
    """
    network = module_of(model)
    part = next(filter(is_compiled, network.modules()), None)
    if part is not None:
        got = f"a compiled {type(part).__name__}, which would ignore hooks"
        raise refusal(got, "a model that is not compiled", "torch.compile after fuse(...)")
    return network


def modules_of(network: nn.Module) -> dict[str, nn.Module]:
    """Modules by canonical path; what a LoRA layer is made of counts as part of that layer."""
    modules: dict[str, nn.Module] = {}
    layers: tuple[str, ...] = ()
    for name, module in _bare(network).named_modules():
        if name and not name.startswith(layers):
            modules[name] = module
            if hasattr(module, "base_layer"):
                layers = (*layers, f"{name}.")
    return modules


def first_names(network: nn.Module) -> dict[str, str]:
    """First path of each module, by every path that it has: another one where places share it."""
    first: dict[int, str] = {}
    places = _bare(network).named_modules(remove_duplicate=False)
    return {name: first.setdefault(id(part), name) for name, part in places}


def _bare(network: nn.Module) -> nn.Module:
    """Without what data parallelism and adapters put around a network."""
    inner = getattr(network, "module", None)
    return _bare(inner) if isinstance(inner, nn.Module) else unwrapped(network)


def _matches(network: nn.Module, modules: dict[str, nn.Module], pattern: str | Site) -> Iterator[Site]:
    site = Site.parse(pattern) if isinstance(pattern, str) else pattern
    path = _without_alias(network, site.path)
    tail = path.split(".")
    parts = {name: name.split(".")[-len(tail) :] for name in modules}
    fitting = [n for n, end in parts.items() if len(end) == len(tail) and all(map(fnmatchcase, end, tail))]
    paths = [path] if path in modules else fitting
    if not paths:
        at, first = f"site {pattern!r}", first_names(network)
        if first.get(path, path) != path:
            got = f"another name of {first[path]}, which both places share"
            raise refusal(got, "a module of one place", "an untied copy", at=at)
        names = [*modules, *(IN_BLOCK if len(towers(_bare(network))) == 1 else ())]
        starred = list(dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in names))
        near = " or ".join(map(repr, get_close_matches(path, starred, n=3, cutoff=0.0)))
        raise refusal("a pattern that matches no module", "a module", near, at=at)
    yield from (Site(name, site.side) for name in paths)


def _without_alias(network: nn.Module, path: str) -> str:
    """The path of a place that an alias names, `*` for the block unless it says which; other paths as they are."""
    parts = path.split(".")
    at = next((k for k, part in enumerate(parts) if part in IN_BLOCK), None)
    if at is None or len(parts) > at + 2 or not (parts[at + 1 :] in ([], ["*"]) or parts[-1].isdigit()):
        return path
    families, tower = towers(_bare(network)), ".".join(parts[:at])
    if not tower and len(families) == 1:
        tower = next(iter(families))
    if tower in families:
        return families[tower].path(parts[at], int(parts[-1]) if parts[-1].isdigit() else "*")
    if at:
        return path
    at_site, got = f"site {path!r}", f"an alias for a {type(_bare(network)).__name__}"
    if not families:
        raise refusal(got, "a family we have a table for", "a module path", at=at_site)
    hint = " or ".join(f"{part}.{path}" for part in families)
    raise refusal(f"{got}, which has {len(families)} towers", "an alias after its tower", hint, at=at_site)


def canonical(name: str) -> str:
    """Canonical name of a parameter or module: without the prefixes of peft and torch.compile.

    >>> canonical("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    bare = name.replace("_orig_mod.", "")
    return bare.removeprefix("base_model.model.").replace(".base_layer.", ".")


def network_fingerprint(network: nn.Module) -> str:
    """Fingerprint of a network: 16 hex digits, see `trimtab.models.load.Model.fingerprint`."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, torch.Tensor):
                digest.update(f"{canonical(name)} {tuple(part.shape)} {part.dtype}\n".encode())
                digest.update(sampled_values(network, name, part, 4096).double().cpu().numpy().tobytes())
            else:
                digest.update(f"{canonical(name)} {part!r}\n".encode())
    return digest.hexdigest()[:16]


def site_fingerprints(network: nn.Module, sites: Iterable[Site]) -> dict[str, str]:
    """Fingerprints of modules: path -> 16 hex digits that change when the parameters of that module do.

    Covers the name, shape and up to 1024 evenly spaced values of each parameter, rounded to bfloat16, so that it is the
    same in float32 and bfloat16. What adapters add is left out. A module without parameters has that of none.
    Weights that accelerate has offloaded count by their values.
    """
    modules = modules_of(network)
    digests = {path: hashlib.sha256() for path in dict.fromkeys(site.path for site in sites)}
    for path, digest in digests.items():
        for name, parameter in modules[path].named_parameters():
            if "lora_" not in name:
                digest.update(f"{name.replace('base_layer.', '')} {tuple(parameter.shape)}\n".encode())
                values = sampled_values(modules[path], name, parameter, 1024).to(torch.bfloat16)
                digest.update(values.view(torch.int16).cpu().numpy().tobytes())
    return {path: digest.hexdigest()[:16] for path, digest in digests.items()}
