"""Steering job: its configuration, cost and run, and the functions behind `trimtab steer`.

Those functions take a steering on disk and its model by their names.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
from transformers import PreTrainedTokenizerBase

from trimtab.data.records import Columns, LayoutName, Record, column_problems
from trimtab.data.rows import record_rows
from trimtab.errors import ConfigProblems, DataError, ModelError, Problem, explain, problem_of
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
from trimtab.steer.lineas.result import SteeringResult
from trimtab.steer.samples import (
    TextPool,
    checked_records,
    different_texts,
    key_of,
    prepare,
    read_examples,
    samples,
)
from trimtab.steer.steering import Steering
from trimtab.steer.strength import STRENGTHS, Calibration, calibrate, strength_curve

AnyEstimator = LinEAS | AurA | CAA | GaussianAcT | ITI | LinAcT | MeanAcT
MOST_STRENGTHS = 101


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
        estimator: how maps are fitted.
        examples: texts of each side to fit with.
        held_out: further texts of each side, and of neutral text, to judge by.
        prompts: to complete at each strength, for the page: texts, lists of messages, or mappings with "messages".
        strengths: to try, in [0, 1].
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
    estimator: AnyEstimator = field(default_factory=LinEAS)
    examples: int = 32
    held_out: int = 64
    prompts: tuple[Any, ...] = ()
    strengths: tuple[float, ...] = STRENGTHS
    max_tokens: int = 128
    max_new_tokens: int = 32
    dtype: Literal["float32", "bfloat16", "float64"] | None = None
    device: str | None = None
    seed: int = 0

    result: ClassVar = SteeringResult

    __repr__ = brief

    def problems(self) -> Iterator[Problem]:
        """Problems of the configuration that show without loading a model or downloading anything."""
        for problem in self.estimator.problems():
            yield replace(problem, where=f"estimator.{problem.where}")
        for name, least in (("examples", 2), ("held_out", 2), ("max_tokens", 2), ("max_new_tokens", 1)):
            if getattr(self, name) < least:
                yield Problem(name, str(getattr(self, name)), f"at least {least}")
        if not 1 <= len(self.strengths) <= MOST_STRENGTHS:
            yield Problem("strengths", f"{len(self.strengths)} of them", f"1 to {MOST_STRENGTHS}")
        if not all(0 <= strength <= 1 for strength in self.strengths):
            yield Problem("strengths", str(list(self.strengths)), "numbers in [0, 1]")
        for name in ("source", "target", *(["neutral"] if self.neutral else [])):
            if not (source := _place(getattr(self, name))[0]).startswith("lab:"):
                yield from missing_source(name, source, "a file or a glob of texts", folders=False)
        if self.source == self.target:
            yield Problem("target", "the same file as source", "another behaviour")
        for number, prompt in enumerate(self.prompts):
            try:
                read_prompt(prompt, f"prompts[{number}]")
            except DataError as error:
                yield problem_of(str(error).partition(": got ")[0], error)
        yield from name_problems(self.model)

    def cost(self) -> Mapping[str, Any]:
        """Planned cost: steps of the fit, and texts that are read afterwards."""
        steps = getattr(self.estimator, "steps", None)
        if not steps:
            steps = self.estimator.settled().steps or 0 if isinstance(self.estimator, LinEAS) else 1
        texts = self.held_out * (3 if self.neutral else 2) + len(self.prompts)
        return {"steps": int(steps), "texts": texts * len(self.strengths)}

    def survey(self) -> Survey:
        """Survey of the examples of each side: read, left out and cut. Loads no weights and downloads nothing."""
        given = {name: getattr(self, name) for name in ("source", "target", "neutral") if getattr(self, name)}
        places = {name: _place(file) for name, file in given.items()}
        notes = tuple(filter(None, (unread_source(name, path) for name, (path, _) in places.items())))
        here = {name: place for name, place in places.items() if not unread_source(name, place[0])}
        problems, sides = list[Problem](), dict[str, TextPool]()
        texts = dict[str, frozenset[str | bytes]]()
        for name, (path, columns) in here.items():
            with noting(problems, name):
                texts[name] = different_texts(path, name, columns)
        both = texts.get("source", frozenset()) & texts.get("target", frozenset())
        tokenizer = None
        with noting(problems, "model"):
            tokenizer = local_tokenizer(self.model)
        rows = list[dict[str, Any]]()
        for name in texts:
            path, columns = here[name]
            counts = (0 if name == "neutral" else self.examples, self.held_out, self.seed)
            without = frozenset[str | bytes]() if name == "neutral" else both
            with noting(problems, name):
                sides[name] = read_examples(path, name, *counts, without=without, columns=columns)
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
        start, estimator = time.perf_counter(), self.estimator
        settings: dict[str, Any] = {name: list(side.fit) for name, side in sides.items()}
        if estimator.max_tokens is None:
            estimator = replace(estimator, max_tokens=self.max_tokens)
        if isinstance(estimator, LinEAS):
            settings["out"] = folder.artifacts / "fit" if isinstance(folder, RunFolder) else None
            settings["progress"] = lambda step, steps, loss: progress(step, steps)  # noqa: ARG005
        steering = estimator.fit(model, **settings)
        seconds = time.perf_counter() - start
        judged: dict[str, Any] = {name: side.held_out for name, side in sides.items()}
        judged["max_tokens"] = self.max_tokens
        return SteeringResult(
            label=type(self.estimator).__name__,
            steering=steering,
            curve=strength_curve(steering, model, neutral=neutral, strengths=self.strengths, **judged),
            costs=_transport_costs(steering, model, **judged),
            samples=completions(steering, model, self.prompts, self.strengths, self.max_new_tokens),
            config=plain(self),
            seconds=seconds,
            read=read,
        )


def examples_of(config: SteeringConfig) -> dict[str, TextPool]:
    """Texts of each side: source, target and, where there are any, neutral.

    What stands on both sides shows neither behaviour and is left out of both; neutral text is none that was fitted
    with.

    Raises:
        DataError: fewer texts than asked for, or a file that cannot be read.
    """
    files = {name: _place(getattr(config, name)) for name in ("source", "target")}
    each = (different_texts(path, name, columns) for name, (path, columns) in files.items())
    both = frozenset.intersection(*each)
    counts = (config.examples, config.held_out, config.seed)
    sides = {
        name: read_examples(path, name, *counts, without=both, columns=columns)
        for name, (path, columns) in files.items()
    }
    if config.neutral:
        fitted = {key_of(one) for side in sides.values() for one in side.fit}
        counts, (path, columns) = (0, config.held_out, config.seed), _place(config.neutral)
        sides["neutral"] = read_examples(path, "neutral", *counts, without=fitted, columns=columns)
    return sides


def _place(file: str | ExampleFile) -> tuple[str, Columns]:
    """Path and columns of a file of examples."""
    return (file, None) if isinstance(file, str) else (file.path, file.columns or None)


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

    Columns: side; fit, held_out: texts used; different: texts in the file; blank, repeated, shared: left out, see
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
    for strength in strengths if prompts else ():
        with steering.on(model, strength):
            texts = model.generate(list(prompts), max_new_tokens=tokens)
        if not isinstance(texts[0], str):
            hint = "steering.on(model) and model.generate(prompts) in Python, which gives pictures"
            raise ModelError(explain(f"{model.name}, which makes pictures", "a language model", hint))
        rows += [(prompt, float(strength), text) for prompt, text in zip(shown, texts, strict=True)]
    return pd.DataFrame(rows, columns=["prompt", "strength", "text"])


def complete(
    steering: str, model: str, prompts: Sequence[Prompt], strengths: Sequence[float], max_new_tokens: int
) -> pd.DataFrame:
    """Greedy completions of prompts at each strength: columns prompt, strength, text.

    Args:
        steering: a steering's folder, that of a run that fitted one, or a hub name.
        model: a folder or hub name.
        prompts: to go on with: texts, or conversations as lists of messages.
        strengths: in [0, 1].
        max_new_tokens: of each completion.

    Raises:
        ModelError: a model that makes pictures, not texts.
    """
    return completions(*_both(steering, model), prompts, strengths, max_new_tokens)


def measure(
    steering: str,
    model: str,
    files: Mapping[str, str],
    texts: int,
    strengths: Sequence[float],
    budget: float | None = None,
    max_strength: float = 1.0,
    columns: Columns = None,
) -> tuple[pd.DataFrame, Calibration | None]:
    """Strength curve on texts of the user's, and the largest strength within a budget of KL on neutral text.

    Args:
        steering: see `complete`.
        model: see `complete`.
        files: source, target and perhaps neutral -> a file or glob.
        texts: how many of each file.
        strengths: of the curve.
        budget: nats per token; None asks for no strength.
        max_strength: the largest that is tried; see `trimtab.steer.strength.calibrate`.
        columns: of the files, see `ExampleFile`.

    Raises:
        ConfigProblems: a budget without neutral texts.
        DataError: a file with fewer texts.
    """
    if budget is not None and "neutral" not in files:
        raise ConfigProblems([Problem("--budget", "no neutral texts", "--neutral FILE")])
    read: dict[str, Any] = {
        n: read_examples(file, n, 0, texts, columns=columns).held_out for n, file in files.items()
    }
    steered = _both(steering, model)
    curve = strength_curve(*steered, **read, strengths=strengths)
    if budget is None:
        return curve, None
    return curve, calibrate(*steered, read["neutral"], budget, max_strength=max_strength)


def fuse(steering: str, model: str, strength: float, out: Path) -> None:
    """Plain checkpoint with the steering in its weights, read back and compared.

    Raises:
        ModelError: the maps cannot be folded, or not saved; see `trimtab.steer.files`.
    """
    fitted, base = _both(steering, model)
    fitted.fuse(base, strength).save_pretrained(out)


def _both(steering: str, model: str) -> tuple[Steering, Model]:
    """The steering is read first, since it is the smaller."""
    inside = Path(steering) / "artifacts" / "steering"
    fitted = Steering.from_pretrained(str(inside) if inside.is_dir() else steering)
    return fitted, load(model)
