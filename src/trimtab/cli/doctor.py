"""`trimtab doctor`: what this installation has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from trimtab.cli.console import parser, say
from trimtab.runs.paths import cache_home, runs_home


def main(argv: Sequence[str]) -> int:
    """Show versions, devices, threads, caches and extras; changes nothing."""
    options = parser("doctor")
    options.add_argument("--json", action="store_true", help="as JSON")
    as_json = options.parse_args(argv).json
    facts = _facts()
    say(json.dumps(facts, indent=2) if as_json else "\n".join(_lines(facts)))
    return 0


def _facts() -> dict[str, Any]:
    import torch  # so that devices and threads are known

    from trimtab.runs.environment import describe

    known = describe()
    mps = torch.backends.mps.is_available()
    return {
        "python": known["python"],
        "platform": known["platform"],
        "versions": known["versions"],
        "devices": {**known["hardware"], "mps": mps},
        "threads": known["threads"],
        "places": {
            "cache": {"path": str(cache_home()), "bytes": _size(cache_home())},
            "runs": {"path": str(runs_home()), "bytes": _size(runs_home())},
        },
        "extras": extras(),
    }


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    devices, places = facts["devices"], facts["places"]
    yield f"python     {facts['python']} on {facts['platform']}"
    yield f"versions   {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}"
    yield f"processor  {devices['cpu']}, {devices['cores']} cores, {_readable(devices['memory_bytes'])}"
    yield f"devices    {', '.join([*devices['gpus'], *(['mps'] if devices['mps'] else []), 'cpu'])}"
    yield f"threads    {facts['threads']['torch']} (OMP_NUM_THREADS {facts['threads']['OMP_NUM_THREADS'] or 'not set'})"
    for name, place in places.items():
        yield f"{name:<11}{place['path']} ({_readable(place['bytes'])})"
    for name, missing in facts["extras"].items():
        get = f'lacks {", ".join(missing)}; pip install "trimtab[{name}]"' if missing else "installed"
        yield f"extra      {name}: {get}"


def extras() -> dict[str, list[str]]:
    """Each extra of the package with those of its requirements that are not installed."""
    found: dict[str, list[str]] = {
        name: [] for name in metadata.metadata("trimtab").get_all("Provides-Extra") or ()
    }
    for line in metadata.requires("trimtab") or ():
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)""", line)
        name = re.match(r"[\w.-]+", line)
        if extra and name and not _is_installed(name[0]):
            found[extra[1]].append(name[0])
    return found


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _readable(count: float | None) -> str:
    if count is None:
        return "memory unknown"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
