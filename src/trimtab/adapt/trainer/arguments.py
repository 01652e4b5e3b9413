"""What the arguments of `transformers.Trainer` say in our words, and those that a mixture cannot work with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import datasets
from transformers import DataCollatorForLanguageModeling, TrainingArguments

from trimtab.adapt.mixer import Needs
from trimtab.data.mixture_rows import MixtureRows
from trimtab.errors import Problem
from trimtab.train.hosted import HostedLoop
from trimtab.train.settings import Fit

WORDS = {
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "lr": "learning_rate",
    "betas": "adam_beta1, adam_beta2",
    "clip_norm": "max_grad_norm",
}
"""Settings of `Fit` that a trainer calls otherwise; a mixture calls the rest as they are."""


def in_words_of_trainer(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Problems of a `Fit` under the names that a trainer or its mixture has for the settings."""
    for problem in problems:
        name = problem.where.removeprefix("fit.")
        yield replace(problem, where=WORDS.get(name, name))


def argument_problems(args: TrainingArguments, *, load_best: bool) -> Iterator[Problem]:
    """Arguments that assume epochs, another order of rows, or another rule for the best checkpoint."""
    if args.max_steps <= 0:
        yield Problem("max_steps", str(args.max_steps), "the steps of the run: a mixture has no epoch")
    for name in ("logging_strategy", "eval_strategy", "save_strategy"):
        if str(getattr(getattr(args, name), "value", "")) == "epoch":
            yield Problem(name, "'epoch'", "'steps' or 'no': a mixture has no epoch")
    for name in ("auto_find_batch_size", *(("load_best_model_at_end",) if load_best else ())):
        if getattr(args, name):
            hint = "load_best=False in the mixture" if name.startswith("load") else ""
            yield Problem(name, "True", "False", hint)
    if load_best and args.metric_for_best_model is not None:
        got, hint = repr(args.metric_for_best_model), "load_best=False in the mixture"
        yield Problem("metric_for_best_model", got, "none: targets and constraints say which is best", hint)
    for name in ("split_batches", "dispatch_batches"):
        if getattr(args.accelerator_config, name, None):
            yield Problem(f"accelerator_config.{name}", "True", "False or None: each process picks its rows")
    parallel = getattr(args, "parallelism_config", None)
    for name in ("tp_size", "cp_size", "sp_size"):
        if (size := getattr(parallel, name, 1) or 1) > 1:
            yield Problem(f"parallelism_config.{name}", str(size), "1: every process has rows of its own")


def loader_problems(loader: Any, rows: MixtureRows) -> Iterator[Problem]:
    """A loader whose sampler cannot be set, or that is of other rows; a collator that writes the labels anew."""
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, datasets.Dataset | list) and getattr(dataset, "rows", None) is not rows.rows:
        got = "rows of another mixture" if isinstance(dataset, MixtureRows) else f"a {type(dataset).__name__}"
        yield Problem("train_dataset", got, "the rows of the mixture", "train_dataset=mixture.dataset")
    if not callable(getattr(loader, "set_sampler", None)):
        yield Problem(
            "the training loader", type(loader).__name__, "one of Accelerate, whose sampler can be set"
        )
    if isinstance(getattr(loader, "collate_fn", None), DataCollatorForLanguageModeling):
        got = "DataCollatorForLanguageModeling, which writes the labels anew"
        yield Problem("data_collator", got, "one that keeps the labels of the rows", "default_data_collator")


def fit_of(args: TrainingArguments, asked: Fit) -> Fit:
    """The settings of a trainer, with what the mixture was asked for: readings, their margin, and the rows' length."""
    return replace(
        asked,
        steps=args.max_steps,
        batch_size=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        micro_batch_size=args.train_batch_size,
        lr=args.learning_rate,
        weight_decay=args.weight_decay,
        betas=(args.adam_beta1, args.adam_beta2),
        clip_norm=args.max_grad_norm or None,
        eval_batch_size=args.per_device_eval_batch_size,
    )


def trial_problems(needs: Needs, loop: HostedLoop, args: TrainingArguments) -> Iterator[Problem]:
    """Trials to be undone, or gradients, where the weights and moments of this trainer cannot be taken and put back."""
    optimizer, trials = type(loop.optimizer), needs.probe_steps > 0
    reasons = {
        "parameters that are sharded": loop.sharded and (trials or needs.gradient_sequences > 0),
        f"the optimizer {optimizer.__name__}": trials and not optimizer.__module__.startswith("torch.optim"),
        "float16 and a loss scaler": trials and args.fp16,
    }
    for reason in [reason for reason, holds in reasons.items() if holds]:
        got = f"{'rolled-back probes' if trials else 'gradients'} with {reason}"
        yield Problem("mixer", got, "a mixer that rolls nothing back", "DynaMiCS(probes='kept') or Feedback")
