"""DynaMiCS as a job: one run under constraints, or several mixers on the same model and data."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from trimtab.adapt.dynamics.mixer import DynaMiCS
from trimtab.adapt.dynamics.result import Comparison, FinetuneResult
from trimtab.adapt.export import leave_chosen
from trimtab.adapt.finetune import finetune, problems, tokenise_all, warn_of_data
from trimtab.adapt.live import Shown, following
from trimtab.adapt.mixer import Needs
from trimtab.adapt.mixers.controllers import DualAscent, Feedback, ReferenceLoss
from trimtab.adapt.mixers.fixed import EarlyStoppedTarget, Fixed, Proportional, Replay, Uniform
from trimtab.adapt.mixers.published import Aioli, Exp3, GradientAlignment
from trimtab.adapt.session import Roles, make_roles
from trimtab.adapt.survey import read_data
from trimtab.adapt.tracking import LogWith, log_problems
from trimtab.data.domains import EVALUATE_ONLY, Domain, Origin, origin_problems, read_domain
from trimtab.errors import ModelError, Problem, TrimtabError, problem_of
from trimtab.job import Corpus, Elsewhere, ModelName, Progress, Result, Survey
from trimtab.models.folder import Header, headers_of, local_folder, read_config
from trimtab.models.load import load, name_problems
from trimtab.models.quantization import BYTES_PER_PARAMETER, four_bit_problems
from trimtab.models.weights import Lora, read_adapter
from trimtab.runs.brief import brief
from trimtab.runs.folder import RunFolder
from trimtab.runs.live import short_warnings
from trimtab.runs.paths import safe_name
from trimtab.runs.serialise import plain
from trimtab.runs.sweep import sweep
from trimtab.train.settings import Fit, evaluation_steps

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
        load_in_4bit: hold the base model's linear maps in 4 bits (QLoRA), beside an adapter.
        device: where to train; null for the first accelerator, else the CPU.
        seed: of sample order and dropout.
        jobs: runs at a time when there is something to compare, each in a process of one thread.
        log_with: a tracker ("trackio", "wandb", "tensorboard" and others that Accelerate knows), or a list of them.
    """

    model: ModelName
    train: dict[str, Corpus | Origin]
    targets: tuple[str, ...]
    system: Literal["dynamics"] = "dynamics"
    evaluate: dict[str, Corpus | Origin] = field(default_factory=dict)
    constraints: dict[str, float] = field(default_factory=dict)
    mixer: AnyMixer = field(default_factory=DynaMiCS)
    compare: dict[str, AnyMixer] = field(default_factory=dict)
    fit: Fit = field(default_factory=Fit)
    adapter: Lora | None = None
    dtype: Literal["float32", "bfloat16", "float64"] | None = None
    load_in_4bit: bool = False
    device: str | None = None
    seed: int = 0
    jobs: int = 1
    log_with: str | tuple[str, ...] | None = None

    result: ClassVar[type[Result]] = FinetuneResult

    __repr__ = brief

    def mixers(self) -> dict[str, AnyMixer]:
        """Every mixer of the job by label, the main one first, each with the targets and constraints of the job."""
        return {
            label: replace(mixer, targets=self.targets, constraints=self.constraints)
            for label, mixer in {self.mixer.kind: self.mixer, **self.compare}.items()
        }

    def roles(self) -> Roles:
        """The domains by role."""
        return make_roles(list(self.train), list(self.evaluate), self.targets, self.constraints)

    def problems(self) -> Iterator[Problem]:
        """Every mistake that can be seen without loading a model or downloading anything."""
        for label, mixer in self.mixers().items():
            for problem in problems(self.roles(), self.train, self.evaluate, mixer, self.fit):
                where = problem.where
                if label in self.compare and where.startswith("mixer"):
                    where = f"compare.{label}{where.removeprefix('mixer')}"
                yield replace(problem, where=where)
        places = {"mixer": self.mixer} | {f"compare.{label}": it for label, it in self.compare.items()}
        for where, mixer in places.items():
            if mixer.targets or mixer.constraints:
                yield Problem(where, "targets or constraints of its own", "those of the whole config")
        if len(self.compare) > MOST_COMPARED:
            yield Problem("compare", f"{len(self.compare):,} mixers", f"at most {MOST_COMPARED}")
        for label in self.compare:
            if not label.strip():
                yield Problem("compare", f"{label!r} as a label", "a text that is not blank")
        if self.mixer.kind in self.compare:
            yield Problem(f"compare.{self.mixer.kind}", "the main mixer's label", "another label")
        if self.jobs < 1:
            yield Problem("jobs", str(self.jobs), "at least 1")
        for key, sources in (("train", self.train), ("evaluate", self.evaluate)):
            for name, source in sources.items():
                yield from origin_problems(f"{key}.{name}", source)
        yield from name_problems(self.model)
        yield from log_problems(self.log_with)
        yield from _adapter_problems(self)

    def cost(self) -> Mapping[str, Any]:
        """Steps, memory and disk, at most; nan where the model is not on this machine, or is quantised already.

        A run that stops early takes less. `survey` tells all_in_multiple exactly, since it knows how long validation
        splits are.

        Returns:
            steps, of all runs; probe_steps, trial steps of all runs, rolled back; training_multiple, of the main run,
            beside a fixed-mixture run, and all_in_multiple, the same with evaluations; memory_bytes of the largest run:
            weights, gradients, moments, what its mixer holds beside them (a snapshot, or gradients of each training
            loss) and the largest logits, without activations; disk_bytes of all runs: base and best weights and one
            checkpoint each, and the model that is left.

        Raises:
            ModelError: the model's folder is damaged: its config.json, or the header of a file of weights.
        """
        needs = [mixer.needs(self.fit, self.roles()) for mixer in (self.mixer, *self.compare.values())]
        main = self._planned().report(self.fit, self.roles())
        memory, disk = _bytes(self, needs)
        return {
            "steps": self.fit.steps * len(needs),
            "probe_steps": sum(need.probe_steps for need in needs),
            "training_multiple": main.training_multiple,
            "all_in_multiple": main.all_in_multiple,
            "memory_bytes": memory,
            "disk_bytes": disk,
        }

    def survey(self) -> Survey:
        """Survey of the data: what its files hold, in records and tokens, and what of it is cut or left out.

        Reads the first records of each domain and the tokenizer, no weights and nothing of the hub; fills the cache of
        tokenised data as the run would.
        """
        data = read_data(self.train, self.evaluate, self.roles(), self.fit, self.model)
        survey, known = data.finished(), data.sequences()
        if set(known) != set(self.roles().evaluate):
            return survey
        main = self._planned().report(self.fit, self.roles(), known)
        return replace(survey, cost={"all_in_multiple": main.all_in_multiple})

    def _planned(self) -> Needs:
        """The needs of the main mixer; in low precision also a reading of the rounded weights per reading."""
        needs, folder = self.mixer.needs(self.fit, self.roles()), local_folder(self.model)
        stored = next((header.dtype for header in headers_of(folder).values()), "") if folder else ""
        rounded = self.dtype == "bfloat16" or (self.dtype is None and stored in ("BF16", "F16"))
        if self.adapter is not None or not rounded:
            return needs
        points = len(evaluation_steps(self.fit.steps, self.fit.eval_points)) - 1 + self.fit.crossings
        return replace(needs, whole_readings=needs.whole_readings + points)

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> FinetuneResult | Comparison:
        """Fine-tune in the folder, or one run per mixer below its `members/`; finished runs are read back.

        Several runs are parallel processes; their domains are tokenised before, once. `model/` in the folder is the
        model of the run, or of the one that is `Comparison.chosen`.
        """
        if not self.compare:
            return self.finetuned(folder, self.mixer.kind, progress, self.log_with)
        model = load(self.model, device="cpu", kind="language model")
        train, evaluate = read_domains(self)
        tokens = tokenise_all(train | evaluate, self.roles(), model, self.fit)
        warn_of_data(train, evaluate, tokens, self.roles(), self.fit)
        members = {
            label: (label, replace(self, mixer=mixer, compare={}, jobs=1, log_with=None))
            for label, mixer in {self.mixer.kind: self.mixer, **self.compare}.items()
        }
        one, home = partial(_member, log_with=self.log_with), folder.path / "members"
        rows = {label: home / safe_name(label) / "metrics.jsonl" for label in members}
        with following(progress, rows, self.roles(), self.fit):
            swept = sweep(one, members, home, jobs=self.jobs, progress=progress)
        if not swept.results:
            raise TrimtabError(f"no run of {folder.path} finished: {swept.failures}")
        runs = [FinetuneResult.load(swept.folders[label]) for label in members if label in swept.results]
        comparison = Comparison(label=self.mixer.kind, runs=runs, failures=swept.failures, config=plain(self))
        if isinstance(folder, RunFolder):
            leave_chosen(folder.path, comparison)
        return comparison

    def finetuned(
        self,
        folder: RunFolder | Elsewhere | Path,
        label: str,
        progress: Shown = False,
        log_with: LogWith = None,
        *,
        save_model: bool = True,
    ) -> FinetuneResult:
        """The run of the main mixer alone."""
        model = load(
            self.model,
            dtype=self.dtype,
            device=self.device,
            adapter=plain(self.adapter) if self.adapter else None,
            load_in_4bit=self.load_in_4bit,
            kind="language model",
        )
        train, evaluate = read_domains(self)
        return finetune(
            model,
            train=train,
            evaluate=evaluate,
            mixer=self.mixers()[self.mixer.kind],
            fit=self.fit,
            seed=self.seed,
            out=folder,
            label=label,
            config=plain(self),
            progress=progress,
            log_with=log_with,
            save_model=save_model,
        )


def _adapter_problems(job: DynamicsConfig) -> Iterator[Problem]:
    """Problems of the adapter, and of base weights in 4 bits beside it and on this machine."""
    try:
        read_adapter(plain(job.adapter) if job.adapter else {})
    except ModelError as error:
        yield problem_of(str(error).partition(":")[0].replace(" ", "."), error)
    if not job.load_in_4bit:
        return
    if job.adapter is None:
        yield Problem("load_in_4bit", "true without an adapter", "an adapter to train", "adapter: {r: 16}")
    yield from four_bit_problems(job.dtype)


MOST_COMPARED = 100
"""Mixers beside the main one: each is a run of its own."""


def read_domains(job: DynamicsConfig) -> tuple[dict[str, Domain], dict[str, Domain]]:
    """The domains that a job names: those to train on, and those to evaluate only."""
    train = {name: read_domain(name, source) for name, source in job.train.items()}
    only = {name: read_domain(name, source, fractions=EVALUATE_ONLY) for name, source in job.evaluate.items()}
    return train, only


def _member(member: tuple[str, DynamicsConfig], folder: Path, log_with: LogWith = None) -> str:
    label, job = member
    with warnings.catch_warnings(), short_warnings():
        # The group has told it.
        warnings.filterwarnings("ignore", "domain '|Judged on fewer than|Data: ", UserWarning)
        # The group keeps one model.
        result = job.finetuned(folder, label, log_with=log_with, save_model=False)
    result.report(folder / "report.html")
    return result.status


_OPTIMISER_COPIES = 3
"""Gradient and two moments of each trainable parameter."""
_SNAPSHOT_COPIES = 3
"""A snapshot holds each trainable parameter and its two moments once more."""
_GRADIENT_COPIES = 2
"""The gradient of each training loss is held once by itself and once in their matrix."""
_WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "F64": 8, "F32": 4, "BF16": 2, "F16": 2}
_KEPT, _CHECKPOINT, _LEFT = 2, 3, 1
"""Of each trainable parameter on disk: base and best weights; one checkpoint with two moments; `model/`, once."""
_TRAINED_WIDTH = 4.0
"""Bytes of what is trained, and of its gradients, at least: weights of low precision are held in float32 meanwhile."""


def _bytes(job: DynamicsConfig, needs: Sequence[Needs]) -> tuple[float, float]:
    """Memory and disk, by the headers of local safetensors files; nan without them, and where these are packed."""
    folder = local_folder(job.model)
    headers = headers_of(folder) if folder else {}
    if not folder or not headers or read_config(folder).get("quantization_config"):
        return math.nan, math.nan
    parameters = trainable = float(sum(header.size for header in headers.values()))
    width = float(_WIDTHS.get(job.dtype or next(iter(headers.values())).dtype, 4))
    trained = max(width, _TRAINED_WIDTH)
    weights, kept = trained * parameters, width
    if job.adapter is not None:
        trainable = _lora_parameters(headers, job.adapter)
        weights, kept = width * parameters, trained
    if job.load_in_4bit:
        maps = sum(
            header.size
            for name, header in headers.items()
            if _is_map(name, header) and not _EXPERTS.search(name)
        )
        weights -= (width - BYTES_PER_PARAMETER) * maps
    snapshot, gradients = _SNAPSHOT_COPIES * trained, _GRADIENT_COPIES * len(job.train) * trained
    held = max(
        max(snapshot * bool(need.probe_steps), gradients * bool(need.gradient_sequences)) for need in needs
    )
    facts = read_config(folder)
    text = facts.get("text_config")
    sizes = (facts.get("vocab_size"), text.get("vocab_size") if isinstance(text, dict) else None)
    vocabularies = (float(size) for size in sizes if isinstance(size, int) and 0 < size < 2**53)
    rows = max(job.fit.micro_batch_size or job.fit.batch_size, job.fit.eval_batch_size)
    logits = 2 * 4 * rows * job.fit.seq_len * next(vocabularies, math.nan)
    memory = weights + (_OPTIMISER_COPIES * trained + held) * trainable + logits
    runs = (_KEPT * kept + _CHECKPOINT * trained) * len(needs)
    return memory, (runs + _LEFT * kept) * trainable


def _lora_parameters(headers: Mapping[str, Header], lora: Lora) -> float:
    """Parameters of a LoRA: r (in + out) for each linear map it is on, all but embeddings unless told which."""
    total = 0
    for name, header in headers.items():
        adapted = _is_map(name, header)
        if lora.targets is not None:
            module = name.removesuffix(".weight")
            adapted = len(header.shape) == 2 and any(f".{module}".endswith(f".{it}") for it in lora.targets)
        if adapted:
            total += lora.r * sum(header.shape)
    return float(total)


def _is_map(name: str, header: Header) -> bool:
    """Whether a tensor is a linear map's, but for embeddings and the output layer."""
    apart = any(word in name for word in ("embed", "wte", "wpe", "lm_head"))
    return len(header.shape) == 2 and not apart


_EXPERTS = re.compile(r"\.experts\.\d+\.|\.(gate|router)\.weight$")
"""Names of an expert's weights and of a router's. transformers joins experts to one tensor, which stays whole."""
