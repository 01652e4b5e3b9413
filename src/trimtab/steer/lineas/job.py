"""A steering as a job: what a recipe says, whether it can work, what it will take, and carrying it out.

What can be done with a steering on disk and its model, by their names: the commands behind `trimtab steer`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from trimtab.errors import ConfigProblems, Problem
from trimtab.models.batches import text_batches, token_rows
from trimtab.models.load import Model, load, name_problems
from trimtab.runs.folder import RunFolder, at_work
from trimtab.runs.paths import missing_source
from trimtab.runs.serialise import plain
from trimtab.steer.directions import CAA, ITI
from trimtab.steer.estimators import AurA, GaussianAcT, LinAcT, MeanAcT, costs
from trimtab.steer.lineas.lineas import LinEAS
from trimtab.steer.lineas.result import SteeringResult
from trimtab.steer.samples import TextPool, different_texts, prepare, read_examples, samples
from trimtab.steer.steering import Steering
from trimtab.steer.strength import STRENGTHS, Calibration, calibrate, strength_curve

AnyEstimator = LinEAS | AurA | CAA | GaussianAcT | ITI | LinAcT | MeanAcT
Progressor = Callable[[int, int], None]
MOST_STRENGTHS = 101


@dataclass(frozen=True)
class SteeringConfig:
    """A steering to fit, and the texts to judge it by.

    Attributes:
        model: a hub name or a folder of a causal language model.
        source: file or glob of texts that show the behaviour as it is: a line each, or records of JSONL or Parquet.
        target: the same for the behaviour as it should be; the two need not be paired.
        neutral: the same for text that should be left alone; empty for none, then KL is not measured.
        estimator: how maps are found.
        examples: texts of each side to fit with.
        held_out: further texts of each side, and of neutral text, to judge by.
        prompts: to complete at each strength, for the page.
        strengths: to try, in [0, 1].
        max_tokens: longer texts are cut.
        max_new_tokens: of each completion.
        dtype: "float32", "bfloat16" or "float64"; null for the checkpoint's own.
        device: null for the first accelerator, else the CPU.
        seed: of the draw of examples.
    """

    model: str
    source: str
    target: str
    system: Literal["steering"] = "steering"
    neutral: str = ""
    estimator: AnyEstimator = field(default_factory=LinEAS)
    examples: int = 32
    held_out: int = 64
    prompts: tuple[str, ...] = ()
    strengths: tuple[float, ...] = STRENGTHS
    max_tokens: int = 128
    max_new_tokens: int = 32
    dtype: Literal["float32", "bfloat16", "float64"] | None = None
    device: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a job came to."""

    result: SteeringResult
    report_path: Path

    def table(self) -> str:
        """The strength curve as plain text, with what its intervals cover."""
        shown = self.result.curve[
            ["strength", "lean", "lean_low", "lean_high", "kl", "source_loss", "target_loss"]
        ]
        text = shown.to_string(index=False, float_format=lambda value: f"{value:.4f}", na_rep="-")
        return f"{text}\n\n{READING}"

    def to_json(self) -> str:
        """The strength curve and the costs as JSON."""
        frames = {"curve": self.result.curve, "costs": self.result.costs, "samples": self.result.samples}
        told = {name: plain(frame.to_dict("records")) for name, frame in frames.items()}
        return json.dumps({**told, "seconds": self.result.seconds}, indent=2)


READING = (
    "lean: by how many nats per token the target texts became likelier, less the same of the source texts;\n"
    "kl: how far predictions moved on neutral text. Held-out texts; intervals (95 %) are over texts."
)


@dataclass(frozen=True)
class Estimate:
    """What a job will take, at most."""

    steps: int
    texts: int

    def to_text(self) -> str:
        """One line per quantity."""
        return f"steps of the fit       {self.steps}\ntexts read afterwards  {self.texts}"


def check(config: SteeringConfig) -> list[Problem]:
    """Every mistake that can be seen without loading a model or downloading anything."""
    found = [replace(problem, where=f"estimator.{problem.where}") for problem in config.estimator.problems()]
    for name, least in (("examples", 2), ("held_out", 2), ("max_tokens", 2), ("max_new_tokens", 1)):
        if getattr(config, name) < least:
            found.append(Problem(name, str(getattr(config, name)), f"at least {least}"))
    if not 1 <= len(config.strengths) <= MOST_STRENGTHS:
        found.append(Problem("strengths", f"{len(config.strengths)} of them", f"1 to {MOST_STRENGTHS}"))
    if not all(0 <= strength <= 1 for strength in config.strengths):
        found.append(Problem("strengths", str(list(config.strengths)), "numbers in [0, 1]"))
    for name in ("source", "target", "neutral"):
        found += _file_problems(name, getattr(config, name))
    if config.source == config.target:
        found.append(Problem("target", "the same file as source", "another behaviour"))
    return [*found, *name_problems(config.model)]


def estimate(config: SteeringConfig) -> Estimate:
    """Steps and texts of a job."""
    sides = 3 if config.neutral else 2
    texts = config.held_out * sides * len(config.strengths) + len(config.prompts) * len(config.strengths)
    return Estimate(getattr(config.estimator, "steps", None) or _default_steps(config.estimator), texts)


def run(config: SteeringConfig, folder: Path, progress: Progressor | None = None) -> Outcome:
    """Carry the job out in `folder`, or go on with it; a fit that was killed goes on where it was.

    Args:
        config: the job.
        folder: of the run.
        progress: told the steps of the fit.

    Raises:
        ConfigProblems: the config cannot work.
        DataError: fewer texts than asked for.
    """
    if problems := check(config):
        raise ConfigProblems(problems)
    with at_work(folder, config) as held:
        result = _carried_out(config, held, progress)
        result.save(held.path)
        report = result.report(folder / "report.html")
    return Outcome(result, report)


def _carried_out(config: SteeringConfig, held: RunFolder, progress: Progressor | None) -> SteeringResult:
    sides = examples_of(config)
    model = load(config.model, dtype=config.dtype, device=config.device)
    read = reading_table(config, model, sides)
    neutral = sides.pop("neutral", TextPool((), ())).held_out
    start = time.perf_counter()
    steering = _fitted(config, model, sides, held.artifacts / "fit", progress)
    seconds = time.perf_counter() - start
    judged = {name: side.held_out for name, side in sides.items()}
    curve = strength_curve(
        steering,
        model,
        **judged,
        neutral=neutral,
        strengths=config.strengths,
        max_tokens=config.max_tokens,
    )
    return SteeringResult(
        label=type(config.estimator).__name__,
        steering=steering,
        curve=curve,
        costs=_costs(steering, model, config, **judged),
        samples=written(steering, model, config.prompts, config.strengths, config.max_new_tokens),
        config=plain(config),
        seconds=seconds,
        read=read,
    )


def _fitted(
    config: SteeringConfig, model: Model, sides: dict[str, TextPool], out: Path, progress: Progressor | None
) -> Steering:
    texts = {name: list(side.fit) for name, side in sides.items()}
    estimator = config.estimator
    if estimator.max_tokens is None:
        estimator = replace(estimator, max_tokens=config.max_tokens)
    if not isinstance(estimator, LinEAS):
        return estimator.fit(model, **texts)
    tell = None if progress is None else lambda step, steps, loss: progress(step, steps)  # noqa: ARG005
    return estimator.fit(model, **texts, out=out, progress=tell)


def examples_of(config: SteeringConfig) -> dict[str, TextPool]:
    """The texts of each side: source, target and, where there are any, neutral.

    What stands on both sides shows neither behaviour and is left out of both; neutral text is none that was fitted
    with.

    Raises:
        DataError: fewer texts than asked for, or a file that cannot be read.
    """
    files = {name: getattr(config, name) for name in ("source", "target")}
    both = frozenset.intersection(*(different_texts(file, name) for name, file in files.items()))
    counts = (config.examples, config.held_out, config.seed)
    sides = {name: read_examples(file, name, *counts, without=both) for name, file in files.items()}
    if config.neutral:
        fitted = {text for side in sides.values() for text in side.fit}
        counts = (0, config.held_out, config.seed)
        sides["neutral"] = read_examples(config.neutral, "neutral", *counts, without=fitted)
    return sides


def reading_table(config: SteeringConfig, model: Model, sides: Mapping[str, TextPool]) -> pd.DataFrame:
    """What was read on each side, and what of it was cut or says nothing.

    Columns: side; fit, held_out: texts used; different: texts in the file; blank, repeated, shared: left out, see
    `Examples`; fit_cut, held_out_cut: longer than max_tokens, and cut there; scored: held-out texts of two tokens or
    more, which a likelihood can be told of.

    Raises:
        ModelError: a text that is longer than the model's positions.
    """
    tokenizer, limit = model.need_tokenizer(), config.max_tokens
    fit_limit = config.estimator.max_tokens or limit
    rows = []
    for name, side in sides.items():
        for texts, most in ((side.fit, fit_limit), (side.held_out, limit)):
            if texts:
                text_batches(model, texts, max_tokens=most)
        lengths = [len(row) for row in token_rows(tokenizer, side.held_out)]
        fit_lengths = [len(row) for row in token_rows(tokenizer, side.fit)]
        rows.append(
            {
                "side": name,
                "fit": len(side.fit),
                "held_out": len(side.held_out),
                "different": side.different,
                "blank": side.blank,
                "repeated": side.repeated,
                "shared": side.shared,
                "fit_cut": sum(length > fit_limit for length in fit_lengths),
                "held_out_cut": sum(length > limit for length in lengths),
                "scored": sum(length > 1 for length in lengths),
            }
        )
    return pd.DataFrame(rows)


def _costs(
    steering: Steering, model: Model, config: SteeringConfig, source: Sequence[str], target: Sequence[str]
) -> pd.DataFrame:
    sides = prepare(model, source, target, batch_size=32, max_tokens=config.max_tokens)
    before, wanted = (samples(model, side, steering.sites, "mean") for side in sides)
    with steering.on(model):
        after = samples(model, sides[0], steering.sites, "mean")
    found = costs(before, after, wanted)
    return pd.DataFrame([(site, *pair) for site, pair in found.items()], columns=["site", "before", "after"])


def written(
    steering: Steering, model: Model, prompts: Sequence[str], strengths: Sequence[float], tokens: int
) -> pd.DataFrame:
    """Greedy completions of prompts at each strength: columns prompt, strength, text."""
    rows = []
    for strength in strengths if prompts else ():
        with steering.on(model, strength):
            texts = model.generate(list(prompts), max_new_tokens=tokens)
        rows += [(prompt, float(strength), text) for prompt, text in zip(prompts, texts, strict=True)]
    return pd.DataFrame(rows, columns=["prompt", "strength", "text"])


def _default_steps(estimator: AnyEstimator) -> int:
    return int(estimator.settled().steps or 0) if isinstance(estimator, LinEAS) else 1


def _file_problems(where: str, source: str) -> Iterator[Problem]:
    if source.startswith("lab:") or (not source and where == "neutral"):
        return
    yield from missing_source(where, source, "a file or a glob of texts", folders=False)


def complete(
    steering: str, model: str, prompts: Sequence[str], strengths: Sequence[float], max_new_tokens: int
) -> pd.DataFrame:
    """Greedy completions of prompts at each strength: columns prompt, strength, text.

    Args:
        steering: a steering's folder, that of a run that fitted one, or a hub name.
        model: a folder or hub name.
        prompts: to go on with.
        strengths: in [0, 1].
        max_new_tokens: of each completion.
    """
    return written(*_both(steering, model), prompts, strengths, max_new_tokens)


def measure(
    steering: str,
    model: str,
    files: Mapping[str, str],
    texts: int,
    strengths: Sequence[float],
    budget: float | None = None,
    max_strength: float = 1.0,
) -> tuple[pd.DataFrame, Calibration | None]:
    """The strength curve on texts of the user's, and the largest strength within a budget of KL on neutral text.

    Args:
        steering: see `complete`.
        model: see `complete`.
        files: source, target and perhaps neutral -> a file or glob.
        texts: how many of each file.
        strengths: of the curve.
        budget: nats per token; None asks for no strength.
        max_strength: the largest that may be found; see `trimtab.steer.strength.calibrate`.

    Raises:
        ConfigProblems: a budget without neutral texts.
        DataError: a file with fewer texts.
    """
    if budget is not None and "neutral" not in files:
        raise ConfigProblems([Problem("--budget", "no neutral texts", "--neutral FILE")])
    read: dict[str, Any] = {n: read_examples(file, n, 0, texts).held_out for n, file in files.items()}
    steered = _both(steering, model)
    curve = strength_curve(*steered, **read, strengths=strengths)
    if budget is None:
        return curve, None
    return curve, calibrate(*steered, read["neutral"], budget, max_strength=max_strength)


def fuse(steering: str, model: str, strength: float, out: Path) -> None:
    """A plain checkpoint with the steering in its weights, read back and compared.

    Raises:
        ModelError: the maps cannot be folded, or not saved; see `trimtab.steer.export`.
    """
    fitted, base = _both(steering, model)
    fitted.fuse(base, strength).save_pretrained(out)


def _both(steering: str, model: str) -> tuple[Steering, Model]:
    """The steering is read first, since it is the smaller."""
    inside = Path(steering) / "artifacts" / "steering"
    fitted = Steering.from_pretrained(str(inside) if inside.is_dir() else steering)
    return fitted, load(model)
