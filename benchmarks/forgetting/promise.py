"""Does a planned share keep its promise at a size that was not fitted, and what does DynaMiCS get at the same cost?

    python benchmarks/forgetting/promise.py [--jobs 2] [--out DIR]
                                        writes benchmarks/results/forgetting/promise.json; goes on where it was

Needs the laws of `table.py`, which were fitted to all sizes below the largest of the four. Promises are nats by which
the pretraining loss may rise: two that were set before anything was known, and two parts of what the law predicts for
no injection. For each, for two token counts per domain and three seeds, that model is fine-tuned with the share that
the law plans (its median: `confidence=0.5`), without any, and by DynaMiCS with the promise as its constraint and as
many steps as the planned run took (the run without injection, where no share is planned): same data and evaluation
grid. "stopped" trains on the target alone for as many steps and keeps its best checkpoint within the promise: what
DynaMiCS has to beat. A promise is kept where the rise on test is within it, clearly where the whole interval is.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
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
from trimtab.adapt.dynamics.mixer import DynaMiCS
from trimtab.adapt.finetune import finetune
from trimtab.adapt.forgetting.grid import PRETRAINING, TARGET, steps_for
from trimtab.adapt.forgetting.laws import SharePlan, plan_share
from trimtab.adapt.mixers.fixed import EarlyStoppedTarget, ReplayUntilRise
from trimtab.data.domains import Domain
from trimtab.data.tokens import first_tokens
from trimtab.models.devices import device_name
from trimtab.models.load import load
from trimtab.numerics.bootstrap import bootstrap, mean, wilson
from trimtab.runs.sweep import sweep

NATS, PARTS = (0.05, 0.2), (0.9, 0.75)
TOKENS, SEEDS = (14_000, 65_000), (5, 6, 7)


def planned(domain: str, tokens: int) -> list[SharePlan]:
    """What the law of the smaller sizes says for the largest, for each promise."""
    law = ForgettingLaw.load(RESULTS / f"law-{domain}.json")
    run = {"params": bases.parameters(bases.WIDTHS[LARGEST]), "tokens": tokens}
    without = law.rise(**run, inject=0.0)
    promises = (*NATS, *(round(part * without, 3) for part in PARTS))
    return [plan_share(law, **run, max_rise=promise, confidence=0.5) for promise in promises]


def one(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run; what came of it on test."""
    model = load(cell["model"])
    target = first_tokens(Domain.from_path(TARGET, cell["text"]), model, cell["tokens"])
    asked = {"targets": [TARGET], "constraints": {PRETRAINING: cell["promise"]}}
    mixer: Any = ReplayUntilRise(targets=[TARGET], share=cell["share"], patience=PATIENCE)
    if cell["how"] == "dynamics":
        mixer = DynaMiCS(**asked)
    if cell["how"] == "stopped":
        mixer = EarlyStoppedTarget(**asked)
    done = finetune(
        model,
        train={TARGET: target, PRETRAINING: Domain.from_path(PRETRAINING, cell["pretraining"])},
        mixer=mixer,
        fit=replace(FIT, steps=cell["steps"]),
        seed=cell["seed"],
        out=folder / "run",
        save_model=False,
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
        "device": device_name(model.device),
    }


def setting(domain: str, tokens: int, seed: int) -> dict[str, Any]:
    """What the runs of one domain, token count and seed share."""
    return {
        "model": str(bases.base(LARGEST)),
        "domain": domain,
        "text": str(text.text(text.DOMAINS[domain])),
        "pretraining": str(text.pretraining()),
        "tokens": tokens,
        "seed": seed,
    }


def by_share(domains: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Runs without injection and with planned shares, by name; the former do not depend on the promise."""
    for domain, tokens, seed in product(domains, TOKENS, SEEDS):
        shared, name = setting(domain, tokens, seed), f"{domain}, {tokens}, {seed}"
        longest = {"steps": steps_for(tokens, 0.0, FIT, PASSES)}
        yield f"{name}, none", {**shared, **longest, "how": "none", "promise": None, "share": 0.0}
        for plan in planned(domain, tokens):
            if plan.inject == plan.inject and plan.inject > 0:
                asked = {"how": "planned", "promise": plan.max_rise, "share": plan.inject}
                yield f"{name}, {plan.max_rise}, planned", {**shared, **longest, **asked}


def by_promise(domains: list[str], ended: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """DynaMiCS and an early stop for every promise, with the steps of the run it stands beside."""
    for domain, tokens, seed in product(domains, TOKENS, SEEDS):
        name = f"{domain}, {tokens}, {seed}"
        for plan in planned(domain, tokens):
            beside = ended.get(f"{name}, {plan.max_rise}, planned") or ended[f"{name}, none"]
            asked = {"promise": plan.max_rise, "share": None, "steps": beside["steps"]}
            for how in ("dynamics", "stopped"):
                told = {**setting(domain, tokens, seed), "how": how, **asked}
                yield f"{name}, {plan.max_rise}, {how}", told


def judged(cell: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A run with what was asked of it and whether its promise was kept."""
    told = {name: cell[name] for name in ("how", "domain", "tokens", "seed", "promise", "share")} | row
    if told["promise"] is None:
        return told
    kept = told["rise"] <= told["promise"]
    return {**told, "kept": kept, "clearly kept": told["rise_high"] <= told["promise"]}


def summary(frame: pd.DataFrame) -> dict[str, Any]:
    """How many promises each way kept, and what DynaMiCS gains on the target over the others, run by run."""
    asked = frame[frame["promise"].notna()]
    kept = {}
    for how, rows in asked.groupby("how"):
        count = int(rows["kept"].sum())
        kept[how] = {"runs": len(rows), "kept": count, "share": asdict(wilson(count, len(rows)))}
    beside = asked.pivot(index=["domain", "tokens", "seed", "promise"], columns="how", values="target_change")
    gains = {
        how: asdict(bootstrap(mean, (beside["dynamics"] - beside[how]).dropna().to_numpy()))
        for how in ("planned", "stopped")
    }
    return {"kept": kept, "target change, dynamics less": gains}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--jobs", type=int, default=1)
    options.add_argument("--out", type=Path, default=Path("runs/benchmark-forgetting-promise"))
    asked = options.parse_args()
    domains = [name for name in text.DOMAINS if (RESULTS / f"law-{name}.json").exists()]
    first = dict(by_share(domains))
    done = sweep(one, first, asked.out / "share", jobs=asked.jobs)
    second = dict(by_promise(domains, done.results))
    also = sweep(one, second, asked.out / "promise", jobs=asked.jobs)
    ended, wanted = {**done.results, **also.results}, {**first, **second}
    rows = [judged(wanted[name], row) for name, row in ended.items()]
    plans = [
        {"domain": domain, "tokens": tokens, **plan.to_plain()}
        for domain, tokens in product(domains, TOKENS)
        for plan in planned(domain, tokens)
    ]
    told = summary(pd.DataFrame(rows))
    body = {"summary": told, "plans": plans, "rows": rows, "failures": done.failures | also.failures}
    write("promise", body, ("torch",))
    by = ["domain", "tokens", "promise", "how"]
    frame = pd.DataFrame(rows)
    shown = ["share", "rise", "kept", "target_change", "step", "steps"]
    print(frame.groupby(by, dropna=False)[shown].mean(numeric_only=False).to_string())
    print(told)


if __name__ == "__main__":
    main()
