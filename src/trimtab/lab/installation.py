"""Where files are in the Python installation that runs us: its library, its packages and what they need."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sysconfig
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

_NEVER = frozenset({"__pycache__", "site-packages", "dist-packages"})


def stdlib() -> Path:
    """The folder of the standard library."""
    return Path(sysconfig.get_path("stdlib"))


def package_folder(name: str) -> Path | None:
    """The folder of an installed package, found without importing it; None when it is not installed."""
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def files_below(root: Path, ending: str, *, skip: Collection[str] = ()) -> dict[str, Path]:
    """Files whose name ends so, by their path below `root`; folders named in `skip` are not entered."""
    return {path.relative_to(root).as_posix(): path for path in _walk(root, ending, skip)}


def package_files(
    packages: Sequence[str], ending: str, keep: Callable[[str], bool] = lambda _key: True
) -> dict[str, Path]:
    """Files of packages whose name ends so, by `package/path`; `keep` chooses by that key."""
    roots = {name: folder for name in packages if (folder := package_folder(name)) is not None}
    found = {
        f"{name}/{key}": path
        for name, root in roots.items()
        for key, path in files_below(root, ending).items()
    }
    return {key: path for key, path in found.items() if keep(key)}


def metadata_files(distributions: Sequence[str]) -> dict[str, Path]:
    """The METADATA file of each distribution that has one, by the distribution's name."""
    found = {
        name: Path(str(file.locate()))
        for name in distributions
        for file in importlib.metadata.distribution(name).files or []
        if file.name == "METADATA"
    }
    return {name: path for name, path in found.items() if path.is_file()}


def version(distribution: str) -> str:
    """The installed version; empty when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def requirements(roots: Sequence[str]) -> list[str]:
    """The installed distributions that these need, directly or not, and they themselves; extras left out.

    Names are normalised ("huggingface-hub") and sorted.
    """
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found or not version(name):
            continue
        found.add(name)
        needs = importlib.metadata.requires(name) or []
        plain = (need for need in needs if "extra" not in need.partition(";")[2])
        waiting += [match[0] for need in plain if (match := re.match(r"[\w.-]+", need))]
    return sorted(found)


def _walk(root: Path, ending: str, skip: Collection[str]) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in skip and name not in _NEVER]
        yield from (Path(folder) / name for name in names if name.endswith(ending))
