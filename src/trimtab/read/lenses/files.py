"""Files of fitted lenses: one affine map for each state, in safetensors, with a configuration.

The configuration holds the fingerprint of the readout that the lens was fitted to, and a checksum of the maps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor

from trimtab.errors import CheckpointError, ModelError, explain
from trimtab.models.folder import folder_for
from trimtab.models.readout import Readout
from trimtab.models.tokenizer import first_line
from trimtab.runs.atomic import atomic_directory
from trimtab.runs.environment import versions
from trimtab.runs.files import read_bytes
from trimtab.runs.serialise import read_object, to_json

CONFIG, WEIGHTS = FILES = ("lens_config.json", "lens.safetensors")
SCHEMA = 1
PICKLES = ("params.pt", "params.bin", "pytorch_model.bin")


@dataclass(frozen=True, eq=False)
class Maps:
    """Affine maps of the states 0 to L - 1, in single precision.

    Attributes:
        weight: (L, d, d).
        bias: (L, d).
        made_by: how they were fitted, plain values.
    """

    weight: Float[Tensor, "L d d"]
    bias: Float[Tensor, "L d"]
    made_by: Mapping[str, Any]


def write_maps(kind: str, maps: Maps, readout: Readout, folder: str | Path) -> Path:
    """Write the maps of a lens; the folder appears whole or not at all, in the place of an older lens.

    Raises:
        ModelError: values that are not finite, or a folder that holds something else.
        CheckpointError: the disk is full; what was there is intact.
    """
    target = folder_for("a lens", folder, FILES)
    check_finite(maps, f"{kind} lens")
    tensors = {"weight": maps.weight, "bias": maps.bias}
    weights = bytes_of(
        {name: one.detach().cpu().contiguous() for name, one in tensors.items()}, metadata={"format": "pt"}
    )
    config = {
        "schema": SCHEMA,
        "lens": kind,
        "states": len(maps.weight) + 1,
        "width": readout.width,
        "fingerprint": readout.fingerprint,
        "made_by": dict(maps.made_by),
        "trimtab_version": versions().get("trimtab", "unknown"),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    with atomic_directory(target) as new:
        (new / WEIGHTS).write_bytes(weights)
        (new / CONFIG).write_text(to_json(config, indent=2) + "\n", encoding="utf-8")
    return target


def kind_of(folder: str | Path) -> str:
    """Kind of the lens in a folder: "tuned" or "jacobian".

    Raises:
        ModelError: there is none, or its configuration is damaged.
    """
    return str(_config(Path(folder).expanduser())["lens"])


def read_maps(kind: str, folder: str | Path, readout: Readout) -> Maps:
    """Maps of a lens, on the model's device, after checking all of it.

    Args:
        kind: "tuned" or "jacobian".
        folder: what `write_maps` wrote.
        readout: of the model that the lens is to read.

    Raises:
        ModelError: a file is missing, damaged or changed since it was saved, the lens is of another kind, or it was
            fitted to a model with another final norm, unembedding, width or depth.
    """
    place = Path(folder).expanduser()
    config = _config(place)
    if config["lens"] != kind:
        hint = "JacobianLens" if kind == "tuned" else "TunedLens"
        raise _refused(place, f"a {config['lens']} lens", f"a {kind} lens", f"{hint}.from_pretrained")
    states, width = len(readout.sites), readout.width
    if (config["states"], config["width"]) != (states, width):
        got = f"a lens of {config['states']} states of width {config['width']}"
        raise _refused(
            place, got, f"{states} of width {width}, as the model has", "the model it was fitted to"
        )
    if config["fingerprint"] != readout.fingerprint:
        got = "a lens fitted to a model with another final norm or unembedding"
        raise _refused(place, got, f"fingerprint {readout.fingerprint}", "the model it was fitted to")
    content = read_bytes(place / WEIGHTS, "safetensors", error=ModelError)
    if hashlib.sha256(content).hexdigest() != config["sha256"]:
        got = f"{WEIGHTS} of {len(content)} bytes, cut short or changed after it was saved"
        raise _refused(place, got, f"the one whose SHA-256 is in {CONFIG}", "saving it again")
    try:
        tensors = tensors_from(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _refused(place, first_line(error), "safetensors", "saving it again") from error
    shapes = {"weight": (states - 1, width, width), "bias": (states - 1, width)}
    if {name: tuple(one.shape) for name, one in tensors.items()} != shapes:
        raise _refused(place, f"tensors {sorted(tensors)} of other shapes", f"{shapes}", "saving it again")
    device = readout.device
    weight, bias = (tensors[name].to(device, torch.float32) for name in shapes)
    maps = Maps(weight, bias, config["made_by"])
    check_finite(maps, str(place))
    return maps


def check_finite(maps: Maps, where: str) -> None:
    """Refuse maps with values that are not finite.

    Raises:
        ModelError: naming the first such state.
    """
    good = maps.weight.flatten(1).isfinite().all(1) & maps.bias.isfinite().all(1)
    if not good.all():
        got = f"values that are not finite, at state {int((~good).nonzero()[0])}"
        raise ModelError(f"{where}: {explain(got, 'numbers', 'fitting it again on other texts')}")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.exists():
        got = f"the folder {folder} without {CONFIG}" if folder.is_dir() else f"{folder}, which is no folder"
        pickle = next((name for name in PICKLES if (folder / name).is_file()), None)
        hint = (
            f"fitting one anew: {pickle} is a pickle, which can run any code when it is read"
            if pickle
            else ""
        )
        raise ModelError(explain(got, "a folder that a lens's save_pretrained wrote", hint))
    try:
        config = read_object(path)
    except CheckpointError as error:
        raise ModelError(str(error)) from error
    expected = {"lens": str, "states": int, "width": int, "fingerprint": str, "made_by": dict, "sha256": str}
    if config.get("schema") != SCHEMA:
        got = f"schema {config.get('schema')!r:.40} by trimtab {config.get('trimtab_version')!s:.40}"
        raise _refused(path, got, f"schema {SCHEMA}", "another version of trimtab")
    for name, kind in expected.items():
        if type(config.get(name)) is not kind:
            got = f"{name} {config.get(name)!r:.40}"
            raise _refused(path, got, f"a {kind.__name__}", "saving it again")
    return config


def _refused(where: Path, got: str, expected: str, hint: str) -> ModelError:
    return ModelError(f"{where}: {explain(got, expected, hint)}")
