"""What is wrong with the name of a model or of a device, as far as can be seen without loading anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch

from trimtab.errors import Problem, nearest
from trimtab.runs.places import neighbour, path_problem

_HUB_NAME = re.compile(r"(?=.{1,96}$)\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?", re.ASCII)
EXPECTED = "a folder with a config.json, or a hub name"


def name_problems(model: str, where: str = "model") -> Iterator[Problem]:
    """A path that is no folder with a config.json; hub names and `lab:` names are not looked up.

    >>> list(name_problems("Qwen/Qwen3-0.6B"))
    []
    """
    if not model.startswith("lab:") and (problem := path_problem(where, model, EXPECTED)) is not None:
        yield problem
        return
    path = Path(model).expanduser()
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1 or path.exists()
    if not model.startswith("lab:") and looks_local and not (path / "config.json").exists():
        yield Problem(where, repr(model), EXPECTED, neighbour(path))
    elif not model.startswith("lab:") and not looks_local and not _HUB_NAME.fullmatch(model):
        name = model.removeprefix("hf:")
        yield Problem(where, repr(model), EXPECTED, repr(name) if name != model and name else "")


def device_problems(device: str | None, where: str = "device") -> Iterator[Problem]:
    """The name of a device that torch does not know, or that this machine does not have; None is any.

    >>> list(device_problems("cpu")), [problem.got for problem in device_problems("gpu")]
    ([], ["'gpu'"])
    """
    if device is None or device in ("cpu", "cpu:0"):
        return
    here = available_devices()
    expected = f"{', '.join(map(repr, here))}, or null for the first accelerator, else the CPU"
    try:
        named = str(torch.device(device))
    except (RuntimeError, ValueError):
        named = ""
    if named not in here and named not in {one.partition(":")[0] for one in here}:
        got = repr(device if len(device) <= 60 else f"{device[:57]}...")
        if named:
            got = f"{got}, which is not on this machine"
        yield Problem(where, got, expected, nearest(device[:60], here))


def available_devices() -> list[str]:
    """The devices that a model can be put on here: the CPU, and each accelerator with its number."""
    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    return ["cpu", *(f"{kind.type}:{number}" for number in range(torch.accelerator.device_count()))]
