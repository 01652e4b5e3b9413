"""The runs that a law of forgetting is fitted to: sizes x tokens x shares x seeds, one folder each, resumable."""

from __future__ import annotations

import math
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import pandas as pd

from trimtab.adapt.finetune import finetune, refuse
from trimtab.adapt.mixers.fixed import ReplayUntilRise
from trimtab.data.domains import Origin, read_domain
from trimtab.data.tokens import first_tokens
from trimtab.errors import ConfigError, Problem, explain
from trimtab.models.devices import device_name
from trimtab.models.load import load
from trimtab.runs.atomic import write_atomic
from trimtab.runs.paths import RESULT, safe_name
from trimtab.runs.serialise import plain, read_object, to_json
from trimtab.runs.sweep import Backend, read_cell, sweep
from trimtab.train.settings import Fit
from trimtab.train.state import WEIGHTS

TARGET, PRETRAINING = "target", "pretraining"
ROW = "row.json"


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
        ConfigProblems: an empty list, values that cannot be or are given twice, all at once, before any work.
        CheckpointError: the folder holds runs with other settings.
        DataError, ModelError: as `finetune`, once per run: the others go on, and `error.txt` in its folder says it.
    """
    impatient = [Problem("patience", str(patience), "at least 1")] if patience < 1 else []
    refuse(chain(grid_problems(models, tokens, shares, seeds, passes), impatient, fit.problems()))
    shared = {"domain": plain(domain), "pretraining": plain(pretraining), "fit": asdict(fit)}
    shared |= {"passes": passes, "patience": patience, "device": device}
    cells = [
        {"model": str(name), "tokens": int(count), "inject": float(share), "seed": int(seed), **shared}
        for name, count, share, seed in product(models, tokens, shares, seeds)
    ]
    named = _named(cells, Path(folder))
    done = sweep(one_run, named, folder, jobs=jobs, backend=backend, progress=progress)
    if done.failures:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(done.failures.items())[:3])
        failed = f"{len(done.failures)} of {len(cells)} runs failed and are left out ({reasons})"
        warnings.warn(failed, stacklevel=2)
    return pd.DataFrame([{**row, "run": name} for name, row in done.results.items()])


def _named(cells: Sequence[dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """The cells by name: the last part of the model's path and the numbers, all of the path where that is not enough.

    A name that holds the run of another model, token count, share or seed in the folder is not enough either; a run
    that is there keeps its name.
    """
    brief = ["{name}, {tokens}, {inject:g}, {seed}".format(name=Path(c["model"]).name, **c) for c in cells]
    whole = ["{model}, {tokens}, {inject!r}, {seed}".format(**cell) for cell in cells]
    often = Counter(brief)
    named = {}
    for cell, short, long in zip(cells, brief, whole, strict=True):
        there = read_cell(folder / safe_name(short))
        settings = there["cell"] if there is not None and isinstance(there["cell"], dict) else {}
        mine = all(settings.get(name) == cell[name] for name in ("model", "tokens", "inject", "seed"))
        named[short if mine or (there is None and often[short] == 1) else long] = cell
    if len(named) < len(cells):
        got = f"{len(named)} names for {len(cells)} runs"
        raise ConfigError(explain(got, "one each", "other model folders"))
    return named


def one_run(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One fine-tuning; a killed one goes on from its last checkpoint, or with its clean-up."""
    row = _made(cell, folder) if not (folder / ROW).exists() else read_object(folder / ROW)
    shutil.rmtree(folder / "run", ignore_errors=True)
    return row


def _made(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fine-tune, and write the row down before the run is removed, so that a kill meanwhile loses nothing."""
    start = time.perf_counter()
    model, share = load(cell["model"], device=cell["device"]), cell["inject"]
    target = first_tokens(read_domain(TARGET, cell["domain"]), model, cell["tokens"])
    other = read_domain(PRETRAINING, cell["pretraining"])
    fit = Fit(**cell["fit"] | {"betas": tuple(cell["fit"]["betas"])})
    fit = replace(fit, steps=steps_for(cell["tokens"], share, fit, cell["passes"]))
    run = folder / "run"
    weights = len(list(run.glob(f"artifacts/weights-*/{WEIGHTS}")))
    headless = not (run / "config.yaml").exists() and (run / "artifacts").exists()
    finished = (run / RESULT).exists()
    if headless or (finished and weights < 1 + bool(read_object(run / RESULT).get("step"))):
        # What is left of a finished run whose removal was cut short, before rows were written down.
        shutil.rmtree(run)
    result = finetune(
        model,
        train={TARGET: target, PRETRAINING: other},
        progress=False,
        mixer=ReplayUntilRise(targets=[TARGET], share=share, patience=cell["patience"]),
        fit=fit,
        seed=cell["seed"],
        out=run,
        save_model=False,
    )
    final = {row["domain"]: row for row in result.final.to_dict("records")}
    row = {
        "model": cell["model"],
        "params": sum(parameter.numel() for parameter in model.module.parameters()),
        **{name: cell[name] for name in ("tokens", "inject", "seed")},
        "loss_pt": float(final[PRETRAINING]["loss"]),
        "loss_ft": float(final[TARGET]["loss"]),
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
    write_atomic(folder / ROW, to_json(row) + "\n")
    return row


def steps_for(tokens: int, share: float, fit: Fit, passes: float) -> int:
    """Optimiser steps that see the unique tokens `passes` times, `fit.steps` at most.

    >>> steps_for(16_000, 0.0, Fit(steps=1000, batch_size=8, seq_len=100), passes=10)
    200
    """
    wanted = math.ceil(passes * tokens / (fit.batch_size * fit.seq_len * (1 - share)))
    return max(1, min(fit.steps, wanted))


def grid_problems(
    models: Sequence[str],
    tokens: Sequence[int],
    shares: Sequence[float],
    seeds: Sequence[int],
    passes: float,
    expected: str = "at least one",
) -> Iterator[Problem]:
    """Empty lists, values that cannot be, or that are given twice: their runs would be one run.

    Args:
        models, tokens, shares, seeds, passes: as those of `forgetting_grid`.
        expected: what is expected in the place of an empty list.
    """
    folders = [os.path.realpath(name) if os.path.exists(name) else str(name) for name in models]  # noqa: PTH110
    for name, values in (("models", folders), ("tokens", tokens), ("shares", shares), ("seeds", seeds)):
        if not len(values):
            yield Problem(name, "none", expected)
        for value, times in Counter(values).items():
            if times > 1:
                yield Problem(name, f"{value!r} twice", "each once")
    yield from (Problem("tokens", str(n), "at least 2") for n in tokens if n < 2)
    yield from (Problem("shares", str(p), "from 0 to below 1") for p in shares if not 0 <= p < 1)
    if not 0 < passes < math.inf:
        yield Problem("passes", str(passes), "a number above 0")
