"""Fine-tune a model on a mixture of domains while stated evaluation domains are kept.

`finetune` is the entry: what is refused before a run begins, where the run is kept, and whether what is there may be
gone on with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, is_dataclass
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.metrics import make_result, read_losses
from trimtab.adapt.mixer import Mixer
from trimtab.adapt.record import data_notes, data_table, examples, read_metrics
from trimtab.adapt.run import Run
from trimtab.adapt.session import Clock, Roles, make_roles, role_problems
from trimtab.data.domains import EVALUATE_ONLY, Domain, as_domains
from trimtab.data.tokens import TokenDomain, tokenise
from trimtab.errors import CheckpointError, ConfigError, ConfigProblems, Problem, explain
from trimtab.job import Elsewhere, Progress
from trimtab.models.batches import evaluating
from trimtab.models.inspection import check_model, require_language_model
from trimtab.models.load import Model, as_model
from trimtab.models.tokenizer import lacks_tokens, refuse_longer, unknown_token, vocabulary
from trimtab.runs.config import typed_problems
from trimtab.runs.folder import RunFolder
from trimtab.runs.paths import RESULT
from trimtab.runs.serialise import is_sealed, plain, read_object, seal
from trimtab.seeds import isolated
from trimtab.train.loop import Loop, accelerator, interruptible
from trimtab.train.settings import Fit
from trimtab.train.state import float32_weights

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
    progress: Progress | None = None,
) -> FinetuneResult:
    """Improve the mixer's targets, keep its constraints; leave the best feasible checkpoint in the model.

    Every training domain is evaluated too; an evaluation domain that is neither target nor constraint is watched.
    A constraint is kept when its loss, paired on the same sequences, has risen by no more than its tolerance over
    the base model's. The checkpoint is chosen on validation sequences and reported on test sequences.

    Weights of a low-precision checkpoint (bfloat16, float16) are held in float32 while they are trained, with float32
    moments, and come back in their own type. The checkpoint is chosen, and its test losses are read, with the weights
    as rounded; forward passes are in float32, unless `fit.precision` says "bf16".

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
            bit on the same machine with the same number of threads; a finished run is read back. None keeps
            nothing. A job hands over the folder that it holds.
        label: name of the run in tables; the mixer's kind if None.
        config: stored as the run's config; described by the arguments if None.
        progress: called between steps.

    Raises:
        ConfigProblems: unknown, doubled or contradictory domains, or settings that cannot work: all at once,
            before any work; then domains without enough sequences for a batch or a reading, all at once.
        ModelError: the model is no causal language model, or has no tokenizer: before any work.
        DataError: a malformed or empty domain, one shorter than a sequence, or with a record in two splits.
        CheckpointError: `out` holds another run, or a damaged one.
        KeyboardInterrupt: at Ctrl-C, after a resumable checkpoint was written.
    """
    model = as_model(model)
    require_language_model(model)
    check_model(model, "training")
    fit = Fit() if fit is None else fit
    refuse(type_problems(mixer, fit))
    train = as_domains("train", train)
    evaluate = as_domains("evaluate", evaluate or {}, fractions=EVALUATE_ONLY)
    roles = make_roles(list(train), list(evaluate), mixer.targets, mixer.constraints)
    processes = accelerator()
    refuse(problems(roles, train, evaluate, mixer, fit, processes.num_processes))
    domains = tokenise_all({**train, **evaluate}, roles, model, fit)
    config = plain(
        config
        or {
            "model": model.name,
            "train": list(train),
            "evaluate": list(evaluate),
            "mixer": asdict(mixer),  # type: ignore[call-overload]
            "fit": asdict(fit),
            "seed": seed,
        }
    )
    fingerprints = {name: domain.fingerprint for name, domain in domains.items()}
    identity = {"model": model.fingerprint(), "domains": fingerprints}
    with (
        place(out, processes) as path,
        interruptible() as check,
        isolated(seed),
        evaluating(model.module, gradients=True),
        float32_weights(model) as stored,
        open_run(out, path, config, identity, processes) as folder,
    ):
        done, total = count(1), fit.steps + mixer.needs(fit, roles).probe_steps

        def tick() -> None:
            check()
            steps = next(done)
            if progress:
                progress(min(steps, total), total)

        loop = Loop(model, {name: domains[name] for name in roles.train}, fit, seed=seed)
        run = Run(loop, roles, domains, mixer, folder, path, Clock(), tick, stored)
        finished = (path / RESULT).exists()
        loop.accelerator.wait_for_everyone()
        if finished:
            return read_back(run, path)
        return train_and_judge(run, path, label or mixer.kind, config, domains)


def read_back(run: Run, path: Path) -> FinetuneResult:
    """The result of a run that is finished already, its weights put into the model."""
    is_sealed(path)
    result = FinetuneResult.load(path)
    run.put_weights(result.step)
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


def refuse(problems: Iterator[Problem]) -> None:
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
    network, tokenizer = model.module, model.need_tokenizer()
    parts = [(name, *part) for name, domain in tokens.items() for part in domain.splits.items()]
    for name, split, rows in parts:
        where, lengths = f"{name}, split {split}", np.diff(rows.offsets)
        length = int(lengths.max(initial=0))
        got = f"{length} tokens in a row of {where} (fit.seq_len={fit.seq_len})"
        refuse_longer(network, length, got, "fit.seq_len={limit}")
        if lacks_tokens(network, tokenizer):
            padded = length > lengths.min(initial=length)
            largest = max(int(rows.ids.max(initial=0)), rows.pad_id if padded else 0)
            if largest >= (vocabulary(network) or largest + 1):
                raise unknown_token(network, tokenizer, largest, where)
    return tokens


def length_problems(tokens: Mapping[str, TokenDomain], roles: Roles, fit: Fit) -> Iterator[Problem]:
    """Splits with too few sequences: one batch to train on, two to read a standard error off."""
    needs = {"validation": 2, "test": 2, "train": fit.batch_size}
    for name, split in product(tokens, needs):
        rows = tokens[name].splits.get(split)
        count = 0 if rows is None else len(rows)
        if count >= needs[split] or (split == "train" and name not in roles.train):
            continue
        got, hint = f"{count} sequences of {fit.seq_len} tokens", "more data, or a smaller seq_len"
        if rows is not None:
            got += f" ({rows.counts.dropped} records dropped)" * bool(rows.counts.dropped)
            got += f" ({rows.counts.skipped} left out)" * bool(rows.counts.skipped)
            hint = "a larger seq_len, or more data" if rows.counts.beyond else hint
        expected = f"at least {needs[split]}{', one batch' if split == 'train' else ''}"
        yield Problem(f"{name}, split {split}", got, expected, hint)


@contextmanager
def place(out: Out, accelerator: Accelerator) -> Iterator[Path]:
    """The run's folder: the caller's, or one that is gone afterwards; the same on every process."""
    if isinstance(out, RunFolder | Elsewhere):
        out = out.path
    if out is not None:
        if not isinstance(out, str | Path):
            raise ConfigError(f"out: {explain(repr(out), 'the path of a folder, or None')}")
        yield Path(out)
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
    with RunFolder.create_or_open(path, config) as folder:
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
    run: Run, path: Path, label: str, config: Mapping[str, Any], domains: Mapping[str, TokenDomain]
) -> FinetuneResult:
    """Train to the end, and save the result before the status says that it is done."""
    progress = run.train()
    final = run.finish(progress)
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
        data_notes=data_notes(domains, data, fit),
        examples=examples(domains, roles.train, run.loop.model.tokenizer),
    )
    if run.folder:
        result.save(path / RESULT)
        seal(path)
        facts = {"result": result.status, "step": result.step, "headline": result.headline()}
        run.folder.set_status("done", **facts)
    run.loop.accelerator.wait_for_everyone()
    return result
