"""Steering estimators on the grammar world, whose truth is exact: in pieces, as long as there is time.

    python benchmarks/steering/run.py --parts main --seeds 0 1 2 3 4 --jobs 2
    python benchmarks/steering/table.py
    python benchmarks/steering/page.py --write

Kill it whenever you like; the same command goes on. Runs are kept in `runs/benchmark-steering`, results in
`benchmarks/results/steering`, one file per part and model seed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cells
import torch
from cells import Cell
from methods import METHODS, ORACLE, VARIANTS

from trimtab.lab.corpora import read_card
from trimtab.lab.grammar_model import grammar_model
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import plain, to_json
from trimtab.runs.sweep import sweep
from worlds import GRAMMARS, PLACES, STRONG, WEAK

RESULTS = Path(__file__).parents[1] / "results" / "steering"
NORM = "pre-MLP norm"


def main_part(seed: int) -> Iterator[Cell]:
    """Every estimator at every kind of site; 32 + 32 documents, drawn anew for each model."""
    for place in PLACES:
        yield Cell(WEAK, seed, seed, place, ORACLE)
        for method in METHODS:
            yield Cell(WEAK, seed, seed, place, method)


def variants_part(seed: int) -> Iterator[Cell]:
    """Other forms of LinEAS at every kind of site."""
    for place in PLACES:
        for method in VARIANTS:
            yield Cell(WEAK, seed, seed, place, method)


def strong_part(seed: int) -> Iterator[Cell]:
    """End to end against local where the head of a document gives its style away."""
    for place in PLACES:
        yield Cell(STRONG, seed, seed, place, ORACLE)
        for method in ("LinEAS, gamma .3", "LinEAS, gamma .3, local", "MeanAcT", "LinAcT"):
            yield Cell(STRONG, seed, seed, place, method)


def examples_part(seed: int) -> Iterator[Cell]:
    """How many examples it takes."""
    for n in (4, 8, 16, 64, 128, 256):
        for method in ("LinEAS", "LinEAS, gamma .3", "MeanAcT", "LinAcT"):
            yield Cell(WEAK, seed, seed, NORM, method, n)


def rates_part(seed: int) -> Iterator[Cell]:
    """How sensitive each normalisation is to the learning rate, at two kinds of site."""
    for place in (NORM, "residual"):
        for normalisation, optimizer in (("scale-free", "adam"), ("paper", "adam"), ("paper", "sgd")):
            for lr in (1e-3, 3e-3, 1e-2, 3e-2, 1e-1):
                settings = (("normalisation", normalisation), ("optimizer", optimizer), ("lr", lr))
                yield Cell(WEAK, seed, seed, place, "LinEAS", changes=settings)


def sparsity_part(seed: int) -> Iterator[Cell]:
    """What is left of the effect as fewer units are touched, at two kinds of site."""
    for place in (NORM, "MLP out"):
        for gamma in (0.03, 0.1, 0.3, 1.0, 3.0):
            yield Cell(WEAK, seed, seed, place, "LinEAS", changes=(("gamma", gamma),))


PARTS = {
    "main": main_part,
    "variants": variants_part,
    "strong": strong_part,
    "examples": examples_part,
    "rates": rates_part,
    "sparsity": sparsity_part,
}


def one_block(part: str, seed: int, folder: Path, jobs: int) -> None:
    """One part with one model, written to the results."""
    wanted = list(PARTS[part](seed))
    for world in {cell.world for cell in wanted}:
        grammar_model(seed, GRAMMARS[world])
    start = time.time()
    named = {cell.name: {**vars(cell), "changes": [list(pair) for pair in cell.changes]} for cell in wanted}
    done = sweep(cells.run, named, folder, jobs=jobs, progress=_tell)
    for name, error in done.failures.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    facts = {
        "command": f"python benchmarks/steering/run.py --parts {part} --seeds {seed} --jobs {jobs}",
        "date": time.strftime("%Y-%m-%d", time.gmtime(start)),
        "part": part,
        "model_seed": seed,
        "models": {world: _model_facts(seed, world) for world in sorted({cell.world for cell in wanted})},
        "versions": {name: version(name) for name in ("trimtab", "torch", "transformers", "numpy")}
        | {"python": platform.python_version()},
        "hardware": hardware() | {"gpu": torch.cuda.is_available()},
        "failures": dict(done.failures),
    }
    rows = [{**plain(vars(cell)), **done.results[cell.name]} for cell in wanted if cell.name in done.results]
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS / f"{part}-{seed}.json", compact(facts, rows))


def compact(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """JSON with one fit a line, so that files stay small and changes readable."""
    head = to_json(facts, indent=1).rstrip().removesuffix("}").rstrip()
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return f'{head},\n "fits": [\n{lines}\n ]\n}}\n'


def _model_facts(seed: int, world: str) -> dict[str, Any]:
    card = read_card(grammar_model(seed, GRAMMARS[world]))
    return {key: value for key, value in card.items() if key not in ("grammar", "settings", "versions")}


def _tell(ended: int, total: int) -> None:
    print(f"\r{ended} of {total} fits", end="\n" if ended == total else "", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-steering"))
    asked = parser.parse_args()
    for part in asked.parts:
        for seed in asked.seeds:
            print(f"{part}, model {seed}", file=sys.stderr)
            one_block(part, seed, asked.folder, asked.jobs)


if __name__ == "__main__":
    main()
