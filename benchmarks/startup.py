"""How long `import trimtab` and `trimtab --help` take, as whole processes, warm.

python benchmarks/startup.py        writes benchmarks/results/startup.json
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from trimtab.runs.environment import hardware, versions

RUNS = 15
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import trimtab": [sys.executable, "-c", "import trimtab"],
    "trimtab --help": [str(Path(sys.executable).with_name("trimtab")), "--help"],
}


def seconds(command: list[str]) -> list[float]:
    taken = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    return taken[1:]


def main() -> None:
    rows = {
        name: {"n": RUNS, "median_s": statistics.median(taken), "min_s": min(taken), "max_s": max(taken)}
        for name, taken in ((name, seconds(command)) for name, command in COMMANDS.items())
    }
    record = {
        "command": "python benchmarks/startup.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions() | {"python": sys.version.split()[0]},
        "hardware": hardware(),
        "load_average_at_start": os.getloadavg()[0],
        "seconds": rows,
    }
    (Path(__file__).parent / "results" / "startup.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
