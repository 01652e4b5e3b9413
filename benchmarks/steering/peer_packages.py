"""Three packages that steer models, as they come from PyPI, and how a tensor of shifts goes into each.

They are none of our dependencies: their own pins would downgrade the installation. To measure them too:

    pip install --no-deps repeng==0.4.0 steering-vectors==0.12.2 pyreft==0.1.0 pyvene==0.1.8

One that is missing is "not installed" in the results.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trimtab import Steering
from trimtab.models.sites import resolve
from trimtab.steer.maps import Base

PEERS = {"repeng": "repeng", "steering-vectors": "steering_vectors", "pyreft": "pyreft"}
OTHERS = ("pyvene", "gguf", "scikit-learn")
SHOWN = 200
"""Letters of an error message that are kept."""
RANK = 4
"""Of a LoReFT intervention, as in the first example of pyreft."""


@cache
def peer(name: str) -> Any:
    """The package, or None where it is not installed."""
    with contextlib.redirect_stdout(io.StringIO()):  # pyvene greets
        try:
            return importlib.import_module(PEERS[name])
        except ModuleNotFoundError:
            return None
        except AttributeError:
            # A shim of ours: repeng 0.4.0 names np.float_, which NumPy 2 removed, and cannot be imported without it.
            np.float_ = np.float64  # type: ignore[attr-defined]
            return importlib.import_module(PEERS[name])


@cache
def plain_import(name: str) -> str:
    """What `import` says without any shim; to be asked before `peer`."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module(PEERS[name])
        except ModuleNotFoundError as error:
            return f"not installed: {error}"
        except Exception as error:
            return told(error)
    return "ok"


def installed() -> list[str]:
    """The peers that can be measured."""
    return [name for name in PEERS if peer(name) is not None]


def peer_versions() -> dict[str, str]:
    found = {}
    for name in (*PEERS, *OTHERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def told(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(re.sub(r"\x1b\[\d+m", "", str(error)).split())
    return f"{type(error).__name__}: {text[:SHOWN]}" + ("..." if len(text) > SHOWN else "")


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and greetings."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


# A tensor of shifts (layers, width), in each package's own words -----------------------------------------------------

Forward = Callable[..., Any]


def steering(network: nn.Module, shifts: Tensor, place: str = "residual") -> Steering:
    found = resolve(network, place)
    maps = {site.name: (torch.ones(len(shift)), shift) for site, shift in zip(found, shifts, strict=True)}
    return Steering(maps, Base.of(network, found))


def control_vector(shifts: Tensor) -> Any:
    directions = {layer: shift.numpy() for layer, shift in enumerate(shifts)}
    return peer("repeng").ControlVector("llama", directions)


def steering_vector(shifts: Tensor) -> Any:
    return peer("steering-vectors").SteeringVector(dict(enumerate(shifts)))


def reft(network: nn.Module, layers: int, width: int) -> Any:
    """A fresh LoReFT in single precision (its default, bfloat16, fails on a float32 model) after every block."""
    pyreft = peer("pyreft")
    parts = [
        {
            "layer": layer,
            "component": "block_output",
            "low_rank_dimension": RANK,
            "intervention": pyreft.LoreftIntervention(
                embed_dim=width, low_rank_dimension=RANK, dtype=torch.float32
            ),
        }
        for layer in range(layers)
    ]
    return pyreft.get_reft_model(network, pyreft.ReftConfig(representations=parts))


@contextmanager
def trimtab_on(network: nn.Module, shifts: Tensor) -> Iterator[Forward]:
    with steering(network, shifts).on(network):
        yield network


@contextmanager
def repeng_on(network: Any, shifts: Tensor) -> Iterator[Forward]:
    """As its manual has it; that it is unwrapped after an error is our doing."""
    control = peer("repeng").ControlModel(network, list(range(len(shifts))))
    control.set_control(control_vector(shifts))
    try:
        yield control
    finally:
        control.unwrap()


@contextmanager
def steering_vectors_on(network: nn.Module, shifts: Tensor) -> Iterator[Forward]:
    with steering_vector(shifts).apply(network):
        yield network


@contextmanager
def pyreft_on(network: nn.Module, shifts: Tensor) -> Iterator[Forward]:
    """A fresh intervention at every token: it has no place for a shift."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wrapped = reft(network, *shifts.shape)

    def forward(input_ids: Tensor, **keywords: Any) -> Any:
        everywhere = {"base": list(range(input_ids.shape[1]))}
        return wrapped({"input_ids": input_ids, **keywords}, unit_locations=everywhere)[1]

    yield forward


ON = {
    "trimtab": trimtab_on,
    "repeng": repeng_on,
    "steering-vectors": steering_vectors_on,
    "pyreft": pyreft_on,
}


def contestants() -> list[str]:
    """Ours and every peer that is installed."""
    return ["trimtab", *installed()]
