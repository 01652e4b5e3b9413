"""What every result file of these benchmarks says beside its numbers."""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import to_json

RESULTS = Path(__file__).parents[1] / "results" / "intelligibility"


def write(name: str, body: Mapping[str, Any], settings: Mapping[str, Any], interval: str) -> None:
    """Write one result file."""
    options = ["DIR" if Path(part).is_absolute() else part for part in sys.argv[1:]]
    head = {
        "command": f"python benchmarks/intelligibility/{name}.py {' '.join(options)}".strip(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {one: version(one) for one in ("trimtab", "numpy", "scipy", "pandas")},
        "python": platform.python_version(),
        "hardware": hardware(),
        "settings": dict(settings),
        "interval": interval,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS / f"{name}.json", to_json({**head, **body}, indent=1) + "\n")
