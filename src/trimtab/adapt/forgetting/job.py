"""The laws of forgetting as a job: from models and texts, or from runs that somebody made already."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from trimtab.adapt.forgetting.fitting import numeric
from trimtab.adapt.forgetting.grid import forgetting_grid, repeated
from trimtab.adapt.forgetting.result import LAW, ForgettingResult, judged
from trimtab.data.origin import Origin, origin_problems, path_of
from trimtab.data.tables import read_table
from trimtab.errors import ConfigProblems, DataError, Problem, explain
from trimtab.models.load import name_problems
from trimtab.report.formats import number, span
from trimtab.runs.folder import at_work
from trimtab.runs.paths import as_path, missing_file
from trimtab.runs.serialise import plain
from trimtab.train.settings import Fit

Progressor = Callable[[int, int], None]
POINTS = "a CSV file of runs in UTF-8"
COLUMNS = ("params", "tokens", "inject", "loss_pt", "loss_pt0", "loss_ft")
_FIT = Fit(steps=2000, batch_size=8, seq_len=128, lr=1e-3, eval_points=18)


@dataclass(frozen=True)
class ForgettingConfig:
    """Runs to fit the laws to: made from models and texts, or read from a file.

    Attributes:
        points: CSV file with one row per run: params, tokens, inject (a share), loss_pt, loss_pt0, loss_ft, and seed
            and run where there are several; null to make the runs.
        models: label -> hub name or folder, one per size.
        domain: files to fine-tune on: a path, or a mapping with that as its `path`, as in dynamics.
        pretraining: files of the pretraining data.
        tokens: unique fine-tuning tokens.
        shares: of pretraining sequences in each batch; 0 among them, and two above it.
        seeds: of the order of the data.
        fit: settings of every run; `fit.steps` is the longest.
        passes: over the unique tokens, at most.
        patience: readings above the lowest after which a run ends.
        inject: the share whose effect is told.
        margin: by which the log of the target loss may differ and count as the same.
        n_boot: refits for intervals.
        device: of the models; null for the first accelerator, else the CPU.
        seed: of all that is drawn when fitting.
        jobs: runs at a time, each in a process of one thread.
    """

    system: Literal["forgetting"] = "forgetting"
    points: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    domain: str | Origin = ""
    pretraining: str | Origin = ""
    tokens: tuple[int, ...] = ()
    shares: tuple[float, ...] = (0.0, 0.001, 0.005, 0.01, 0.05)
    seeds: tuple[int, ...] = (0,)
    fit: Fit = _FIT
    passes: float = 60.0
    patience: int = 4
    inject: float = 0.01
    margin: float = 0.01
    n_boot: int = 300
    device: str | None = None
    seed: int = 0
    jobs: int = 1

    @property
    def runs(self) -> int:
        """How many are to be made."""
        return 0 if self.points else len(self.models) * len(self.tokens) * len(self.shares) * len(self.seeds)


@dataclass(frozen=True)
class Outcome:
    """What a job came to."""

    result: ForgettingResult
    report_path: Path

    def table(self) -> str:
        """Coefficients, rival forms, and what injection did, as plain text."""
        lines = []
        for frame in (self.result.to_frame(), self.result.forms):
            if len(frame):
                lines += [frame.to_string(index=False, float_format=lambda x: f"{x:.4g}", na_rep="-"), ""]
        return "\n".join([*lines, *_in_words(self.result, self.report_path.parent / LAW)])

    def to_json(self) -> str:
        """The same as JSON."""
        frames = {"laws": self.result.to_frame(), "forms": self.result.forms}
        told = {name: plain(frame.to_dict("records")) for name, frame in frames.items()}
        return json.dumps(
            {**told, "facts": plain(self.result.facts), "refused": dict(self.result.refused)}, indent=2
        )


@dataclass(frozen=True)
class Estimate:
    """What a job will take, at most; runs end behind their minimum."""

    runs: int
    steps: int

    def to_text(self) -> str:
        """One line per quantity."""
        if not self.runs:
            return "runs            none: points are read from a file"
        return f"runs            {self.runs}\ntraining steps  {self.steps}, at most"


def check(config: ForgettingConfig) -> list[Problem]:
    """Every mistake that can be seen without loading a model or downloading anything."""
    found = list(_points_problems(config.points) if config.points else _grid_problems(config))
    for name, least in (("n_boot", 1), ("jobs", 1), ("patience", 1)):
        if getattr(config, name) < least:
            found.append(Problem(name, str(getattr(config, name)), f"at least {least}"))
    for name in ("inject", "margin"):
        if not 0 < getattr(config, name) < 1:
            found.append(Problem(name, str(getattr(config, name)), "a number between 0 and 1"))
    return found


def estimate(config: ForgettingConfig) -> Estimate:
    """Runs and optimiser steps."""
    return Estimate(config.runs, max(1, config.runs) * config.fit.steps)


def run(config: ForgettingConfig, folder: Path, progress: Progressor | None = None) -> Outcome:
    """Carry the job out in `folder`, or go on with it: runs of the grid that ended are not repeated.

    Raises:
        ConfigProblems: the config cannot work.
        DataError: no run of the grid ended, or a file of points that cannot be used.
    """
    if problems := check(config):
        raise ConfigProblems(problems)
    with at_work(folder, config, may_change=("jobs",)) as held:
        result = _carried_out(config, folder, progress)
        result.save(held.path)
        report = result.report(folder / "report.html")
    return Outcome(result, report)


def _carried_out(config: ForgettingConfig, folder: Path, progress: Progressor | None) -> ForgettingResult:
    start = time.perf_counter()
    points = read_points(config.points) if config.points else _made(config, folder, progress)
    points = numeric(points, COLUMNS)
    return judged(
        points,
        label=Path(config.points).stem
        if config.points
        else f"forgetting on {Path(path_of(config.domain)).name}",
        inject=config.inject,
        margin=config.margin,
        n_boot=config.n_boot,
        seed=config.seed,
        config=plain(config),
        seconds=time.perf_counter() - start,
    )


def _made(config: ForgettingConfig, folder: Path, progress: Progressor | None) -> pd.DataFrame:
    frame = forgetting_grid(
        list(config.models.values()),
        domain=config.domain,
        pretraining=config.pretraining,
        tokens=config.tokens,
        shares=config.shares,
        seeds=config.seeds,
        fit=config.fit,
        passes=config.passes,
        patience=config.patience,
        folder=folder / "members",
        jobs=config.jobs,
        device=config.device,
        progress=progress,
    )
    if not len(frame):
        got = f"no run of {config.runs} that ended"
        raise DataError(explain(got, "some", f"the error.txt of each in {folder / 'members'}"))
    return frame


def _points_problems(points: str) -> Iterator[Problem]:
    problems = missing_file("points", points, "a CSV file")
    yield from problems
    if problems:
        return
    try:
        if not len(numeric(read_points(points), COLUMNS)):
            yield Problem("points", "a header and no run below it", "at least one run")
    except DataError as error:
        yield Problem("points", *_parts(error))


def read_points(path: str | Path) -> pd.DataFrame:
    """The runs of a table, one per row.

    Raises:
        DataError: it is no table that can be read within bounds; see `trimtab.data.tables.read_table`.
    """
    return read_table(as_path(path, "points", POINTS))


def _parts(error: DataError) -> tuple[str, str, str]:
    """What an error says it got, expected and would try."""
    got, _, rest = str(error).partition(", expected ")
    expected, _, hint = rest.partition("; try ")
    return got.replace("got ", "", 1), expected, hint


def _grid_problems(config: ForgettingConfig) -> Iterator[Problem]:
    for name in ("models", "tokens", "shares", "seeds"):
        if not getattr(config, name):
            yield Problem(name, "none", "at least one, or points: a CSV file of runs")
    for name, model in config.models.items():
        yield from (Problem(f"models.{name}", p.got, p.expected, p.hint) for p in name_problems(model))
    for name in ("domain", "pretraining"):
        yield from origin_problems(name, getattr(config, name))
    yield from repeated(list(config.models.values()), config.tokens, config.shares, config.seeds)
    yield from (Problem("tokens", str(n), "at least 2") for n in config.tokens if n < 2)
    yield from (Problem("shares", str(p), "from 0 to below 1") for p in config.shares if not 0 <= p < 1)
    if not config.passes > 0:
        yield Problem("passes", str(config.passes), "a number above 0")
    yield from config.fit.problems()


def _in_words(result: ForgettingResult, law: Path) -> Iterator[str]:
    facts = result.facts
    told = f"{facts['runs']} runs, {facts['held_out']} of them held out when forms are judged"
    yield told + (f"; {facts['not_reached']} without a minimum" if facts["not_reached"] else "")
    yield f"forgotten without injection: {interval(facts['forgotten'])} nats"
    if facts["removed"]:
        yield f"share removed at {100 * facts['inject']:g} %: {interval(facts['removed'])}"
        same = facts["equivalence"]
        word = "equivalent" if same["equivalent"] else "not shown to be equivalent"
        ends = span(same["low"], same["high"], 4)
        yield f"log target loss there: {number(same['value'])} (90 %: {ends}; n = {same['n']}), {word}"
    yield from (f"{name}: {why}" for name, why in result.refused.items())
    if result.law is not None:
        yield f"plan with: trimtab plan --law {law} --params N --tokens D --max-rise NATS"


def interval(it: dict[str, Any]) -> str:
    """A value with its interval and n; a dash where undefined."""
    return f"{number(it['value'])} ({span(it['low'], it['high'])}; n = {it['n']})"
