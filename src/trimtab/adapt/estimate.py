"""What a job will take, said before it starts and without loading a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.adapt.dynamics_job import DynamicsConfig
from trimtab.adapt.ledger import CostReport, cost_report
from trimtab.adapt.needs import Needs
from trimtab.models.adapters import Lora
from trimtab.models.folder import local_folder, read_config
from trimtab.models.headers import headers_of

_OPTIMISER_COPIES = 3
"""Gradient and two moments of each trainable parameter."""
_SNAPSHOT_COPIES = 3
"""A snapshot holds each trainable parameter and its two moments once more."""
_GRADIENT_COPIES = 2
"""The gradient of each training loss is held once by itself and once in their matrix."""
_GRADIENT_WIDTH = 4
"""Bytes of a gradient's numbers; those of a float64 model are wider."""
_WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "F64": 8, "F32": 4, "BF16": 2, "F16": 2}
_KEPT, _CHECKPOINT = 2, 3
"""Of each trainable parameter on disk: base and best weights; one checkpoint with two moments."""
_TRAINED_WIDTH = 4.0
"""Bytes of what is trained: weights of low precision are held in float32 meanwhile."""


@dataclass(frozen=True)
class Estimate:
    """Steps, memory and disk of a job, at most; nan where the model is not on this machine.

    A run that stops early takes less, and so does one with a validation split shorter than the fit asks for.

    Attributes:
        steps: optimiser steps of all runs.
        probe_steps: trial steps of all runs, rolled back.
        training_multiple: of the main run, beside a fixed-mixture run.
        all_in_multiple: the same with evaluations.
        memory_bytes: of the largest run: weights, gradients, moments, what its mixer holds beside them (a snapshot,
            or gradients of each training loss) and the largest logits.
        disk_bytes: of all runs: base and best weights and one checkpoint each.
    """

    steps: int
    probe_steps: int
    training_multiple: float
    all_in_multiple: float
    memory_bytes: float
    disk_bytes: float

    def to_text(self) -> str:
        """One line per quantity."""
        return "\n".join(
            (
                f"training steps  {self.steps}",
                f"probe steps     {self.probe_steps}",
                f"cost            {self.training_multiple:.2f} x a fixed-mixture run in steps, "
                f"{self.all_in_multiple:.2f} x with evaluations",
                f"memory          {_size(self.memory_bytes, ' a run, activations apart')}",
                f"disk            {_size(self.disk_bytes)}",
            )
        )


def estimate(config: DynamicsConfig) -> Estimate:
    """Steps, memory and disk of a job, from its config and the model's headers.

    Raises:
        ModelError: the model's folder is damaged: its config.json, or the header of a file of weights.
    """
    needs = [mixer.needs(config.fit, config.roles()) for mixer in (config.mixer, *config.compare.values())]
    parameters, width, vocabulary = _model_size(config)
    trainable = parameters if config.adapter is None else math.nan
    if config.adapter is not None and math.isfinite(parameters):
        trainable = _lora_parameters(Path(config.model), config.adapter)
    trained = max(width, _TRAINED_WIDTH)
    held = max(_held(asked, len(config.train), trained) for asked in needs)
    weights = (trained if config.adapter is None else width) * parameters
    kept = width if config.adapter is None else trained
    rows = max(config.fit.micro_batch_size or config.fit.batch_size, config.fit.eval_batch_size)
    logits = 2 * 4 * rows * config.fit.seq_len * vocabulary
    cost = _cost(config, needs[0])
    return Estimate(
        steps=config.fit.steps * len(needs),
        probe_steps=sum(asked.probe_steps for asked in needs),
        training_multiple=cost.training_multiple,
        all_in_multiple=cost.all_in_multiple,
        memory_bytes=weights + (_OPTIMISER_COPIES * trained + held) * trainable + logits,
        disk_bytes=(_KEPT * kept + _CHECKPOINT * trained) * trainable * len(needs),
    )


def _cost(config: DynamicsConfig, needs: Needs) -> CostReport:
    fit, ledger = config.fit, needs.ledger(config.fit, config.roles())
    grid = ledger.monitoring_sequences
    return cost_report(ledger, steps=fit.steps, grid_sequences=grid, batch_size=fit.batch_size)


def _held(needs: Needs, n_train: int, width: float) -> float:
    """Bytes that a mixer holds for a while of each trainable parameter."""
    snapshot = _SNAPSHOT_COPIES * width if needs.probe_steps else 0.0
    gradients = _GRADIENT_COPIES * n_train * max(_GRADIENT_WIDTH, width) if needs.gradient_sequences else 0.0
    return max(snapshot, gradients)


def _model_size(config: DynamicsConfig) -> tuple[float, float, float]:
    """Parameters, bytes of each, vocabulary; from the headers of local safetensors files."""
    folder = local_folder(config.model)
    shapes = headers_of(folder) if folder else {}
    if not folder or not shapes:
        return math.nan, math.nan, math.nan
    parameters = sum(header.size for header in shapes.values())
    width = _WIDTHS.get(config.dtype or next(iter(shapes.values())).dtype, 4)
    return float(parameters), float(width), _vocabulary(read_config(folder))


def _vocabulary(facts: Mapping[str, Any]) -> float:
    """The vocabulary that a configuration, or its part for texts, says; nan where it does not."""
    text = facts.get("text_config")
    sizes = (facts.get("vocab_size"), text.get("vocab_size") if isinstance(text, dict) else None)
    return next((float(size) for size in sizes if isinstance(size, int) and 0 < size < 2**53), math.nan)


def _lora_parameters(folder: Path, lora: Lora) -> float:
    """Parameters of a LoRA: r (in + out) for each linear map it is on, all but embeddings unless told which."""
    matrices = [
        header.shape
        for name, header in headers_of(folder.expanduser()).items()
        if len(header.shape) == 2 and _adapted(name.removesuffix(".weight"), lora.targets)
    ]
    return float(sum(lora.r * sum(shape) for shape in matrices))


def _adapted(module: str, targets: tuple[str, ...] | None) -> bool:
    if targets is None:
        return not any(word in module for word in ("embed", "wte", "wpe", "lm_head"))
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _size(count: float, what: str = "") -> str:
    if math.isnan(count):
        return "unknown: no weights of a known causal language model are on this machine"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}{what}"
        count /= 1024
    return f"{count:.1f} GiB{what}"
