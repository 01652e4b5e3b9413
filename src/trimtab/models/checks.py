"""What is wrong with the name of a model, as far as can be seen without loading it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trimtab.errors import Problem
from trimtab.runs.places import neighbour


def name_problems(model: str, where: str = "model") -> Iterator[Problem]:
    """A path that is no folder with a config.json; hub names and `lab:` names are not looked up.

    >>> list(name_problems("Qwen/Qwen3-0.6B"))
    []
    """
    path = Path(model).expanduser()
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1 or path.exists()
    if not model.startswith("lab:") and looks_local and not (path / "config.json").exists():
        yield Problem(where, repr(model), "a folder with a config.json, or a hub name", neighbour(path))
