"""Does a planned share keep its promise at a size that was not fitted, and what does DynaMiCS get at the same cost?

    python benchmarks/forgetting/promise.py [--jobs 2] [--out DIR]
                                        writes benchmarks/results/forgetting/promise.json; goes on where it was

Needs the laws of `table.py`, which were fitted to all sizes but the largest. For two promises (nats by which the
pretraining loss may rise) and two token counts per domain the largest model is fine-tuned with the share that the law
plans, without any, and by DynaMiCS with the promise as its constraint: same data, evaluation grid and most steps. A
promise that no share is predicted to keep is reported as such and not run. A promise is kept where the rise on test is
within it, clearly where the whole interval is.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import bases
import pandas as pd
import text
from record import RESULTS, write
from run import FIT, LARGEST, PASSES, PATIENCE

from trimtab import ForgettingLaw
from trimtab.adapt.dynamics import DynaMiCS
from trimtab.adapt.finetune import finetune
from trimtab.adapt.forgetting_grid import PRETRAINING, TARGET, steps_for
from trimtab.adapt.forgetting_plan import plan_share
from trimtab.adapt.until_rise import ReplayUntilRise
from trimtab.data.domains import Domain
from trimtab.data.limits import first_tokens
from trimtab.models.load import load
from trimtab.runs.sweep import sweep

PROMISES, TOKENS, SEED = (0.05, 0.2), (14_000, 65_000), 5


def planned(domain: str, tokens: int, promise: float) -> dict[str, Any]:
    """What the law of the smaller sizes says for the largest."""
    law = ForgettingLaw.load(RESULTS / f"law-{domain}.json")
    return plan_share(
        law, params=bases.parameters(bases.WIDTHS[LARGEST]), tokens=tokens, max_rise=promise
    ).to_plain()


def one(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run; what came of it on test."""
    model = load(cell["model"])
    target = first_tokens(Domain.from_path(TARGET, cell["domain"]), model, cell["tokens"])
    fit = replace(FIT, steps=steps_for(cell["tokens"], 0.0, FIT, PASSES))
    mixer: Any = DynaMiCS(targets=[TARGET], constraints={PRETRAINING: cell["promise"]})
    if cell["share"] is not None:
        mixer = ReplayUntilRise(targets=[TARGET], share=cell["share"], patience=PATIENCE)
    done = finetune(
        model,
        train={TARGET: target, PRETRAINING: Domain.from_path(PRETRAINING, cell["pretraining"])},
        mixer=mixer,
        fit=fit,
        seed=SEED,
        out=folder / "run",
    )
    shutil.rmtree(folder / "run")
    final = {row["domain"]: row for row in done.final.to_dict("records")}
    other = final[PRETRAINING]
    return {
        "status": done.status,
        "step": done.step,
        "steps": int(done.losses["step"].max()),
        "rise": other["change"],
        "rise_low": other["change_low"],
        "rise_high": other["change_high"],
        "target_change": final[TARGET]["change"],
        "target_loss": final[TARGET]["loss"],
        "cost": asdict(done.cost),
    }


def cells(domains: list[str]) -> dict[str, dict[str, Any]]:
    """Runs by name; those without injection do not depend on the promise."""
    found = {}
    for domain, tokens, promise in product(domains, TOKENS, PROMISES):
        shared = {
            "model": str(bases.base(LARGEST)),
            "domain": str(text.text(text.DOMAINS[domain])),
            "pretraining": str(text.pretraining()),
            "tokens": tokens,
        }
        share = planned(domain, tokens, promise)["inject"]
        found[f"{domain}, {tokens}, no injection"] = {**shared, "promise": None, "share": 0.0}
        if share is not None:
            found[f"{domain}, {tokens}, {promise}, planned"] = {**shared, "promise": promise, "share": share}
        found[f"{domain}, {tokens}, {promise}, dynamics"] = {**shared, "promise": promise, "share": None}
    return found


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--jobs", type=int, default=1)
    options.add_argument("--out", type=Path, default=Path("runs/benchmark-forgetting-promise"))
    asked = options.parse_args()
    domains = [name for name in text.DOMAINS if (RESULTS / f"law-{name}.json").exists()]
    wanted = cells(domains)
    done = sweep(one, wanted, asked.out, jobs=asked.jobs)
    rows = [{"run": name, **_asked(wanted[name]), **row} for name, row in done.results.items()]
    for row in rows:
        if row["promise"] is not None:
            row |= {"kept": row["rise"] <= row["promise"], "clearly kept": row["rise_high"] <= row["promise"]}
    plans = {
        f"{domain}, {tokens}, {promise}": planned(domain, tokens, promise)
        for domain, tokens, promise in product(domains, TOKENS, PROMISES)
    }
    write("promise", {"seed": SEED, "plans": plans, "rows": rows, "failures": done.failures}, ("torch",))
    shown = [
        "run",
        "share",
        "promise",
        "rise",
        "rise_low",
        "rise_high",
        "kept",
        "target_change",
        "step",
        "steps",
    ]
    print(pd.DataFrame(rows)[shown].to_string(index=False))


def _asked(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: cell[name] for name in ("tokens", "promise", "share")}


if __name__ == "__main__":
    main()
