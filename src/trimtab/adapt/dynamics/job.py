"""DynaMiCS as a job: what a recipe says, whether it can work, what it will take, and carrying it out.

What a job will take, said before it starts and without loading a model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from trimtab.adapt.cost import CostReport, cost_report
from trimtab.adapt.data_table import example_line, few_records, few_records_note
from trimtab.adapt.dynamics.compare import comparison_table, render_table
from trimtab.adapt.dynamics.mixer import DynaMiCS
from trimtab.adapt.finetune import Progressor, finetune, problems, refuse, tokenise_all
from trimtab.adapt.mixer import Needs
from trimtab.adapt.mixers.aioli import Aioli
from trimtab.adapt.mixers.controllers import DualAscent, Feedback, ReferenceLoss
from trimtab.adapt.mixers.fixed import EarlyStoppedTarget, Fixed, Proportional, Replay, Uniform
from trimtab.adapt.mixers.online import Exp3, GradientAlignment
from trimtab.adapt.result import FinetuneResult
from trimtab.adapt.roles import Roles, make_roles
from trimtab.data.domains import Domain
from trimtab.data.origin import EVALUATE_ONLY, Origin, origin_problems, read_domain, told
from trimtab.errors import ModelError, Problem, TrimtabError
from trimtab.models.adapters import Lora, read_adapter
from trimtab.models.folder import headers_of, local_folder, read_config
from trimtab.models.load import load, name_problems
from trimtab.runs.atomic import write_atomic
from trimtab.runs.folder import RunFolder
from trimtab.runs.serialise import plain
from trimtab.runs.sweep import sweep
from trimtab.train.settings import Fit

AnyMixer = (
    DynaMiCS
    | Aioli
    | DualAscent
    | EarlyStoppedTarget
    | Exp3
    | Feedback
    | Fixed
    | GradientAlignment
    | Proportional
    | ReferenceLoss
    | Replay
    | Uniform
)


@dataclass(frozen=True)
class DynamicsConfig:
    """A fine-tuning run under constraints, alone or beside others on the same model and data.

    Attributes:
        model: a hub name or a folder.
        train: domain name -> file, glob, folder or `hf:owner/name`; or a mapping with that as its `path`,
            and `columns`, `overlap`, and for the hub `config`, `split`, `revision`. The domains to train on.
        evaluate: the same, for domains to evaluate only.
        targets: domains to improve.
        constraints: domain name -> nats per token by which its loss may rise.
        mixer: chooses the mixture.
        compare: label -> another mixer to run on the same loop, data and evaluation grid.
        fit: training and evaluation settings.
        adapter: LoRA instead of full-parameter training.
        dtype: "float32", "bfloat16" or "float64"; null for the checkpoint's own.
        device: where to train; null for the first accelerator, else the CPU.
        seed: of sample order and dropout.
        jobs: runs at a time when there is something to compare, each in a process of one thread.
    """

    model: str
    train: dict[str, str | Origin]
    targets: tuple[str, ...]
    system: Literal["dynamics"] = "dynamics"
    evaluate: dict[str, str | Origin] = field(default_factory=dict)
    constraints: dict[str, float] = field(default_factory=dict)
    mixer: AnyMixer = field(default_factory=DynaMiCS)
    compare: dict[str, AnyMixer] = field(default_factory=dict)
    fit: Fit = field(default_factory=Fit)
    adapter: Lora | None = None
    dtype: Literal["float32", "bfloat16", "float64"] | None = None
    device: str | None = None
    seed: int = 0
    jobs: int = 1

    def mixers(self) -> dict[str, AnyMixer]:
        """Every mixer of the job by label, the main one first, each told the targets and the constraints."""
        named = {self.mixer.kind: self.mixer, **self.compare}
        return {
            label: replace(mixer, targets=self.targets, constraints=self.constraints)
            for label, mixer in named.items()
        }

    def roles(self) -> Roles:
        """The domains by role."""
        return make_roles(list(self.train), list(self.evaluate), self.targets, self.constraints)


@dataclass(frozen=True)
class Outcome:
    """What a job came to.

    Attributes:
        results: one per mixer, the main one first.
        report_path: the page.
        failures: label -> what went wrong, for runs that did not finish.
    """

    results: Sequence[FinetuneResult]
    report_path: Path
    failures: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> str:
        """The comparison as plain text, with what its intervals cover."""
        lines = [render_table(comparison_table(self.results)), "", READING]
        common = [note for note in self.results[0].notes if all(note in r.notes for r in self.results[1:])]
        lines += common if len(self.results) > 1 else []
        lines += [
            f"{r.label}: {note}"
            for r in self.results
            for note in r.notes
            if len(self.results) == 1 or note not in common
        ]
        lines += [f"{r.label}: {few_records_note(few)}" for r in self.results[:1] if (few := few_records(r))]
        lines += [
            f"Learned of {name}, first sequence, in double brackets: {example_line(stretches)}"
            for name, stretches in self.results[0].examples.items()
        ]
        lines += [f"{label} failed: {error}" for label, error in self.failures.items()]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The comparison as a JSON list, one object per run."""
        rows = plain(comparison_table(self.results).to_dict("records"))
        return json.dumps({"runs": rows, "failures": dict(self.failures)}, indent=2)


READING = (
    "Changes are in nats per token on test sequences, against the base model; gain is the fall of target perplexity.\n"
    "Intervals (95 %) are over test records, paired: they do not cover the training seed. Status and step were\n"
    "chosen on validation sequences, so a constraint can be over its tolerance here all the same.\n"
    "Cost is a multiple of one fixed-mixture run: optimiser steps alone / with every evaluation."
)


def check(config: DynamicsConfig) -> list[Problem]:
    """Every mistake that can be seen without loading a model or downloading anything."""
    roles, found = config.roles(), []
    for label, mixer in config.mixers().items():
        for problem in problems(roles, config.train, config.evaluate, mixer, config.fit):
            where = problem.where
            if label in config.compare and where.startswith("mixer"):
                where = f"compare.{label}{where.removeprefix('mixer')}"
            found.append(replace(problem, where=where))
    for label, mixer in {"mixer": config.mixer, **config.compare}.items():
        if mixer.targets or mixer.constraints:
            where = "mixer" if mixer is config.mixer else f"compare.{label}"
            found.append(Problem(where, "targets or constraints of its own", "those of the whole config"))
    if len(config.compare) > MOST_COMPARED:
        found.append(Problem("compare", f"{len(config.compare):,} mixers", f"at most {MOST_COMPARED}"))
    found += [
        Problem("compare", f"{label!r} as a label", "a text that is not blank")
        for label in config.compare
        if not label.strip()
    ]
    if config.mixer.kind in config.compare:
        found.append(Problem(f"compare.{config.mixer.kind}", "the main mixer's label", "another label"))
    if config.jobs < 1:
        found.append(Problem("jobs", str(config.jobs), "at least 1"))
    for key, sources in (("train", config.train), ("evaluate", config.evaluate)):
        found += [p for name, source in sources.items() for p in origin_problems(f"{key}.{name}", source)]
    found += name_problems(config.model)
    found += _adapter_problems(config)
    return list(dict.fromkeys(found))


def run(config: DynamicsConfig, folder: Path, progress: Progressor | None = None) -> Outcome:
    """Carry the job out in `folder`, or go on with it; finished runs are read back.

    Args:
        config: the job.
        folder: of the run; with `compare`, of the group, each run below `members/`.
        progress: called between steps of a single run, and after each run of a group.
    """
    refuse(iter(check(config)))
    if config.compare:
        return _run_group(config, folder, progress)
    result = _run_one(config, folder, config.mixer.kind, progress)
    return Outcome([result], result.report(folder / "report.html"))


MOST_COMPARED = 100
"""Mixers beside the main one: each is a run of its own."""


def read_domains(config: DynamicsConfig) -> tuple[dict[str, Domain], dict[str, Domain]]:
    """The domains that a config names: those to train on, and those to evaluate only."""
    train = {name: read_domain(name, source) for name, source in config.train.items()}
    evaluate = {
        name: read_domain(name, source, fractions=EVALUATE_ONLY) for name, source in config.evaluate.items()
    }
    return train, evaluate


def _run_one(
    config: DynamicsConfig, folder: Path, label: str, progress: Progressor | None = None
) -> FinetuneResult:
    model = load(
        config.model,
        dtype=config.dtype,
        device=config.device,
        adapter=_adapter(config),
        kind="language model",
    )
    train, evaluate = read_domains(config)
    return finetune(
        model,
        train=train,
        evaluate=evaluate,
        mixer=replace(config.mixer, targets=config.targets, constraints=config.constraints),
        fit=config.fit,
        seed=config.seed,
        out=folder,
        label=label,
        config=plain(config),
        progress=progress,
    )


def _run_member(member: tuple[str, DynamicsConfig], folder: Path) -> str:
    label, config = member
    result = _run_one(config, folder, label)
    result.report(folder / "report.html")
    return result.status


def _run_group(config: DynamicsConfig, folder: Path, progress: Progressor | None) -> Outcome:
    """One run per mixer, in parallel processes; domains are tokenised before, once."""
    model = load(config.model, device="cpu", kind="language model")
    train, evaluate = read_domains(config)
    tokenise_all(train | evaluate, config.roles(), model, config.fit)
    named = {config.mixer.kind: config.mixer, **config.compare}
    members = {
        label: (label, replace(config, mixer=mixer, compare={}, jobs=1)) for label, mixer in named.items()
    }
    with RunFolder.create_or_open(folder, plain(config), may_change=("jobs",)) as group:
        group.go_on()
        try:
            swept = sweep(_run_member, members, folder / "members", jobs=config.jobs, progress=progress)
            if not swept.results:
                raise TrimtabError(f"no run of {folder} finished: {swept.failures}")
            done = [label for label in members if label in swept.results]
            results = [FinetuneResult.load(swept.folders[label]) for label in done]
            outcome = Outcome(results, folder / "report.html", swept.failures)
            _write_report(outcome)
            group.write_json("artifacts/comparison.json", json.loads(outcome.to_json()))
        except BaseException as error:
            group.set_status("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        group.set_status("failed" if swept.failures else "done")
    return outcome


def _write_report(outcome: Outcome) -> None:
    from trimtab.adapt.dynamics.page import page

    title = f"{outcome.results[0].label} beside {len(outcome.results) - 1} others"
    write_atomic(outcome.report_path, page(outcome.results, title=title))


def _adapter(config: DynamicsConfig) -> Mapping[str, Any] | None:
    return plain(config.adapter) if config.adapter else None


def _adapter_problems(config: DynamicsConfig) -> list[Problem]:
    try:
        read_adapter(_adapter(config) or {})
    except ModelError as error:
        return [told(str(error).partition(":")[0].replace(" ", "."), error)]
    return []


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
