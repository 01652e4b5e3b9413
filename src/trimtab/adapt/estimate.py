"""What a job will take, said before it starts and without loading a model."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from trimtab.adapt.dynamics_job import AnyMixer, DynamicsConfig
from trimtab.adapt.ledger import Ledger, cost_report
from trimtab.models.adapters import Lora
from trimtab.train.fit import evaluation_steps

_OPTIMISER_COPIES = 3
"""Gradient and two moments of each trainable parameter."""
_SNAPSHOT_COPIES = 3
"""A snapshot holds each trainable parameter and its two moments once more."""
_WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "F64": 8, "F32": 4, "BF16": 2, "F16": 2}


@dataclass(frozen=True)
class Estimate:
    """Expected steps, memory and disk of a job; nan where the model is not on this machine.

    Attributes:
        steps: optimiser steps of all runs.
        probe_steps: trial steps of all runs, rolled back.
        training_multiple: of the main run, beside a fixed-mixture run.
        all_in_multiple: the same with evaluations.
        memory_bytes: of one run: weights, gradients, moments, snapshot and the largest logits.
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
    """Steps, memory and disk of a job, from its config and the model's headers."""
    mixers = [config.mixer, *config.compare.values()]
    parameters, width, vocabulary = _model_size(config)
    trainable = parameters if config.adapter is None else math.nan
    if config.adapter is not None and math.isfinite(parameters):
        trainable = _lora_parameters(Path(config.model), config.adapter)
    copies = _OPTIMISER_COPIES + (_SNAPSHOT_COPIES if any(m.plan(config.fit.steps) for m in mixers) else 0)
    rows = max(config.fit.micro_batch_size or config.fit.batch_size, config.fit.eval_batch_size)
    logits = 2 * 4 * rows * config.fit.seq_len * vocabulary
    multiples = _multiples(config, config.mixer)
    return Estimate(
        steps=config.fit.steps * len(mixers),
        probe_steps=sum(_probe_steps(config, mixer) for mixer in mixers),
        training_multiple=multiples[0],
        all_in_multiple=multiples[1],
        memory_bytes=width * (parameters + copies * trainable) + logits,
        disk_bytes=width * trainable * 5 * len(mixers),
    )


def _probe_steps(config: DynamicsConfig, mixer: AnyMixer) -> int:
    return len(config.train) * sum(span.probe_steps for span in mixer.plan(config.fit.steps))


def _multiples(config: DynamicsConfig, mixer: AnyMixer) -> tuple[float, float]:
    fit, domains = config.fit, len(config.roles().evaluate)
    grid = evaluation_steps(fit.steps, fit.eval_points)
    plan = mixer.plan(fit.steps)
    after = len(plan) * len(config.train) * domains * fit.probe_sequences
    before = sum(span.start not in grid for span in plan) * domains * fit.eval_sequences
    ledger = Ledger(
        training_steps=fit.steps,
        probe_steps=_probe_steps(config, mixer),
        monitoring_sequences=len(grid) * domains * fit.eval_sequences,
        probe_sequences=after + before,
    )
    report = cost_report(
        ledger, steps=fit.steps, grid_sequences=ledger.monitoring_sequences, batch_size=fit.batch_size
    )
    return report.training_multiple, report.all_in_multiple


def _model_size(config: DynamicsConfig) -> tuple[float, float, float]:
    """Parameters, bytes of each, vocabulary; from the headers of local safetensors files."""
    folder = Path(config.model).expanduser()
    shapes = _shapes(folder)
    if not shapes:
        return math.nan, math.nan, math.nan
    parameters = sum(math.prod(shape) for shape, _ in shapes.values())
    width = _WIDTHS.get(config.dtype or next(iter(shapes.values()))[1], 4)
    facts = json.loads((folder / "config.json").read_text())
    vocabulary = facts.get("vocab_size") or facts.get("text_config", {}).get("vocab_size", math.nan)
    return float(parameters), float(width), float(vocabulary)


def _shapes(folder: Path) -> dict[str, tuple[list[int], str]]:
    """Shape and type of each tensor in a folder's safetensors files, read from their headers alone."""
    found: dict[str, tuple[list[int], str]] = {}
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        found |= {k: (v["shape"], v["dtype"]) for k, v in header.items() if k != "__metadata__"}
    return found


def _lora_parameters(folder: Path, lora: Lora) -> float:
    """Parameters of a LoRA: r (in + out) for each linear map it is on, all but embeddings unless told which."""
    matrices = [
        shape
        for name, (shape, _) in _shapes(folder.expanduser()).items()
        if len(shape) == 2 and _adapted(name.removesuffix(".weight"), lora.targets)
    ]
    return float(sum(lora.r * sum(shape) for shape in matrices))


def _adapted(module: str, targets: tuple[str, ...] | None) -> bool:
    if targets is None:
        return not any(word in module for word in ("embed", "wte", "wpe", "lm_head"))
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _size(count: float, what: str = "") -> str:
    if math.isnan(count):
        return "unknown: the model is not on this machine yet"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}{what}"
        count /= 1024
    return f"{count:.1f} GiB{what}"
