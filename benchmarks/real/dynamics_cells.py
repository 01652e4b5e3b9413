"""One run of the benchmark on a real model: a method and a seed; and what is kept of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

# The record of a run is that of the benchmark on small models.
sys.path.append(str(Path(__file__).parents[1] / "dynamics"))
from cells import record
from dynamics_texts import TARGET, domains
from halves import products_by_float32

from trimtab import (
    DynaMiCS,
    EarlyStoppedTarget,
    Feedback,
    FinetuneResult,
    Fit,
    Fixed,
    Uniform,
    finetune,
    load,
)
from trimtab.adapt.mixer import Mixer
from trimtab.lab import registry
from trimtab.models.devices import emulates_bfloat16
from trimtab.runs.environment import hardware
from trimtab.runs.serialise import plain

MODEL, DTYPE, ADAPTER = "lab:smollm2", "bfloat16", {"r": 16}
TOLERANCE = 0.05
"""Nats per token by which each constraint may rise."""
FIT = Fit(
    steps=48,
    batch_size=8,
    seq_len=128,
    eval_sequences=80,
    probe_sequences=32,
    test_sequences=128,
    eval_points=5,
    crossings=4,
    margin=2.0,
    warmup_steps=8,
    checkpoint_every=24,
    precision="bf16",
)
"""Settings that all methods share, but for the learning rate. With 64 validation sequences fewer than 100 items of BBQ
would be read. Under autocast a reading takes two thirds of its time here: without, LoRA's products are in float32."""
OLD_DEFAULTS = DynaMiCS(
    mass="planned",
    probes="kept",
    solver="lp",
    kappa=1.28,
    ridge=0.5,
    reach="best",
    returns=0.5,
    margin=1.0,
    cap=0.5,
    shrink=True,
    lean=0.0,
    blocks=40,
)
"""Earlier defaults, spelled out, so that they stay what they were."""


@dataclass(frozen=True)
class Method:
    """A mixer, without targets and constraints."""

    mixer: Mixer
    role: str


OURS = "ours"
METHODS = {
    OURS: Method(DynaMiCS(), "ours"),
    "fixed 0.5": Method(Fixed(target_mass=0.5), "sweep"),
    "feedback": Method(Feedback(), "rival"),
    "fixed 0.2": Method(Fixed(target_mass=0.2), "sweep"),
    "fixed 0.8": Method(Fixed(target_mass=0.8), "sweep"),
    "ours, old defaults": Method(OLD_DEFAULTS, "ablation"),
    "early-stopped target": Method(EarlyStoppedTarget(), "rival"),
    "uniform": Method(Uniform(), "rival"),
    "no target data": Method(Fixed(target_mass=0.0), "control"),
}
"""In the order in which they are run."""


@cache
def texts(data: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The domains of a folder, read once."""
    return domains(Path(data))


def folder_of(model: str) -> str:
    """The folder of a model, `lab:NAME` or a path."""
    return str(registry.model(model.removeprefix("lab:"))) if model.startswith("lab:") else model


def run(cell: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One method on one seed; a killed cell goes on from its last checkpoint."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, evaluate = texts(cell["data"])
    by_float32 = device == "cpu" and emulates_bfloat16()
    with products_by_float32() if by_float32 else nullcontext():
        result = finetune(
            load(folder_of(cell["model"]), device=device, dtype=cell["dtype"], adapter=cell["adapter"]),
            train=train,
            evaluate=evaluate,
            mixer=replace(METHODS[cell["method"]].mixer, targets=(TARGET,), constraints=cell["constraints"]),  # type: ignore[call-arg]
            fit=Fit(**{**cell["fit"], "lr": cell["rate"], "betas": tuple(cell["fit"]["betas"])}),
            seed=cell["seed"],
            out=folder / "run",
            label=cell["method"],
            progress=False,
            save_model=False,
        )
    processor = hardware() | {"bfloat16 by way of float32": by_float32}
    found = kept(result) | {"device": torch.cuda.get_device_name() if device == "cuda" else processor}
    shutil.rmtree(folder / "run")
    return found


def kept(result: FinetuneResult) -> dict[str, Any]:
    """The record of a run, with what its verdicts are over and how its texts go on."""
    data = result.data[["domain", "split", "records", "groups", "sequences", "read", "read_groups"]]
    each = result.target_records[["record", "tokens", "change"]].round({"change": 4})
    return {
        "run": record(result),
        "data": plain(data.to_dict("records")),
        "target_records": plain(each.to_numpy().tolist()),
        "completions": plain(result.completions.to_dict("records")),
    }
