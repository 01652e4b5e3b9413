"""DynaMiCS and its rivals on real text: every method, scenario and seed, in pieces and as long as there is time.

    python benchmarks/dynamics/run.py --jobs 2
    python benchmarks/dynamics/table.py
    python benchmarks/dynamics/page.py --write

For each scenario the learning rate of each family is chosen first, on a seed that is not used again: the rate at which
the best of a few members gained most within the constraints on *validation*. Then every method runs with its family's
rate. Kill it whenever you like; the same command goes on. Runs are kept in `runs/benchmark-dynamics`, results in
`benchmarks/results/dynamics/lab`, one file per scenario and seed. Rates and runs that a file holds already, of the same
model, text and settings, stay as they are; after a change of the method itself take them out first.

`--scenarios`, `--seeds` and `--methods` run a part, and the page says how much is there. `--results` keeps a question
of its own apart, in a folder beside `lab`. The folders `planned`, `confirmation` and `further` hold what was measured
on former corpora and with former defaults: "ours" there is today's `DynaMiCS(mass="planned")`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Collection, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cells
import torch
from cells import Cell
from methods import TUNED_BY, TUNING_SEED, Method, methods
from scenarios import FIT, LIKE, MODEL, SCENARIOS

from trimtab import Fit
from trimtab.lab.corpora import corpus, read_card
from trimtab.lab.models import lab_model
from trimtab.runs.atomic import write_atomic
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import plain, to_json
from trimtab.runs.sweep import sweep

RESULTS = Path(__file__).parents[1] / "results" / "dynamics"
ROLES = ("sweep", "rival", "ours", "paper", "control", "ablation", "choice")


def carry_out(wanted: Iterable[Cell], folder: Path, jobs: int) -> dict[str, Any]:
    """The records of cells by name, run where they are not there yet."""
    named = {cell.name: vars(cell) for cell in wanted}
    if not named:
        return {}
    done = sweep(cells.run, named, folder, jobs=jobs, progress=_tell)
    for name, error in done.failures.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return done.results


def tuned(scenario: str, families: Collection[str], folder: Path, jobs: int) -> dict[str, Any]:
    """The learning rate of each of these families, with the runs that chose it: none where there is no choice."""
    rates = SCENARIOS[scenario].rates
    if len(rates) == 1:
        return {family: {"rate": rates[0], "validation_gain_nats": {}} for family in families}
    members = [member for family in families for member in TUNED_BY[family]]
    wanted = {(m, rate): Cell(scenario, m, rate, TUNING_SEED) for m in members for rate in rates}
    found = carry_out(wanted.values(), folder, jobs)
    gains = {
        m: {rate: validation_gain(scenario, found[wanted[m, rate].name]) for rate in rates} for m in members
    }
    return {family: _chosen({m: gains[m] for m in TUNED_BY[family]}) for family in families}


def _chosen(gains: dict[str, dict[float, float]]) -> dict[str, Any]:
    """The rate at which the best of these methods gained most."""
    best = {rate: max(of[rate] for of in gains.values()) for rate in next(iter(gains.values()))}
    return {"rate": max(best, key=best.__getitem__), "validation_gain_nats": plain(gains)}


def validation_gain(scenario: str, record: dict[str, Any]) -> float:
    """Mean fall of the target losses at the checkpoint that was kept, nats per token, on validation sequences."""
    if not record["step"]:
        return 0.0
    changes = record["validation"][str(record["step"])]
    targets = SCENARIOS[scenario].targets
    return -sum(changes[name] for name in targets) / len(targets)


def one_block(
    scenario: str, seed: int, wanted: Collection[str], folder: Path, jobs: int, results: Path
) -> None:
    """These methods on one scenario and seed, written to the results."""
    table = methods(scenario, SCENARIOS[scenario].train)
    path, asked = results / f"{scenario.replace(' ', '-')}-{seed}.json", question(scenario, seed)
    before = written(path, asked)
    rates = before.get("rates") or held_rates(asked, results)
    untuned = {table[name].family for name in wanted} - set(rates)
    rates |= tuned(scenario, [family for family in TUNED_BY if family in untuned], folder / "cells", jobs)
    told = {name: _told(m, rates[m.family]["rate"]) for name, m in table.items() if m.family in rates}
    runs = {
        name: run for name, run in before.get("runs", {}).items() if told.get(name, {}).items() <= run.items()
    }
    missing = {
        name: Cell(scenario, name, told[name]["rate"], seed)
        for name, method in table.items()
        if name in wanted and name not in runs
    }
    start = time.time()
    found = carry_out(missing.values(), folder / "cells", jobs)
    runs |= {name: told[name] | found[cell.name] for name, cell in missing.items() if cell.name in found}
    facts = {
        "command": f'python benchmarks/dynamics/run.py --scenarios "{scenario}" --seeds {seed} --jobs {jobs}',
        "date": time.strftime("%Y-%m-%d", time.gmtime(start)),
        **asked,
        "versions": {name: version(name) for name in ("trimtab", "torch", "transformers", "numpy")}
        | {"python": platform.python_version()},
        "hardware": hardware() | {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None},
        "rates": rates,
        "runs": {name: runs[name] for name in table if name in runs},
    }
    results.mkdir(parents=True, exist_ok=True)
    write_atomic(path, compact(facts))


def question(scenario: str, seed: int) -> dict[str, Any]:
    """What decides the results of a block, beside its methods."""
    return {
        "scenario": {"name": scenario, **plain(SCENARIOS[scenario])},
        "seed": seed,
        "model": _model_facts(),
        "fit": plain(FIT),
        "corpora": {name: read_card(corpus(name))["fingerprint"][:12] for name in _corpora(scenario)},
    }


def written(path: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The result file, if it answers the same question."""
    block = json.loads(path.read_text()) if path.exists() else {}
    return block if answers(block, asked) else {}


def answers(block: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether a file is of this question; settings that it does not name yet were as they are by default."""
    whole = block | {"fit": plain(Fit()) | block.get("fit", {})}
    return all(whole.get(key) == value for key, value in asked.items())


def held_rates(asked: dict[str, Any], results: Path) -> dict[str, Any]:
    """The rates that another seed of the same scenario, model, text and settings ran with; {} where there is none."""
    for path in sorted(results.glob(f"{asked['scenario']['name'].replace(' ', '-')}-*.json")):
        block = json.loads(path.read_text())
        if answers(block, {key: value for key, value in asked.items() if key != "seed"}):
            rates: dict[str, Any] = block["rates"]
            return rates
    return {}


def _told(method: Method, rate: float) -> dict[str, Any]:
    return {"role": method.role, "family": method.family, "mixer": plain(method.mixer), "rate": rate}


def compact(facts: dict[str, Any]) -> str:
    """JSON with one run a line, so that files stay small and changes readable."""
    runs = facts.pop("runs")
    head = to_json(facts, indent=1).rstrip().removesuffix("}").rstrip()
    lines = ",\n".join(f"  {json.dumps(name)}: {to_json(run)}" for name, run in runs.items())
    return f'{head},\n "runs": {{\n{lines}\n }}\n}}\n'


def _model_facts() -> dict[str, Any]:
    card = read_card(lab_model(MODEL))
    return {"name": f"lab:{MODEL}", **{k: card[k] for k in ("parameters", "validation_loss_nats")}}


def _corpora(scenario: str) -> list[str]:
    of = SCENARIOS[scenario]
    return list(dict.fromkeys(LIKE.get(name, name) for name in (*of.train, *of.targets, *of.constraints)))


def _tell(ended: int, total: int) -> None:
    print(f"\r{ended} of {total} runs", end="\n" if ended == total else "", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenarios", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--roles", nargs="+", choices=ROLES, default=list(ROLES))
    parser.add_argument("--methods", nargs="+", help="of these roles; all")
    parser.add_argument("--results", default="lab", help="a folder in the results")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-dynamics"))
    asked = parser.parse_args()
    for scenario in asked.scenarios:
        for seed in asked.seeds:
            print(f"{scenario}, seed {seed}", file=sys.stderr)
            one_block(
                scenario, seed, _wanted(asked, scenario), asked.folder, asked.jobs, RESULTS / asked.results
            )


def _wanted(asked: argparse.Namespace, scenario: str) -> list[str]:
    table = methods(scenario, SCENARIOS[scenario].train)
    if unknown := set(asked.methods or ()) - set(table):
        raise SystemExit(f"--methods: got {sorted(unknown)}, expected some of {sorted(table)}")
    return [n for n, m in table.items() if m.role in asked.roles and n in (asked.methods or table)]


if __name__ == "__main__":
    main()
