"""Who may import whom, and that everything can be imported."""

from __future__ import annotations

import ast
import graphlib
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import trimtab
from trimtab.systems import SYSTEMS, System

SRC = Path(trimtab.__file__).parent
FILES = sorted(SRC.rglob("*.py"))
MODULES = sorted(
    {"trimtab", *(module.name for module in pkgutil.walk_packages([str(SRC)], prefix="trimtab."))}
)

MAY_IMPORT = {
    "errors": set(),
    "seeds": {"errors"},
    "numerics": {"errors", "seeds"},
    "report": {"errors", "seeds", "numerics"},
    "runs": {"errors", "seeds", "numerics"},
    "job": {"errors", "report", "runs"},
    "models": {"errors", "seeds", "numerics", "runs"},
    "data": {"errors", "seeds", "numerics", "runs", "models"},
    "train": {"errors", "seeds", "numerics", "runs", "models", "data"},
    "adapt": {"errors", "seeds", "numerics", "report", "runs", "job", "models", "data", "train"},
    "steer": {"errors", "seeds", "numerics", "report", "runs", "job", "models", "data", "train"},
    "read": {"errors", "seeds", "numerics", "report", "runs", "job", "models", "data", "train"},
    "refer": {"errors", "seeds", "numerics", "report", "runs", "job", "models", "data", "train"},
    "lab": {"errors", "seeds", "numerics", "runs", "models", "data", "train"},
    "systems": {"errors", "seeds", "runs"},
    "cli": {"errors", "seeds", "runs", "job", "systems"},
    "__main__": {"cli"},
}
"""Floor -> the floors its files may name in an import. Systems and verbs reach the rest by import on use."""


def imported(path: Path) -> set[str]:
    """Every module of ours that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name == "trimtab" or name.startswith("trimtab.")}


def modules_of(path: Path) -> set[str]:
    """The modules of ours that a file imports: at its head, in functions and for types only."""
    return {name if name in MODULES else name.rpartition(".")[0] for name in imported(path)} - {"trimtab"}


def floor(module: str) -> str:
    """The folder or top-level file that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_downwards(path: Path) -> None:
    here = path.relative_to(SRC).with_suffix("").parts[0]
    if here == "__init__":
        return
    allowed = MAY_IMPORT[here] | {here}
    wrong = {name for name in imported(path) if floor(name) not in allowed}
    assert not wrong, f"{path.relative_to(SRC)} must not import {sorted(wrong)}"


def module_of(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_circle_of_files() -> None:
    """A file that imports another is nowhere below it: imports in functions and for types count."""
    graph = {module_of(path): modules_of(path) for path in FILES if path != SRC / "__init__.py"}
    order = graphlib.TopologicalSorter(graph)
    try:
        order.prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of files: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=list(SYSTEMS))
def test_a_system_has_a_folder_with_its_job_and_its_result(system: System) -> None:
    module, _, name = system.job.partition(":")
    folder = SRC.parent.joinpath(*module.split(".")).parent
    assert module.endswith(".job")
    assert {"job.py", "result.py"} <= {path.name for path in folder.glob("*.py")}
    result = system.job_class().result
    assert result.__module__ == module.replace(".job", ".result"), f"{name}: its result is elsewhere"


def test_only_figures_know_matplotlib() -> None:
    found = [
        path.relative_to(SRC).as_posix()
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom | ast.Import)
        and any("matplotlib" in name for name in names(node))
        and node.col_offset == 0
    ]
    assert set(found) == {"report/figures.py"}


def names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules an import names."""
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported(module: str) -> None:
    assert importlib.import_module(module).__doc__, f"{module} does not say what it is for"


def test_public_names_are_there() -> None:
    assert all(hasattr(trimtab, name) for name in trimtab.__all__)
    with pytest.raises(AttributeError, match="no attribute 'finetun'"):
        _ = trimtab.finetun


@pytest.mark.parametrize("module", ["trimtab", "trimtab.cli.main", "trimtab.systems"])
def test_the_front_door_imports_nothing_heavy(module: str) -> None:
    heavy = {"torch", "transformers", "pandas", "matplotlib", "numpy", "scipy", "datasets", "accelerate"}
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
