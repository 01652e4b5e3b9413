"""A mixture for `transformers.Trainer` and TRL: a data set whose rows a mixer chooses, and a callback that asks it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainingArguments

from trimtab.adapt.call import call
from trimtab.adapt.dynamics.result import FinetuneResult
from trimtab.adapt.finetune import length_problems, problems, refuse, type_problems
from trimtab.adapt.metrics import Progress
from trimtab.adapt.mixer import Mixer
from trimtab.adapt.session import make_roles
from trimtab.adapt.trainer.arguments import argument_problems, fit_of, in_words_of_trainer
from trimtab.adapt.trainer.callback import MixtureCallback
from trimtab.adapt.trainer.run import HostedRun
from trimtab.data.domains import EVALUATE_ONLY, FRACTIONS, Domain, Shares, as_domains
from trimtab.data.mixture_rows import Key, MixtureRows, MixtureSampler
from trimtab.data.token_rows import TokenRows
from trimtab.data.tokens import TokenDomain, TokenSplit, tokenise
from trimtab.errors import ConfigError, Problem, explain
from trimtab.runs.serialise import plain
from trimtab.train.losses import Change
from trimtab.train.settings import Fit, Packing


class TrainerMixture:
    """A mixture of domains for `transformers.Trainer`, `trl.SFTTrainer` and their like, chosen as training goes on.

    Targets improve and constraints are kept as in `trimtab.finetune`, with the same meaning and on the same sequences:
    validation losses are read on the same grid of steps, the mixer is asked when it wants to be, and the best
    checkpoint is the one with the largest gain of those that kept every constraint.

    A loader fetches batches before they are trained on, with workers many. Wherever the mixture changes, the callback
    ends what the trainer takes for an epoch, and its loader begins anew at the row where training stands. So the first
    batch after a decision follows it (the lag is 0 steps), and no row is lost or repeated.

    The trainer needs `max_steps`, steps (not epochs) for logs and checkpoints, and a collator that keeps labels, such
    as `default_data_collator`; `SFTConfig` also `dataset_kwargs={"skip_prepare_dataset": True}`, since the rows are
    tokenised, cut and packed here. An epoch in its logs is a pass over as many rows as there are.

    Logs have `mixture/DOMAIN`, `eval_loss/DOMAIN`, `eval_change/DOMAIN`, `eval_slack/DOMAIN` (nats per token), and at
    the end the same of the test split. Checkpoints are the trainer's own, with the state of the mixture inside.

    Args:
        train: domains to train on, by name, as `trimtab.finetune` takes them, or data sets with `input_ids`, which are
            taken as they are (`trimtab.data.token_rows.TokenRows`).
        evaluate: domains to evaluate only.
        mixer: names the targets and constraints, and chooses the mixture.
        tokenizer: of the model; None takes the trainer's `processing_class`, where there is text.
        seq_len: tokens per row, at most; rows of token ids that are longer are refused.
        packing: "packed" fills every row with text; "padded" keeps one record per row.
        eval_sequences: validation sequences per domain, the same ones at every reading.
        probe_sequences: how many of them are read between points of the grid; None for at most 128.
        test_sequences: test sequences per domain, read before and after; None for all.
        eval_points: points of the geometric evaluation grid.
        crossings: readings between points of the grid, at most, where a constraint is about to cross its limit.
        margin: standard errors by which a checkpoint must keep each constraint to be chosen.
        seed: of the order of rows; None takes the trainer's `data_seed`, or else its `seed`.
        load_best: save a checkpoint wherever the targets gained more than ever while all constraints were kept, and
            load the last such at the end, or else the base weights, which are kept in the output folder meanwhile.
            False leaves the weights of the last step.

    Attributes:
        dataset: for `train_dataset`.
        sampler: the order of its rows, for a loader of one's own.
        callback: for `callbacks`.
        changes: after training, the paired change of each domain's test loss, nats per token; empty before.
        result: after training, the result with its tables and page, as of `trimtab.finetune`; None before, and where
            `load_best` is off.

    Raises:
        ConfigProblems, DataError: as `trimtab.finetune`, before any work; of the trainer's arguments, when it is made.
    """

    def __init__(
        self,
        train: Mapping[str, Domain | Any],
        evaluate: Mapping[str, Domain | Any] | None = None,
        *,
        mixer: Mixer,
        tokenizer: PreTrainedTokenizerBase | None = None,
        seq_len: int = 512,
        packing: Packing = "packed",
        eval_sequences: int = 256,
        probe_sequences: int | None = None,
        test_sequences: int | None = 256,
        eval_points: int = 16,
        crossings: int = 0,
        margin: float = 0.0,
        seed: int | None = None,
        load_best: bool = True,
    ) -> None:
        self.fit = Fit(
            seq_len=seq_len,
            packing=packing,
            eval_sequences=eval_sequences,
            probe_sequences=min(128, eval_sequences) if probe_sequences is None else probe_sequences,
            test_sequences=test_sequences,
            eval_points=eval_points,
            crossings=crossings,
            margin=margin,
        )
        self.mixer, self.seed, self.load_best = mixer, seed, load_best
        refuse(in_words_of_trainer(type_problems(mixer, self.fit)))
        self._domains = (
            _domains("train", train, FRACTIONS),
            _domains("evaluate", evaluate or {}, EVALUATE_ONLY),
        )
        names = (list(self._domains[0]), list(self._domains[1]))
        self.roles = make_roles(*names, mixer.targets, mixer.constraints)
        refuse(in_words_of_trainer(problems(self.roles, *self._domains, mixer, self.fit)))
        self._given = {**train, **(evaluate or {})}
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.tokens: dict[str, TokenDomain] = {}
        self._rows: dict[str, TokenSplit] = {}
        self.run: HostedRun | None = None
        self.changes: dict[str, Change] = {}
        self.result: FinetuneResult | None = None
        if tokenizer is not None or not self._texts:
            self._tokenise(tokenizer)
        self.dataset, self.sampler = MixtureRows(self._rows), MixtureSampler(self._ahead)
        self.callback = MixtureCallback.of(self)

    @property
    def key(self) -> str:
        """What the mixture is known by in checkpoints: a digest of roles, mixer and readings."""
        facts = plain({"roles": vars(self.roles), "mixer": self.mixer, "fit": self.fit, "seed": self.seed})
        return sha256(json.dumps(facts, sort_keys=True, default=repr).encode()).hexdigest()[:16]

    @property
    def progress(self) -> Progress:
        """The mixture now, the mixer's state and the best step.

        Raises:
            ConfigError: no training has begun.
        """
        return self._begun().progress

    def prepare(self, args: TrainingArguments, processing_class: Any) -> None:
        """Look at the arguments of a trainer, set those that a mixture needs, and make the rows if there are none yet.

        Raises:
            ConfigProblems: arguments that a mixture cannot work with, or too few rows.
            ConfigError: no tokenizer.
        """
        refuse(argument_problems(args, load_best=self.load_best))
        fit = fit_of(args, self.fit)
        refuse(in_words_of_trainer(fit.problems()))
        if not self.tokens:
            if not isinstance(processing_class, PreTrainedTokenizerBase):
                got = (
                    f"no tokenizer, and a trainer whose processing_class is {type(processing_class).__name__}"
                )
                raise ConfigError(explain(got, "one of both", "TrainerMixture(..., tokenizer=tokenizer)"))
            self._tokenise(processing_class)
        elif self.tokenizer is not None and isinstance(processing_class, PreTrainedTokenizerBase):
            refuse(_other_ids(self.tokenizer, processing_class))
        refuse(length_problems(self.tokens, self.roles, fit))
        args.ignore_data_skip = True  # the order of rows goes on by itself where a checkpoint left it

    def config(self, run: HostedRun) -> dict[str, Any]:
        """What is needed to do a run again, as `trimtab.finetune` notes it."""
        loop, (train, evaluate) = run.loop, self._domains
        told: dict[str, Any] = {"given": self._given, "domains": self.tokens}
        return call(loop.model, train, evaluate, self.mixer, loop.fit, loop.stream.seed, **told)

    @property
    def _texts(self) -> bool:
        """Whether some domain is still to be tokenised."""
        return any(isinstance(domain, Domain) for part in self._domains for domain in part.values())

    def _tokenise(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        length, packing = self.fit.seq_len, self.fit.packing
        for part, fractions in zip(self._domains, (FRACTIONS, EVALUATE_ONLY), strict=True):
            for name, domain in part.items():
                if isinstance(domain, Domain):
                    self.tokens[name] = tokenise(domain, tokenizer, seq_len=length, packing=packing)
                else:
                    self.tokens[name] = domain.tokens(length, fractions)
        self.tokenizer = tokenizer
        refuse(length_problems(self.tokens, self.roles, replace(self.fit, batch_size=1)))
        self._rows |= {name: self.tokens[name].splits["train"] for name in self.roles.train}

    def _ahead(self) -> Iterator[Sequence[Key]]:
        return self._begun().ahead()

    def _begun(self) -> HostedRun:
        if self.run is None:
            hint = "Trainer(..., callbacks=[mixture.callback])"
            raise ConfigError(
                explain("a mixture outside training", "a trainer that has begun to train", hint)
            )
        return self.run


def _other_ids(mine: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> Iterator[Problem]:
    """A token for which two tokenizers have different ids; that one has more tokens is no problem."""
    known = other.get_vocab()
    token = next(
        (token for token, number in mine.get_vocab().items() if known.get(token, number) != number), None
    )
    if token is not None:
        got = f"a tokenizer with another id for {token!r} than that of the mixture"
        yield Problem(
            "processing_class", got, "one tokenizer for both", "a mixture with the tokenizer of this model"
        )


def _domains(where: str, given: Any, fractions: Shares) -> dict[str, Any]:
    """Domains by name, in the order given: rows of token ids where data has them, else as `trimtab.finetune`."""
    rows = (
        {name: TokenRows.of(name, data) for name, data in given.items()} if isinstance(given, Mapping) else {}
    )
    texts = {name: data for name, data in given.items() if rows[name] is None} if rows else given
    made = as_domains(where, texts, fractions=fractions)
    return {name: rows.get(name) or made[name] for name in given}
