"""How far rows of ExpertLens lie apart on a real sentence encoder: paired differences between experts and baselines.

    python benchmarks/experts/differences.py --data DATA

The setting is that of `run.py` (the same encoder, sentences, words and seed), without its controls: only the rows of
experts and of baselines, and each difference between the two with an interval over words, drawn in pairs. The result
goes to `benchmarks/results/experts/minilm-differences.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from itertools import islice
from pathlib import Path

from run import RESULTS, job

from trimtab.data.concept import NOT_NOUNS
from trimtab.models.load import load
from trimtab.read.experts.baselines import BASELINE, EXPERTS, alignment, rows
from trimtab.read.experts.job import read_concepts
from trimtab.read.experts.lens import ExpertLens
from trimtab.read.experts.ratings import judged, read_ratings
from trimtab.runs.environment import hardware, threads, versions
from trimtab.runs.serialise import plain

ROWS = 11
"""Six ways to compare experts, and five baselines; the controls come after them."""
SHOWN = ["row", "role", "ratings", "rho", "low", "high", "n_pairs", "n_concepts", "ceiling"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    config = job(parser.parse_args().data, NOT_NOUNS)
    before, wall, cpu = os.getloadavg(), time.perf_counter(), time.process_time()
    ratings = {name: read_ratings(path) for name, path in config.ratings.items()}
    concepts = read_concepts(config, ratings)
    known = {name: judged(frame, concepts.names) for name, frame in ratings.items()}
    model = load(config.model, dtype=config.dtype, device=config.device)
    lens = ExpertLens.fit(model, concepts, config.sites, max_tokens=config.max_tokens, seed=config.seed)
    table = list(islice(rows(lens, config.tau, config.top), ROWS))
    assert {row.role for row in table} == {EXPERTS, BASELINE}
    found = alignment(table, lens, known, {})
    result = {
        "command": "python benchmarks/experts/differences.py --data DATA",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions(),
        "hardware": hardware(),
        "threads": threads(),
        "load_average": {"before": before, "after": os.getloadavg()},
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "interval": "95 %, over words; differences are drawn in pairs, 1000 draws",
        "notes": {name: it.notes for name, it in known.items()},
        "rows": plain(found.table[SHOWN].to_dict("records")),
        "differences": plain(found.differences.to_dict("records")),
    }
    (RESULTS / "minilm-differences.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(found.differences.to_string(index=False))


if __name__ == "__main__":
    main()
