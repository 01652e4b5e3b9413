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
from trimtab.runs.checksums import CHECKSUMS, verify_checksums, write_checksums
from trimtab.runs.files import check_regular, read_json, reading
from trimtab.train.snapshot import Snapshot

SCHEMA = 1
WEIGHTS = "parameters.safetensors"
_STEP = re.compile(r"step-(\d{8})")


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that cannot be gone on from; another may be there."""


def save_checkpoint(parent: Path, snapshot: Snapshot, extra: Mapping[str, Any], *, keep: int = 1) -> Path:
    """Write `snapshot` below `parent`, then forget all but it and the newest `keep - 1` before it.

    The folder is written under another name, flushed and renamed, so a kill at any moment leaves the previous
    checkpoint in place. It carries checksums. Checkpoints of later steps are forgotten too: they could not be read, or
    this one would not have been written.

    Args:
        parent: folder of the run's checkpoints.
        snapshot: what to save.
        extra: JSON-able facts of the caller, returned by `load_checkpoint`.
        keep: finished checkpoints to leave on disk.
    """
    target = parent / f"step-{snapshot.step:08d}"
    moments = {f"{name}|{key}": t for name, state in snapshot.moments.items() for key, t in state.items()}
    facts = {
        "schema": SCHEMA,
        "step": snapshot.step,
        "checksums": CHECKSUMS,
        "stream": snapshot.stream,
        "extra": extra,
    }
    with atomic_directory(target) as folder:
        save_tensors(snapshot.parameters, folder / "parameters.safetensors")
        save_tensors(moments, folder / "moments.safetensors")
        save_tensors(snapshot.rng, folder / "rng.safetensors")
        (folder / "state.json").write_text(json.dumps(facts, allow_nan=True))
        write_checksums(folder)
    found = checkpoints(parent)
    place = found.index(target)
    for old in (*found[: max(0, place + 1 - keep)], *found[place + 1 :]):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    return target


def load_checkpoint(folder: Path) -> tuple[Snapshot, dict[str, Any]]:
    """Read what `save_checkpoint` wrote, after comparing it with its checksums (earlier versions wrote none).

    Raises:
        DamagedCheckpointError: a file is missing or damaged, or the state is of another step than the folder's.
        CheckpointError: another version of trimtab wrote it.
    """
    try:
        facts = read_json(folder / "state.json", "the state of a checkpoint", error=CheckpointError)
        _check_facts(facts, folder)
        if facts["schema"] == SCHEMA:
            verify_checksums(folder)
            snapshot = Snapshot(
                step=facts["step"],
                parameters=load_tensors(folder / "parameters.safetensors"),
                moments=_nest(load_tensors(folder / "moments.safetensors")),
                stream=facts["stream"],
                rng=load_tensors(folder / "rng.safetensors"),
            )
            return snapshot, facts["extra"]
    except CheckpointError as error:
        raise damaged(folder, error) from error
    raise CheckpointError(explain(f"checkpoint schema {facts['schema']} in {folder}", f"schema {SCHEMA}"))


def damaged(folder: Path, error: Exception) -> DamagedCheckpointError:
    """The error of a checkpoint that is there and cannot be used, and what to do about it."""
    got = f"a damaged checkpoint in {folder} ({error})"
    return DamagedCheckpointError(explain(got, "a complete one", "deleting that folder, to start over"))


def checkpoints(parent: Path) -> list[Path]:
    """The finished checkpoints below `parent`, oldest first."""
    return sorted(path for path in parent.glob("step-*") if _STEP.fullmatch(path.name))


def save_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights alone, with their checksum, into a folder that appears whole or not at all."""
    with atomic_directory(folder) as new:
        save_tensors(weights, new / WEIGHTS)
        write_checksums(new)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Read what `save_weights` wrote.

    Raises:
        CheckpointError: they are missing, or not the bytes that were written.
    """
    check_weights(folder)
    return load_tensors(folder / WEIGHTS)


def check_weights(folder: Path) -> None:
    """Raise a CheckpointError unless `save_weights` wrote the folder and nothing changed it since."""
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            explain(f"no file {folder / WEIGHTS}", "kept weights", "another folder, to start over")
        )
    verify_checksums(folder)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name, on the CPU.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    check_regular(path, "tensors written by trimtab", error=CheckpointError)
    with reading(path, "tensors written by trimtab", error=CheckpointError):
        found: dict[str, Tensor] = load_file(path)
    return found


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


def _check_facts(facts: Any, folder: Path) -> None:
    """Raise a CheckpointError unless state.json is one of a checkpoint, with this folder's step."""
    if not isinstance(facts, dict) or type(facts.get("schema")) is not int:
        raise CheckpointError(f"{folder / 'state.json'}: {explain('no schema', 'the state of a checkpoint')}")
    if facts["schema"] != SCHEMA:
        return
    for name, kind in (("step", int), ("stream", dict), ("extra", dict)):
        if not isinstance(facts.get(name), kind):
            raise CheckpointError(
                f"{folder / 'state.json'}: {explain(f'no {name}', 'the state of a checkpoint')}"
            )
    if f"step-{facts['step']:08d}" != folder.name:
        raise CheckpointError(explain(f"the state of step {facts['step']}", f"that of {folder.name}"))
    if "checksums" in facts and not (folder / CHECKSUMS).is_file():
        raise CheckpointError(explain(f"no {CHECKSUMS}", "every file that was written"))


def _nest(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    nested: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        parameter, _, key = name.rpartition("|")
        nested.setdefault(parameter, {})[key] = tensor
    return nested
