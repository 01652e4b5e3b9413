"""The laws of forgetting as a job: from models and texts, or from runs that somebody made already."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd

from trimtab.adapt.forgetting.fitting import numeric
from trimtab.adapt.forgetting.grid import PRETRAINING, TARGET, forgetting_grid, grid_problems
from trimtab.adapt.forgetting.result import ForgettingResult, judged
from trimtab.adapt.session import make_roles
from trimtab.adapt.survey import DataSurvey
from trimtab.data.domains import FRACTIONS, Origin, origin_problems, path_of
from trimtab.data.survey import cut_after
from trimtab.data.tables import read_table
from trimtab.data.tokens import first_tokens
from trimtab.errors import DataError, Problem, explain
from trimtab.job import Corpus, Elsewhere, ModelName, Progress, Survey, noting
from trimtab.models.load import name_problems
from trimtab.runs.brief import brief
from trimtab.runs.folder import RunFolder
from trimtab.runs.paths import as_path, missing_file
from trimtab.runs.serialise import plain
from trimtab.train.settings import Fit

COLUMNS = ("params", "tokens", "inject", "loss_pt", "loss_pt0", "loss_ft")
GRID = ("domain", "pretraining", "tokens", "shares", "seeds", "fit", "passes", "patience", "jobs", "device")
"""Settings of `forgetting_grid`."""
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
    models: dict[str, ModelName] = field(default_factory=dict)
    domain: Corpus | Origin = ""
    pretraining: Corpus | Origin = ""
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

    result: ClassVar = ForgettingResult

    __repr__ = brief

    @property
    def runs(self) -> int:
        """The number of runs to be made."""
        return 0 if self.points else len(self.models) * len(self.tokens) * len(self.shares) * len(self.seeds)

    def problems(self) -> Iterator[Problem]:
        """Every mistake that can be seen without loading a model or downloading anything."""
        yield from _points_problems(self.points) if self.points else self._grid_problems()
        for name in ("n_boot", "jobs", "patience"):
            if getattr(self, name) < 1:
                yield Problem(name, str(getattr(self, name)), "at least 1")
        for name in ("inject", "margin"):
            if not 0 < getattr(self, name) < 1:
                yield Problem(name, str(getattr(self, name)), "a number between 0 and 1")

    def _grid_problems(self) -> Iterator[Problem]:
        for name, model in self.models.items():
            yield from (Problem(f"models.{name}", p.got, p.expected, p.hint) for p in name_problems(model))
        for name in ("domain", "pretraining"):
            yield from origin_problems(name, getattr(self, name))
        expected, models = "at least one, or points: a CSV file of runs", list(self.models.values())
        yield from grid_problems(models, self.tokens, self.shares, self.seeds, self.passes, expected)
        yield from self.fit.problems()

    def cost(self) -> Mapping[str, Any]:
        """Runs and optimiser steps, at most: runs end behind their minimum."""
        return {"runs": self.runs, "steps": max(1, self.runs) * self.fit.steps}

    def survey(self) -> Survey:
        """Survey of the file of runs, or of the two domains as tokenised for the first model."""
        if self.points:
            points = numeric(_read_points(self.points), COLUMNS)
            groups = points.groupby(["params", "tokens", "inject"], as_index=False).size()
            return Survey({"runs": groups.rename(columns={"size": "runs"})})
        roles = make_roles([TARGET, PRETRAINING], [], [TARGET], {})
        data = DataSurvey.of(roles, self.fit, next(iter(self.models.values())))
        for where, name in (("domain", TARGET), ("pretraining", PRETRAINING)):
            data.read(where, name, getattr(self, where), FRACTIONS)
        if TARGET in data.tokens and not cut_after(data.domains[TARGET]):
            with noting(data.problems, "tokens"):
                first_tokens(data.domains[TARGET], data.tokenizer, max(self.tokens))
        return data.finished()

    def run(self, folder: RunFolder | Elsewhere, progress: Progress) -> ForgettingResult:
        """Make the runs or read them, and fit the laws; runs of the grid that ended are not repeated.

        Raises:
            DataError: no run of the grid ended, or a file of points that cannot be used.
        """
        start = time.perf_counter()
        if self.points:
            points, label = _read_points(self.points), Path(self.points).stem
        else:
            settings = {name: getattr(self, name) for name in GRID}
            members, models = folder.path / "members", list(self.models.values())
            points = forgetting_grid(models, folder=members, progress=progress, **settings)
            label = f"forgetting on {Path(path_of(self.domain)).name}"
            if not len(points):
                got = f"no run of {self.runs} that ended"
                raise DataError(explain(got, "some", f"the error.txt of each in {members}"))
        return judged(
            numeric(points, COLUMNS),
            inject=self.inject,
            margin=self.margin,
            n_boot=self.n_boot,
            seed=self.seed,
            label=label,
            config=plain(self),
            seconds=time.perf_counter() - start,
        )


def _read_points(path: str) -> pd.DataFrame:
    return read_table(as_path(path, "points", "a CSV file of runs in UTF-8"))


def _points_problems(points: str) -> Iterator[Problem]:
    if problems := missing_file("points", points, "a CSV file"):
        yield from problems
        return
    try:
        if not len(numeric(_read_points(points), COLUMNS)):
            yield Problem("points", "a header and no run below it", "at least one run")
    except DataError as error:
        got, _, rest = str(error).partition(", expected ")
        expected, _, hint = rest.partition("; try ")
        yield Problem("points", got.replace("got ", "", 1), expected, hint)
