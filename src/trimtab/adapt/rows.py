"""What a run writes down: the rows of its metrics, and losses sequence by sequence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trimtab.adapt.mixer import Decision, Update
from trimtab.adapt.roles import Roles
from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import atomic_directory
from trimtab.runs.checksums import verify_checksums, write_checksums
from trimtab.runs.files import read_json
from trimtab.train.checkpoint import load_tensors, save_tensors
from trimtab.train.evaluate import SequenceLosses, change
from trimtab.train.loop import StepStats
from trimtab.train.precision import Rounding

Row = dict[str, Any]


def training_row(step: int, stats: StepStats) -> Row:
    """An optimiser step that stayed in the model; `step` counts it."""
    return {
        "step": step,
        "event": "training",
        "loss": stats.loss,
        "grad_norm": stats.grad_norm,
        "examples": stats.examples,
        "loss_nats": {name: nll / stats.tokens[name] for name, nll in stats.nll.items()},
    }


def evaluation_row(
    step: int, split: str, losses: Mapping[str, SequenceLosses], reference: Mapping[str, SequenceLosses]
) -> Row:
    """A reading of every evaluation domain, with its paired change from the base model."""
    moved = {name: change(read, reference[name]) for name, read in losses.items()}
    return {
        "step": step,
        "event": "evaluation",
        "split": split,
        "loss_nats": {name: read.loss for name, read in losses.items()},
        "standard_error": {name: read.standard_error for name, read in losses.items()},
        "change": {name: [m.value, m.low, m.high] for name, m in moved.items()},
    }


def rounding_row(
    step: int,
    rounding: Rounding,
    stored: Mapping[str, torch.dtype],
    saved: Mapping[str, SequenceLosses],
    trained: Mapping[str, SequenceLosses],
) -> Row:
    """A checkpoint that might be chosen, with what rounding to the checkpoint's type does to it.

    Args:
        step: of the checkpoint.
        rounding: what is left of training.
        stored: the type of each trained weight when saved.
        saved: validation losses of the weights as saved.
        trained: and of the float32 weights they are rounded from.
    """
    return {
        "step": step,
        "event": "rounding",
        "types": sorted({str(dtype).removeprefix("torch.") for dtype in stored.values()}),
        "changed": rounding.changed,
        "returned": rounding.returned,
        "loss_nats": {name: read.loss for name, read in saved.items()},
        "moved": {name: read.loss - trained[name].loss for name, read in saved.items()},
    }


def decision_row(roles: Roles, step: int, decision: Decision) -> Row:
    """A mixture, with the slopes and the solution behind it where there are any."""
    row: Row = {
        "step": step,
        "event": "mixture",
        "weights": dict(zip(roles.train, decision.weights, strict=True)),
    }
    if decision.stop:
        row["stop"] = decision.stop
    return row | (update_row(roles, decision.update) if decision.update else {})


def update_row(roles: Roles, update: Update) -> Row:
    """A mixture update as a row of the metrics."""
    solution = update.solution
    return {
        "horizon": update.horizon,
        "probe_steps": update.estimate.steps,
        "slopes": update.estimate.slopes,
        "standard_errors": update.estimate.standard_errors,
        "predicted": dict(zip(roles.evaluate, map(float, solution.predicted), strict=True)),
        "status": solution.status,
        "conflicts": [roles.evaluate[index] for index in solution.conflicts],
        "shadow_prices": dict(zip(roles.evaluate, map(float, solution.shadow_prices), strict=True)),
    }


def write_losses(path: Path, losses: Mapping[str, SequenceLosses]) -> None:
    """Save losses per sequence as safetensors, one file per domain, with checksums."""
    with atomic_directory(path) as folder:
        for index, read in enumerate(losses.values()):
            tensors = {name: torch.from_numpy(values) for name, values in vars(read).items()}
            save_tensors(tensors, folder / f"{index}.safetensors")
        (folder / "domains.json").write_text(json.dumps(list(losses)))
        write_checksums(folder)


def read_losses(path: Path) -> dict[str, SequenceLosses]:
    """Read what `write_losses` saved.

    Raises:
        CheckpointError: it is missing, or not what was written.
    """
    names = read_json(path / "domains.json", "the domains of a run", error=CheckpointError)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path / 'domains.json'}: {explain('other values', 'the names of domains')}")
    verify_checksums(path)
    return {name: _losses(path / f"{index}.safetensors") for index, name in enumerate(names)}


def _losses(path: Path) -> SequenceLosses:
    found = {part: np.asarray(values) for part, values in load_tensors(path).items()}
    nll, tokens = found.get("nll"), found.get("tokens")
    fit = nll is not None and tokens is not None and nll.ndim == 1 and nll.shape == tokens.shape
    if not fit or set(found) - {"nll", "tokens", "records"}:
        raise CheckpointError(f"{path}: {explain('other tensors', 'the losses of sequences')}")
    return SequenceLosses(**found)
