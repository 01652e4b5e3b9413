"""DynaMiCS and its rivals on a real language model with LoRA: learn word problems, keep three other kinds of text.

    python benchmarks/real/dynamics.py --tune --jobs 2 --data DIR     chooses the learning rate, on a seed of its own
    python benchmarks/real/dynamics.py --jobs 2 --data DIR            writes benchmarks/results/real/dynamics.json
    python benchmarks/real/dynamics.py --gather                       writes it from the cells that are there

The model is `lab:smollm2`, SmolLM2-135M-Instruct with dequantised Q4_1 weights, held in bfloat16. A LoRA of rank 16 on
the maps of attention and MLP is held in float32 and multiplied in bfloat16. The target is GSM8K. Three constraints may
rise by 0.05 nats per token: WikiText and BBQ, which can be trained on too, and Shakespeare, which cannot
(`dynamics_texts.py`). The model may have seen any of these texts in its pretraining, and BBQ and GSM8K are benchmarks:
nothing here is a score on them.

A cell is a method and a seed. All methods take one learning rate: that of two at which a fixed mixture, and so a rival,
gained most on validation, on the tuning seed; without tuning the first. The control trains on no target data and should
gain next to nothing. Kill it whenever you like; the same command goes on, with a cell's last checkpoint. A cell that
has ended is kept beside the result, in `dynamics/`, and not run again on another machine.

On two cores that share one unit of arithmetic, two cells at a time, a fixed mixture takes about 20 minutes and DynaMiCS
35, most of it readings; all nine methods on a seed take two hours, and tuning 20 minutes. A GPU is used where there is
one.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dynamics_cells import ADAPTER, DTYPE, FIT, METHODS, MODEL, OURS, TOLERANCE, run, texts
from dynamics_table import differences, rows, searched
from dynamics_texts import EVALUATED, MOST, TARGET, TRAINED, WATCHED, counted

from trimtab import Fit
from trimtab.adapt.call import settled
from trimtab.lab.smollm2 import PACKAGE, VERSION, WEIGHTS
from trimtab.runs.atomic import write_atomic
from trimtab.runs.paths import safe_name
from trimtab.runs.serialise import plain, read_object, to_json
from trimtab.runs.sweep import read_cell, sweep

RESULT = Path(__file__).parents[1] / "results" / "real" / "dynamics.json"
RATES, TUNED_BY = (3e-4, 1e-3), "fixed 0.5"
"""Learning rates to choose from, and the method whose runs on the tuning seed choose."""
TUNING_SEED = 100
"""No result comes from it."""


def cell(method: str, rate: float, seed: int, asked: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A cell by its name.

    What settings that are left open come to is part of it, so that no cell of earlier defaults passes for one of these.
    """
    mixer = METHODS[method].mixer
    settings = plain(mixer) | settled(mixer, Fit(**asked["fit"]) if asked else FIT)
    facts = {"method": method, "rate": rate, "seed": seed, "mixer": settings}
    return f"{seed}, {method}, {rate:g}", facts | dict(asked)


def tuning_cells(asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The cells that choose the learning rate, by validation: little of their test is read."""
    brief = asked and {**asked, "fit": asked["fit"] | {"test_sequences": 16}}
    return dict(cell(TUNED_BY, rate, TUNING_SEED, brief) for rate in RATES)


def cells(
    seeds: Iterable[int], wanted: Collection[str], rate: float, asked: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The cells of these methods by name, seed by seed."""
    return dict(cell(name, rate, seed, asked) for seed in seeds for name in METHODS if name in wanted)


def chosen(results: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The learning rate, with the validation gains that chose it; the first rate without them."""
    names = {rate: cell(TUNED_BY, rate, TUNING_SEED, asked)[0] for rate in RATES}
    gains = {rate: validation_gain(results[name]["run"]) for rate, name in names.items() if name in results}
    whole = len(gains) == len(RATES)
    return {
        "rate": max(RATES, key=lambda one: gains[one]) if whole else RATES[0],
        "tuned": whole,
        "tuned_by": TUNED_BY,
        "validation_gain_nats": {f"{one:g}": round(gain, 5) for one, gain in gains.items()},
    }


def validation_gain(run: Mapping[str, Any]) -> float:
    """Fall of the target loss at the checkpoint that was kept, nats per token, on validation sequences."""
    return -float(run["validation"][str(run["step"])][TARGET]) if run["step"] else 0.0


def gathered(
    every: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Any],
    rate: Mapping[str, Any],
    command: str,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """The result: what each method came to, and differences between ours and the others on the same problems."""
    there = [told(every[name], results[name]) for name in every if name in results]
    judged = [*there, *searched(there)]
    return plain(
        {
            "command": command,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "model": model_facts(asked),
            "versions": {one: version(one) for one in ("trimtab", "torch", "transformers", "peft")}
            | {"python": platform.python_version()},
            "seeds": {"runs": sorted({one["seed"] for one in there}), "tuning": TUNING_SEED},
            "settings": {
                "fit": asked["fit"],
                "constraints": asked["constraints"],
                "methods": {name: vars(method) for name, method in METHODS.items()},
                "rate": rate,
                "groups": {"evaluated": EVALUATED, "most_records_each": MOST},
            },
            "data": results[next(name for name in every if name in results)]["data"] if there else [],
            "interval": (
                "95 %, over test records or their groups, each end the mean over seeds; "
                "it does not cover the choice of the seed"
            ),
            "cells": {"there": len(there), "planned": len(every)},
            "table": rows(judged),
            "differences": differences(judged, OURS),
            "runs": [
                {key: one[key] for key in one if key not in ("target_records", "data")} for one in there
            ],
        }
    )


def told(cell: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """A cell with its result."""
    method = METHODS[cell["method"]]
    whose = {"method": cell["method"], "role": method.role}
    return {**whose, "seed": cell["seed"], "rate": cell["rate"], **result}


def model_facts(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The model and its adapter; the weights and package of the one that results are of."""
    facts = {"name": asked["model"], "dtype": asked["dtype"], "adapter": asked["adapter"]}
    real = {"name": "SmolLM2-135M-Instruct", "weights": WEIGHTS, "package": f"{PACKAGE} {VERSION}"}
    return facts | real if asked["model"] == MODEL else facts


def ended(every: Mapping[str, Mapping[str, Any]], folder: Path, kept: Path) -> dict[str, Any]:
    """Results of the cells that have ended, here or where they are kept; another sweep may be at work.

    A cell of other settings is left out. What ended here is kept from then on.

    Args:
        every: the cells by name.
        folder: of the sweep.
        kept: where cells are kept, one file each.
    """
    found = {}
    for name, cell in every.items():
        asked, path = _fixed(plain(cell)), kept / f"{safe_name(name)}.json"
        here = read_cell(folder / safe_name(name))
        if here and here["status"] == "done" and _fixed(here["cell"]) == asked:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, to_json({"cell": asked, "result": here["result"]}) + "\n")
        there = read_object(path) if path.exists() else {}
        if there.get("cell") == asked:
            found[name] = there["result"]
    return found


def _fixed(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cell.items() if key != "data"}


def carried_out(every: Mapping[str, Any], folder: Path, kept: Path, jobs: int) -> dict[str, Any]:
    """Results of these cells, run where they are not there yet."""
    there = ended(every, folder, kept)
    missing = {name: cell for name, cell in every.items() if name not in there}
    done = sweep(run, missing, folder, jobs=jobs, progress=_tell, may_change=("data",)) if missing else None
    for name, error in done.failures.items() if done else ():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return ended(every, folder, kept)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="the folder that holds text/; not needed to gather")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--model", default=MODEL, help="lab:NAME or a folder; a tiny one for trials")
    parser.add_argument("--steps", type=int, default=FIT.steps)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-real-dynamics"))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--tune", action="store_true", help="only the runs that choose the learning rate")
    parser.add_argument(
        "--gather", action="store_true", help="run nothing; the result of the cells that are there"
    )
    given = parser.parse_args()
    if given.data is None and not given.gather:
        parser.error("--data: got nothing, expected the folder that holds text/")
    return given


def main() -> None:
    given = arguments()
    asked = {
        "model": given.model,
        "dtype": DTYPE,
        "adapter": ADAPTER,
        "constraints": dict.fromkeys((*TRAINED, *WATCHED), TOLERANCE),
        "fit": asdict(replace(FIT, steps=given.steps)),
        "data": str(given.data),
    }
    if not given.gather:
        train, evaluate = texts(asked["data"])
        for name, splits in counted({**train, **evaluate}).items():
            print(f"{name}: {splits}", file=sys.stderr)
    tuning, kept = tuning_cells(asked), given.out.with_suffix("")
    if given.tune:
        carried_out(tuning, given.folder, kept, given.jobs)
    rate = chosen(ended(tuning, given.folder, kept), asked)
    print(to_json(rate), file=sys.stderr)
    if given.tune:
        return
    every = cells(given.seeds, given.methods, rate["rate"], asked)
    gather = (
        ended(every, given.folder, kept)
        if given.gather
        else carried_out(every, given.folder, kept, given.jobs)
    )
    listed = " ".join(map(str, given.seeds))
    command = f"python benchmarks/real/dynamics.py --jobs {given.jobs} --seeds {listed} --data DIR"
    given.out.parent.mkdir(parents=True, exist_ok=True)
    result = gathered(every, gather, rate, command, asked)
    write_atomic(given.out, to_json(result, indent=1) + "\n")


def _tell(done: int, total: int) -> None:
    print(f"{time.strftime('%H:%M:%S', time.gmtime())} {done} of {total} cells", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
