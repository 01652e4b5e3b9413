"""Steering job: its configuration, cost and run."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import pandas as pd
from transformers import PreTrainedTokenizerBase

from trimtab.data.records import Columns, LayoutName, Record, column_problems
from trimtab.data.rows import record_rows
from trimtab.errors import (
    ConfigProblems,
    DataError,
    ModelError,
    Problem,
    explain,
    problem_of,
)
from trimtab.job import Elsewhere, ModelName, Progress, Survey, Texts, noting, unread_source
from trimtab.models.batches import text_batches
from trimtab.models.chat import Prompt, read_prompt
from trimtab.models.language import prompt_rows
from trimtab.models.load import Model, load, name_problems
from trimtab.models.tokenizer import local_tokenizer
from trimtab.runs.brief import brief
from trimtab.runs.folder import RunFolder
from trimtab.runs.paths import missing_source
from trimtab.runs.serialise import plain
from trimtab.steer.directions import CAA, ITI
from trimtab.steer.estimators import AurA, GaussianAcT, LinAcT, MeanAcT, costs
from trimtab.steer.lineas.lineas import LinEAS
from trimtab.steer.lineas.page import METHOD
from trimtab.steer.lineas.result import SteeringResult
from trimtab.steer.lineas.suggestion import LEAST, Suggestion
from trimtab.steer.samples import (
    TextPool,
    checked_records,
    different_texts,
    key_of,
    prepare,
    read_examples,
    rows_to_measure,
    samples,
)
from trimtab.steer.steering import Steering
from trimtab.steer.strength import STRENGTHS, curve_texts

AnyEstimator = LinEAS | AurA | CAA | GaussianAcT | ITI | LinAcT | MeanAcT
MOST_STRENGTHS = 101
SIDES = ("source", "target", "neutral")
"""Names of the sides, and of the files whose texts they are."""


@dataclass(frozen=True)
class ExampleFile:
    """A file of examples whose keys or columns have other names than ours.

    Attributes:
        path: a file or a glob pattern.
        columns: our keys (text, prompt, completion, messages) -> its keys or columns; or "sharegpt" or "alpaca".

    Raises:
        ConfigProblems: a wrong key, or an unknown layout.
    """

    path: Texts
    columns: dict[str, str] | LayoutName = field(default_factory=dict)

    def __post_init__(self) -> None:
        if problems := list(column_problems(self.columns)) if self.columns else []:
            raise ConfigProblems(problems)


@dataclass(frozen=True)
class SteeringConfig:
    """Configuration of a steering job: a steering to fit, and the texts to judge it by.

    Attributes:
        model: a hub name or a folder of a causal language model.
        source: file or glob of examples that show the behaviour as it is: a text on each line, or records of JSON, CSV
            or Parquet (text, prompt and completion, or messages); or an `ExampleFile`, `{path: ..., columns: ...}`.
        target: the same for the behaviour as it should be; the two need not be paired.
        neutral: the same for text that should be left alone; empty for none, then KL is not measured.
        held_out_source: the same for texts of the source behaviour that judge; empty for further ones of `source`. With
            other words and wordings there, nothing that the fit read is judged by.
        held_out_target: likewise for the target behaviour.
        estimator: how maps are fitted.
        rivals: other estimators, which are fitted and judged on the same texts.
        examples: texts of each side to fit with.
        held_out: further texts of each side, and of neutral text, to judge by.
        prompts: to complete at each strength, for the page: texts, lists of messages, or mappings with "messages".
        strengths: to try, in [0, 1].
        budget: nats per token of KL on neutral text that the suggested strength may cost; null suggests none.
        max_tokens: longer texts are cut.
        max_new_tokens: of each completion.
        dtype: "float32", "bfloat16" or "float64"; null for the checkpoint's own.
        device: null for the first accelerator, else the CPU.
        seed: of the draw of examples.
    """

    model: ModelName
    source: Texts | ExampleFile
    target: Texts | ExampleFile
    system: Literal["steering"] = "steering"
    neutral: Texts | ExampleFile = ""
    held_out_source: Texts | ExampleFile = ""
    held_out_target: Texts | ExampleFile = ""
    estimator: AnyEstimator = field(default_factory=LinEAS)
    rivals: tuple[AnyEstimator, ...] = ()
    examples: int = 32
    held_out: int = 64
    prompts: tuple[Any, ...] = ()
    strengths: tuple[float, ...] = STRENGTHS
    budget: float | None = None
    max_tokens: int = 128
    max_new_tokens: int = 32
    dtype: Literal["float32", "bfloat16", "float64"] | None = None
    device: str | None = None
    seed: int = 0

    result: ClassVar = SteeringResult

    __repr__ = brief

    def problems(self) -> Iterator[Problem]:
        """Problems of the configuration that show without loading a model or downloading anything."""
        yield from self._estimator_problems()
        for name, least in (("examples", 2), ("held_out", 2), ("max_tokens", 2), ("max_new_tokens", 1)):
            if getattr(self, name) < least:
                yield Problem(name, str(getattr(self, name)), f"at least {least}")
        if not 1 <= len(self.strengths) <= MOST_STRENGTHS:
            yield Problem("strengths", f"{len(self.strengths)} of them", f"1 to {MOST_STRENGTHS}")
        if not all(0 <= strength <= 1 for strength in self.strengths):
            yield Problem("strengths", str(list(self.strengths)), "numbers in [0, 1]")
        yield from self._budget_problems()
        for name, (source, _) in _places(self).items():
            if not source.startswith("lab:"):
                yield from missing_source(name, source, "a file or a glob of texts", folders=False)
        if self.source == self.target:
            yield Problem("target", "the same file as source", "another behaviour")
        for number, prompt in enumerate(self.prompts):
            try:
                read_prompt(prompt, f"prompts[{number}]")
            except DataError as error:
                yield problem_of(str(error).partition(": got ")[0], error)
        yield from name_problems(self.model)

    def _estimator_problems(self) -> Iterator[Problem]:
        named = {f"rivals[{place}]": rival for place, rival in enumerate(self.rivals)}
        for name, estimator in {"estimator": self.estimator, **named}.items():
            for problem in estimator.problems():
                yield replace(problem, where=f"{name}.{problem.where}")
        for name, rival in named.items():
            if (self.estimator, *self.rivals).count(rival) > 1:
                yield Problem(name, "an estimator that is there twice", "each estimator once")

    def _budget_problems(self) -> Iterator[Problem]:
        if self.budget is None:
            return
        if not 0 < self.budget < math.inf:
            yield Problem("budget", f"{self.budget}", "a number above 0, or null")
        if not self.neutral:
            yield Problem("budget", "no neutral texts", "neutral: FILE")
        if self.held_out < LEAST:
            yield Problem(
                "held_out", str(self.held_out), f"at least {LEAST}, as half of them choose a strength"
            )

    def cost(self) -> Mapping[str, Any]:
        """Planned cost: steps of the fits, and texts that are read afterwards."""
        steps = sum(map(_steps, (self.estimator, *self.rivals)))
        texts = (self.held_out * (3 if self.neutral else 2) + len(self.prompts)) * (1 + len(self.rivals))
        return {"steps": steps, "texts": texts * len(self.strengths)}

    def survey(self) -> Survey:
        """Survey of the examples of each side: read, left out and cut. Loads no weights and downloads nothing."""
        places = _places(self)
        notes = tuple(filter(None, (unread_source(name, path) for name, (path, _) in places.items())))
        here = {name: place for name, place in places.items() if not unread_source(name, place[0])}
        problems, sides = list[Problem](), dict[str, TextPool]()
        texts = dict[str, frozenset[str | bytes]]()
        for name, (path, columns) in here.items():
            with noting(problems, name):
                texts[name] = different_texts(path, name, columns)
        tokenizer = None
        with noting(problems, "model"):
            tokenizer = local_tokenizer(self.model)
        rows = list[dict[str, Any]]()
        for name in SIDES:
            if not {one for one in places if one.endswith(name)} <= {*texts} or name not in texts:
                continue
            without = frozenset[str | bytes]() if name == "neutral" else on_both_sides(texts)
            with noting(problems, name):
                sides[name] = _pool(self, name, without, texts[name])
                rows.append(text_counts(name, sides[name], tokenizer, self.max_tokens))
        notes += () if tokenizer else ("Texts cut are unknown: the model is not on this machine.",)
        return Survey({"texts": pd.DataFrame(rows)}, notes, problems=tuple(problems))

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> SteeringResult:
        """Fit the steering and judge it on held-out texts; a fit that was killed goes on where it was.

        Raises:
            DataError: fewer texts than asked for.
        """
        sides = examples_of(self)
        model = load(self.model, dtype=self.dtype, device=self.device)
        prompt_rows(model.need_tokenizer(), self.prompts)  # refused now, not after the fit
        read = reading_table(self, model, sides)
        neutral = sides.pop("neutral", TextPool((), ())).held_out
        fits = Fits(self, model, {name: list(side.fit) for name, side in sides.items()}, folder, progress)
        start = time.perf_counter()
        steering = fits.fit(self.estimator, "fit", 0)
        seconds = time.perf_counter() - start
        judged: dict[str, Any] = {name: side.held_out for name, side in sides.items()}
        held = {
            name: rows_to_measure(model, texts, name, self.max_tokens)
            for name, texts in {**judged, "neutral": neutral}.items()
        }
        measured = curve_texts(steering, model, held, self.strengths, self.max_tokens)
        curves, written = [], []
        for label, place in zip(rival_names(self), range(len(self.rivals)), strict=True):
            done = sum(map(_steps, (self.estimator, *self.rivals[:place])))
            rival = fits.fit(self.rivals[place], f"rival-{place + 1}", done)
            curve = curve_texts(rival, model, held, self.strengths, self.max_tokens).curve()
            curves.append(curve.assign(**{METHOD: label}))
            texts = completions(rival, model, self.prompts, self.strengths, self.max_new_tokens)
            written.append(texts.assign(**{METHOD: label}))
        return SteeringResult(
            label=type(self.estimator).__name__,
            steering=steering,
            curve=measured.curve(),
            costs=_transport_costs(steering, model, **judged, max_tokens=self.max_tokens),
            samples=completions(steering, model, self.prompts, self.strengths, self.max_new_tokens),
            config=plain(self),
            seconds=seconds,
            read=read,
            rivals=pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(),
            rival_samples=pd.concat(written, ignore_index=True) if written else pd.DataFrame(),
            suggestion=None if self.budget is None else Suggestion.of(measured, self.budget),
        )


def rival_names(config: SteeringConfig) -> list[str]:
    """Names of the rivals: their types, numbered where one is there before.

    >>> rival_names(SteeringConfig(model="m", source="a", target="b", rivals=(CAA(), LinEAS(gamma=0.0))))
    ['CAA', 'LinEAS 2']
    """
    kinds = [type(one).__name__ for one in (config.estimator, *config.rivals)]
    counts = [kinds[:place].count(kind) + 1 for place, kind in enumerate(kinds)]
    return [kind if n == 1 else f"{kind} {n}" for kind, n in zip(kinds, counts, strict=True)][1:]


def _steps(estimator: AnyEstimator) -> int:
    """Steps of a fit; 1 of a closed form."""
    if isinstance(estimator, LinEAS):
        return int(estimator.settled().steps or 0)
    return 1


@dataclass(frozen=True, eq=False)
class Fits:
    """Fits of a job: the same texts for each estimator, progress over all of them, and a folder for each descent."""

    config: SteeringConfig
    model: Model
    texts: Mapping[str, list[Record]]
    folder: RunFolder | Elsewhere
    progress: Progress

    def fit(self, estimator: AnyEstimator, name: str, done: int) -> Steering:
        """Steering of an estimator, after so many steps of others; one that was killed goes on where it was."""
        settings: dict[str, Any] = dict(self.texts)
        total = self.config.cost()["steps"]
        if estimator.max_tokens is None:
            estimator = replace(estimator, max_tokens=self.config.max_tokens)
        if isinstance(estimator, LinEAS):
            settings["out"] = self.folder.artifacts / name if isinstance(self.folder, RunFolder) else None
            settings["progress"] = lambda step, _, __: self.progress(done + step, total)
        return estimator.fit(self.model, **settings)


def examples_of(config: SteeringConfig) -> dict[str, TextPool]:
    """Texts of each side: source, target and, where there are any, neutral.

    What stands on both sides shows neither behaviour and is left out of both; neutral text is none that was fitted
    with.

    Raises:
        DataError: fewer texts than asked for, or a file that cannot be read.
    """
    files = _places(config)
    texts = {name: different_texts(path, name, columns) for name, (path, columns) in files.items()}
    both = on_both_sides(texts)
    sides = {name: _pool(config, name, both, texts[name]) for name in ("source", "target")}
    if config.neutral:
        fitted = {key_of(one) for side in sides.values() for one in side.fit}
        sides["neutral"] = _pool(config, "neutral", fitted, frozenset())
    return sides


def on_both_sides(texts: Mapping[str, frozenset[str | bytes]]) -> frozenset[str | bytes]:
    """Texts of the source, those held out too, that are also texts of the target; by file, see `different_texts`.

    >>> sorted(on_both_sides({"source": {"a", "b"}, "target": {"a"}, "held_out_target": {"b", "c"}}))
    ['a', 'b']
    """
    nothing = frozenset[str | bytes]()
    source, target = (
        texts.get(name, nothing) | texts.get(f"held_out_{name}", nothing) for name in ("source", "target")
    )
    return frozenset(source & target)


def _pool(
    config: SteeringConfig, name: str, without: Collection[str | bytes], every: frozenset[str | bytes]
) -> TextPool:
    """Texts of a side; held-out ones of a file of their own are none of `every`, those to fit with."""
    files, fit = _places(config), 0 if name == "neutral" else config.examples
    path, columns = files[name]
    if (held_out := f"held_out_{name}") not in files:
        counts = (fit, config.held_out, config.seed)
        return read_examples(path, name, *counts, without=without, columns=columns)
    first = read_examples(path, name, fit, 0, config.seed, without=without, columns=columns)
    path, columns = files[held_out]
    counts, without = (0, config.held_out, config.seed), {*without, *every}
    other = read_examples(path, held_out, *counts, without=without, columns=columns)
    sums = (getattr(first, key) + getattr(other, key) for key in ("different", "blank", "repeated", "shared"))
    return TextPool(first.fit, other.held_out, *sums)


def _places(config: SteeringConfig) -> dict[str, tuple[str, Columns]]:
    """Path and columns of each file of examples that there is, by the name of its field."""
    fields = (*SIDES, "held_out_source", "held_out_target")
    given = {name: getattr(config, name) for name in fields if getattr(config, name)}
    return {
        name: (file, None) if isinstance(file, str) else (file.path, file.columns or None)
        for name, file in given.items()
    }


def text_counts(
    name: str, side: TextPool, tokenizer: PreTrainedTokenizerBase | None, max_tokens: int
) -> dict[str, Any]:
    """Counts of a side's texts: to fit with, held out, different, left out, and the share that is cut at max_tokens."""
    row: dict[str, Any] = {"side": name, "fit": len(side.fit), "held_out": len(side.held_out)}
    row |= {key: getattr(side, key) for key in ("different", "blank", "repeated", "shared")}
    drawn = checked_records(name, [*side.fit, *side.held_out])
    lengths = [len(one.ids) for one in record_rows(tokenizer, drawn, name)] if tokenizer and drawn else []
    cut = sum(length > max_tokens for length in lengths) / len(lengths) if lengths else math.nan
    return row | {"cut": cut}


def reading_table(config: SteeringConfig, model: Model, sides: Mapping[str, TextPool]) -> pd.DataFrame:
    """Counts of texts by side: read, used, left out and cut.

    Columns: side; fit, held_out: texts used; different: texts in its files; blank, repeated, shared: left out, see
    `TextPool`; fit_cut, held_out_cut: longer than max_tokens, and cut there; scored: held-out texts of two tokens or
    more, which have a likelihood.

    Raises:
        ModelError: a text that is longer than the model's positions, or messages for a model without a chat template.
        DataError: messages that the template refuses, or a response that begins after `max_tokens`.
    """
    tokenizer, rows = model.need_tokenizer(), []
    limits = {"fit": config.estimator.max_tokens or config.max_tokens, "held_out": config.max_tokens}
    for name, side in sides.items():
        row: dict[str, Any] = {"side": name, "fit": len(side.fit), "held_out": len(side.held_out)}
        row |= {key: getattr(side, key) for key in ("different", "blank", "repeated", "shared")}
        for key, limit in limits.items():
            records = checked_records(name, getattr(side, key))
            text_batches(model, record_rows(tokenizer, records, name, max_tokens=limit))
            lengths = [len(one.ids) for one in record_rows(tokenizer, records, name)]
            row[f"{key}_cut"] = sum(length > limit for length in lengths)
        rows.append({**row, "scored": sum(length > 1 for length in lengths)})
    return pd.DataFrame(rows)


def _transport_costs(
    steering: Steering, model: Model, source: Sequence[Record], target: Sequence[Record], max_tokens: int
) -> pd.DataFrame:
    sides = prepare(model, source, target, batch_size=32, max_tokens=max_tokens)
    before, wanted = (samples(model, side, steering.sites, "mean") for side in sides)
    with steering.on(model):
        after = samples(model, sides[0], steering.sites, "mean")
    rows = [(site, *pair) for site, pair in costs(before, after, wanted).items()]
    return pd.DataFrame(rows, columns=["site", "before", "after"])


def completions(
    steering: Steering, model: Model, prompts: Sequence[Prompt], strengths: Sequence[float], tokens: int
) -> pd.DataFrame:
    """Greedy completions of prompts at each strength: columns prompt (messages with their roles), strength, text."""
    rows, shown = [], [str(read_prompt(one, f"prompt {number}")) for number, one in enumerate(prompts)]
    for strength in dict.fromkeys(strengths) if prompts else ():
        with steering.on(model, strength):
            texts = model.generate(list(prompts), max_new_tokens=tokens)
        if not isinstance(texts[0], str):
            hint = "steering.on(model) and model.generate(prompts) in Python, which gives pictures"
            raise ModelError(explain(f"{model.name}, which makes pictures", "a language model", hint))
        rows += [(prompt, float(strength), text) for prompt, text in zip(shown, texts, strict=True)]
    return pd.DataFrame(rows, columns=["prompt", "strength", "text"])
