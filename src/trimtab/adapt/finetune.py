"""Fine-tune a model on a mixture of domains while stated evaluation domains are kept.

`finetune` is the entry: what is refused before a run begins, where the run is kept, and whether what is there may be
gone on with.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import is_dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import PreTrainedTokenizerBase

from trimtab.adapt.call import DATA, LATER, argument_problems, call
from trimtab.adapt.completions import HeldOut, held_out
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.export import leave_model
from trimtab.adapt.live import LiveRun, Shown, Ticks, live_line, shown_problems
from trimtab.adapt.metrics import make_result, read_losses
from trimtab.adapt.mixer import LEAST_SEQUENCES, Mixer
from trimtab.adapt.record import data_notes, data_table, examples, read_metrics
from trimtab.adapt.run import Run
from trimtab.adapt.session import Clock, Roles, make_roles, role_problems
from trimtab.adapt.tracking import LogWith, log_problems, loggers
from trimtab.adapt.units import few_evaluated, group_problems
from trimtab.data.domains import EVALUATE_ONLY, Domain, as_domains
from trimtab.data.splits import Part
from trimtab.data.survey import repeated_records
from trimtab.data.tokens import TokenDomain, tokenise
from trimtab.errors import CheckpointError, ConfigError, ConfigProblems, Problem, explain
from trimtab.job import Elsewhere
from trimtab.models.adapter import has_adapter
from trimtab.models.batches import activation_checkpointing, evaluating
from trimtab.models.devices import device_of, warn_of_emulation
from trimtab.models.inspection import check_model, require_language_model
from trimtab.models.load import Model, as_model
from trimtab.models.tokenizer import lacks_tokens, refuse_longer, unknown_token, vocabulary
from trimtab.runs.config import typed_problems
from trimtab.runs.folder import RunFolder, read_config_of
from trimtab.runs.paths import MODEL, RESULT, as_path
from trimtab.runs.serialise import is_sealed, plain, read_object, seal
from trimtab.seeds import isolated
from trimtab.train.hosted import refuse_sharded
from trimtab.train.loop import Loop, Paused, accelerator, interruptible
from trimtab.train.settings import Fit
from trimtab.train.state import float32_weights, in_types, types_of

Out = str | Path | RunFolder | Elsewhere | None


def finetune(
    model: Model,
    *,
    train: Mapping[str, Domain | Any],
    evaluate: Mapping[str, Domain | Any] | None = None,
    mixer: Mixer,
    fit: Fit | None = None,
    seed: int = 0,
    out: Out = None,
    label: str | None = None,
    config: Mapping[str, Any] | None = None,
    progress: Shown = None,
    log_with: LogWith = None,
    save_model: bool = True,
) -> FinetuneResult:
    """Improve the mixer's targets, keep its constraints; leave the best feasible checkpoint in the model.

    Every training domain is evaluated too; an evaluation domain that is neither target nor constraint is watched.
    A constraint is kept when its loss, paired on the same sequences, has risen by no more than its tolerance over
    the base model's. The checkpoint is chosen on validation sequences and reported on test sequences.

    Weights of a low-precision checkpoint (bfloat16, float16) are held in float32 while they are trained, with float32
    moments, and come back in their own type. The checkpoint is chosen, and its test losses are read, with the weights
    as rounded; forward passes are in float32, unless `fit.precision` says "bf16". Below an adapter they stay as they
    are, and are computed with in their type.

    Args:
        model: changed in place: afterwards it holds the best checkpoint that kept every constraint on validation
            data, or its base weights where there is none that did and improved the targets.
        train: domains to train on, by name; the order is that of mixture weights. In the place of a domain, its data: a
            path as `Domain.from_path` takes it, or a data set, a table or a list as `Domain.from_dataset` does.
        evaluate: domains to evaluate only; data that has no splits is halved into validation and test.
        mixer: chooses the mixture; names the targets and the constraints.
        fit: training and evaluation settings.
        seed: of the sample order and of dropout.
        out: folder of the run. The same call with the same folder goes on where it was, to the same numbers bit for
            bit on the same machine with the same number of threads; a finished run is read back. At its end `model/` in
            it is a Hugging Face folder, or a PEFT adapter, with tokenizer and card; there is none where the base
            weights came back. None keeps nothing. A job hands over the folder that it holds.
        label: name of the run in tables; the mixer's kind if None.
        config: stored as the run's config; described by the arguments if None.
        progress: None shows the run on stderr: one live line on a terminal, else a plain line per evaluation. False is
            silent. A callable is told the steps done and in all, real and on trial.
        log_with: a tracker that Accelerate knows ("trackio", "wandb", "tensorboard"), a callable that gets the rows of
            metrics.jsonl as they are written, or a list of such. One that fails meanwhile is dropped with a warning.
        save_model: False leaves `model/` out; `trimtab.adapt.export.export_run` makes it later.

    Raises:
        ConfigProblems: unknown, doubled or contradictory domains, or settings that cannot work: all at once,
            before any work; then domains without enough sequences for a batch or a reading, all at once.
        ModelError: the model is no causal language model, has no tokenizer or sharded parameters: before any work.
        DataError: a malformed or empty domain, one shorter than a sequence, or with a record in two splits.
        CheckpointError: `out` holds another run, or a damaged one.
        KeyboardInterrupt: at Ctrl-C, after a resumable checkpoint was written; it says how to go on.
    """
    model = as_model(model)
    require_language_model(model)
    check_model(model, "training")
    refuse_sharded(model)
    fit = Fit() if fit is None else fit
    wrong = argument_problems(seed=seed, label=label, config=config, save_model=save_model)
    refuse([*type_problems(mixer, fit), *shown_problems(progress), *wrong])
    given = train, evaluate or {}
    train = as_domains("train", train)
    evaluate = as_domains("evaluate", evaluate or {}, fractions=EVALUATE_ONLY)
    roles = make_roles(list(train), list(evaluate), mixer.targets, mixer.constraints)
    processes = accelerator()
    refuse(problems(roles, train, evaluate, mixer, fit, processes.num_processes))
    refuse(log_problems(log_with, kept=out is not None))
    domains = tokenise_all({**train, **evaluate}, roles, model, fit)
    notes = warn_of_data(train, evaluate, domains, roles, fit)
    warn_of_emulation(device_of(model.module), torch.bfloat16 if fit.precision == "bf16" else None)
    sources = {name: data for part in given for name, data in part.items()}
    config = plain(config or call(model, train, evaluate, mixer, fit, seed, given=sources, domains=domains))
    fingerprints = {name: domain.fingerprint for name, domain in domains.items()}
    identity = {"model": model.fingerprint(), "domains": fingerprints}
    types = types_of(model)
    with (
        place(out, processes) as path,
        interruptible() as check,
        isolated(seed),
        evaluating(model.module, gradients=True),
        activation_checkpointing(model.module) if fit.activation_checkpointing else nullcontext(),
        float32_weights(model) as stored,
        open_run(out, path, config, identity, processes) as folder,
    ):
        loop = Loop(model, {name: domains[name] for name in roles.train}, fit, seed=seed)
        run = Run(loop, roles, domains, mixer, folder, path, Clock(), check, stored)
        finished, label = (path / RESULT).exists(), label or mixer.kind
        total = fit.steps + mixer.needs(fit, roles).probe_steps
        loop.accelerator.wait_for_everyone()
        kept = types if save_model and out is not None else None
        if finished:
            return read_back(run, path, kept)
        prompts = held_out({name: {**train, **evaluate}[name] for name in roles.evaluate}, model, fit.seq_len)
        with (
            live_line(progress) as line,
            loggers(log_with, folder, label if out is None else path.name, config, roles, fit) as trackers,
        ):
            run.pause = ticks = Ticks(check, line or progress or None, lambda: loop.steps_taken, total)
            run.watchers = [ticks, *([LiveRun(line, roles, fit)] if line else []), *trackers]
            try:
                return train_and_judge(run, path, label, config, domains, notes, kept, prompts)
            except Paused:
                raise KeyboardInterrupt(how_to_go_on(run, out)) from None


def how_to_go_on(run: Run, out: Out) -> str:
    """The message of an interrupt: at which step it stopped the run, and what goes on with it."""
    where = f"stopped at step {run.loop.step_count} of {run.loop.fit.steps}"
    if out is None:
        return f"{where}; nothing was kept: with out=FOLDER the same call goes on"
    return f"{where}; the same call goes on (out={str(getattr(out, 'path', out))!r})"


def read_back(run: Run, path: Path, types: Mapping[str, torch.dtype] | None = None) -> FinetuneResult:
    """The result of a run that is finished already, its weights put into the model; with `types`, `model/` is there."""
    is_sealed(path)
    result = FinetuneResult.load(path)
    run.put_weights(result.step)
    if run.folder and types is not None and not (path / MODEL).exists():
        leave_tuned(run, path, result, types)
    if run.folder and run.folder.status != "done":  # killed between the result and the status
        facts = {"result": result.status, "step": result.step, "headline": result.headline()}
        run.folder.set_status("done", **facts)
    return result


def type_problems(mixer: Any, fit: Any) -> Iterator[Problem]:
    """Problems of type, asked first: no mixer, no fit, or settings of ours of another type than declared."""
    if isinstance(mixer, type) or not hasattr(mixer, "decide"):
        yield Problem("mixer", repr(mixer), "a mixer", "Uniform(targets=['...'])")
    elif type(mixer).__module__.partition(".")[0] == __name__.partition(".")[0] and is_dataclass(mixer):
        listed = not isinstance(getattr(mixer, "targets", ()), str)
        elsewhere = ("constraints",) if listed else ("constraints", "targets")  # told by `problems`
        yield from typed_problems(mixer, "mixer", without=elsewhere)
    if isinstance(fit, Fit):
        yield from typed_problems(fit, "fit")
    else:
        yield Problem("fit", repr(fit), "the settings of a run", "Fit(steps=...)")


MOST_UPDATES = 10**5
"""Rounds of rolled-back probes that a run may have; each is planned before it starts."""


def problems(
    roles: Roles,
    train: Mapping[str, Any],
    evaluate: Mapping[str, Any],
    mixer: Mixer,
    fit: Fit,
    world: int = 1,
) -> Iterator[Problem]:
    """Every mistake that can be seen without reading data or loading a model."""
    if isinstance(mixer.targets, str):
        yield Problem("targets", f"the text {mixer.targets!r}", "a list of domains", f"[{mixer.targets!r}]")
        return
    for name in [name for name in evaluate if name in train]:
        hint = "leaving it out: every training domain is evaluated too"
        yield Problem(f"evaluate.{name}", "a domain of the same name in `train`", "a new name", hint)
    yield from role_problems(roles)
    yield from mixer.problems(roles)
    yield from fit.problems()
    gap = getattr(mixer, "schedule", None)
    if isinstance(gap, int) and gap > 0 and fit.steps // gap > MOST_UPDATES:
        expected = f"at least {-(-fit.steps // MOST_UPDATES)}, for at most {MOST_UPDATES:,} updates"
        yield Problem("mixer.schedule", str(gap), expected)
    if fit.batch_size < world:
        expected = f"at least one sequence for each of {world} processes"
        yield Problem("fit.batch_size", str(fit.batch_size), expected)


def refuse(problems: Iterable[Problem]) -> None:
    """Raise all problems at once, if there are any."""
    if mistakes := list(problems):
        raise ConfigProblems(mistakes)


def tokenise_all(
    domains: Mapping[str, Domain], roles: Roles, model: Model, fit: Fit
) -> dict[str, TokenDomain]:
    """Every domain tokenised, each with the splits that its use needs and enough rows in them.

    Raises:
        ConfigProblems: too few sequences for a batch or a reading.
        ConfigError, ModelError: rows longer than the model's positions, or tokens that it has no embedding for.
    """
    tokens = {
        name: tokenise(domain, model, seq_len=fit.seq_len, packing=fit.packing)
        for name, domain in domains.items()
    }
    refuse(length_problems(tokens, roles, fit))
    tokenizer = model.need_tokenizer()
    refuse_unreadable(
        tokens,
        model.module,
        tokenizer,
        ids=lacks_tokens(model.module, tokenizer),
        seq_len=("fit.seq_len", fit.seq_len),
    )
    return tokens


def refuse_unreadable(
    tokens: Mapping[str, TokenDomain],
    network: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    ids: bool,
    seq_len: tuple[str, int],
) -> None:
    """Refuse rows that a network has no positions or no embeddings for.

    Args:
        tokens: domains by name.
        network: that is to read them.
        tokenizer: that they are of; None where nobody knows.
        ids: whether there may be tokens without an embedding.
        seq_len: name and value of the setting of the length of rows.

    Raises:
        ModelError: naming the split.
    """
    parts = [(name, *part) for name, domain in tokens.items() for part in domain.splits.items()]
    for name, split, rows in parts:
        where, lengths = f"{name}, split {split}", np.diff(rows.offsets)
        length = int(lengths.max(initial=0))
        key, value = seq_len
        refuse_longer(
            network, length, f"{length} tokens in a row of {where} ({key}={value})", f"{key}={{limit}}"
        )
        if ids:
            padded = length > lengths.min(initial=length)
            largest = max(int(rows.ids.max(initial=0)), rows.pad_id if padded else 0)
            if largest >= (vocabulary(network) or largest + 1):
                raise unknown_token(network, tokenizer, largest, where)


def warn_of_data(
    train: Mapping[str, Domain],
    evaluate: Mapping[str, Domain],
    tokens: Mapping[str, TokenDomain],
    roles: Roles,
    fit: Fit,
) -> tuple[str, ...]:
    """Warn of domains under another name, few records to judge by, and repeated records; the sentences on the last."""
    notes = tuple(f"Data: {phrase}." for phrase in repeated_records({**train, **evaluate}, roles.train))
    for sentence in (
        *misnamed(train, evaluate),
        *few_evaluated(data_table(tokens, roles.train, fit), set_aside(evaluate)),
        *notes,
    ):
        warnings.warn(sentence, stacklevel=3)
    return notes


def misnamed(*domains: Mapping[str, Domain]) -> Iterator[str]:
    """The sentence on domains that are handed over under a name that is not their own, as when two are swapped."""
    names = [(key, domain.name) for each in domains for key, domain in each.items() if domain.name != key]
    if listed := ", ".join(f"{name!r} as {key!r}" for key, name in names):
        yield f"Domains that are handed over under another name than their own: {listed}."


def set_aside(evaluate: Mapping[str, Domain]) -> list[str]:
    """Domains to evaluate only of whose pool a part is set aside for training, which nothing reads."""
    return [name for name, domain in evaluate.items() if isinstance(domain.train, Part)]


def length_problems(tokens: Mapping[str, TokenDomain], roles: Roles, fit: Fit) -> Iterator[Problem]:
    """Splits with too few sequences or groups: one batch to train on, two to read a standard error off."""
    needs = {"validation": LEAST_SEQUENCES, "test": LEAST_SEQUENCES, "train": fit.batch_size}
    for name, split in product(tokens, needs):
        rows = tokens[name].splits.get(split)
        count = 0 if rows is None else len(rows)
        if count >= needs[split] or (split == "train" and name not in roles.train):
            continue
        got, hint = f"{count} sequences of {fit.seq_len} tokens", "more data, or a smaller seq_len"
        if rows is not None:
            got += f" ({rows.counts.dropped} records dropped)" * bool(rows.counts.dropped)
            got += f" ({rows.counts.skipped} left out)" * bool(rows.counts.skipped)
            if rows.counts.left_over and rows.counts.records >= needs[split]:
                hint = f"packing: padded, {hint}"
            hint = "a larger seq_len, or more data" if rows.counts.beyond else hint
        expected = f"at least {needs[split]}{', one batch' if split == 'train' else ''}"
        yield Problem(f"{name}, split {split}", got, expected, hint)
    yield from group_problems(data_table(tokens, roles.train, fit))


@contextmanager
def place(out: Out, accelerator: Accelerator) -> Iterator[Path]:
    """The run's folder: the caller's, or one that is gone afterwards; the same on every process."""
    if isinstance(out, RunFolder | Elsewhere):
        out = out.path
    if out is not None:
        if not isinstance(out, str | Path):
            raise ConfigError(f"out: {explain(repr(out), 'the path of a folder, or None')}")
        yield as_path(out, "out", "the folder of a run")
        return
    first = accelerator.is_main_process
    with tempfile.TemporaryDirectory(prefix="trimtab-") if first else nullcontext("") as folder:
        shared = [folder]
        if accelerator.num_processes > 1:
            broadcast_object_list(shared)
        yield Path(shared[0])
        accelerator.wait_for_everyone()


@contextmanager
def open_run(
    out: Out, path: Path, config: Mapping[str, Any], identity: Mapping[str, Any], accelerator: Accelerator
) -> Iterator[RunFolder | None]:
    """Hold the run's folder while it is written; None on every process but the first.

    An exception leaves the run's status "interrupted" (Ctrl-C) or "failed".

    Args:
        out: as `finetune` takes it; a folder that is held already stays with its holder.
        path: the folder.
        config: of the run; must equal that of a run already there.
        identity: fingerprints of the model and the data; likewise.
        accelerator: tells which process this is.

    Raises:
        CheckpointError: the folder holds another run, or another process holds the folder.
    """
    if not accelerator.is_main_process:
        yield None
        return
    if isinstance(out, RunFolder):
        check_identity(out, identity)
        yield out
        return
    with RunFolder.create_or_open(
        path, config, may_change=free_keys(path) if DATA in config else ()
    ) as folder:
        check_identity(folder, identity)
        folder.go_on()
        try:
            yield folder
        except KeyboardInterrupt:
            folder.set_status("interrupted")
            raise
        except BaseException as error:
            folder.set_status("failed", error=f"{type(error).__name__}: {error}")
            raise


def free_keys(path: Path) -> list[str]:
    """Keys of our config in which the same run may differ: where data lies, and what an earlier version left out."""
    noted: Mapping[str, Any] = {}
    with suppress(CheckpointError):  # no run yet; or a damaged config, which is refused when it is opened
        noted = read_config_of(path)
    return [DATA, *(key for key in LATER if key not in noted)]


def check_identity(folder: RunFolder, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with another model or other data than the run began with."""
    name = "artifacts/identity.json"
    if not (folder.path / name).exists():
        folder.write_json(name, identity)
        return
    recorded, began = read_object(folder.path / name), f"than the run in {folder.path} began with"
    if not isinstance(recorded.get("domains"), dict) or "model" not in recorded:
        got = f"damaged text in {folder.path / name}"
        raise CheckpointError(explain(got, "the fingerprints that the run began with", "another folder"))
    if recorded["model"] != identity["model"]:
        raise CheckpointError(explain(f"another model {began}", "the same base weights", "loading them anew"))
    for domain, fingerprint in identity["domains"].items():
        if recorded["domains"].get(domain) != fingerprint:
            got = f"other data for {domain!r} {began}"
            raise CheckpointError(explain(got, "the same records", "another folder"))


def train_and_judge(
    run: Run,
    path: Path,
    label: str,
    config: Mapping[str, Any],
    domains: Mapping[str, TokenDomain],
    notes: Sequence[str] = (),
    types: Mapping[str, torch.dtype] | None = None,
    prompts: Sequence[HeldOut] = (),
) -> FinetuneResult:
    """Train to the end; save the model before the result, and that before the status says that it is done.

    Args:
        run: begun, or to be gone on with.
        path: its folder.
        label: its short name.
        config: what is needed to do it again.
        domains: tokenised, by name.
        notes: further sentences on the data.
        types: that the weights of `model/` are saved in; None leaves it out.
        prompts: held-out ones, that the base and the tuned model complete.
    """
    progress = run.train()
    final = run.finish(progress)
    completions, untold = run.completions(prompts, progress.best_step)
    roles, fit = run.roles, run.loop.fit
    data = data_table(domains, roles.train, fit)
    result = make_result(
        read_metrics(path),
        progress.spent(seconds=run.clock.seconds),
        roles,
        fit,
        label=label,
        config=config,
        base=read_losses(path / "artifacts" / "test-base"),
        final=final,
        data=data,
        data_notes=(*data_notes(domains, data, fit), *notes),
        examples=examples(domains, roles.train, run.loop.model.tokenizer),
        completions=completions,
        untold=untold,
    )
    if run.folder:
        if types is not None:
            leave_tuned(run, path, result, types)
        result.save(path / RESULT)
        seal(path)
        facts = {"result": result.status, "step": result.step, "headline": result.headline()}
        run.folder.set_status("done", **facts)
    run.loop.accelerator.wait_for_everyone()
    return result


def leave_tuned(run: Run, path: Path, result: FinetuneResult, types: Mapping[str, torch.dtype]) -> None:
    """Write `model/`, with weights in the types of the checkpoint that was loaded.

    Base weights leave none, nor does a network that has no format on disk.
    """
    model = run.loop.model
    if result.step and callable(getattr(model.module, "save_pretrained", None)):
        with in_types(model, types):
            leave_model(path, model, result.card(adapter=has_adapter(model.module)))
