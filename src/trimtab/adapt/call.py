"""The call of a run started from Python, as plain values of its config: model, adapter, data, mixer, settings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from trimtab.adapt.mixer import UPDATES, Mixer
from trimtab.adapt.session import Roles, make_roles
from trimtab.data.domains import Domain, Origin
from trimtab.data.splits import Files, Given, Part, Pool, Without
from trimtab.data.tokens import TokenDomain
from trimtab.errors import Problem
from trimtab.models.load import Model
from trimtab.models.quantization import in_four_bits, quantization_settings
from trimtab.models.sites import modules_of
from trimtab.runs.serialise import plain
from trimtab.seeds import seed_problem
from trimtab.train.settings import Fit

LATER = ("dtype", "load_in_4bit", "quantization", "adapter", "data", "settled")
"""Keys that earlier versions did not write; a run of theirs goes on without them."""
DATA = "data"
"""The key that says where data came from; whether it is the same data is asked of its fingerprints."""


def argument_problems(
    *, seed: object, label: object, config: object, save_model: object
) -> Iterator[Problem]:
    """Problems of type of the arguments of a call that are no domains and no settings."""
    if (problem := seed_problem("seed", seed)) is not None:
        yield problem
    kinds = {
        "label": (label, str | None, "a text, or None"),
        "config": (config, Mapping | None, "a mapping, or None"),
        "save_model": (save_model, bool, "True or False"),
    }
    for name, (value, kind, expected) in kinds.items():
        if not isinstance(value, kind):
            yield Problem(name, f"{value!r:.60}", expected)


def call(
    model: Model,
    train: Mapping[str, Domain],
    evaluate: Mapping[str, Domain],
    mixer: Mixer,
    fit: Fit,
    seed: int,
    *,
    given: Mapping[str, Any],
    domains: Mapping[str, TokenDomain],
) -> dict[str, Any]:
    """Config of a run.

    Args:
        model: what is trained.
        train: domains to train on.
        evaluate: domains to evaluate only.
        mixer: a dataclass.
        fit: settings.
        seed: of the run.
        given: what the caller handed over for each domain: a domain, a path, a table, ...
        domains: all of them, tokenised.

    Returns:
        JSON values. model (name), dtype, load_in_4bit, quantization (settings of bitsandbytes; None without), adapter
        (peft's configuration, what differs from its defaults; None without), train, evaluate (names), data (per domain:
        its source, records per split, fingerprint), mixer and fit (as they were given), settled (what settings of the
        mixer that were left open came to), seed.
    """
    data = {
        name: {
            **_source(given.get(name), domain),
            "records": {split: rows.counts.records for split, rows in domains[name].splits.items()},
            "fingerprint": domains[name].fingerprint,
        }
        for name, domain in {**train, **evaluate}.items()
    }
    roles = make_roles(list(train), list(evaluate), mixer.targets, mixer.constraints)
    config: dict[str, Any] = plain(
        {
            "model": model.name,
            "dtype": dtype_of(model),
            "load_in_4bit": in_four_bits(model.module),
            "quantization": quantization_settings(model.module),
            "adapter": adapter_settings(model),
            "train": list(train),
            "evaluate": list(evaluate),
            "data": data,
            "mixer": asdict(mixer),  # type: ignore[call-overload]
            "settled": settled(mixer, fit, roles),
            "fit": asdict(fit),
            "seed": seed,
        }
    )
    return config


def dtype_of(model: Model) -> str | None:
    """The type of the base model's parameters, without an adapter's and packed ones; None where they are of several."""
    named = model.module.named_parameters()
    plain_ones = (one for name, one in named if "lora_" not in name and one.is_floating_point())
    types = {str(one.dtype).removeprefix("torch.") for one in plain_ones}
    return types.pop() if len(types) == 1 else None


def adapter_settings(model: Model) -> dict[str, Any] | None:
    """The configuration of a model's adapter, what differs from peft's defaults; None without an adapter of peft."""
    configs = getattr(model.module, "peft_config", None)
    config: Any = configs.get("default") if isinstance(configs, Mapping) else None
    if config is None:
        return None
    fresh: Any = type(config)
    default = fresh().to_dict()
    chosen = {name: value for name, value in config.to_dict().items() if value != default.get(name)}
    kept = {
        "peft_type": config.peft_type,
        **{n: getattr(config, n) for n in ("r", "lora_alpha") if hasattr(config, n)},
    }
    kept |= {name: value for name, value in chosen.items() if name not in _NOT_SETTINGS}
    if isinstance(kept.get("target_modules"), set | list):
        kept["target_modules"] = _last_parts(model, set(kept["target_modules"]))
    return {name: _plain(value) for name, value in kept.items()}


def _last_parts(model: Model, names: set[str]) -> list[str]:
    """Names of modules by their last parts, where these mean the same modules, as peft matches them."""
    last = {name.rpartition(".")[2] for name in names}
    matched = {name for name in modules_of(model.module) if name.rpartition(".")[2] in last}
    return sorted(last if matched == names else names)


_NOT_SETTINGS = frozenset(
    {"base_model_name_or_path", "inference_mode", "peft_version", "auto_mapping", "revision"}
)


def _plain(value: Any) -> Any:
    try:
        return plain(value)
    except TypeError:
        return str(value)


def settled(mixer: Mixer, fit: Fit, roles: Roles | None = None) -> dict[str, Any]:
    """What a mixer's settings that were left open (None) come to in this run; by its roles, where they are given."""
    in_run = getattr(mixer, "in_run", None) if roles is not None else None
    acting = in_run(roles) if callable(in_run) else mixer
    open_ones = [one.name for one in fields(mixer) if getattr(mixer, one.name) is None]  # type: ignore[arg-type]
    preset = getattr(acting, "settled", None)
    values = {name: preset(name) for name in open_ones} if callable(preset) else {}
    if "every" in open_ones:
        values["every"] = max(1, fit.steps // UPDATES)
    return {name: value for name, value in values.items() if value not in (None, math.inf)}


def _source(given: Any, domain: Domain) -> dict[str, Any]:
    """Where the data of a domain came from: what the caller wrote, or what its splits are."""
    if isinstance(given, str | Path):
        return {"path": str(given)}
    if isinstance(given, Origin):
        return {name: value for name, value in asdict(given).items() if value not in (None, {}, "refuse")}
    return {"splits": {split: described(getattr(domain, split)) for split in domain.splits}}


LISTED = 8
"""Files of a source that are named one by one."""


def described(source: Any) -> dict[str, Any]:
    """Source of a split in plain values: its files, the data set of the hub, or "in memory", and which part of it.

    >>> described(["a", "b"])
    {'in memory': 'list'}
    """
    if isinstance(source, Part):
        share = f"{100 * (source.upper - source.lower):.3g} %"
        return {**described(source.pool), "part": f"{share} by hash, from {100 * source.lower:.3g} %"}
    if isinstance(source, Without):
        return {**described(source.source), "overlap": "dropped"}
    if isinstance(source, Pool):
        return described(source.files)
    if isinstance(source, Files):
        files: dict[str, Any] = {"files": [str(path) for path in source.paths[:LISTED]]}
        files |= {"more files": len(source.paths) - LISTED} if len(source.paths) > LISTED else {}
        return files | ({"columns": plain(source.columns)} if source.columns else {})
    if isinstance(source, Given):
        return described(source.records) | ({"columns": plain(source.columns)} if source.columns else {})
    hub = _hub_name(source)
    return {"data set": hub} if hub else {"in memory": type(source).__name__}


def _hub_name(source: Any) -> str:
    """The data set of the hub that rows of `datasets` were loaded from, `hf:owner/name@commit`; "" for others."""
    info = getattr(source, "info", None)
    for address in getattr(info, "download_checksums", None) or ():
        if (found := re.match(r"hf://datasets/([^@/]+/[^@/]+@\w+)/", str(address))) is not None:
            config = getattr(info, "config_name", None)
            return f"hf:{found[1]}{f' ({config})' if config else ''}"
    return ""
