"""Survey of the data of a fine-tuning run: records, tokens and what is cut or left out, before any training."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from trimtab.adapt.finetune import length_problems
from trimtab.adapt.record import data_notes, data_table, example_line, examples
from trimtab.adapt.session import Roles
from trimtab.adapt.units import few_evaluated, units_of
from trimtab.data.domains import EVALUATE_ONLY, FRACTIONS, Domain, Origin, path_of, read_domain
from trimtab.data.splits import characters_of
from trimtab.data.survey import cut_after, first_records, repeated_records
from trimtab.data.tokens import TokenDomain, tokenise
from trimtab.errors import Problem
from trimtab.job import Survey, noting, unread_source
from trimtab.models.tokenizer import local_limit, local_tokenizer
from trimtab.train.settings import Fit

UNKNOWN = "Tokens are unknown: the model is not on this machine."


@dataclass
class DataSurvey:
    """Survey of domains in the making.

    Attributes:
        roles: the domains by role.
        fit: settings of the run.
        tokenizer: of its model; None where that is not on this machine.
        limit: tokens that the model has positions for; None where it is not known.
        keys: domain -> where the config names it, such as "train.web".
        domains: those that could be read, by name.
        tokens: those that could be tokenised.
        problems: mistakes found so far.
        notes: what a user has to know.
    """

    roles: Roles
    fit: Fit
    tokenizer: PreTrainedTokenizerBase | None
    limit: int | None = None
    keys: dict[str, str] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)
    tokens: dict[str, TokenDomain] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, roles: Roles, fit: Fit, model: str) -> DataSurvey:
        """A survey with the tokenizer of a model where that is on this machine; a damaged one is a problem."""
        survey = cls(roles, fit, None)
        with noting(survey.problems, "model"):
            survey.tokenizer, survey.limit = local_tokenizer(model), local_limit(model)
        return survey

    def read(self, where: str, name: str, origin: str | Origin, fractions: Sequence[float]) -> None:
        """Read the first records of a domain, and tokenise them; a mistake in it is noted under its key."""
        self.keys[name] = where
        if note := unread_source(where, path_of(origin)):
            self.notes.append(note)
            return
        with noting(self.problems, where):
            domain = first_records(read_domain(name, origin, fractions=fractions))
            domain.contents  # noqa: B018 (reads and checks every record)
            if self.tokenizer is not None:
                self.tokens[name] = self.tokenised(domain)
            self.domains[name] = domain
            if records := cut_after(domain):
                self.notes.append(f"{where}: counted on its first {records:,} records.")

    def tokenised(self, domain: Domain) -> TokenDomain:
        """Token rows of a domain, in the cache of a run where they are those of the whole domain."""
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
            warnings.simplefilter("ignore")  # the notes say the same
            cache = Path(folder) if cut_after(domain) else None
            settings: dict[str, Any] = {"seq_len": self.fit.seq_len, "packing": self.fit.packing}
            return tokenise(domain, self.tokenizer, **settings, cache=cache)

    def table(self) -> pd.DataFrame:
        """One row per domain and split: `data_table` in shares, or records and characters without a tokenizer."""
        if self.tokenizer is None:
            return records_table(self.domains, self.roles.train)
        table = data_table(self.tokens, self.roles.train, self.fit)
        units = units_of(table)
        judged_on = [units.get(key) for key in zip(table["domain"], table["split"], strict=True)]
        columns: dict[str, Any] = {
            "domain": table["domain"],
            "split": table["split"],
            "records": table["records"],
            "tokens": table["tokens"],
            "sequences": table["sequences"],
            "cut_share": table["truncated"] / table["sequences"],
            "no_loss_share": table["dropped"] / table["records"],
            "skipped": table["blank"] + table["skipped"],
            "judged_on": [np.nan if one is None else float(one.count) for one in judged_on],
        }
        return pd.DataFrame(columns)

    def finished(self) -> Survey:
        """The survey, its problems those of all domains at once."""
        for problem in length_problems(self.tokens, self.roles, self.fit):
            name, _, split = problem.where.partition(", split ")
            where = f"{self.keys[name]}, split {split}"
            self.problems.append(Problem(where, problem.got, problem.expected, problem.hint))
        self.problems += self.position_problems()
        return Survey(
            tables={"data": self.table(), **groups_table(self.domains, self.roles.train)},
            notes=(*self.notes, *self.data_notes()),
            examples=self.examples(),
            problems=tuple(self.problems),
        )

    def position_problems(self) -> Iterator[Problem]:
        """Rows of more tokens than the model has positions for; the longest is named."""
        rows = (
            (name, split, part) for name, one in self.tokens.items() for split, part in one.splits.items()
        )
        lengths = [(int(np.diff(part.offsets).max(initial=0)), name, split) for name, split, part in rows]
        length, name, split = max(lengths, default=(0, "", ""))
        if self.limit is not None and length > self.limit:
            got = f"{length} tokens in a row of {self.keys[name]}, split {split}"
            yield Problem("fit.seq_len", got, f"at most {self.limit}, the model's limit", str(self.limit))

    def data_notes(self) -> Iterator[str]:
        """Notes on data that is cut, left out, repeated, or too little to judge by."""
        if self.tokenizer is None:
            yield UNKNOWN
        table = data_table(self.tokens, self.roles.train, self.fit)
        yield from data_notes(self.tokens, table, self.fit)
        yield from few_evaluated(table)
        if self.domains:
            yield from (f"Data: {phrase}." for phrase in repeated_records(self.domains, self.roles.train))

    def examples(self) -> dict[str, str]:
        """The first sequence of each training domain, what is learned in double brackets."""
        names = [
            name for name in self.roles.train if name in self.tokens and "train" in self.tokens[name].splits
        ]
        shown = examples(self.tokens, names, self.tokenizer)
        return {
            f"{name}, what is learned in [[ ]]": example_line(stretches) for name, stretches in shown.items()
        }

    def sequences(self) -> dict[str, int]:
        """Validation sequences by domain; of a domain that was cut short, no less than an evaluation reads."""
        counts = {name: len(tokens.splits["validation"]) for name, tokens in self.tokens.items()}
        most = self.fit.eval_sequences
        return {
            name: max(count, most if cut_after(self.domains[name]) else 0) for name, count in counts.items()
        }


def read_data(
    train: Mapping[str, str | Origin],
    evaluate: Mapping[str, str | Origin],
    roles: Roles,
    fit: Fit,
    model: str,
) -> DataSurvey:
    """Survey of all domains of a config, each read as its run will read it.

    Args:
        train: domain -> its source.
        evaluate: the same for domains to evaluate only.
        roles: the domains by role.
        fit: settings of the run.
        model: its folder, or name on the hub.
    """
    survey = DataSurvey.of(roles, fit, model)
    for key, sources, fractions in (("train", train, FRACTIONS), ("evaluate", evaluate, EVALUATE_ONLY)):
        for name, origin in sources.items():
            survey.read(f"{key}.{name}", name, origin, fractions)
    return survey


def records_table(domains: Mapping[str, Domain], train: Sequence[str]) -> pd.DataFrame:
    """Records, characters and skipped records of each domain and split, where there is no tokenizer to count tokens."""
    rows = []
    for name, domain in domains.items():
        for split, content in domain.contents.items():
            if split != "train" or name in train:
                characters = sum(map(characters_of, domain.items(split)))
                row: dict[str, Any] = {"domain": name, "split": split, "records": content.records}
                skipped = content.blank + content.without_value
                rows.append({**row, "characters": characters, "skipped": skipped})
    return pd.DataFrame(rows)


def groups_table(domains: Mapping[str, Domain], train: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Records and groups of each split whose records have groups, as the table "groups"; none where there are none."""
    rows = [
        {"domain": name, "split": split, "records": content.records, "groups": len(content.groups)}
        for name, domain in domains.items()
        for split, content in domain.contents.items()
        if len(content.groups) and (split != "train" or name in train)
    ]
    return {"groups": pd.DataFrame(rows)} if rows else {}
