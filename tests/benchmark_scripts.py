"""The scripts of a benchmark as modules, imported as they import each other; `sys.modules` is as before afterwards."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@contextmanager
def scripts(system: str, *names: str) -> Iterator[list[ModuleType]]:
    """These scripts of a system's folder; other systems, and the tests, have modules of the same names."""
    folders = (BENCHMARKS, BENCHMARKS / system)
    known = {path.stem for folder in folders for path in folder.glob("*.py")}
    hidden = {name: sys.modules.pop(name) for name in known & set(sys.modules)}
    try:
        with pytest.MonkeyPatch.context() as patch:
            for folder in folders:
                patch.syspath_prepend(str(folder))
            yield [importlib.import_module(name) for name in names]
    finally:
        for name in known:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
