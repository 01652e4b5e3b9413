"""Snapshots on disk: safetensors and JSON in a folder that appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimtab.errors import CheckpointError, explain
from trimtab.runs.atomic import atomic_directory
from trimtab.train.snapshot import Snapshot

SCHEMA = 1
_STEP = re.compile(r"step-(\d{8})")


def save_checkpoint(parent: Path, snapshot: Snapshot, extra: Mapping[str, Any], *, keep: int = 1) -> Path:
    """Write `snapshot` below `parent`, then forget all but the newest `keep` checkpoints.

    The folder is written under another name, flushed and renamed, so a kill at any moment leaves the previous
    checkpoint in place.

    Args:
        parent: folder of the run's checkpoints.
        snapshot: what to save.
        extra: JSON-able facts of the caller, returned by `load_checkpoint`.
        keep: finished checkpoints to leave on disk.
    """
    target = parent / f"step-{snapshot.step:08d}"
    moments = {f"{name}|{key}": t for name, state in snapshot.moments.items() for key, t in state.items()}
    facts = {"schema": SCHEMA, "step": snapshot.step, "stream": snapshot.stream, "extra": extra}
    with atomic_directory(target) as folder:
        save_tensors(snapshot.parameters, folder / "parameters.safetensors")
        save_tensors(moments, folder / "moments.safetensors")
        save_tensors(snapshot.rng, folder / "rng.safetensors")
        (folder / "state.json").write_text(json.dumps(facts, allow_nan=True))
    for old in checkpoints(parent)[:-keep]:
        shutil.rmtree(old)
    return target


def load_checkpoint(folder: Path) -> tuple[Snapshot, dict[str, Any]]:
    """Read what `save_checkpoint` wrote.

    Raises:
        CheckpointError: a file is missing or damaged, or another version of trimtab wrote it.
    """
    try:
        facts = json.loads((folder / "state.json").read_text())
        _check_schema(facts["schema"], folder)
        flat = load_file(folder / "moments.safetensors")
        snapshot = Snapshot(
            step=facts["step"],
            parameters=load_file(folder / "parameters.safetensors"),
            moments=_nest(flat),
            stream=facts["stream"],
            rng=load_file(folder / "rng.safetensors"),
        )
    except CheckpointError:
        raise
    except Exception as error:
        got = f"a damaged checkpoint in {folder} ({error})"
        raise CheckpointError(
            explain(got, "a complete one", "deleting that folder, to start over")
        ) from error
    return snapshot, facts["extra"]


def checkpoints(parent: Path) -> list[Path]:
    """The finished checkpoints below `parent`, oldest first."""
    return sorted(path for path in parent.glob("step-*") if _STEP.fullmatch(path.name))


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name as safetensors.

    Raises:
        OSError: the disk is full, in the words of the system.
    """
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _check_schema(schema: object, folder: Path) -> None:
    if schema != SCHEMA:
        raise CheckpointError(explain(f"checkpoint schema {schema} in {folder}", f"schema {SCHEMA}"))


def _nest(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    nested: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        parameter, _, key = name.rpartition("|")
        nested.setdefault(parameter, {})[key] = tensor
    return nested
