"""One run of the benchmark: a scenario, a method, a learning rate, a seed; and the small record that is kept of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from methods import methods
from scenarios import FIT, MODEL, SCENARIOS

from trimtab import FinetuneResult, finetune, load
from trimtab.adapt.dynamics.compare import calibration, working_seconds
from trimtab.lab.models import lab_model
from trimtab.runs.serialise import plain

DIGITS = 5


@dataclass(frozen=True)
class Cell:
    """What is run."""

    scenario: str
    method: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Its name, and that of its folder."""
        return f"{self.scenario}, {self.seed}, {self.method}, {self.rate:g}"


def run(cell: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Carry out one cell and keep what the tables need; a killed cell goes on from its last checkpoint."""
    scenario, method = SCENARIOS[cell["scenario"]], cell["method"]
    chosen = methods(cell["scenario"], scenario.train)[method]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    adapter = {"r": scenario.lora} if scenario.lora else None
    train, evaluate = scenario.domains()
    result = finetune(
        load(str(lab_model(MODEL)), device=device, adapter=adapter),
        train=train,
        evaluate=evaluate,
        mixer=replace(chosen.mixer, targets=scenario.targets, constraints=scenario.constraints),  # type: ignore[type-var]
        fit=replace(FIT, lr=cell["rate"], margin=chosen.margin),
        seed=cell["seed"],
        out=folder / "run",
        label=method,
        save_model=False,
    )
    kept = record(result)
    shutil.rmtree(folder / "run")
    return kept


def record(result: FinetuneResult) -> dict[str, Any]:
    """A run in a few kilobytes: what it came to on test, its losses over time, its mixtures, its predictions."""
    columns = ["domain", "role", "tolerance", "change", "change_low", "change_high", "kept"]
    read = result.losses[result.losses["split"] == "validation"]
    changes = read.pivot(index="step", columns="domain", values="change")
    points = calibration(result).dropna(subset=["predicted", "realised"])
    cost = plain(result.cost)
    return {
        "status": result.status,
        "step": result.step,
        "test": plain(result.final[columns].round(DIGITS).to_dict("records")),
        "validation": {str(step): row for step, row in plain(changes.round(DIGITS).to_dict("index")).items()},
        "mixtures": plain(result.mixtures.round(3).to_dict("split")["data"]),
        "relaxed": sum(update.solver_status in ("relaxed", "broken") for update in result.slopes),
        "updates": len(result.slopes),
        "calibration": plain(
            points[["horizon", "predicted", "standard_error", "realised"]].round(DIGITS).to_numpy()
        ),
        "cost": {name: cost[name] for name in ("training_multiple", "all_in_multiple", "solver_seconds")},
        "seconds": round(working_seconds(result), 1),
        "notes": len(result.notes),
    }
