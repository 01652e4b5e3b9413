"""Comparison of two models: both read the same records, and every domain gets its change, interval and verdict."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from trimtab.adapt.compare.domains import Asked, given_domains, given_problems, read_domains
from trimtab.adapt.compare.reading import Reading, Side, Switchable, read_bytes, read_tokens, same_tokens
from trimtab.adapt.compare.result import CompareResult
from trimtab.adapt.compare.tables import answers_frame, changes_frame, examples_frame, predictions_frame
from trimtab.adapt.compare.tasks import Answers, Task, ask
from trimtab.adapt.compare.weights import adapter_of, base_of_adapter, moved_weights
from trimtab.adapt.completions import HeldOut, completed, completions_frame, held_out
from trimtab.data.records import Chat
from trimtab.data.tokens import left_out, tokenise
from trimtab.errors import ConfigProblems, ModelError, Problem, explain, refusal
from trimtab.job import Progress
from trimtab.models.adapter import is_adapter, with_adapter
from trimtab.models.families import unwrapped
from trimtab.models.folder import local_folder
from trimtab.models.inspection import require_language_model
from trimtab.models.language import prompt_rows
from trimtab.models.load import Model, load
from trimtab.models.speakers import refuse_blind
from trimtab.models.tokenizer import longest
from trimtab.runs.brief import model_of
from trimtab.runs.paths import MODEL
from trimtab.train.evaluation import evaluation_rows

Source = Model | str | Path | nn.Module
"""A handle, a hub name or a folder; as the tuned model also the folder of an adapter of the base model."""
Tuned = Source | Switchable | tuple[Model, Switchable]
"""A model; or a change of the base model, such as a steering; or a model with a change of it."""
SEQUENCES, SEQ_LEN, BATCH_SIZE = 100, 256, 8
"""Sequences per domain, tokens in each, and sequences at a time."""
LEAST = {"sequences": 2, "seq_len": 8, "batch_size": 1}
OTHER_TOKENS = "the tokenizers differ, so the models have no next tokens in common"
FEWER_TOKENS = "the base model predicts tokens that the tuned model has not"


def compare(
    base: Source | tuple[Model, Switchable],
    tuned: Tuned,
    domains: Mapping[str, Any] | str | Path,
    *,
    tolerances: Mapping[str, float] | None = None,
    tasks: Mapping[str, Task] | None = None,
    points: Mapping[str, float] | None = None,
    sequences: int = SEQUENCES,
    seq_len: int = SEQ_LEN,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> CompareResult:
    """Comparison of two language models: how far the loss of each domain moved, and whether it stayed within tolerance.

    The models may be of any origin: checkpoints, a model with an adapter or a steering. Each is left as it was.
    Both read the same sequences, so changes are paired. Beside losses: KL(base || tuned) of next tokens, the share of
    greedy tokens that changed, accuracies of tasks, weights that moved, examples and completions side by side.

    Where tokenizers differ, losses are per byte of the same text, and there is no KL.

    Args:
        base: a handle, hub name or folder; or `(model, steering)`.
        tuned: the same; the folder of an adapter of the base model; or a steering, or anything else with `.on(model)`,
            which is then switched on in the base model.
        domains: name -> a `Domain`, of which the test split is read; or a file, list or table, read whole; or a mapping
            as in a domains file, `{"path": "web.jsonl", "tolerance": 0.02}`. A path is that of such a file.
        tolerances: domain -> nats per token by which its loss may rise, or per byte where tokenizers differ.
        tasks: domain -> "exact" or "choice", where records are prompts with answers that can be checked.
        points: domain -> points of accuracy that its task may lose.
        sequences: per domain at most, and as many tasks; the same ones in every comparison of a domain of this name.
        seq_len: tokens per sequence at most; a document is cut there.
        batch_size: sequences at a time.
        progress: called with the sequences read and those in all.

    Returns:
        A result with `passed`, which is False where a tolerance is broken.

    Raises:
        ConfigProblems: everything that is wrong with the settings.
        DataError: records that cannot be read, or that are not of their task.
        ModelError: not a causal language model with a tokenizer, or a change or an adapter of another model.
    """
    start = time.perf_counter()
    limits, kinds, lost = tolerances or {}, tasks or {}, points or {}
    given = given_domains(domains)
    sizes = {"sequences": sequences, "seq_len": seq_len, "batch_size": batch_size}
    if problems := [*given_problems(given, limits, kinds, lost), *size_problems(sizes)]:
        raise ConfigProblems(problems)
    asked = read_domains(given, limits, kinds, lost)
    one = side_of(base)
    two = side_of(tuned, one)
    models = Pair(one, two, **sizes)
    models.refuse_unasked(asked)
    readings, notes = models.read(asked, progress or (lambda *_: None))
    answers = models.ask(asked)
    completions, unwritten = models.complete(asked)
    weights, unmoved = moved_weights(one.model.module, two.model.module)
    facts = models.facts() | {"without": models.without(readings, unmoved, unwritten)}
    settings = {
        **sizes,
        "seq_len": models.room,
        "tolerances": dict(limits),
        "tasks": dict(kinds),
        "points": dict(lost),
    }
    return CompareResult(
        label=f"{facts['tuned']} against {facts['base']}",
        changes=changes_frame(asked, readings, answers, models.unit),
        predictions=predictions_frame(readings),
        examples=examples_frame(readings),
        answers=answers_frame(asked, answers),
        completions=completions,
        weights=weights,
        facts=facts,
        notes=(*models.notes(), *notes, *unasked(answers), *unread(readings)),
        config={"base": facts["base"], "tuned": facts["tuned"], "domains": list(asked), **settings},
        seconds=time.perf_counter() - start,
    )


def unasked(answers: Mapping[str, Answers]) -> Iterator[str]:
    """Notes on prompts that fill the models' positions, so that no answer was asked for."""
    for name, one in answers.items():
        if one.left_out:
            yield f"{name}: {one.left_out} prompts leave no room for an answer."


def unread(readings: Mapping[str, Reading]) -> Iterator[str]:
    """Notes on domains whose change nothing can be said of, since a loss of the base model is not finite."""
    for name, reading in readings.items():
        if not np.isfinite(reading.base.nll).all():
            yield f"{name}: the base model's loss is not finite, so nothing can be said of its change."


def size_problems(sizes: Mapping[str, Any]) -> Iterator[Problem]:
    """Problems of how much is read.

    >>> print(*size_problems({"sequences": 1, "seq_len": 256}))
    sequences: got 1, expected a whole number of at least 2
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < LEAST[name]:
            yield Problem(name, repr(size)[:60], f"a whole number of at least {LEAST[name]}")


def side_of(given: Any, base: Side | None = None) -> Side:
    """One side of a comparison, loaded where it is a name, a folder or a module.

    Args:
        given: as `compare` takes it.
        base: the other side, for an adapter or a change without a model.

    Raises:
        ModelError: no causal language model with a tokenizer, or what is neither a model nor a change of one.
    """
    change: Any = None
    if isinstance(given, tuple) and len(given) == 2:
        given, change = given
    elif base is not None and hasattr(given, "on") and not isinstance(given, Model | nn.Module):
        given, change = base.model, given
    if change is not None and not callable(getattr(change, "on", None)):
        raise ModelError(
            explain(f"a {type(change).__name__}", "something with .on(model)", "(model, steering)")
        )
    if not isinstance(given, Model | str | Path | nn.Module):
        raise ModelError(
            explain(f"a {type(given).__name__}", "a model, or something with .on(model)", "load(...)")
        )
    folder = local_folder(given) if isinstance(given, str | Path) else None
    if isinstance(given, Model):
        model = given
    elif base is not None and folder is not None and is_adapter(folder):
        model = replace(base.model, module=with_adapter(base.model.module, folder), name=str(given))
    else:
        model = load(given, kind="language model")
    refuse_blind(model)
    require_language_model(model)
    if base is not None and base.model.module is not model.module:
        networks = [unwrapped(it.module) for it in (base.model, model)]
        if networks[0] is networks[1]:  # peft puts an adapter into the network that it wraps
            got, expected = "a base model that holds the adapter of the tuned one", "a base model of its own"
            raise ModelError(explain(got, expected, "its folder or name"))
    return Side(model, change)


def name_of(side: Side, base: Side | None = None) -> str:
    """Name of a side: that of its model, with what is switched on in it."""
    place = Path(side.model.name)
    place = place.parent if place.name == MODEL else place
    name = model_of({"model": str(place)}) or side.model.name
    if side.change is not None:
        return f"{name} with {type(side.change).__name__}"
    return f"{name} (tuned)" if base is not None and name == name_of(base) else name


@dataclass(frozen=True)
class Pair:
    """The two sides of a comparison, and how much of each domain they read.

    Attributes:
        base, tuned: the sides.
        sequences, seq_len, batch_size: as in `compare`.
    """

    base: Side
    tuned: Side
    sequences: int
    seq_len: int
    batch_size: int

    @cached_property
    def same(self) -> bool:
        """Whether both read the same tokens."""
        return same_tokens(*(side.model.need_tokenizer() for side in (self.base, self.tuned)))

    @property
    def unit(self) -> str:
        """What losses are per."""
        return "token" if self.same else "byte"

    @property
    def room(self) -> int:
        """Tokens of a sequence: no more than either model has positions for."""
        limits = (longest(side.model.module) for side in (self.base, self.tuned))
        return min(self.seq_len, *(limit or self.seq_len for limit in limits))

    @property
    def reader(self) -> Model:
        """The model whose tokenizer both read with: the tuned one's where it alone has a chat template."""
        base, tuned = (side.model for side in (self.base, self.tuned))
        only = tuned.need_tokenizer().chat_template and not base.need_tokenizer().chat_template
        return tuned if only else base

    def notes(self) -> Iterator[str]:
        """What of the two models a reader of the numbers has to know."""
        if self.room < self.seq_len:
            yield f"Sequences have at most {self.room} tokens, as many as both models have positions for."
        trained_on, base = base_of_adapter(self.tuned.model.module), name_of(self.base)
        if trained_on and trained_on != base:
            yield f"The adapter names {trained_on} as its base model; here it is on {base}."
        if not self.same:
            yield "The tokenizers differ: losses are per byte of the same text, and conversations are left out."
            return
        templates = {side.model.need_tokenizer().chat_template for side in (self.base, self.tuned)}
        if len(templates) > 1:
            whose = "tuned" if self.reader is self.tuned.model else "base"
            yield f"The chat templates differ: conversations are written by that of the {whose} model for both."

    def facts(self) -> dict[str, Any]:
        """What the two sides are."""
        one, two = self.base, self.tuned
        return {
            "base": name_of(one),
            "tuned": name_of(two, one),
            "unit": self.unit,
            "sites": [site.name for site in getattr(two.change, "sites", ())],
            "adapter": adapter_of(two.model.module),
            "same_network": two.model.module is one.model.module,
        }

    def without(self, readings: Mapping[str, Reading], weights: str, completions: str) -> dict[str, str]:
        """Why a part of the comparison is left out, by part; "" where it is there.

        Args:
            readings: without KL where the models have no next tokens in common.
            weights, completions: the reasons for these two.
        """
        reason = "" if self.same else OTHER_TOKENS
        if not reason and any(reading.kl is None for reading in readings.values()):
            reason = FEWER_TOKENS
        return {"predictions": reason, "weights": weights, "completions": completions}

    def read(self, asked: Mapping[str, Asked], progress: Progress) -> tuple[dict[str, Reading], list[str]]:
        """Both models on every domain, and notes on records that were cut or left out."""
        same, readings, notes = self.same, dict[str, Reading](), list[str]()
        sources = {name: self._rows(one, notes) if same else None for name, one in asked.items()}
        counts = {name: one.domain.contents["test"].records for name, one in asked.items()}
        chosen = {
            name: evaluation_rows(name, counts[name] if source is None else len(source), self.sequences)
            for name, source in sources.items()
        }
        done, total = 0, sum(map(len, chosen.values()))

        def told(rows: int) -> None:
            nonlocal done
            done += rows
            progress(done, total)

        how: dict[str, Any] = {"batch_size": self.batch_size, "progress": told}
        for name, source in sources.items():
            if source is not None:
                readings[name] = read_tokens(self.base, self.tuned, source, chosen[name], **how)
            else:
                domain = asked[name].domain
                readings[name] = read_bytes(
                    self.base, self.tuned, domain, chosen[name], seq_len=self.room, **how
                )
        return readings, notes

    def _rows(self, asked: Asked, notes: list[str]) -> Any:
        """Token rows of a domain: one for each document, prompt with completion, or conversation."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the notes say the same
            tokens = tokenise(asked.domain, self.reader, seq_len=self.room, packing="padded")
        notes += [f"{tokens.name}: {phrase}." for phrase in left_out(tokens, ["test"], self.room)]
        return tokens.splits["test"]

    def refuse_unasked(self, asked: Mapping[str, Asked]) -> None:
        """Refuse conversations as tasks of a model without a chat template.

        Raises:
            DataError: naming the model.
        """
        for one in asked.values():
            if one.task is None or not any(isinstance(item, Chat) for item in one.domain.items("test")):
                continue
            for which, side in (("base", self.base), ("tuned", self.tuned)):
                if not side.model.need_tokenizer().chat_template:
                    got = f"conversations to answer, and a {which} model without a chat template"
                    hint = "tokenizer.chat_template = ..., or no task"
                    raise refusal(f"domain {one.domain.name!r}", got, "one in both models", hint)

    def ask(self, asked: Mapping[str, Asked]) -> dict[str, Answers]:
        """Answers of both models in the domains with a task."""
        found = {}
        for name, one in asked.items():
            if one.task is not None:
                rows = evaluation_rows(name, one.domain.contents["test"].records, self.sequences)
                found[name] = ask(self.base, self.tuned, one.domain, one.task, rows, self.batch_size)
        return found

    def complete(self, asked: Mapping[str, Asked]) -> tuple[pd.DataFrame, str]:
        """What both models write after the first prompts of each domain; or why it is not shown."""
        domains = {name: one.domain for name, one in asked.items()}
        prompts = held_out(domains, self.reader, self.room)
        texts: list[list[str]] = []
        for side, own in ((self.base, prompts), (self.tuned, self._asked_of_tuned(prompts))):
            if not prompts:
                break
            with side.read():
                written, why = completed(side.model, own, self.batch_size)
            if why:
                return completions_frame([], [], []), why
            texts.append(written)
        return completions_frame(
            prompts, *(texts or [[], []])
        ), "" if prompts else "no record holds a prompt that fits"

    def _asked_of_tuned(self, prompts: list[HeldOut]) -> list[HeldOut]:
        """The prompts in the tokens of the tuned model."""
        if self.same:
            return prompts
        words: Any = self.reader.need_tokenizer()
        texts = [str(words.decode(list(one.ids), skip_special_tokens=True)) for one in prompts]
        rows = prompt_rows(self.tuned.model.need_tokenizer(), texts) if texts else []
        return [replace(one, ids=tuple(row)) for one, row in zip(prompts, rows, strict=True)]
