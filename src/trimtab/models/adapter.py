"""Adapter of peft on disk: written as peft reads it, read back and compared, or merged into a copy of its base."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from trimtab.models.batches import evaluating
from trimtab.models.families import refusal, unwrapped
from trimtab.models.inspection import quantised
from trimtab.models.outputs import largest_gap, outputs, probe_inputs, tolerance
from trimtab.models.tokenizer import first_line
from trimtab.seeds import isolated

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOLERANCE, MERGED_TOLERANCE = 1e-5, 1e-4


def has_adapter(network: nn.Module) -> bool:
    """Whether a network has layers of an adapter, in a wrapper of peft or not."""
    return any(hasattr(part, "peft_config") or hasattr(part, "base_layer") for part in network.modules())


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter alone, without a model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").exists()


def with_adapter(network: nn.Module, folder: Path) -> nn.Module:
    """Copy of a base network with the adapter of a folder on it; the network itself is left as it was.

    Args:
        network: without an adapter; the copy takes as much memory again.
        folder: as `write_adapter` or peft leaves it, with weights in safetensors.

    Raises:
        ModelError: the network has an adapter, there are no such weights, or they do not fit the network.
    """
    from peft import PeftModel

    if has_adapter(network):
        raise refusal(
            "a base model with an adapter", "one without, to put this adapter on", "the plain model"
        )
    if not (folder / WEIGHTS).is_file():
        hint = "saving the adapter again with a current peft"
        raise refusal(f"no {WEIGHTS} in {folder}", "the adapter's weights in safetensors", hint)
    with _quiet(), isolated(0):
        try:
            adapted: nn.Module = PeftModel.from_pretrained(deepcopy(network), str(folder))
        except (
            Exception
        ) as error:  # whatever peft raises on damaged files; it has no list of what that may be
            got, expected = f"{folder}: {first_line(error)}", "an adapter that fits the base model"
            raise refusal(got, expected, "the base model that it was trained on") from error
    return adapted.eval()


def merged_copy(network: nn.Module) -> nn.Module:
    """Copy of the base network with the adapter folded into its weights; the network itself is left as it was.

    Args:
        network: a model of peft; the copy takes as much memory again.

    Raises:
        ModelError: its adapter cannot be merged, weights are quantised, or the copy computes something else.
    """
    if what := quantised(network):
        expected = "weights that are plain numbers to merge into"
        raise refusal(f"an adapter on a quantised model ({what})", expected, "saving the adapter alone")
    if not callable(getattr(network, "merge_and_unload", None)):
        hint = "saving it without merged=True"
        raise refusal(f"a {type(network).__name__}, which cannot be merged", "a LoRA in a peft model", hint)
    duplicate: Any = deepcopy(network)
    with _quiet():
        try:
            copy: nn.Module = duplicate.merge_and_unload(safe_merge=True)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            got, hint = (
                f"an adapter that cannot be merged ({first_line(error)})",
                "saving it without merged=True",
            )
            raise refusal(got, "a LoRA of finite weights", hint) from error
    _same_outputs(network, copy, MERGED_TOLERANCE, "the model with its adapter")
    return copy


def write_adapter(network: nn.Module, folder: Path, *, absolute: bool) -> None:
    """Write the adapter and its configuration into a folder, as peft does.

    Args:
        network: a model of peft.
        folder: to write into.
        absolute: name a base model that is a folder by its whole path, so that peft finds it from anywhere.

    Raises:
        ModelError: the adapter is not in a model of peft.
    """
    from peft import PeftModel

    if not isinstance(network, PeftModel):
        got = f"a {type(network).__name__} with adapter layers outside of a peft model"
        raise refusal(got, "a PeftModel", "peft.get_peft_model, or load(..., adapter=...)")
    with _quiet():
        network.save_pretrained(str(folder), safe_serialization=True)
    for file in folder.rglob(CONFIG) if absolute else ():
        config = json.loads(file.read_text(encoding="utf-8"))
        base = config.get("base_model_name_or_path")
        if base and Path(base).is_dir():
            config["base_model_name_or_path"] = str(Path(base).absolute())
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def compare_adapter(network: Any, folder: Path, *, thorough: bool) -> None:
    """Compare what was written with the adapter in memory.

    Args:
        network: a model of peft.
        folder: that `write_adapter` has filled.
        thorough: also let peft load it onto a copy of the base model, and compare outputs on a dummy input.

    Raises:
        ModelError: something differs, or cannot be read.
    """
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict

    for name in network.peft_config:
        place = folder if name == "default" else folder / name
        read = load_file(place / WEIGHTS)
        held = get_peft_model_state_dict(network, adapter_name=name, save_embedding_layers=False)
        for key, tensor in held.items():
            other = read.get(key)
            if other is None or other.dtype != tensor.dtype or not torch.equal(other, tensor.cpu()):
                got = f"{key} other than it was written"
                raise refusal(got, "what is read back to be the same", "a current peft")
        PeftConfig.from_pretrained(str(place))
    if not thorough or list(network.peft_config) != ["default"] or quantised(network):
        return
    duplicate = deepcopy(network)
    if not callable(getattr(duplicate, "unload", None)):
        return
    with _quiet(), isolated(0):
        again = PeftModel.from_pretrained(duplicate.unload(), str(folder))
    _same_outputs(network, again, TOLERANCE, "the model that was saved")


def _same_outputs(network: nn.Module, other: nn.Module, single: float, of: str) -> None:
    inputs = probe_inputs(unwrapped(network))
    if inputs is None:
        return
    with evaluating(network), evaluating(other):
        gap = largest_gap(outputs(network, inputs), outputs(other, inputs))
    if gap > (allowed := tolerance(network, single)):
        got = f"outputs that are {gap:.1g} of the largest away from those of {of}"
        raise refusal(got, f"at most {allowed:g}", "a current peft")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of peft that the caller could not act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Could not find a config file in", UserWarning)
        yield
