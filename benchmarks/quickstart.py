"""What `make demo` came to, as a small record to keep: results, cost by part, versions, hardware.

make demo && .venv/bin/python benchmarks/quickstart.py runs/demo
                                              writes benchmarks/results/quickstart.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

import trimtab
from trimtab import FinetuneResult

OWN_WORK = ("solver", "snapshot", "bookkeeping")
APART = ("checkpoint", "test evaluation")
RECIPE = Path(trimtab.__file__).parent / "recipes" / "dynamics" / "quickstart.yaml"
RESULTS = Path(__file__).parent / "results" / "quickstart.json"


def overhead(result: FinetuneResult) -> dict[str, float]:
    """Share of loop time that solver, snapshots and bookkeeping take; checkpoints are listed apart."""
    seconds = result.cost.seconds
    loop = sum(spent for part, spent in seconds.items() if part not in APART)
    own = sum(seconds.get(part, 0.0) for part in OWN_WORK)
    return {"loop_seconds": loop, "share": own / loop, "checkpoint_seconds": seconds.get("checkpoint", 0.0)}


def main(group: Path) -> None:
    facts = json.loads((group / "run.json").read_text())
    members = {
        result.label: {"seconds": dict(result.cost.seconds), "overhead": overhead(result)}
        for result in map(FinetuneResult.load, sorted((group / "members").glob("[!.]*/")))
    }
    record = {
        "command": "make demo",
        "date": facts["created"][:10],
        "versions": facts["versions"] | {"python": facts["python"]},
        "hardware": facts["hardware"],
        "threads_per_run": 1,
        "config": yaml.safe_load((group / "config.yaml").read_text()),
        "intervals": "95 %, paired, over test sequences of one training seed",
        **json.loads((group / "artifacts" / "comparison.json").read_text()),
        "parts": members,
    }
    # The run has paths in place of the recipe's names.
    named = yaml.safe_load(RECIPE.read_text())
    record["config"] |= {key: named[key] for key in ("model", "train", "evaluate")}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({label: round(m["overhead"]["share"], 5) for label, m in members.items()}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
