"""Benchmark of HyperTransport on rendered scenes whose truth is known: planes over strengths of every method.

    python benchmarks/hypertransport/run.py [--seeds 0 1 2] [--pieces planes ...]   writes results/hypertransport

| piece | what |
|---|---|
| choice | settings, chosen on validation concepts that are taken from the training ones; of the first seed, for all |
| hypernetworks, maps | fits that the others share |
| planes | every method on held-out values and combinations, over strengths |
| conditions | 1 to 32 texts or pictures as condition, and the name alone |
| counts | 8 to all training concepts |
| novelty | every held-out concept and some training ones |
| seconds | CPU seconds of a steering, side by side, and of the training |

Each concept of a piece is a file in `runs/benchmark-hypertransport`, each fit has checkpoints: a killed run goes on.
Results are written of all pieces that are whole, whichever are asked for. `--plan` times one step and prints the CPU
minutes of each piece. `--smoke` shows in two minutes that all runs; its numbers go nowhere. Held-out concepts are for
the final run: nothing is chosen on them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from gather import RESULTS, gathered
from methods import Methods
from pieces import FITS, PER_CONCEPT, PIECES, chosen, done, fit, whole
from plan import planned
from world import FULL, SMOKE, Size, world_of

from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import to_json

RUNS = Path("runs/benchmark-hypertransport")


def say(*parts: Any) -> None:
    """A line of progress."""
    print(*parts, file=sys.stderr, flush=True)


def records_of(seed: int, first: int, pieces: list[str], size: Size, folder: Path) -> dict[str, Any]:
    """Records of the pieces of one seed."""
    methods = Methods(world_of(seed, size, folder), chosen(world_of(first, size, folder)))
    say(f"seed {seed}: settings {methods.chosen}")
    found: dict[str, Any] = {
        "seed": seed,
        "concepts": [len(methods.world.train), len(methods.world.held_out)],
    }
    for piece in pieces:
        if piece in FITS:
            fit(methods, piece)
        elif piece != "choice":
            for number, record in enumerate(done(methods, piece), start=1):
                say(f"seed {seed}, {piece}, {number}: {record['concept']}")
    return found | {piece: whole(methods, piece) for piece in PER_CONCEPT}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--first", type=int, default=0, help="seed whose validation concepts choose")
    parser.add_argument("--pieces", nargs="*", choices=PIECES, default=list(PIECES))
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes of the first seed, for the code alone"
    )
    parser.add_argument("--plan", action="store_true", help="only print the CPU minutes of each piece")
    parser.add_argument("--folder", type=Path, default=RUNS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    size, seeds = (SMOKE, given.seeds[:1]) if given.smoke else (FULL, given.seeds)
    folder = given.folder / ("smoke" if given.smoke else "full")
    if given.plan:
        world = world_of(given.first, size, folder)
        print(planned(world, FULL, len(given.seeds)))
        return
    runs = [records_of(seed, given.first, given.pieces, size, folder) for seed in seeds]
    record = gathered(runs, chosen(world_of(given.first, size, folder)), size)
    if given.smoke:
        say(to_json(record["evidence"], indent=1))
        return
    command = f"python benchmarks/hypertransport/run.py --seeds {' '.join(map(str, seeds))}"
    write_atomic(RESULTS / "scenes.json", to_json({"command": command, **record}) + "\n")
    say(RESULTS / "scenes.json")


if __name__ == "__main__":
    main()
