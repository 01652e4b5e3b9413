"""DynaMiCS as a job: what a recipe says, whether it can work, what it will take, and carrying it out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from trimtab.adapt.aioli import Aioli
from trimtab.adapt.alignment import GradientAlignment
from trimtab.adapt.bandit import Exp3
from trimtab.adapt.checks import problems, refuse, tokenise_all
from trimtab.adapt.comparison import comparison_table, render_table
from trimtab.adapt.data_table import example_line, few_records, few_records_note
from trimtab.adapt.dynamics import DynaMiCS
from trimtab.adapt.finetune import Progressor, finetune
from trimtab.adapt.gaps import DualAscent, Feedback, ReferenceLoss
from trimtab.adapt.mixers import EarlyStoppedTarget, Fixed, Proportional, Replay, Uniform
from trimtab.adapt.result import FinetuneResult
from trimtab.adapt.roles import Roles, make_roles
from trimtab.data.domains import Domain
from trimtab.data.origin import EVALUATE_ONLY, Origin, origin_problems, read_domain, told
from trimtab.errors import ModelError, Problem, TrimtabError
from trimtab.models.adapters import Lora, read_adapter
from trimtab.models.checks import name_problems
from trimtab.models.load import load
from trimtab.runs.atomic import write_atomic
from trimtab.runs.plain import plain
from trimtab.runs.record import RunFolder
from trimtab.runs.sweep import sweep
from trimtab.train.fit import Fit

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
    from trimtab.adapt.dynamics_page import page

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
