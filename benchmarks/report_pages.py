"""Size of fine-tuning pages and CPU time of making them: of one run and of a group, with 6 and with 20 domains.

python benchmarks/report_pages.py        prints them and writes benchmarks/results/report_pages.json

Each page is made in a process of its own, several times; the first time also imports the drawing library. Process time
counts what this process computes, whatever else the machine does meanwhile. Results are made up, as in the tests.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from trimtab import FinetuneResult
from trimtab.adapt.record import COMPLETION_COLUMNS
from trimtab.runs.environment import hardware, versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "report_pages.json"
TIMES = 5
PAGES = {"one run, 6 domains": (1, 6), "one run, 20 domains": (1, 20), "group of 8, 6 domains": (8, 6)}
PROMPTS = 2
PROMPT, REFERENCE = "def held_out(prompt): " * 14, "return the first half of it " * 7
"""As long as prompts and completions of a model with a vocabulary of words are."""


def made_up(label: str, domains: int) -> FinetuneResult:
    """A run with slopes and completions; every third domain's name is a long one."""
    sys.path.append(str(ROOT / "tests"))
    import finetune_results

    finetune_results.VALIDATION = (-0.2, -0.1, *(0.01,) * 18)
    names = [f"{'a domain of ' * (number % 3 == 0)}number {number}" for number in range(domains)]
    pulls = (-0.2, -0.1, *(0.01,) * (domains - 2))
    result = finetune_results.make_result(label, train=names, evaluate=names, pulls=pulls)
    rows = [
        (name, f"{name} {PROMPT}", REFERENCE, REFERENCE, f"{label} {REFERENCE}") for name in names
    ] * PROMPTS
    return replace(result, completions=pd.DataFrame(rows, columns=list(COMPLETION_COLUMNS), dtype=object))


def one(runs: int, domains: int) -> dict[str, float]:
    """Bytes of a page, and CPU seconds of making it for the first time and, the median, again."""
    results = [made_up(f"run {number}", domains) for number in range(runs)]
    seconds, page = [], ""
    for _ in range(TIMES):
        start = time.process_time()
        page = FinetuneResult.page(results)
        seconds.append(time.process_time() - start)
    again = statistics.median(seconds[1:])
    return {
        "bytes": len(page.encode()),
        "first_cpu_s": seconds[0],
        "again_cpu_s": again,
        "max_cpu_s": max(seconds),
    }


def main() -> None:
    """Each page in a process of one thread."""
    rows = {}
    for name, sizes in PAGES.items():
        command = [sys.executable, __file__, *map(str, sizes)]
        told = subprocess.run(
            command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        rows[name] = {"n": TIMES, **json.loads(told.stdout)}
        print(f"{name}: {json.dumps(rows[name])}")
    record = {
        "command": "python benchmarks/report_pages.py",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions() | {"python": sys.version.split()[0]},
        "hardware": hardware(),
        "load_average_at_start": os.getloadavg()[0],
        "pages": rows,
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(one(*map(int, sys.argv[1:]))))
    else:
        main()
