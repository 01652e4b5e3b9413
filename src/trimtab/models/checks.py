"""What is wrong with the name of a model or of a device, as far as can be seen without loading anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

import torch
from transformers.utils.hub import cached_file

from trimtab.errors import ModelError, Problem, nearest
from trimtab.models.folder import local_folder
from trimtab.runs.places import path_problem

_HUB_NAME = re.compile(r"(?=.{1,96}$)\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?", re.ASCII)
EXPECTED = "a folder with a config.json, or a hub name"
_ALIKE = 0.85
"""How much alike a hub name and a folder must look for the name to be taken for a slip."""


def name_problems(model: str, where: str = "model") -> Iterator[Problem]:
    """A path that is no folder with a config.json; hub names and `lab:` names are not looked up.

    A name that could be of the hub is taken for a slip if it looks like that of a model's folder beside it, and is in
    no cache of this machine.

    >>> list(name_problems("Qwen/Qwen3-0.6B"))
    []
    """
    if model.startswith("lab:"):
        return
    if (problem := path_problem(where, model, EXPECTED)) is not None:
        yield problem
        return
    try:
        folder = local_folder(model)
    except ModelError:
        yield Problem(where, ascii(model)[:80], EXPECTED)
        return
    if folder is not None or is_path(model):
        if folder is None or not (folder / "config.json").exists():
            yield Problem(
                where, repr(model), EXPECTED, nearest_folder(Path(model)) or "the folder that has config.json"
            )
    elif (near := nearest_folder(Path(model), _ALIKE)) and not _cached(model):
        yield Problem(where, repr(model), f"{EXPECTED} (there is no folder of this name)", near)
    elif not _HUB_NAME.fullmatch(model):
        name = model.removeprefix("hf:")
        yield Problem(where, repr(model), EXPECTED, repr(name) if name != model and name else "")


def is_path(source: str | Path) -> bool:
    """Whether a source can only be a path: it cannot be the name of a model on the hub.

    >>> is_path("./here"), is_path("gpt2")
    (True, False)
    """
    text = str(source)
    looks_local = text.startswith((".", "/", "~")) or text.count("/") > 1 or not text
    try:
        return isinstance(source, Path) or looks_local or Path(source).exists()
    except (OSError, ValueError):
        return True


def nearest_folder(path: Path, alike: float = 0.5) -> str:
    """The model's folder beside a path whose name is most like it; empty where none is alike.

    Args:
        path: what is not there.
        alike: the least likeness, in [0, 1].
    """
    try:
        wanted = path.expanduser()
        beside = [folder for folder in wanted.parent.iterdir() if (folder / "config.json").is_file()]
    except (OSError, ValueError, RuntimeError):
        return ""
    likeness = {folder: SequenceMatcher(None, wanted.name, folder.name).ratio() for folder in beside}
    best = max(sorted(likeness), key=lambda folder: likeness[folder], default=None)
    good = best is not None and likeness[best] >= alike and best.name != wanted.name
    return str(path.parent / best.name) if good and best is not None else ""


def _cached(name: str) -> bool:
    try:
        return cached_file(name, "config.json", local_files_only=True) is not None
    except (OSError, ValueError):
        return False


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
