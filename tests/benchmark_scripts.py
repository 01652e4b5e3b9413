"""Scripts of a benchmark as modules, which import each other as they do when one of them is run."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def scripts(system: str, *names: str) -> list[ModuleType]:
    """Some scripts of a system; other modules of their names are as before."""
    folders = (BENCHMARKS / system, BENCHMARKS)
    known = {path.stem for folder in folders for path in folder.glob("*.py")}
    hidden = {name: sys.modules.pop(name) for name in known if name in sys.modules}
    path = list(sys.path)
    sys.path[:0] = map(str, folders)
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path[:] = path
        for name in known:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
