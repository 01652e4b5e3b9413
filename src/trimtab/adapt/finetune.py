"""Fine-tune a model on a mixture of domains while stated evaluation domains are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trimtab.adapt.checks import problems, refuse, tokenise_all, type_problems
from trimtab.adapt.data_table import data_notes, data_table, examples
from trimtab.adapt.mixer import Mixer
from trimtab.adapt.outcome import make_result
from trimtab.adapt.place import open_run, place
from trimtab.adapt.result import FinetuneResult, read_metrics
from trimtab.adapt.roles import Roles, make_roles
from trimtab.adapt.rows import read_losses
from trimtab.adapt.run import Run
from trimtab.adapt.session import Clock
from trimtab.data.domains import Domain
from trimtab.data.origin import EVALUATE_ONLY, as_domains
from trimtab.data.tokens import TokenDomain
from trimtab.models.inspection import check_model
from trimtab.models.kinds import require_language_model
from trimtab.models.load import Model, as_model
from trimtab.runs.places import RESULT
from trimtab.runs.plain import plain
from trimtab.runs.result_file import is_sealed, seal
from trimtab.seeds import isolated
from trimtab.train.fit import Fit
from trimtab.train.interrupt import interruptible
from trimtab.train.loop import Loop, modes_kept
from trimtab.train.precision import float32_weights
from trimtab.train.processes import accelerator

Progressor = Callable[[int, int], None]
"""Called between steps, real and trial, with the steps done and the steps expected in all."""


def finetune(
    model: Model,
    *,
    train: Mapping[str, Domain | Any],
    evaluate: Mapping[str, Domain | Any] | None = None,
    mixer: Mixer,
    fit: Fit | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    label: str | None = None,
    config: Mapping[str, Any] | None = None,
    progress: Progressor | None = None,
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
            nothing.
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
    config = plain(config or describe(model, roles, mixer, fit, seed))
    identity = {
        "model": model.fingerprint(),
        "domains": {name: domain.fingerprint for name, domain in domains.items()},
    }
    with (
        place(out, processes) as path,
        interruptible() as check,
        isolated(seed),
        modes_kept(model.module),
        float32_weights(model) as stored,
        open_run(path, config, identity, processes) as folder,
    ):
        loop = Loop(model, {name: domains[name] for name in roles.train}, fit, seed=seed)
        tick = _ticker(check, progress, roles, mixer, fit)
        run = Run(loop, roles, domains, mixer, folder, path, Clock(), tick, stored)
        return _read_back(run, path) or _carry_out(run, path, label or mixer.kind, config, domains)


def describe(model: Model, roles: Roles, mixer: Mixer, fit: Fit, seed: int) -> dict[str, Any]:
    """The arguments of a run."""
    return {
        "model": model.name,
        "train": list(roles.train),
        "evaluate": [name for name in roles.evaluate if name not in roles.train],
        "mixer": asdict(mixer),  # type: ignore[call-overload]
        "fit": asdict(fit),
        "seed": seed,
    }


def _read_back(run: Run, path: Path) -> FinetuneResult | None:
    """The result of a run that is finished already, its weights put into the model."""
    finished = (path / RESULT).exists()
    run.loop.accelerator.wait_for_everyone()
    if not finished:
        return None
    is_sealed(path)
    result = FinetuneResult.load(path)
    run.put_weights(result.step)
    if run.folder and run.folder.status != "done":  # killed between the result and the status
        run.folder.set_status("done", result=result.status, step=result.step)
    return result


def _carry_out(
    run: Run, path: Path, label: str, config: Mapping[str, Any], domains: Mapping[str, TokenDomain]
) -> FinetuneResult:
    progress = run.train()
    final = run.finish(progress)
    progress = replace(progress, ledger=progress.ledger.add(seconds=run.clock.seconds))
    base = read_losses(path / "artifacts" / "test-base")
    rows = read_metrics(path)
    fit = run.loop.fit
    data = data_table(domains, run.roles.train, fit)
    result = make_result(
        rows,
        progress,
        run.roles,
        fit,
        label=label,
        config=config,
        base=base,
        final=final,
        data=data,
        data_notes=data_notes(domains, data, fit),
        examples=examples(domains, run.roles.train, run.loop.model.tokenizer),
    )
    if run.folder:
        result.save(path / RESULT)
        seal(path)
        run.folder.set_status("done", result=result.status, step=result.step)
    run.loop.accelerator.wait_for_everyone()
    return result


def _ticker(
    check: Callable[[], None], progress: Progressor | None, roles: Roles, mixer: Mixer, fit: Fit
) -> Callable[[], None]:
    total, done = fit.steps + mixer.needs(fit, roles).probe_steps, 0

    def tick() -> None:
        nonlocal done
        check()
        done += 1
        if progress:
            progress(min(done, total), total)

    return tick
