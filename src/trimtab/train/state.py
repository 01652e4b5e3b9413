"""The state of a training loop: snapshots in memory, and checkpoints on disk that appear whole or not at all.

Weights of a low-precision checkpoint are held in float32 while they are trained. Between neighbouring bfloat16 numbers
lie gaps of 1/256 to 1/128 of their size. A step of AdamW is about the learning rate; where it is less than half a gap
it rounds back to nothing, and the model does not learn. So weights are rounded once, when they are saved (the "master
weights" of Micikevicius et al. 2018, section 3.1).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trimtab.errors import CheckpointError, explain
from trimtab.models.load import Model
from trimtab.runs.atomic import CHECKSUMS, atomic_directory, verify_checksums, write_checksums
from trimtab.runs.files import check_regular, read_json, reading


@dataclass(frozen=True)
class Snapshot:
    """Snapshot of training: everything that decides how it goes on from a step.

    Attributes:
        step: optimiser steps taken.
        parameters: the trainable parameters by name (with LoRA: the adapter's, nothing else).
        moments: the optimiser's tensors by parameter name; empty before the first step.
        stream: the cursor of the data stream.
        rng: the states of torch's generators, by device.
    """

    step: int
    parameters: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]
    stream: Mapping[str, Any]
    rng: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take."""
        moments = [tensor for state in self.moments.values() for tensor in state.values()]
        return sum(t.numel() * t.element_size() for t in (*self.parameters.values(), *moments))


def copy_parameters(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """A detached copy of each parameter, on its own device."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def copy_moments(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """A copy of the optimiser's tensors, by parameter name."""
    return {
        name: {key: value.clone() for key, value in optimizer.state[parameter].items()}
        for name, parameter in parameters.items()
        if parameter in optimizer.state
    }


@torch.no_grad()
def put_parameters(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write `values` into the parameters of the same names, in place and bit for bit.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape or dtype is another; nothing is changed then.
    """
    check_parameters(parameters, values)
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def check_parameters(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError unless there is one value per parameter, of its shape and dtype."""
    if others := sorted(set(parameters) ^ set(values)):
        got = f"{'no' if others[0] in parameters else 'a'} tensor {others[0]!r}"
        raise CheckpointError(explain(got, "one per trainable parameter"))
    for name, parameter in parameters.items():
        value = values[name]
        if value.shape != parameter.shape or value.dtype != parameter.dtype:
            raise CheckpointError(f"tensor {name!r}: {explain(_kind(value), _kind(parameter))}")


def check_moments(parameters: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise a CheckpointError unless moments are of known parameters, shaped like them, the same parts for each."""
    parts = {frozenset(state) for state in moments.values()}
    if len(parts) > 1:
        raise CheckpointError(explain("moments with other parts than the others have", "the same for each"))
    for name, state in moments.items():
        if name not in parameters:
            raise CheckpointError(explain(f"moments of {name!r}", "moments of the trainable parameters"))
        for key, value in state.items():
            shape = value.shape if key == "step" and value.numel() == 1 else parameters[name].shape
            if value.shape != shape or not value.is_floating_point():
                expected = f"floats of shape {tuple(parameters[name].shape)}"
                raise CheckpointError(f"moment {key!r} of {name!r}: {explain(_kind(value), expected)}")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


@torch.no_grad()
def put_moments(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    moments: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Make the optimiser's state equal to `moments`; parameters that had none then have none again.

    Raises:
        CheckpointError: see `check_moments`; nothing is changed then.
    """
    check_moments(parameters, moments)
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for name, parameter in parameters.items():
        if name not in moments:
            optimizer.state.pop(parameter, None)
            continue
        state = optimizer.state[parameter]
        for key, value in moments[name].items():
            if key in state:
                state[key].copy_(value)
            else:
                # Fused kernels count steps on the parameter's device, all others on the CPU.
                device = "cpu" if key == "step" and not fused else parameter.device
                state[key] = value.to(device, copy=True)


def rng_states() -> dict[str, Tensor]:
    """The states of torch's generators: the CPU's, and each CUDA device's in use."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for index in range(torch.cuda.device_count()):
            states[f"cuda:{index}"] = torch.cuda.get_rng_state(index)
    return states


def put_rng_states(states: Mapping[str, Tensor]) -> None:
    """Restore what `rng_states` returned; the states of CUDA devices that are not here are left out."""
    for device, state in states.items():
        if device == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(state, device)


@contextmanager
def rng_kept() -> Iterator[None]:
    """Give torch's generators the states back that they had before a block."""
    states = rng_states()
    try:
        yield
    finally:
        put_rng_states(states)


SCHEMA = 1
WEIGHTS = "parameters.safetensors"
_FILES = (WEIGHTS, "moments.safetensors", "rng.safetensors")
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
    facts = {"schema": SCHEMA, "step": snapshot.step, "checksums": CHECKSUMS, "stream": snapshot.stream}
    with atomic_directory(target) as folder:
        for name, tensors in zip(_FILES, (snapshot.parameters, moments, snapshot.rng), strict=True):
            save_tensors(tensors, folder / name)
        (folder / "state.json").write_text(json.dumps({**facts, "extra": extra}, allow_nan=True))
        write_checksums(folder)
    finished = checkpoints(parent)
    place = finished.index(target)
    for old in (*finished[: max(0, place + 1 - keep)], *finished[place + 1 :]):
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
            parameters, flat, rng = (load_tensors(folder / name) for name in _FILES)
            moments: dict[str, dict[str, Tensor]] = {}
            for name, tensor in flat.items():
                parameter, _, key = name.rpartition("|")
                moments.setdefault(parameter, {})[key] = tensor
            return Snapshot(facts["step"], parameters, moments, facts["stream"], rng), facts["extra"]
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
        got = f"no file {folder / WEIGHTS}"
        raise CheckpointError(explain(got, "kept weights", "another folder, to start over"))
    verify_checksums(folder)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name, on the CPU.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    check_regular(path, "tensors written by trimtab", error=CheckpointError)
    with reading(path, "tensors written by trimtab", error=CheckpointError):
        tensors: dict[str, Tensor] = load_file(path)
    return tensors


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
    kinds = {"schema": int, "step": int, "stream": dict, "extra": dict}
    if not isinstance(facts, dict) or type(facts.get("schema")) is not int:
        kinds, facts = {"schema": int}, {}
    elif facts["schema"] != SCHEMA:
        return
    if missing := [name for name, kind in kinds.items() if not isinstance(facts.get(name), kind)]:
        expected = explain(f"no {missing[0]}", "the state of a checkpoint")
        raise CheckpointError(f"{folder / 'state.json'}: {expected}")
    if f"step-{facts['step']:08d}" != folder.name:
        raise CheckpointError(explain(f"the state of step {facts['step']}", f"that of {folder.name}"))
    if "checksums" in facts and not (folder / CHECKSUMS).is_file():
        raise CheckpointError(explain(f"no {CHECKSUMS}", "every file that was written"))


LOW = frozenset({torch.bfloat16, torch.float16})
"""The types of weights whose gaps are wider than usual steps of training."""


@contextmanager
def float32_weights(model: Model) -> Iterator[dict[str, torch.dtype]]:
    """Hold a model in float32 for a block if something of low precision is trained in it; then round it back.

    All its weights and buffers of low precision are held so, the frozen ones too, since layers multiply both; frozen
    ones come back bit for bit. A model whose trainable weights are float32 (LoRA as peft makes it) is left alone.

    Args:
        model: changed in place; after the block, also after an exception, every tensor has its own type again.

    Yields:
        The type that each trainable parameter is saved in, by canonical name; empty where nothing was changed.
    """
    trainable = model.trainable()
    if not any(parameter.dtype in LOW for parameter in trainable.values()):
        yield {}
        return
    stored = {name: parameter.dtype for name, parameter in trainable.items() if parameter.dtype in LOW}
    tensors = (*model.module.parameters(), *model.module.buffers())
    held = [(tensor, tensor.dtype) for tensor in tensors if tensor.dtype in LOW]
    try:
        for tensor, _ in held:
            tensor.data = tensor.data.float()
        yield stored
    finally:
        for tensor, dtype in held:
            tensor.grad = None
            tensor.data = tensor.data.to(dtype)


def types_of(model: Model) -> dict[str, torch.dtype]:
    """The type of every parameter and buffer, by its name in the module."""
    tensors = (*model.module.named_parameters(), *model.module.named_buffers())
    return {name: tensor.dtype for name, tensor in tensors}


@contextmanager
def in_types(model: Model, types: Mapping[str, torch.dtype]) -> Iterator[None]:
    """For a block, hold parameters and buffers in these types, rounded; then in their own again.

    Values that the types can hold come back bit for bit. Gradients are dropped.

    Args:
        model: changed in place for the block.
        types: from `types_of`.
    """
    tensors = dict((*model.module.named_parameters(), *model.module.named_buffers()))
    held = [(name, tensor, tensor.dtype) for name, tensor in tensors.items() if tensor.dtype != types[name]]
    for name, tensor, _ in held:
        tensor.grad = None
        tensor.data = tensor.data.to(types[name])
    try:
        yield
    finally:
        for _, tensor, dtype in held:
            tensor.data = tensor.data.to(dtype)


def as_saved(parameters: Mapping[str, nn.Parameter], stored: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """A copy of each parameter in the type that it is saved in."""
    return {name: p.detach().to(stored.get(name, p.dtype), copy=True) for name, p in parameters.items()}


@contextmanager
def rounded(parameters: Mapping[str, nn.Parameter], stored: Mapping[str, torch.dtype]) -> Iterator[None]:
    """For a block, give parameters the values that they will have once saved; then their own again, bit for bit."""
    trained = {name: parameters[name].detach().clone() for name in stored}
    with torch.no_grad():
        for name, dtype in stored.items():
            parameters[name].copy_(trained[name].to(dtype))
        try:
            yield
        finally:
            for name, value in trained.items():
                parameters[name].copy_(value)


@dataclass(frozen=True)
class Rounding:
    """Rounding loss: what is left of training once weights are rounded to the type of their checkpoint.

    Attributes:
        changed: share of the trained weights that training changed, in [0, 1].
        returned: share of those that round back to the value they started from; nan where none changed.
    """

    changed: float
    returned: float


def rounding(
    parameters: Mapping[str, nn.Parameter], stored: Mapping[str, torch.dtype], base: Callable[[str], Tensor]
) -> Rounding:
    """Compare float32 weights, and what they round to, with those that training started from.

    Args:
        parameters: in float32.
        stored: the type of each when saved.
        base: gives the values of a parameter at the start, in any type; called once each, so that one is in memory.
    """
    total = changed = returned = 0
    for name, dtype in stored.items():
        now, start = parameters[name].detach(), base(name).to(parameters[name])
        moved = now != start
        total += now.numel()
        changed += int(moved.sum())
        returned += int((moved & (now.to(dtype) == start.to(dtype))).sum())
    return Rounding(changed / total if total else 0.0, returned / changed if changed else float("nan"))
