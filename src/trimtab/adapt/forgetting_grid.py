"""The runs that a law of forgetting is fitted to: sizes x tokens x shares x seeds, one folder each, resumable."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from trimtab.adapt.finetune import finetune
from trimtab.adapt.until_rise import ReplayUntilRise
from trimtab.data.limits import first_tokens
from trimtab.data.origin import Origin, read_domain
from trimtab.errors import ConfigProblems, Problem
from trimtab.models.load import device_name, load
from trimtab.runs.plain import plain
from trimtab.runs.sweep import Backend, sweep
from trimtab.train.fit import Fit

TARGET, PRETRAINING = "target", "pretraining"


def forgetting_grid(
    models: Sequence[str],
    *,
    domain: str | Origin,
    pretraining: str | Origin,
    tokens: Sequence[int],
    shares: Sequence[float],
    seeds: Sequence[int] = (0,),
    fit: Fit,
    passes: float = 20.0,
    patience: int = 3,
    folder: str | Path,
    jobs: int = 1,
    backend: Backend = "loky",
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Fine-tune every model on every amount of a domain with every share of pretraining data.

    Each run is judged at the point of the evaluation grid where the validation loss of the domain is lowest, as the law
    is defined. It ends after `patience` readings in a row above the lowest, or having seen its unique tokens `passes`
    times, or after `fit.steps` steps; where the loss was still falling then, `reached` is false. The same call goes on
    where it was: runs that ended are not repeated.

    Args:
        models: names or folders, one per size.
        domain, pretraining: paths that `Domain.from_path` takes, or descriptions of more than that.
        tokens: unique fine-tuning tokens.
        shares: of pretraining sequences in each batch, from 0 to below 1.
        seeds: of the order of the data.
        fit: settings of every run; `fit.steps` is the longest.
        passes: over the unique tokens, at most.
        patience: readings above the lowest after which a run ends.
        folder: holds one folder per run.
        jobs, backend: of the sweep, see `trimtab.runs.sweep.sweep`.
        device: of the models.
        progress: told how many runs have ended, and how many there are.

    Returns:
        One row per run that ended: model, params, tokens, inject, seed; loss_pt0, loss_pt, loss_ft0, loss_ft on test,
        nats per token; rise_low, rise_high (95 % of loss_pt - loss_pt0, paired, over records); step (of the lowest
        validation loss), reached (whether it rose after that), injected (pretraining sequences trained on until then,
        expected), seconds, device (where it ran), run (its name).

    Raises:
        ConfigProblems: an empty list, or values that cannot be, all at once, before any work.
        DataError, ModelError: as `finetune`, once per run: the others go on, and `error.txt` in its folder says it.
    """
    _refuse(
        models=models, tokens=tokens, shares=shares, seeds=seeds, passes=passes, patience=patience, fit=fit
    )
    shared = {
        "domain": plain(domain),
        "pretraining": plain(pretraining),
        "fit": asdict(fit),
        "passes": passes,
        "patience": patience,
        "device": device,
    }
    cells = {}
    for name, count, share, seed in product(models, tokens, shares, seeds):
        cell = {"model": str(name), "tokens": int(count), "inject": float(share), "seed": int(seed), **shared}
        cells[f"{Path(name).name}, {count}, {share:g}, {seed}"] = cell
    done = sweep(one_run, cells, folder, jobs=jobs, backend=backend, progress=progress)
    return pd.DataFrame([{**row, "run": name} for name, row in done.results.items()])


def one_run(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One fine-tuning; a killed one goes on from its last checkpoint."""
    start = time.perf_counter()
    model, share = load(cell["model"], device=cell["device"]), cell["inject"]
    target = first_tokens(read_domain(TARGET, cell["domain"]), model, cell["tokens"])
    other = read_domain(PRETRAINING, cell["pretraining"])
    fit = Fit(**cell["fit"] | {"betas": tuple(cell["fit"]["betas"])})
    fit = replace(fit, steps=steps_for(cell["tokens"], share, fit, cell["passes"]))
    result = finetune(
        model,
        train={TARGET: target, PRETRAINING: other},
        mixer=ReplayUntilRise(targets=[TARGET], share=share, patience=cell["patience"]),
        fit=fit,
        seed=cell["seed"],
        out=folder / "run",
    )
    shutil.rmtree(folder / "run")
    final = {row["domain"]: row for row in result.final.to_dict("records")}
    return {
        "model": cell["model"],
        "params": sum(parameter.numel() for parameter in model.module.parameters()),
        **{name: cell[name] for name in ("tokens", "inject", "seed")},
        **{
            f"loss_{part}": float(final[name]["loss"]) for part, name in (("pt", PRETRAINING), ("ft", TARGET))
        },
        "loss_pt0": float(final[PRETRAINING]["reference"]),
        "loss_ft0": float(final[TARGET]["reference"]),
        "rise_low": float(final[PRETRAINING]["change_low"]),
        "rise_high": float(final[PRETRAINING]["change_high"]),
        "step": result.step,
        "reached": bool(result.step < result.losses["step"].max()),
        "injected": share * fit.batch_size * result.step,
        "seconds": round(time.perf_counter() - start, 2),
        "device": device_name(model.device),
    }


def steps_for(tokens: int, share: float, fit: Fit, passes: float) -> int:
    """Optimiser steps that see the unique tokens `passes` times, `fit.steps` at most.

    >>> steps_for(16_000, 0.0, Fit(steps=1000, batch_size=8, seq_len=100), passes=10)
    200
    """
    wanted = math.ceil(passes * tokens / (fit.batch_size * fit.seq_len * (1 - share)))
    return max(1, min(fit.steps, wanted))


def _refuse(**given: Any) -> None:
    found = [Problem(name, "none", "at least one") for name, values in given.items() if _empty(values)]
    found += [Problem("tokens", str(n), "at least 2") for n in given["tokens"] if n < 2]
    found += [Problem("shares", str(p), "from 0 to below 1") for p in given["shares"] if not 0 <= p < 1]
    if not 0 < given["passes"] < math.inf:
        found.append(Problem("passes", str(given["passes"]), "a number above 0"))
    if given["patience"] < 1:
        found.append(Problem("patience", str(given["patience"]), "at least 1"))
    found += given["fit"].problems()
    if found:
        raise ConfigProblems(found)


def _empty(values: Any) -> bool:
    return isinstance(values, Sequence) and not len(values)
